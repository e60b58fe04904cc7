# SPDX-License-Identifier: Apache-2.0
"""UAPI-30..38, 45: structures of an SA. A member is where it is because it takes effect there."""

import struct
from typing import Any

import pytest

from host_driver.conformance import layouts, messages, packets, texts
from host_driver.conformance.bench import Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import request
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr, Msg

SOURCE, DESTINATION = b"\x0a\x01\x00\x01".ljust(16, b"\0"), b"\x0a\x01\x00\x02".ljust(16, b"\0")
INFINITE = 0xFFFF_FFFF_FFFF_FFFF
FOREVER = (INFINITE,) * 4 + (0,) * 4
IPV6 = bytes(range(0x20, 0x30))


def usersa_info(spi: bytes = b"\0\0\x10\0", lft: tuple[int, ...] = FOREVER, **fields: Any) -> bytes:
    """xfrm_usersa_info by the contract's formats alone."""
    id = layouts.ID.make(daddr=DESTINATION, spi=spi, proto=50)
    fields = {"reqid": 1, "family": 2, "saddr": SOURCE, **fields}
    return layouts.USERSA_INFO.make(id=id, lft=struct.pack("<8Q", *lft), **fields)


def new_sa(info: bytes, attributes: dict[int, bytes] | None = None) -> bytes:
    """NEWSA with AES-GCM-128."""
    aead = layouts.ALGO_AEAD.make(name=messages.GCM, key_len=160, icv_len=128) + messages.KEY
    return request(Msg.NEWSA, info, {int(Attr.ALG_AEAD): aead} | (attributes or {}))


def fixed(host: Subject, spi: bytes = b"\0\0\x10\0") -> bytes:
    """The fixed part of the answer to a GETSA that the contract's formats alone have made."""
    id = layouts.USERSA_ID.make(daddr=DESTINATION, spi=spi, family=2, proto=50)
    (note,) = host.request(request(Msg.GETSA, id)).notes
    return note.fixed


@rule("UAPI-30", "UAPI-31", "UAPI-37", "UAPI-38")
@pytest.mark.parametrize(
    ("family", "saddr", "daddr"), [(2, SOURCE, DESTINATION), (10, IPV6, IPV6[::-1])]
)
def test_addresses_and_the_id_of_an_sa(
    bench: Bench, family: int, saddr: bytes, daddr: bytes
) -> None:
    """16 bytes hold an address, an IPv4 one in the first 4; the SPI is in network order, the range
    it comes from in the host's; xfrm_usersa_id names the SA."""
    host = bench.host()
    wanted = layouts.ID.make(daddr=daddr, proto=50)
    info = layouts.USERSA_INFO.make(id=wanted, saddr=saddr, family=family, reqid=7, mode=1)
    low, high = 0x01020304, 0x01020305
    datagram = request(Msg.ALLOCSPI, layouts.USERSPI_INFO.make(info=info, min=low, max=high))
    (note,) = host.request(datagram).notes
    came = layouts.USERSA_INFO.read(note.fixed)
    id = layouts.ID.read(came.id)
    assert (id.daddr, came.saddr, id.proto, came.family) == (daddr, saddr, 50, family)
    assert low <= int.from_bytes(id.spi, "big") <= high
    named = layouts.USERSA_ID.make(daddr=daddr, spi=id.spi, family=family, proto=50)
    (again,) = host.request(request(Msg.GETSA, named)).notes
    assert again.fixed == note.fixed


@rule("UAPI-36", "UAPI-34")
def test_the_fixed_part_of_a_larval_sa(bench: Bench) -> None:
    """Sequence number, reqid, family, mode of xfrm_usersa_info; a fresh xfrm_lifetime_cur has its
    time of birth."""
    host = bench.host()
    host.ok(texts.policy())
    (policy,) = host.policies()
    born = layouts.LIFETIME_CUR.read(layouts.USERPOLICY_INFO.read(policy.fixed).curlft).add_time
    info = usersa_info(spi=b"", reqid=0x11223344, mode=1, seq=0)
    datagram = request(Msg.ALLOCSPI, layouts.USERSPI_INFO.make(info=info, min=0x1000, max=0x1000))
    assert host.request(datagram).errno == 0
    came = layouts.USERSA_INFO.read(fixed(host))
    assert (came.reqid, came.family, came.mode) == (0x11223344, 2, 1)
    assert (came.replay_window, came.flags) == (0, 0)
    now = layouts.LIFETIME_CUR.read(came.curlft)
    assert (now.bytes, now.packets, now.use_time) == (0, 0, 0)
    assert 0 <= now.add_time - born <= 1


