# SPDX-License-Identifier: Apache-2.0
"""ACQ-01..13, 24: a policy without SA asks key managers for one, and the driver for a place."""

import errno

import pytest

from host_driver.conformance import messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import DESTINATION, SOURCE, address
from host_driver.conformance.probe import REFUSE
from host_driver.conformance.subject import Subject
from proto.xfrm import AF_INET, IPPROTO_ESP, MODE_TUNNEL, OFFLOAD_PACKET, Attr, Group
from proto.xfrm_structs import UserAcquire, UserExpire, UserSaInfo, XfrmMark

PACKET = packets.udp(sport=4000, dport=5000)
WHOLE_LIFE = ["xdo_dev_state_add", "xdo_dev_state_delete", "xdo_dev_state_free"]
OTHER_GROUPS = tuple(group for group in Group if group != Group.ACQUIRE)


def wanting(bench: Bench, *, offloaded: bool = True, **policy: str | int) -> Subject:
    """A host with an outbound policy and no SA."""
    host = bench.host()
    host.ok(texts.policy(host.dev if offloaded else None, **policy))  # type: ignore[arg-type]
    host.notes()
    return host


@rule("ACQ-01", "ACQ-05")
@pytest.mark.parametrize("offloaded", [False, True])
def test_an_acquire_names_exactly_the_flow(bench: Bench, offloaded: bool) -> None:
    """ACQUIRE, and a larval SA of the flow: full prefixes, protocol, both ports, the device; SPI 0,
    the policy's mark, the template's reqid and mode."""
    host = wanting(bench, offloaded=offloaded, reqid=7, more="" if offloaded else "mark 0 mask 0xf")
    assert host.send([PACKET]) == [0]
    (asked,) = host.notes()
    assert asked.name == "ACQUIRE"
    acquire = UserAcquire.unpack(asked.fixed)
    (found,) = host.states()
    info = UserSaInfo.unpack(found.fixed)
    for sel in (acquire.sel, info.sel):
        assert (sel.saddr, sel.daddr) == (address(SOURCE), address(DESTINATION))
        assert (sel.family, sel.prefixlen_s, sel.prefixlen_d) == (AF_INET, 32, 32)
        assert (sel.proto, sel.sport, sel.dport) == (packets.UDP, 4000, 5000)
        assert (sel.sport_mask, sel.dport_mask) == (0xFFFF, 0xFFFF)
        assert sel.ifindex in {dev["ifindex"] for dev in host.raw.devices()} - {1}
    for id, source in ((acquire.id, acquire.saddr), (info.id, info.saddr)):
        assert (id.daddr, source) == (address(DESTINATION), address(SOURCE))
        assert (id.spi, id.proto) == (0, IPPROTO_ESP)
    assert (info.reqid, info.mode, info.family) == (7, 0, AF_INET)
    assert acquire.seq == info.seq != 0
    mark = found.attributes.get(Attr.MARK, b"")
    assert mark == (b"" if offloaded else XfrmMark(0, 0xF).pack())


@rule("ACQ-01")
def test_an_acquire_for_a_tunnel_names_its_ends(bench: Bench) -> None:
    """Addresses that the template gives stand in the larval SA; the selector stays the flow's."""
    ends = "tmpl src 10.1.0.1 dst 10.1.0.9 proto esp reqid 1 mode tunnel"
    host = wanting(bench, offloaded=False, template=False, more=ends)
    host.send([PACKET])
    (found,) = host.states()
    info = UserSaInfo.unpack(found.fixed)
    assert (info.id.daddr, info.saddr) == (address("10.1.0.9"), address("10.1.0.1"))
    assert (info.mode, info.sel.daddr) == (MODE_TUNNEL, address(DESTINATION))


@rule("ACQ-02", "ACQ-03")
def test_the_driver_is_offered_a_keyless_placeholder(bench: Bench) -> None:
    """state_add in the packet path, without key and SPI, of the policy's type, direction and
    device; it succeeds at once."""
    host = wanting(bench)
    host.send([PACKET])
    (added,) = host.calls_of("state_add")
    assert (added["type"], added["dir"], added["dev"]) == ("packet", "out", host.dev)
    assert (added["context"], added["spi"], added["keys"]) == ("data", "0x0", 0)
    assert added.get("acquire", False) is bench.latest  # the flag came with 6.4
    assert added["result"] == 0
    assert host.violations() == []
    assert host.order("U", "pA") == ("A(l)" if bench.latest else "A")


