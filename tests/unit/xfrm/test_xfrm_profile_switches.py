# SPDX-License-Identifier: Apache-2.0
"""Each switch of a profile does what its rule says, on and off."""

import errno
import struct
from dataclasses import replace
from typing import Any

import pytest

from host_driver.netdev import HW_ESP, SecPath, Skb
from host_driver.xfrm.device import xfrm_dev_offload_ok
from host_driver.xfrm.esp import xfrm_state_mtu
from host_driver.xfrm.profile import LATEST, V6_2
from host_driver.xfrm.state import OFFLOAD_PACKET
from proto.netlink import attribute
from proto.netlink import message as nl_message
from proto.xfrm_structs import (
    EncapTmpl,
    LifetimeCfg,
    ReplayStateEsn,
    UserPolicyInfo,
    UserSaId,
    UserSaInfo,
    UserSpiInfo,
    UserTmpl,
    XfrmId,
    XfrmMark,
    XfrmSelector,
)

A, B = (bytes((10, 1, 0, last)) + bytes(12) for last in (1, 2))
ALLOCSPI, GETSA, DELSA = 0x16, 0x12, 0x11
TFCPAD, ESN, SA_DIR, NAT_KEEPALIVE, SA_PCPU, MARK = 22, 23, 33, 34, 35, 21
TUNNEL, IPTFS = 1, 5
BOTH = [False, True]


@pytest.fixture(params=[LATEST, V6_2], ids=["latest", "v6.2"])
def base(request):
    """The profile whose other switches stay as they are."""
    return request.param


@pytest.fixture
def world_with(make_world, pktsim, base):
    """A world of one switch set as told, among all others of either kernel."""
    return lambda **switches: make_world(pktsim, profile=replace(base, name="test", **switches))


def newsa(requests, *, mode: int = 0, flags: int = 0, **attributes: bytes) -> bytes:
    """A software SA with more attributes, named by what they are in this file."""
    payload = bytearray(requests[0](flags=None)[16:])
    payload[214], payload[216] = mode, flags
    for name, value in attributes.items():
        payload += attribute(globals()[name], value)
    return nl_message(0x10, bytes(payload), 5)


U32 = struct.Struct("<I").pack


@pytest.mark.parametrize("on", BOTH)
@pytest.mark.parametrize(
    ("switch", "attributes", "error"),
    [
        ("sa_dir_known", {"SA_DIR": b"\7"}, errno.ERANGE),
        ("sa_pcpu_known", {"SA_PCPU": U32(0)}, errno.EINVAL),  # without a direction
        ("nat_keepalive_known", {"NAT_KEEPALIVE": U32(20)}, errno.EINVAL),  # without encapsulation
        ("tfcpad_limited", {"TFCPAD": U32(0x10000)}, errno.EINVAL),
    ],
)
def test_newsa(world_with, requests, on, switch, attributes, error):
    world = world_with(**{switch: on})
    request = newsa(requests, mode=TUNNEL, **attributes)
    assert world.errno(request) == (error if on else 0)


@pytest.mark.parametrize("on", BOTH)
@pytest.mark.parametrize(
    ("direction", "counters"),
    [(b"\1", ReplayStateEsn(seq_hi=1)), (b"\2", ReplayStateEsn(oseq=2**32 - 1))],
)
def test_counters_at_their_end(world_with, requests, on, direction, counters):
    """STATE-08, which 6.18 was seen to ask only of SAs that have a direction."""
    world = world_with(replay_counters_verified=on, sa_dir_known=True)
    request = newsa(requests, ESN=counters.pack(), SA_DIR=direction)
    assert world.errno(request) == (errno.EINVAL if on else 0)
    undirected = newsa(requests, ESN=counters.pack())
    assert world.errno(undirected) == (0 if on else errno.EEXIST)


@pytest.mark.parametrize("on", BOTH)
def test_an_unknown_direction_is_neither_kept_nor_refused_elsewhere(world_with, requests, on):
    world = world_with(sa_dir_known=on)
    assert world.errno(newsa(requests, SA_DIR=b"\2")) == 0
    assert world.state(0x1000).dir == (2 if on else 0)
    get = UserSaId(B, 0x1000, 2, 50).pack() + attribute(SA_DIR, b"\2")
    assert world.errno(nl_message(GETSA, get, 5)) == (errno.EINVAL if on else 0)


