# SPDX-License-Identifier: Apache-2.0
"""Tunnel mode and crypto offload in the firmware: what is refused, and the rings."""

import numpy as np
import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from proto import commands as c
from proto.frame import Channel, Kind, pack
from proto.layouts import DESCRIPTOR, RxFlag, TxFlag
from proto.link.dma import tx_offset
from proto.status import Status, Syndrome
from proto.xfrm import AF_INET, AF_INET6, MODE_BEET, MODE_TRANSPORT, MODE_TUNNEL
from tests.unit.firmware.conftest import EPOCH

NO, BAD = Status.NOT_SUPPORTED, Status.BAD_PARAMETER
ANY = bytes(16)
A, B = bytes([192, 0, 2, 1]).ljust(16, b"\0"), bytes([192, 0, 2, 2]).ljust(16, b"\0")
TUNNEL = {"mode": MODE_TUNNEL}
TEMPLATE = {"mode": MODE_TUNNEL, "tmpl_family": AF_INET, "tmpl_saddr": A, "tmpl_daddr": B}


def refuse(card, command, status, syndrome, *words):
    before, census = card.counters["cmd_refused"], card.census
    reply = card.command(command)
    assert (reply.status, reply.syndrome) == (status, syndrome), reply.text
    for word in words:
        assert word in reply.text
    assert (card.counters["cmd_refused"], card.census) == (before + 1, census)


@pytest.mark.parametrize(
    ("profile", "direction", "fields", "status", "syndrome", "words"),
    [
        ("full:tunnel=no", c.OUT, TUNNEL, NO, Syndrome.MODE, ("full", "tunnel mode")),
        ("tiny", c.IN, TUNNEL, NO, Syndrome.MODE, ("tiny", "tunnel mode")),
        ("full", c.IN, {"mode": MODE_BEET}, BAD, Syndrome.MODE, ("mode 4",)),
        ("full", c.OUT, {**TUNNEL, "saddr": ANY}, BAD, Syndrome.MODE, ("source address",)),
        ("full:crypto=no", c.OUT, {"crypto": True}, NO, Syndrome.CRYPTO_UNSUPPORTED, ("crypto",)),
        ("tiny", c.IN, {"crypto": True}, NO, Syndrome.CRYPTO_UNSUPPORTED, ("tiny",)),
        ("crypto-only", c.IN, {}, NO, Syndrome.PACKET_UNSUPPORTED, ("packet offload",)),
        ("full", c.IN, {"crypto": True, "mode": 1}, BAD, Syndrome.MODE, ("the host's",)),
        ("full", c.OUT, {"crypto": True, "packets": 9}, BAD, Syndrome.LIMIT, ("the host's",)),
        ("full", c.OUT, {"crypto": True, "bytes": 9}, BAD, Syndrome.LIMIT, ("the host's",)),
        ("full", c.IN, {"crypto": True, "esn": True, "replay_window": 0}, BAD,
         Syndrome.WINDOW_SIZE, ("ESN needs",)),
        ("cx6dx", c.OUT, {"crypto": True, "icv_bytes": 8}, NO, Syndrome.ICV_LENGTH, ("8 bytes",)),
    ],
)  # fmt: skip
def test_sa_is_refused(new_card, profile, direction, fields, status, syndrome, words):
    card = new_card(profile)
    key = card.make(c.CreateKey(card.KEY))
    refuse(card, card.sa(key, direction, **fields), status, syndrome, *words)


@pytest.mark.parametrize(
    ("profile", "direction", "fields"),
    [
        ("cx6dx", c.OUT, TUNNEL),
        ("full", c.IN, {**TUNNEL, "saddr": ANY, "selector": c.Selector(family=AF_INET6)}),
        ("full", c.OUT, {**TUNNEL, "encap_sport": 4500, "encap_dport": 4500}),
        ("crypto-only", c.OUT, {"crypto": True}),
        ("cx6dx", c.IN, {"crypto": True, "esn": True, "replay_window": 4096}),  # the host's window
    ],
)
def test_sa_is_taken(new_card, profile, direction, fields):
    card = new_card(profile)
    card.make(card.sa(card.make(c.CreateKey(card.KEY)), direction, **fields))
    assert card.census["sas"] == 1


@pytest.mark.parametrize(
    ("direction", "fields", "status", "syndrome", "word"),
    [
        (c.OUT, {"mode": 3}, BAD, Syndrome.MODE, "mode 3"),
        (c.OUT, {"tmpl_family": 0}, BAD, Syndrome.FAMILY, "family 0"),
        (c.OUT, {"mode": MODE_TRANSPORT, "tmpl_family": 1 << 32}, BAD, Syndrome.FAMILY, "0, 2, 10"),
        (c.OUT, {"tmpl_saddr": ANY}, BAD, Syndrome.MODE, "both template addresses"),
        (c.OUT, {"tmpl_daddr": ANY}, BAD, Syndrome.MODE, "both template addresses"),
        (c.IN, {"tmpl_daddr": bytes(4)}, BAD, Syndrome.FAMILY, "4 bytes"),
    ],
)
def test_policy_is_refused(new_card, direction, fields, status, syndrome, word):
    card = new_card("full")
    refuse(card, card.policy(direction, **{**TEMPLATE, **fields}), status, syndrome, word)
    plain = new_card("full:tunnel=no")
    refuse(plain, plain.policy(direction, **TEMPLATE), NO, Syndrome.MODE, "tunnel mode")


