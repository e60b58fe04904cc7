# SPDX-License-Identifier: Apache-2.0
"""What authentic ESP may carry: trailers, next headers, limits (RFC 4303 2.4..2.7, LIFE-12)."""

import errno

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from scapy.layers.inet import IP, UDP

from support.core import Core
from support.esp import GCM, SPI, A, B, datagram, policy, state, template

KEY, SALT = bytes(range(1, 17)), bytes(range(17, 21))
BODY = datagram(20)[20:]
EXPIRE, HARD_AT = 0x18, 16 + 224


def sealed(seq: int, text: bytes) -> bytes:
    """Authentic ESP between the two hosts with this clear text, trailer included."""
    head = SPI.to_bytes(4, "big") + seq.to_bytes(4, "big")
    iv = seq.to_bytes(8, "big")
    return bytes(
        IP(src=A, dst=B, proto=50) / (head + iv + AESGCM(KEY).encrypt(SALT + iv, text, head))
    )


@pytest.mark.parametrize(
    ("text", "counter", "packets"),
    [
        (BODY + b"\1\2\2\x11", "", 1),
        (BODY + b"\xaa\xbb\2\x11", "", 1),  # the contents of the padding are not checked
        (BODY + bytes(range(1, 256)) + b"\xff\x11", "", 1),
        (BODY + b"\1\2\2\xfd", "", 1),  # any protocol goes to the stack
        (BODY + b"\1\2\x1e\x11", "XfrmInStateProtoError", 0),  # as long as all of it: no payload
        (BODY + b"\1\2\xff\x11", "XfrmInStateProtoError", 0),
        (b"\1\2\2\x11", "XfrmInStateProtoError", 0),
        (b"\x11", "XfrmInStateProtoError", 0),
        (b"", "XfrmInStateProtoError", 0),
        (BODY + b"\1\2\2\x3b", "XfrmInStateProtoError", 0),  # a dummy packet
    ],
)
def test_transport(text, counter, packets):
    core = Core()
    core.add(state(GCM, extra="replay-window 32"))
    got = core.receive(sealed(1, text))
    assert (got is not None) == (not counter)
    if got is not None:
        rebuilt = IP(got)
        del rebuilt.chksum
        assert bytes(rebuilt) == got and got[9] == text[-1] and len(got) == 20 + len(BODY)
    assert core.moved() == ({counter: 1} if counter else {})
    x = core.state(SPI)
    assert (x.curlft.packets, x.stats.integrity_failed) == (packets, 0)
    assert x.replay.bitmap == packets  # what was refused did not move the window


INNER = datagram(16)


@pytest.mark.parametrize(
    ("text", "counter"),
    [
        (INNER + b"\0\4", ""),
        (INNER + bytes(200) + b"\0\4", ""),  # TFC padding
        (INNER + b"\0\x29", "XfrmInStateModeError"),
        (INNER + b"\0\x11", "XfrmInStateModeError"),
        (INNER[:12] + b"\0\4", "XfrmInStateModeError"),
        (b"\x60" + bytes(30) + b"\0\4", "XfrmInStateModeError"),
    ],
)
def test_tunnel(text, counter):
    core = Core()
    core.add(
        state(GCM, "tunnel", "replay-window 32"),
        policy("in", template(mode="tunnel", ends=(A, B))),
    )
    assert core.receive(sealed(1, text)) == (None if counter else INNER)
    assert core.moved() == ({counter: 1} if counter else {})
    assert core.state(SPI).curlft.bytes == len(text) - 2  # authentic: counted all the same


@pytest.mark.parametrize(("limit", "sent"), [(0, 0), (1, 1), (3, 3)])
def test_hard_limit_out(limit, sent):
    """LIFE-12, 16: N pass, the next one is refused and ends the SA, later ones find none."""
    core = Core()
    core.add(state(GCM, extra=f"limit packet-hard {limit}"), policy("out", template()))
    errors = [core.net.output(datagram()) for _ in range(limit + 2)]
    assert errors == [0] * sent + [-errno.EINVAL, 0]
    assert len(core.take()) == sent
    assert core.moved() == {"XfrmOutStateExpired": 1, "XfrmOutNoStates": 1}
    assert [m[HARD_AT] for _, m in core.events if m[4] == EXPIRE] == [1]


def test_limits_in():
    core = Core()
    core.add(state(GCM, extra="replay-window 32 limit byte-soft 30 limit byte-hard 60"))
    got = [core.receive(sealed(seq, BODY + b"\1\2\2\x11")) for seq in range(1, 6)]
    assert [one is not None for one in got] == [True, True, True, False, False]
    assert core.moved() == {"XfrmInStateExpired": 1, "XfrmInNoStates": 1}
    assert [m[HARD_AT] for _, m in core.events if m[4] == EXPIRE] == [0, 1]


def test_the_way_of_a_wrong_direction_or_encapsulation():
    core = Core()
    core.add(state(GCM, extra="replay-window 32"))
    esp = sealed(1, BODY + b"\1\2\2\x11")
    wrapped = IP(src=A, dst=B) / UDP(sport=4500, dport=4500, chksum=0) / esp[20:]
    assert core.receive(bytes(wrapped)) is None
    assert core.moved() == {"XfrmInStateMismatch": 1}
    damaged = bytearray(esp)
    damaged[8] ^= 1  # TTL, without its checksum: no router did that
    assert core.receive(bytes(damaged)) is None and core.moved() == {}
    assert core.receive(esp) is not None