@rule("UAPI-36", "UAPI-32", "UAPI-33")
def test_the_fixed_part_of_an_sa_comes_back(bench: Bench) -> None:
    """What NEWSA has put where the contract says, GETSA gives back there, byte for byte."""
    host = bench.host()
    sel = layouts.SELECTOR.make(
        daddr=DESTINATION, saddr=SOURCE, dport=b"\x12\x34", dport_mask=b"\xff\xff",
        sport=b"\x56\x78", sport_mask=b"\xff\xfe", family=2, prefixlen_d=30, prefixlen_s=29,
        proto=17, user=1000,
    )  # fmt: skip
    lft = (1000, 2000, 3000, 4000, 500, 600, 700, 800)
    info = usersa_info(
        sel=sel, lft=lft, seq=0x0A0B0C0D, reqid=0x01020304, mode=1, replay_window=8, flags=1
    )
    assert host.request(new_sa(info)).errno == 0
    came = fixed(host)
    assert came[:160] == info[:160]
    assert came[192:] == info[192:]


@rule("UAPI-31", "UAPI-36", "UAPI-50")
def test_spi_addresses_and_key_are_on_the_wire(bench: Bench) -> None:
    """SPI, addresses, reqid and key of NEWSA protect the packet; key_len counts the salt's bits."""
    host = bench.host()
    assert host.request(new_sa(usersa_info())).errno == 0
    host.ok(texts.policy())
    packet = packets.udp()
    assert host.send([packet]) == [0]
    (sealed,) = bench.on_the_wire()
    assert sealed[20:24] == b"\0\0\x10\0"
    assert packets.Esp().open(sealed) == packet


@rule("UAPI-32", "UAPI-39")
@pytest.mark.parametrize(
    ("member", "other"),
    [
        ({}, None),
        ({"dport": b"\x13\x88", "dport_mask": b"\xff\xff"}, {"dport": 5001}),
        ({"dport": b"\x13\x80", "dport_mask": b"\xff\xf0"}, {"dport": 5011}),
        ({"sport": b"\x0f\xa0", "sport_mask": b"\xff\xff"}, {"sport": 4001}),
        ({"proto": 17}, None),
        ({"prefixlen_d": 30, "prefixlen_s": 32}, {"dst": "10.1.0.4"}),
        ({"prefixlen_d": 32, "prefixlen_s": 30}, {"src": "10.1.0.4"}),
    ],
)
def test_a_selector_selects(
    bench: Bench, member: dict[str, Any], other: dict[str, Any] | None
) -> None:
    """A block policy stops the packet that its selector's members describe, and no other one."""
    host = bench.host()
    every = {
        "daddr": DESTINATION,
        "saddr": SOURCE,
        "family": 2,
        "prefixlen_d": 32,
        "prefixlen_s": 32,
    }
    sel = layouts.SELECTOR.make(**every | member)
    lft = struct.pack("<8Q", *FOREVER)
    info = layouts.USERPOLICY_INFO.make(sel=sel, lft=lft, dir=1, action=1)
    assert host.request(request(Msg.NEWPOLICY, info)).errno == 0
    assert host.send([packets.udp(sport=4000, dport=5000)]) == [1]
    ends = {"sport": 4000, "dport": 5000, "dst": "10.1.0.9", **(other or {})}
    if other and "dst" not in other:
        ends["dst"] = "10.1.0.2"
    assert host.send([packets.udp(**ends)]) == [0]


def expiry(bench: Bench, host: Subject, spi: str) -> list[str]:
    """What expires of an SA while five packets go out and then 4 seconds pass."""
    host.notes()
    host.send([packets.udp()] * 5)
    bench.advance(4)
    return [one for one in host.expired() if one.endswith(spi)]


