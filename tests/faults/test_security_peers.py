# SPDX-License-Identifier: Apache-2.0
"""Whoever has no business here: strangers, other users, other versions, and hosts that are gone."""

import os
import random
import tempfile

import msgspec
import pytest

from fuzz.bench import Bench
from fuzz.engine import Fuzzer
from fuzz.targets import TARGETS
from host_driver.lab import Lab
from proto import commands as c
from proto import netlink
from proto.frame import HEADER, Channel, Kind, pack, unpack
from proto.layouts import TxFlag
from proto.status import Status
from proto.xfrm import Msg
from support import stranger
from support.inside import party, say
from support.rows import row

KEY = "2b7e151628aed2a6abf7158809cf4f3c5ea1b2c9"
ADD = (
    "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1000 reqid 1 mode transport "
    f"aead 'rfc4106(gcm(aes))' 0x{KEY} 128 offload packet dev nic0 dir out"
)
SOMEBODY = 0x5EED  # an epoch that no host has drawn
MALFORMED = 2000


@pytest.fixture
def lab(target):
    with (
        tempfile.TemporaryDirectory(prefix="xn-") as directory,
        Lab(target=target, hosts=1, card="full", seed=3, run_dir=f"{directory}/lab") as running,
    ):
        assert running.hosts[0].ip(ADD).rc == 0
        yield running


def command(request: c.Command, epoch: int = SOMEBODY) -> bytes:
    """A COMMAND of a host that is not the card's."""
    return pack(Kind.COMMAND, msgspec.msgpack.encode(c.Request(33, request)), epoch=epoch)


def asked(lab: Lab, *requests: c.Command) -> list[bytes]:
    """What a stranger gets who sends these commands to the first card."""
    if lab.run_dir is None:
        card, answers = party(lab, "card0"), []
        for request in requests:
            raw = bytearray(command(request))
            answers += [raw for _, raw in card.step(lab.now_ns(), [(Channel.MAILBOX, raw)])]
            assert not any(raw), "a key may have been in it"
        return answers
    address = f"ipc://{lab.run_dir}/card0.mailbox"
    messages = [command(request) for request in requests]
    return [got for raw in messages for got in stranger.talk(address, raw, os.getuid())]


def untouched(lab: Lab) -> None:
    """The host still has its card, and the card its SA."""
    (host,) = lab.hosts
    assert host.nic.census()["sas"] == 1
    assert "spi 0x00001000" in host.ip("xfrm state list").stdout


@row("F-SEC-01", process=True)
def test_a_stranger_at_the_mailbox_gets_nothing_and_changes_nothing(lab) -> None:
    before = lab.hosts[0].nic.counters()
    requests = (c.QueryCensus(), c.QuerySa(1 << 24 | 1), c.CreateKey(bytes(16)), c.Teardown())
    assert asked(lab, *requests) == []
    untouched(lab)
    after = lab.hosts[0].nic.counters()
    name = "msg_stale" if lab.run_dir is None else "peers_refused"
    assert after[name] - before.get(name, 0) == len(requests)
    if lab.run_dir is not None:
        assert "comes second" in (lab.run_dir / "card0.log").read_text()


@row("F-SEC-18", process=True)
def test_counters_are_for_the_host_of_the_card_only(lab) -> None:
    assert asked(lab, c.QueryCounters(), c.Fence(), c.ListObjects(2)) == []
    untouched(lab)


@row("F-SEC-02", process=True)
def test_a_requester_without_privilege_is_refused_and_counted(lab) -> None:
    """UAPI-03: here the untrusted one is a process without CAP_NET_ADMIN, and the errno EPERM."""
    (host,) = lab.hosts
    for type in (Msg.NEWSA, Msg.DELSA, Msg.GETSA, Msg.NEWPOLICY, Msg.FLUSHSA, Msg.FLUSHPOLICY):
        (answer,) = host.netlink(netlink.message(type, bytes(300), flags=5), privileged=False)
        assert int.from_bytes(answer[16:20], "little", signed=True) == -1
        assert KEY.encode() not in answer.hex().encode()
    untouched(lab)
    assert host.nic.counters()["driver_netlink_refused"] == 6


@row("F-SEC-03", lab=False)
@pytest.mark.parametrize("name", ["card-mailbox", "card-control", "host-replies", "host-control"])
def test_every_field_may_be_anything(name) -> None:
    """The judges are in the targets: refused, counted, nothing half done, memory bounded."""
    report = Fuzzer(TARGETS[name](), "fields").run(600)
    assert report.finding == ""
    assert report.refused > 200