@pytest.mark.parametrize("on", BOTH)
def test_a_larval_sa_has_a_direction_where_there_are_any(world_with, udp_packet, on):
    world = world_with(sa_dir_known=on)
    world.add_policy()
    world.net.output(udp_packet())
    (x,) = world.net.sad
    assert x.dir == (2 if on else 0)


@pytest.mark.parametrize("on", BOTH)
@pytest.mark.parametrize(
    ("switch", "template", "errors"),
    [
        ("iptfs_known", UserTmpl(XfrmId(B, proto=50), 2, A, mode=IPTFS), (errno.EINVAL, 0)),
        (
            "optional_tunnel_refused",
            UserTmpl(XfrmId(B, proto=50), 2, A, mode=TUNNEL, optional=1),
            (0, errno.EINVAL),
        ),
    ],
)
def test_newpolicy(world_with, on, switch, template, errors):
    sel = XfrmSelector(B, A, family=2, prefixlen_d=32, prefixlen_s=32)
    payload = UserPolicyInfo(sel, LifetimeCfg(), dir=1).pack() + attribute(5, template.pack())
    assert world_with(**{switch: on}).errno(nl_message(0x13, payload, 5)) == errors[on]


@pytest.mark.parametrize("on", BOTH)
def test_the_youngest_message_type(world_with, on):
    world = world_with(migrate_state_known=on)
    request = nl_message(0x29, bytes(132), 5)
    assert world.errno(request) == (errno.EOPNOTSUPP if on else errno.EINVAL)


def allocspi(low: int, high: int, mark: int = 0) -> bytes:
    info = UserSaInfo(id=XfrmId(B, 0, 50), saddr=A, family=2)
    payload = UserSpiInfo(info, low, high).pack()
    return nl_message(ALLOCSPI, payload + attribute(MARK, XfrmMark(mark, 0xFF).pack()), 5)


@pytest.mark.parametrize("on", BOTH)
def test_an_spi_under_another_mark(world_with, on):
    world = world_with(spi_clash_checked=on)
    world.netlink(allocspi(0x500, 0x500, mark=1))
    world.netlink(allocspi(0x500, 0x500, mark=2))
    spis = sorted(x.id.spi for x in world.net.sad)
    assert spis == ([0, 0x500] if on else [0x500, 0x500])


# Counters.


@pytest.mark.parametrize("for_crypto", BOTH)
@pytest.mark.parametrize("on", BOTH)
def test_messages_ask_the_driver(world_with, pktsim, on, for_crypto):
    world = world_with(update_at_serialization=on, update_for_crypto=for_crypto)
    world.add_sa(0x1000)
    world.add_sa(0x1001, flags=0)
    pktsim.log.clear()
    for spi in (0x1000, 0x1001):
        world.netlink(nl_message(GETSA, UserSaId(B, spi, 2, 50).pack(), 1))
    asked = [line.split()[1] for line in pktsim.log if line.startswith("update")]
    wanted = ["spi=0x00001000"] * on + ["spi=0x00001001"] * (on and for_crypto)
    assert asked == wanted


@pytest.mark.parametrize("on", BOTH)
def test_reading_the_counters_asks_all_drivers(world_with, pktsim, on):
    world = world_with(update_at_mib_read=on, update_for_crypto=True)
    world.add_sa(0x1000)
    world.add_sa(0x1001, flags=0)
    world.add_sa(0x1002, flags=None)
    since = world.trace.added
    world.net.statistics()
    entries = [e for e in world.trace.entries() if e["seq"] > since]
    assert [(e["spi"], e["context"]) for e in entries] == (
        [("0x1001", "walk"), ("0x1000", "walk")] if on else []
    )


@pytest.mark.parametrize("on", BOTH)
def test_counters_by_kernel(world_with, on):
    names = list(world_with(mib_after_acquire_error=on).net.statistics())
    assert len(names) == (32 if on else 28)
    assert names[27] == "XfrmAcquireError"