@rule("ACQ-02")
def test_a_larval_sa_holds_its_device(bench: Bench) -> None:
    """One reference until its free; v6.2 took none and gave one back."""
    host = wanting(bench)
    host.sysctl("acq_expires", 2)
    before = host.refcnt()
    host.send([PACKET])
    with_larval = host.refcnt()
    bench.advance(4)
    after = host.refcnt()
    steps = (with_larval - before, after - before)
    assert steps == ((1, 0) if bench.latest else (0, -1))


@rule("ACQ-04")
@pytest.mark.parametrize(
    ("refusal", "heard", "counter"),
    [(errno.EINVAL, errno.EINVAL, "XfrmOutPolError"), (errno.ENOMEM, errno.ENOMEM,
     "XfrmOutPolError"), (errno.ESRCH, 0, "XfrmOutNoStates")],
)  # fmt: skip
def test_a_refused_placeholder_ends_the_acquire(
    bench: Bench, refusal: int, heard: int, counter: str
) -> None:
    """The sender hears the driver's errno, but ESRCH means not yet; no ACQUIRE, nothing left."""
    host = bench.host(driver=PROBE)
    host.ok(texts.policy(host.dev, reqid=REFUSE | refusal))
    host.notes()
    assert host.send([PACKET]) == [heard]
    assert host.mib() == {counter: 1}
    assert host.note_names() == []
    assert host.states() == []
    assert [call["call"] for call in host.calls()] == ["xdo_dev_policy_add", "xdo_dev_state_add"]
    assert host.refcnt() == (1 if bench.latest else 0)  # TRAP-11


@rule("ACQ-05", "ACQ-09")
def test_a_larval_sa_lives_as_long_as_the_sysctl_says(bench: Bench) -> None:
    """It counts as an SA; after acq_expires it is deleted, and EXPIRE hard tells of SPI 0."""
    host = wanting(bench, offloaded=False)
    host.sysctl("acq_expires", 3)
    host.send([PACKET])
    (found,) = host.states()
    assert UserSaInfo.unpack(found.fixed).lft.hard_add_expires_seconds == 3
    assert host.ok("xfrm state count").split() == ["SAD", "count", "1"]
    host.notes()
    bench.advance(1)
    assert host.notes() == []
    bench.advance(4)
    (note,) = host.notes()
    expire = UserExpire.unpack(note.fixed)
    assert (note.name, expire.hard, expire.state.id.spi) == ("EXPIRE", 1, 0)
    assert expire.state.sel.dport == 5000
    assert host.states() == []


@rule("ACQ-05", "ACQ-09")
def test_a_larval_sa_lives_30_seconds_by_default(bench: Bench) -> None:
    """CONST-01: neither 29 nor 31."""
    host = wanting(bench)
    host.send([PACKET])
    host.notes()
    bench.advance(29 - bench.slack)
    assert host.expired() == []
    bench.advance(1.5 + 2 * bench.slack)
    assert host.expired() == ["hard 0x0"]


@rule("ACQ-06")
def test_while_one_is_pending_no_second_acquire_is_sent(bench: Bench) -> None:
    """Every packet of the flow meanwhile is dropped like the first."""
    host = wanting(bench, offloaded=False)
    assert host.send([PACKET] * 3) == [0] * 3
    assert host.note_names() == ["ACQUIRE"]
    assert host.mib() == {"XfrmOutNoStates": 3}
    assert len(host.states()) == 1


@rule("ACQ-07")
def test_a_key_manager_is_who_listens_to_acquires(bench: Bench) -> None:
    """Without a member of that group there is no larval SA; with one, of it alone, there is."""
    host = wanting(bench, offloaded=False)
    host.listen(*OTHER_GROUPS)
    host.send([PACKET])
    assert host.states() == []
    host.listen(Group.ACQUIRE)
    host.send([PACKET])
    assert len(host.states()) == 1
    assert host.note_names() == ["ACQUIRE"]


@rule("ACQ-09")
def test_the_driver_hears_the_end_of_a_larval_sa(bench: Bench) -> None:
    """Time-out: state_delete and state_free of the placeholder."""
    host = wanting(bench)
    host.sysctl("acq_expires", 2)
    host.send([PACKET])
    bench.advance(4)
    ours = [call for call in host.calls() if call["call"] in WHOLE_LIFE]
    assert [call["call"] for call in ours] == WHOLE_LIFE
    assert len({call["object"] for call in ours}) == 1