@row("F-SEC-03", process=True)
def test_malformed_messages_in_a_stream(lab) -> None:
    (host,) = lab.hosts
    rng = random.Random(5)
    name = "driver_control_malformed"
    before = host.nic.counters().get(name, 0)
    for _ in range(MALFORMED):
        raw = pack(Kind.CONTROL, rng.randbytes(rng.randrange(60)))
        if lab.run_dir is None:
            say(lab, "host0", Channel.CONTROL, raw)
        else:
            lab._world._controls["host0"].send(raw)
    untouched(lab)
    assert host.nic.counters()[name] - before == MALFORMED


@row("F-SEC-04", lab=False)
def test_another_version_of_the_interface_is_refused() -> None:
    """Version, unknown field, unknown opcode, unknown flag: refused and counted."""
    bench = Bench()
    good = bench.pack(Kind.COMMAND, msgspec.msgpack.encode([9000, ["QueryCensus"]]))
    magic, version, *rest = HEADER.unpack_from(good)
    for other in (version - 1, version + 1, 255):
        before = bench.counters()["msg_malformed"]
        raw = HEADER.pack(magic, other, *rest) + good[HEADER.size :]
        assert bench.step(Channel.MAILBOX, raw) == []
        assert bench.counters()["msg_malformed"] == before + 1
    tree = msgspec.to_builtins(c.SetLimits(handle=bench.handles[1]), builtin_types=(bytes,))
    for number, strange in enumerate(([*tree, True], ["SetLimitsGently", bench.handles[1]])):
        body = msgspec.msgpack.encode([9001 + number, strange])
        (message,) = bench.step(Channel.MAILBOX, bench.pack(Kind.COMMAND, body))
        reply = msgspec.msgpack.decode(message.body, type=c.Reply)
        assert reply.status in (Status.BAD_MESSAGE, Status.BAD_OPCODE)
        assert reply.text
    packet = bytes(12) + b"\x08\x00" + bytes.fromhex("4500001c") + bytes(24)
    for flag in (8, 16, 128):
        bench.command(c.SetQueue(0, 2)), bench.command(c.SetQueue(0, 0))
        bench.command(c.SetQueue(0, 1, bench.tx_index))
        before = bench.counters()["tx_drop_descriptor"]
        message = bench.tx([[0, 0, flag | TxFlag.PROTECT, 0, 0, 0, packet]])
        out = bench.step(Channel.RINGS, message)
        bench.tx_index += 1
        assert Kind.WIRE not in {one.kind for one in out}
        assert bench.counters()["tx_drop_descriptor"] == before + 1


@row("F-SEC-17", lab=False)
def test_handles_of_an_earlier_host_and_guessed_ones_name_nothing() -> None:
    bench = Bench()
    old = list(bench.handles)
    bench.step(Channel.MAILBOX, bench.take(99))
    bench.begin()
    bench.handles.clear()
    assert not any(bench.command(c.QueryCensus()).values.values())
    new = bench.make(c.CreateKey(bytes(16)))
    rng = random.Random(1)
    guesses = [*old, *range(64), *(rng.randrange(1 << 32) for _ in range(500))]
    for handle in guesses:
        if handle == new:
            continue
        for request in (
            c.QuerySa(handle), c.StopSa(handle), c.DestroySa(handle), c.DestroyRule(handle),
            c.DestroyKey(handle), c.SetLimits(handle=handle), c.CreateSaRule(handle),
        ):  # fmt: skip
            reply = bench.command(request)
            assert reply.status == Status.BAD_OBJECT, request
            assert reply.text
    assert bench.command(c.QueryCensus()).values["keys"] == 1


@row("F-SEC-17", lab=False)
def test_a_descriptor_that_names_an_sa_of_an_earlier_host_is_dropped() -> None:
    bench = Bench()
    handle = bench.crypto_out
    bench.step(Channel.MAILBOX, bench.take(99))
    bench.begin()
    esp = bytes(12) + b"\x08\x00" + bytes.fromhex("45000038000100004032000a0a010001") + bytes(60)
    for generation in range(5):
        before = bench.counters()
        out = bench.step(
            Channel.RINGS, bench.tx([[0, 0, TxFlag.CRYPTO, 0, handle, generation, esp]])
        )
        bench.tx_index += 1
        assert Kind.WIRE not in {one.kind for one in out}
        after = bench.counters()
        assert sum(after[n] - before[n] for n in after if n.startswith("tx_drop_")) == 1


def test_the_harness_has_a_message_that_would_count() -> None:
    """The same command in the card's own epoch is answered: the tests above can fail."""
    with Lab(target="sim", hosts=1, card="full", seed=3) as lab:
        card = party(lab, "card0")
        raw = command(c.QueryCensus(), card.epoch)
        (answer,) = card.step(lab.now_ns(), [(Channel.MAILBOX, bytearray(raw))])
        assert unpack(answer[1]).kind is Kind.REPLY