# Ends.


@pytest.mark.parametrize("on", BOTH)
def test_an_sa_that_something_refers_to_when_its_device_goes(world_with, pktsim, on):
    """DEL-08: deleted before, pinned by a packet in flight."""
    world = world_with(freed_at_device_flush=on)
    world.add_sa()
    x = world.state(0x1000)
    x.refcnt += 1
    world.errno(nl_message(DELSA, UserSaId(B, 0x1000, 2, 50).pack(), 5))
    freed = lambda: sum(line.startswith("state_free") for line in pktsim.log)  # noqa: E731
    assert (freed(), world.nic.refcnt) == (0, 1)
    world.devices.unregister(world.nic)
    world.sched.run(world.net.now_ns)
    assert (freed(), world.nic.refcnt) == ((1, 0) if on else (0, 1))
    world.net.xfrm_state_put(x)
    world.sched.run(world.net.now_ns)
    assert (freed(), world.nic.refcnt) == (1, 0)


@pytest.mark.parametrize("on", BOTH)
@pytest.mark.parametrize("feature", BOTH)
@pytest.mark.parametrize("event", ["down", "unregister"])
def test_which_devices_are_flushed(world_with, on, feature, event):
    """NDEV-01, NDEV-10."""
    world = world_with(unregister_flushes_always=on)
    world.add_sa()
    world.add_policy()
    world.devices.set_features(world.nic, {HW_ESP} if feature else set())
    world.net.netdev_event(world.nic, event)
    world.sched.run(world.net.now_ns)
    flushed = feature or (on and event == "unregister")
    assert (len(world.net.sad), len(world.net.spd)) == ((0, 0) if flushed else (1, 1))
    assert world.nic.refcnt == (0 if flushed else 2)


@pytest.mark.parametrize("on", BOTH)
def test_the_record_after_free(world_with, on):
    world = world_with(free_clears_type=on)
    world.add_sa()
    x = world.state(0x1000)
    world.errno(nl_message(DELSA, UserSaId(B, 0x1000, 2, 50).pack(), 5))
    assert (x.xso.dev, x.xso.type) == (None, 0 if on else OFFLOAD_PACKET)
    assert x.freed


# Packets.


def asked(world, packet: bytes, **how: Any) -> bool:
    """offload_ok of the one SA for a packet on nic0, or on another device."""
    x = world.state(0x1000)
    return xfrm_dev_offload_ok(
        world.net, Skb(packet), x, how.get("dev", world.nic), how.get("nested", False)
    )


@pytest.mark.parametrize("on", BOTH)
@pytest.mark.parametrize("flags", [0, 4])
def test_the_route_s_device(world_with, pktsim, udp_packet, on, flags):
    world = world_with(route_device_checked=on)
    other = world.add_device("other0", 9)
    world.add_sa(flags=flags)
    pktsim.log.clear()
    anywhere = flags == 4 and not on
    assert asked(world, udp_packet())
    assert asked(world, udp_packet(), dev=other) is anywhere
    assert asked(world, udp_packet(), nested=True) is anywhere
    assert pktsim.log.count("offload_ok spi=0x00001000") == (3 if anywhere else 1)


@pytest.mark.parametrize("on", BOTH)
def test_headers(world_with, udp_packet, on):
    world = world_with(headers_checked=on)
    world.add_sa()
    packet = bytearray(udp_packet())
    options = bytes((packet[0] + 1,)) + bytes(packet[1:20]) + b"\1\1\1\0" + bytes(packet[20:])
    hop_by_hop = b"\x60\0\0\0\0\x08\0\x40" + bytes(32) + bytes(8)
    assert [asked(world, one) for one in (options, hop_by_hop)] == [not on] * 2


@pytest.mark.parametrize("on", BOTH)
def test_encapsulated_sas(world_with, udp_packet, on):
    world = world_with(encap_offloadable=on)
    world.add_sa()
    world.state(0x1000).encap = EncapTmpl(2, 4500, 4500)
    assert asked(world, udp_packet()) is on


