# SPDX-License-Identifier: Apache-2.0
"""The software receiver's windows are a kernel's, bit by bit, packet by packet (section 9)."""

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from scapy.layers.inet import IP, UDP

from support.core import Core, state_after, words
from support.records import load, records


def packet(record: dict, step: dict) -> bytes:
    """The recorded packet, or for the later steps of a run one sealed by `cryptography`."""
    if "packet" in step:
        return bytes.fromhex(step["packet"])
    key, seq = bytes.fromhex(record["key"]), step["seq"].to_bytes(8, "big")
    spi = record["spi"].to_bytes(4, "big")
    aad = spi + (seq if record["esn"] else seq[4:])
    datagram = bytes(UDP(sport=4000, dport=5000) / b"replay")
    sealed = bytearray(AESGCM(key[:-4]).encrypt(key[-4:] + seq, datagram + b"\0\0\0\x11", aad))
    sealed[-1] ^= 1 if step.get("corrupt") else 0
    ends = {"src": "10.1.0.1", "dst": "10.1.0.2"}
    return bytes(IP(**ends, proto=50) / (spi + seq[4:] + seq + bytes(sealed)))


@pytest.mark.parametrize("path", records("replay"))
def test_window_after_every_packet(path):
    record = load(path)
    core = Core()
    core.add(words(record["sa_argv"]))
    x = core.state(record["spi"])
    assert state_after(x) == record["initial"]
    for step in record["results"]:
        got = core.receive(packet(record, step))
        assert ("drop" if got is None else "accept") == step["outcome"], step["seq_hex"]
        after = state_after(x)
        assert after["stats"] == step["sa_stats"], step["seq_hex"]
        assert after["cur_packets"] == step["cur_packets"]
        assert (after.get("replay_val") or after["replay_esn"]) == step["replay"], step["seq_hex"]
        assert core.moved() == step["counters"]


STATE = (
    "xfrm state add src 10.1.0.1 dst 10.1.0.2 proto esp spi 0x1000 reqid 1 mode transport "
    "aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128 "
)
POLICY = (
    "xfrm policy add src 10.1.0.1 dst 10.1.0.2 dir out "
    "tmpl proto esp reqid 1 mode transport"
)  # fmt: skip
CLEAR = bytes(IP(src="10.1.0.1", dst="10.1.0.2") / UDP(sport=1, dport=2) / b"sequence")


@pytest.mark.parametrize(
    ("extra", "numbers", "left"),
    [
        ("replay-oseq 0xfffffffd", [0xFFFF_FFFE, 0xFFFF_FFFF], {"XfrmOutStateSeqError": 1}),
        ("replay-oseq 0xfffffffd replay-window 64", [0xFFFF_FFFE, 0xFFFF_FFFF],
         {"XfrmOutStateSeqError": 1}),
        ("replay-oseq 0xfffffffe extra-flag oseq-may-wrap", [0xFFFF_FFFF, 0, 1], {}),
        ("flag esn replay-window 32 replay-oseq 0xfffffffe replay-oseq-hi 7",
         [0xFFFF_FFFF, 0, 1], {}),
        ("flag esn replay-window 32 replay-oseq 0xfffffffd replay-oseq-hi 0xffffffff",
         [0xFFFF_FFFE, 0xFFFF_FFFF], {"XfrmOutStateSeqError": 1}),
    ],
)  # fmt: skip
def test_end_of_the_sequence(extra, numbers, left):
    """REPLAY-04: at the end EOVERFLOW, and nothing moves any more."""
    core = Core()
    core.add(STATE + extra, POLICY)
    for number in numbers:
        assert core.net.output(CLEAR) == 0
        (sent,) = core.take()
        assert int.from_bytes(sent[24:28], "big") == number
    assert core.net.output(CLEAR) == (-75 if left else 0)
    assert core.moved() == left
    if left:
        before = state_after(core.state(0x1000))
        assert core.net.output(CLEAR) == -75
        assert state_after(core.state(0x1000)) == before and core.take() == []


def test_no_iv_comes_twice_when_the_sequence_goes_back():
    core = Core()
    core.add(STATE + "extra-flag oseq-may-wrap replay-oseq 0xffffffc0", POLICY)
    ivs = set()
    for reset in (None, 5, 0, 0xFFFF_FFF0):
        if reset is not None:
            core.state(0x1000).replay.oseq = reset  # as NEWAE does
        for _ in range(100):
            assert core.net.output(CLEAR) == 0
        ivs |= {sent[28:36] for sent in core.take()}
    assert len(ivs) == 400