@rule("ACQ-08", "TRAP-01", "TRAP-10")
def test_an_acquire_that_nobody_took_is_taken_back(bench: Bench) -> None:
    """The listener's queue is full: state_delete of the placeholder, state_free (which v6.2 left
    out), no larval SA; the packet is dropped as if it was pending."""
    host = bench.host()
    host.ok(texts.policy(host.dev))
    host.listen(*Group, room=0)
    assert host.send([PACKET]) == [0]
    assert host.states() == []
    ours = [call["call"] for call in host.calls() if call["call"] in WHOLE_LIFE]
    assert ours == (WHOLE_LIFE if bench.latest else WHOLE_LIFE[:2])
    assert host.mib() == {"XfrmOutNoStates": 1}


@rule("ACQ-10")
def test_a_larval_sa_is_shown_as_offloaded_and_passes_nothing(bench: Bench) -> None:
    """OFFLOAD_DEV in the dump; no packet leaves."""
    host = wanting(bench)
    host.send([PACKET] * 2)
    (found,) = host.states()
    assert found.attributes[Attr.OFFLOAD_DEV] == messages.offload(host.ifindex, OFFLOAD_PACKET)
    assert f"offload parameters: dev {host.dev} dir out mode packet" in host.ok("xfrm state")
    assert bench.frames() == []
    assert "sas" not in host.census()


@rule("ACQ-11")
def test_the_real_sa_takes_the_place_of_the_larval_one(bench: Bench) -> None:
    """The driver is offered a new object; the placeholder is deleted and freed; traffic flows."""
    host = wanting(bench)
    host.send([PACKET])
    host.ok(texts.state(host.dev))
    calls = [call for call in host.calls() if call["call"] in WHOLE_LIFE]
    assert [call["call"] for call in calls] == ["xdo_dev_state_add", *WHOLE_LIFE]
    placeholder, real, deleted, freed = (call["object"] for call in calls)
    assert placeholder == deleted == freed != real
    (found,) = host.states()
    assert UserSaInfo.unpack(found.fixed).id.spi == 0x1000
    host.send([PACKET])
    (sent,) = bench.on_the_wire()
    assert packets.Esp().open(sent) == PACKET


@rule("ACQ-12", "MLX-01")
def test_a_placeholder_is_nothing_on_the_card(bench: Bench) -> None:
    """No check, no object; update, delete and free of it succeed and leave nothing behind."""
    host = wanting(bench)
    host.sysctl("acq_expires", 3)
    before = host.census()
    host.send([PACKET])
    assert host.census() == before
    assert host.states()  # asks for its totals
    bench.advance(5)
    assert host.census() == before
    assert all(call["result"] in (0, None) for call in host.calls())
    assert [name for name in host.counters() if "exceptions" in name] == []
    assert host.violations() == []


@rule("ACQ-13")
@pytest.mark.parametrize("by_seq", [False, True])
def test_allocspi_gives_the_larval_sa_its_spi(bench: Bench, by_seq: bool) -> None:
    """Found by sequence number or template; it is the same SA, and the driver is not called."""
    host = wanting(bench)
    host.send([PACKET])
    (asked,) = host.notes()
    seq = f"seq {UserAcquire.unpack(asked.fixed).seq:#x}" if by_seq else ""
    before = host.order("U")
    host.ok(
        f"xfrm state allocspi src {SOURCE} dst {DESTINATION} proto esp mode transport reqid 1 "
        f"{seq} min 0x500 max 0x500"
    )
    (found,) = host.states()
    info = UserSaInfo.unpack(found.fixed)
    assert (info.id.spi, info.sel.dport) == (0x500, 5000)
    assert Attr.OFFLOAD_DEV in found.attributes
    assert host.order("U") == before


@rule("ACQ-24")
def test_nothing_leaves_in_clear_while_an_sa_is_missing(bench: Bench) -> None:
    """However long it takes, and after it was given up."""
    host = wanting(bench)
    host.sysctl("acq_expires", 2)
    for _ in range(4):
        host.send([PACKET])
        bench.advance(1)
    host.listen()
    host.send([PACKET])
    assert bench.frames() == []


@rule("ACQ-24")
def test_the_card_drops_what_an_offloaded_policy_covers(bench: Bench) -> None:
    """A bypass that the card does not know lets a packet pass the core: the card finds its own
    policy and no SA, and drops."""
    host = wanting(bench, priority=9)
    host.ok(texts.policy(template=False, priority=1, more="proto udp"))
    assert host.send([PACKET]) == [0]
    assert host.mib() == {}
    assert bench.frames() == []
    assert host.counters()["tx_drop_no_sa"] == 1