@pytest.mark.parametrize(
    ("on", "mtu", "usable"),
    [
        (True, 1500, 1466), (False, 1500, 1466), (True, 54, 1), (True, 20, 1),
        (False, 54, 18), (False, 20, 0xFFFF_FFF2),
    ],
)  # fmt: skip
def test_usable_mtu(world_with, on, mtu, usable):
    """TX-30, TX-32, TX-33: header 16, ICV 16, 20 for IPv4, trailer 2; in v6.2 modulo 2**32."""
    world = world_with(mtu_guarded=on)
    world.add_sa()
    assert xfrm_state_mtu(world.net, world.state(0x1000), mtu) == usable


@pytest.mark.parametrize("on", BOTH)
def test_a_route_through_another_device(make_world, pktsim, base, udp_packet, on):
    """TX-21 as recorded of 6.12: the driver is asked, and the packet leaves where the route leads.
    It stays marked, so that a card of ours does not let it out in clear."""
    world = make_world(profile=replace(base, name="test", route_device_checked=on))
    world.add_device("other0", 9)
    world.nic = world.add_device("nic0", 2, pktsim)
    world.add_policy()
    world.add_sa()
    pktsim.log.clear()
    assert world.net.output(udp_packet()) == (-errno.EHOSTUNREACH if on else 0)
    assert world.net.mib.values()["XfrmOutError"] == int(on)
    assert [skb.protect for skb in world.sent] == ([] if on else [True])
    assert pktsim.log == ([] if on else ["offload_ok spi=0x00001000"])


@pytest.mark.parametrize("on", BOTH)
def test_the_sec_path_after_the_policy_check(world_with, udp_packet, on):
    """RX-05: whatever the outcome."""
    world = world_with(sec_path_consumed=on)
    world.add_sa(flags=2 | 4)
    for status in (1, 8):
        skb = Skb(udp_packet(), sec_path=SecPath(world.state(0x1000), status=status))
        assert (world.net.input(skb) is None) == (status == 8)
        assert (skb.sec_path is None) == on


@pytest.mark.parametrize("on", BOTH)
@pytest.mark.parametrize("offload", BOTH)
def test_a_clear_packet_and_a_policy_that_asks_for_esp(world_with, udp_packet, on, offload):
    world = world_with(offloaded_policy_trusted=on)
    world.add_policy(dir=0, offload=offload)
    delivered = world.net.input(Skb(udp_packet())) is not None
    assert delivered == (on and offload)
    assert world.net.mib.values()["XfrmInTmplMismatch"] == int(not delivered)


@pytest.mark.parametrize("on", BOTH)
@pytest.mark.parametrize("esn", BOTH)
def test_crypto_output_tells_of_each_number(world_with, pktsim, requests, udp_packet, on, esn):
    """OPS-23, as recorded of 7.3: with ESN, for every packet."""
    world = world_with(output_advances_esn=on)
    window = ReplayStateEsn(bmp_len=1, replay_window=32).pack() + bytes(4)
    request = requests[0](flags=0)
    if esn:
        payload = bytearray(request[16:])
        payload[216] = 128
        request = nl_message(0x10, bytes(payload) + attribute(ESN, window), 5)
    assert world.errno(request) == 0
    world.add_policy(offload=False)
    assert [world.net.output(udp_packet()) for _ in range(3)] == [0, 0, 0]
    assert pktsim.log.count("advance_esn spi=0x00001000") == (3 if on and esn else 0)


@pytest.mark.parametrize("on", BOTH)
def test_whether_a_driver_can_tell_a_larval_sa(world_with, pktsim, udp_packet, on):
    """ACQ-02, OPS-11, TRAP-03: in either kernel it has no keys and no SPI."""
    seen = []

    def add(dev, x, extack):
        seen.append((x.xso.flags, x.key_bytes(), x.id.spi, int(x.km.state)))
        return 0

    pktsim.xdo_dev_state_add = add
    world = world_with(larval_flagged=on)
    world.add_policy()
    world.net.output(udp_packet())
    assert seen == [(1 if on else 0, 0, 0, 0)]
