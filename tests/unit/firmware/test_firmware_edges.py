# SPDX-License-Identifier: Apache-2.0
"""Every number of every command at the edges of what a message can carry, one at a time.

Drawn commands are mostly wrong in many places, and the first wrong field hides the rest; here all
others are good, so each check is the one that has to answer.
"""

import msgspec
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from proto import commands as c
from proto.frame import Channel, Kind, pack
from proto.status import Status
from proto.xfrm import AF_INET, MODE_TUNNEL

A, B = bytes((10, 1, 0, 1)).ljust(16, b"\0"), bytes((10, 1, 0, 2)).ljust(16, b"\0")
EDGES = (
    -(1 << 63), -(1 << 31) - 1, -1, 0, 1, 255, 256, (1 << 16) - 1, 1 << 16, (1 << 31) - 1, 1 << 31,
    (1 << 32) - 1, 1 << 32, (1 << 47) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
)  # fmt: skip

FRAME = bytes(Ether() / IP(src="10.1.0.1", dst="10.1.0.2") / UDP() / b"of A to B")
UNDO = {"CreateSa": c.DestroySa, "CreateSaRule": c.DestroyRule, "CreatePolicyRule": c.DestroyRule}


def commands(card):
    """A valid one of each kind that takes numbers, and the shapes that checks tell apart."""
    key = card.make(c.CreateKey(card.KEY))
    crypto = card.make(card.sa(key, c.IN, spi=0x2000, crypto=True))
    return [
        card.sa(key, c.OUT, spi=0x3000),
        card.sa(key, c.IN, spi=0x3001, esn=True, replay_window=64),
        card.sa(key, c.IN, spi=0x3002, encap_sport=4500, encap_dport=4500),
        card.sa(key, c.OUT, spi=0x3003, mode=MODE_TUNNEL, saddr=A, daddr=B),
        card.sa(key, c.IN, spi=0x3004, crypto=True),
        card.policy(c.OUT),
        card.policy(c.IN),
        card.policy(
            c.OUT, mode=MODE_TUNNEL, tmpl_family=AF_INET, tmpl_saddr=A, tmpl_daddr=B, spi=5
        ),
        c.CreateSaRule(crypto),
        c.QuerySa(crypto), c.StopSa(crypto), c.SetLimits(handle=crypto, packets=5),
        c.DestroySa(1), c.DestroyKey(1), c.DestroyRule(1),
        c.ListObjects(1), c.SetPort(mtu=1500), c.SetQueue(0, 1),
    ]  # fmt: skip


def raw_command(card, tree) -> c.Reply:
    body = msgspec.msgpack.encode([card.token(), tree])
    raw = pack(Kind.COMMAND, body, epoch=card.firmware.epoch)
    (reply,) = (one for one in card.step((Channel.MAILBOX, raw)) if one.kind is Kind.REPLY)
    return msgspec.msgpack.decode(reply.body, type=c.Reply)


def places(tree, at=()):
    """Where numbers stand in a command, as paths of indices."""
    for index, value in enumerate(tree):
        if isinstance(value, list | tuple):
            yield from places(value, (*at, index))
        elif isinstance(value, int) and not isinstance(value, bool):
            yield (*at, index)


def with_edge(tree, path, value):
    first, *rest = path
    changed = with_edge(tree[first], rest, value) if rest else value
    return [*tree[:first], changed, *tree[first + 1 :]]


@pytest.mark.parametrize("number", range(18))
def test_each_number_at_each_edge_is_taken_or_refused(card, number):
    """A refusal has a text and changes nothing; what is taken, the packets of both ways survive."""
    command = commands(card)[number]
    tree = msgspec.to_builtins(command, builtin_types=(bytes,))
    tried = 0
    for path in places(tree):
        for value in EDGES:
            census = card.census
            reply = raw_command(card, with_edge(tree, path, value))
            tried += 1
            if reply.status != Status.OK:
                assert reply.text, (path, value)
                assert card.census == census, (path, value)
                continue
            if undo := UNDO.get(tree[0]):
                card.step(card.tx_message([FRAME]), card.wire_message([FRAME]))
                assert card.command(undo(reply.handle)).status == Status.OK
                assert card.census == census
    assert tried == len(EDGES) * len(list(places(tree)))