def test_inbound_templates_may_name_any(card):
    card.make(card.policy(c.IN, mode=MODE_TUNNEL, tmpl_family=AF_INET6))


@pytest.fixture
def crypto_sa(card):
    """Makes a crypto SA; returns handle and generation."""

    def make(direction, **fields):
        key = card.make(c.CreateKey(card.KEY))
        reply = card.command(card.sa(key, direction, crypto=True, **fields))
        assert reply.status == 0, reply.text
        return reply.handle, reply.generation

    return make


def test_what_belongs_to_the_host_is_refused_later_too(card, crypto_sa):
    handle, _ = crypto_sa(c.OUT)
    refuse(card, c.StopSa(handle), BAD, Syndrome.LIMIT, "the host's")
    refuse(card, c.SetLimits(handle=handle, packets=5), BAD, Syndrome.LIMIT, "the host's")
    refuse(card, c.CreateSaRule(handle), BAD, Syndrome.DIRECTION, "descriptors")
    packet = card.make(card.sa(card.make(c.CreateKey(card.KEY)), c.IN, esn=True))
    for other in (handle, packet, crypto_sa(c.IN)[0]):
        refuse(card, c.AdvanceEsn(other, 5), BAD, Syndrome.ESN_UNSUPPORTED, "ESN")
    inbound, _ = crypto_sa(c.IN, esn=True, seq=7)
    refuse(card, c.AdvanceEsn(inbound, -1), BAD, Syndrome.SEQUENCE, "with ESN")
    refuse(card, c.AdvanceEsn(99, 5), Status.BAD_OBJECT, Syndrome.HANDLE_UNKNOWN, "0x63")
    card.make(c.AdvanceEsn(inbound, 1 << 32 | 5))
    card.make(c.AdvanceEsn(inbound, 3))
    assert card.command(c.QuerySa(inbound)).sa.seq == 1 << 32 | 5


def test_an_esp_packet_goes_out_sealed_and_comes_in_opened(card, crypto_sa):
    """Through both rings: the descriptor names the SA, out and in."""
    out, generation = crypto_sa(c.OUT)
    inbound, in_generation = crypto_sa(c.IN)
    card.make(c.CreateSaRule(inbound))
    clear = b"a packet in clear.\0\x11"
    esp = bytes([0, 0, 0x10, 0, 0, 0, 0, 1]) + b"ivivivi8" + clear + bytes(16)
    ethernet = bytes(12) + b"\x08\x00"
    frame = ethernet + bytes(IP(src="10.1.0.1", dst="10.1.0.2", proto=50) / Raw(esp))
    card.host_dma.memory[tx_offset(0) :][: len(frame)] = np.frombuffer(frame, np.uint8)
    card.host_dma.tx_marks[0] = 1
    row = np.array([(tx_offset(0), len(frame), TxFlag.CRYPTO, 0, out, generation)], DESCRIPTOR)
    message = pack(Kind.TX, card.host_dma.gather(row), 0, 1, epoch=EPOCH)
    outputs = card.step((Channel.RINGS, message))
    (sent,) = [m.body for m in outputs if m.kind is Kind.WIRE]
    assert b"in clear" not in bytes(sent) and esp[:16] in bytes(sent)

    outputs = card.step((Channel.WIRE, pack(Kind.WIRE, bytes(sent), 0, 1, card.firmware.life.boot)))
    (received,) = [m for m in outputs if m.kind is Kind.RX]
    (got,) = np.frombuffer(received.body, DESCRIPTOR)
    assert (got["flags"], got["syndrome"]) == (RxFlag.CRYPTO, 0)
    assert (got["handle"], got["generation"]) == (inbound, in_generation)
    at = int(got["offset"])
    opened = card.host_dma.memory[at : at + int(got["length"])].tobytes()
    assert opened[: -len(clear) - 16] == frame[: -len(clear) - 16]
    assert opened[-len(clear) - 16 : -16] == clear


def test_a_destroyed_sa_seals_nothing(card, crypto_sa):
    out, generation = crypto_sa(c.OUT)
    card.make(c.DestroySa(out))
    frame = bytes(12) + b"\x08\x00" + bytes(IP() / UDP() / bytes(60))
    card.host_dma.memory[tx_offset(0) :][: len(frame)] = np.frombuffer(frame, np.uint8)
    card.host_dma.tx_marks[0] = 1
    row = np.array([(tx_offset(0), len(frame), TxFlag.CRYPTO, 0, out, generation)], DESCRIPTOR)
    outputs = card.step(
        (Channel.RINGS, pack(Kind.TX, card.host_dma.gather(row), 0, 1, epoch=EPOCH))
    )
    assert not [m for m in outputs if m.kind is Kind.WIRE]
    assert card.counters["tx_drop_crypto"] == 1