@rule("UAPI-33")
@pytest.mark.parametrize(
    ("place", "value", "wanted"),
    [
        (0, 50, "soft"), (1, 50, "hard"), (2, 3, "soft"), (3, 3, "hard"), (4, 2, "soft"),
        (5, 2, "hard"), (6, 2, "soft"), (7, 2, "hard"),
    ],
)  # fmt: skip
def test_eight_limits_each_at_its_place(bench: Bench, place: int, value: int, wanted: str) -> None:
    """Bytes, packets, seconds since birth and since first use; of each first soft, then hard."""
    host = bench.host()
    lft = list(FOREVER)
    lft[place] = value
    assert host.request(new_sa(usersa_info(lft=tuple(lft)))).errno == 0
    host.ok(texts.policy())
    assert expiry(bench, host, "0x1000") == [f"{wanted} 0x1000"]


@rule("UAPI-34")
def test_the_lifetime_that_has_passed(bench: Bench) -> None:
    """Bytes, packets, birth, first use; LTIME_VAL sets them."""
    host = bench.host()
    was = layouts.LIFETIME_CUR.make(bytes=1000, packets=10, add_time=1_600_000_000)
    assert host.request(new_sa(usersa_info(), {Attr.LTIME_VAL: was})).errno == 0
    assert layouts.USERSA_INFO.read(fixed(host)).curlft == was
    host.ok(texts.policy())
    host.send([packets.udp(b"x" * 100)] * 2)
    now = layouts.LIFETIME_CUR.read(layouts.USERSA_INFO.read(fixed(host)).curlft)
    assert (now.bytes, now.packets, now.add_time) == (1000 + 2 * 108, 12, 1_600_000_000)
    assert now.use_time > 1_600_000_000


@rule("UAPI-35", "UAPI-46", "UAPI-36")
def test_statistics_and_replay_state_of_a_receiver(bench: Bench) -> None:
    """Too old, duplicate and forged packets are counted apart; seq is the highest, the bitmap ends
    with it."""
    host = bench.host()
    sender, receiver = messages.DESTINATION, messages.SOURCE
    host.ok(texts.state(src=sender, dst=receiver, dir="in"))
    host.ok(texts.policy(src=sender, dst=receiver, dir="in"))
    esp, clear = packets.Esp(), packets.udp(src=sender, dst=receiver)
    sealed = [esp.seal(clear, seq) for seq in (40, 42, 42, 42, 3)]
    forged = packets.broken(esp.seal(clear, 43))
    bench.arrive(*sealed, *[forged] * 3)
    assert len(host.receive()) == 2
    (note,) = host.request(request(Msg.GETSA, messages.sa_id(dst=receiver))).notes
    stats = layouts.STATS.read(layouts.USERSA_INFO.read(note.fixed).stats)
    assert (stats.replay_window, stats.replay, stats.integrity_failed) == (1, 2, 3)
    replay = layouts.REPLAY_STATE.read(note.attributes[Attr.REPLAY_VAL])
    assert (replay.oseq, replay.seq, replay.bitmap) == (0, 42, 0b101)


@rule("UAPI-43")
def test_the_hard_byte_of_expire(bench: Bench) -> None:
    """xfrm_user_expire: the SA, then whether the limit is hard; as request and as notification."""
    host = bench.host()
    assert host.request(new_sa(usersa_info(), {Attr.MARK: bytes(8)})).errno == 0
    host.notes()
    for hard in (0, 1):
        datagram = request(Msg.EXPIRE, layouts.USER_EXPIRE.make(state=usersa_info(), hard=hard))
        here = fixed(host)
        assert host.request(datagram).errno == 0
        note = host.notes()[0]
        told = layouts.USER_EXPIRE.read(note.fixed)
        assert (note.name, told.hard, told.state) == ("EXPIRE", hard, here)
    assert host.states() == []


@rule("UAPI-45", "UAPI-37")
def test_the_id_of_an_async_event(bench: Bench) -> None:
    """xfrm_aevent_id: the SA's ID, source, flags as asked, reqid."""
    host = bench.host()
    assert host.request(new_sa(usersa_info(reqid=0x55667788))).errno == 0
    id = layouts.USERSA_ID.make(daddr=DESTINATION, spi=b"\0\0\x10\0", family=2, proto=50)
    wanted = layouts.AEVENT_ID.make(sa_id=id, flags=9)
    (note,) = host.request(request(Msg.GETAE, wanted)).notes
    came = layouts.AEVENT_ID.read(note.fixed)
    assert (came.sa_id, came.saddr, came.flags, came.reqid) == (id, SOURCE, 9, 0x55667788)
