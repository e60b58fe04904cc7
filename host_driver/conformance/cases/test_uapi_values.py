# SPDX-License-Identifier: Apache-2.0
"""UAPI-20..28: the numbers of the interface, each by what it makes the core do."""

import errno
import struct

import pytest

from host_driver.conformance import layouts, messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import new_policy, new_sa, request, template
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr, Msg

TRANSPORT, TUNNEL, ROUTEOPTIMIZATION, IN_TRIGGER, BEET, IPTFS = range(6)
DIR_IN, DIR_OUT = {Attr.SA_DIR: b"\1"}, {Attr.SA_DIR: b"\2"}
IPV6, INBOUND, PACKET = 1, 2, 4
INFINITE = (1 << 64) - 1


def flush(host: Subject) -> None:
    host.request(request(Msg.FLUSHPOLICY, b""))


@rule("UAPI-20", "UAPI-53")
@pytest.mark.parametrize(
    ("flags", "type", "dir", "reported"),
    [
        (PACKET, "packet", "out", PACKET),
        (PACKET | INBOUND, "packet", "in", PACKET | INBOUND),
        (PACKET | IPV6, "packet", "out", PACKET),
        (0, "crypto", "out", 0),
        (INBOUND, "crypto", "in", INBOUND),
        (INBOUND | IPV6, "crypto", "in", INBOUND),
    ],
)
def test_offload_flags_say_direction_and_type(
    bench: Bench, flags: int, type: str, dir: str, reported: int
) -> None:
    """INBOUND is receive, PACKET is packet offload, absent crypto offload; IPV6 has no effect."""
    host = bench.host(driver=PROBE)
    attributes = {Attr.OFFLOAD_DEV: struct.pack("<iB3x", host.ifindex, flags)}
    assert host.request(new_sa(attributes=attributes)).errno == 0
    call = host.calls()[0]
    assert (call["call"], call["type"], call["dir"]) == ("xdo_dev_state_add", type, dir)
    (note,) = host.states()
    offload = layouts.USER_OFFLOAD.read(note.attributes[Attr.OFFLOAD_DEV])
    assert (offload.ifindex, offload.flags) == (host.ifindex, reported)


@rule("UAPI-20")
def test_other_offload_flags_are_refused(bench: Bench) -> None:
    """A bit beyond IPV6, INBOUND and PACKET: EINVAL, the driver is not asked."""
    host = bench.host(driver=PROBE)
    for flags in (8, 0x84, 0xFF):
        attributes = {Attr.OFFLOAD_DEV: struct.pack("<iB3x", host.ifindex, flags)}
        assert host.request(new_sa(attributes=attributes)).errno == errno.EINVAL
    assert host.order() == ""


@rule("UAPI-21")
def test_modes_of_an_sa(bench: Bench) -> None:
    """TRANSPORT, TUNNEL and BEET are taken, IN_TRIGGER is not; TFC padding is for TUNNEL alone."""
    host = bench.host()
    pad = {Attr.TFCPAD: struct.pack("<I", 100)}
    for mode in (TRANSPORT, BEET):
        assert host.request(new_sa(mode=mode, attributes=pad)).errno == errno.EINVAL
    assert host.request(new_sa(mode=IN_TRIGGER)).errno == errno.EINVAL
    assert host.request(new_sa(mode=IPTFS + 1)).errno == errno.EINVAL
    for spi, mode in ((1, TRANSPORT), (2, TUNNEL), (3, BEET)):
        assert host.request(new_sa(spi=spi, mode=mode)).errno == 0
        (note,) = host.request(request(Msg.GETSA, messages.sa_id(spi))).notes
        assert layouts.USERSA_INFO.read(note.fixed).mode == mode
    assert host.request(new_sa(spi=4, mode=TUNNEL, attributes=pad)).errno == 0


@rule("UAPI-21")
def test_modes_of_a_template(bench: Bench) -> None:
    """Every mode below the kernel's number of modes; only TUNNEL, BEET and IPTFS change family."""
    host = bench.host()
    known = [TRANSPORT, TUNNEL, ROUTEOPTIMIZATION, IN_TRIGGER, BEET] + [IPTFS] * bench.latest
    for mode in range(8):
        wanted = 0 if mode in known else errno.EINVAL
        assert host.request(new_policy(templates=[template(mode=mode)])).errno == wanted, mode
        flush(host)
        other = template("fd00::1", "fd00::2", mode=mode)
        wanted = 0 if mode in known and mode in (TUNNEL, BEET, IPTFS) else errno.EINVAL
        assert host.request(new_policy(templates=[other])).errno == wanted, mode
        flush(host)


@rule("UAPI-22")
def test_policy_directions(bench: Bench) -> None:
    """IN 0, OUT 1, FWD 2: the low bits of the index say so, and only OUT stops a send."""
    host = bench.host()
    for dir in (0, 1, 2):
        flush(host)
        assert host.request(new_policy(dir=dir, action=1)).errno == 0
        (note,) = host.policies()
        info = layouts.USERPOLICY_INFO.read(note.fixed)
        assert (info.dir, info.index & 7) == (dir, dir)
        assert host.send([packets.udp()]) == [errno.EPERM if dir == 1 else 0]
    assert host.request(new_policy(dir=3)).errno == errno.EINVAL


@rule("UAPI-22", profile="latest")
def test_sa_directions(bench: Bench) -> None:
    """IN 1, OUT 2: an SA for output has no replay window, one for input takes it."""
    host = bench.host()
    refused = host.request(new_sa(replay_window=32, attributes=DIR_OUT))
    assert refused.errno == errno.EINVAL
    assert host.request(new_sa(replay_window=32, attributes=DIR_IN)).errno == 0


@rule("UAPI-23")
def test_policy_actions_and_shares(bench: Bench) -> None:
    """ALLOW 0 lets a packet go, BLOCK 1 does not, 2 is no action; ANY 0 to UNIQUE 3 are shares."""
    host = bench.host()
    for action, sent in ((0, 0), (1, errno.EPERM)):
        assert host.request(new_policy(action=action, templates=[])).errno == 0
        assert host.send([packets.udp()]) == [sent]
        flush(host)
    assert host.request(new_policy(action=2)).errno == errno.EINVAL
    for share in range(4):
        assert host.request(new_policy(share=share)).errno == 0
        flush(host)
    assert host.request(new_policy(share=4)).errno == errno.EINVAL


@rule("UAPI-23")
def test_policy_types_and_flags(bench: Bench) -> None:
    """MAIN 0 and SUB 1 are two policies, ANY 255 is none to add; LOCALOK and ICMP are kept."""
    host = bench.host()
    type = [{Attr.POLICY_TYPE: struct.pack("<BxHBx", n, 0, 0)} for n in (0, 1, 2, 255)]
    for n, wanted in enumerate((0, 0, errno.EINVAL, errno.EINVAL)):
        assert host.request(new_policy(attributes=type[n], flags=3)).errno == wanted
    for n in (0, 1):
        query = request(Msg.GETPOLICY, messages.policy_id(messages.selector()), type[n])
        (note,) = host.request(query).notes
        assert note.attributes[Attr.POLICY_TYPE][0] == n
        assert layouts.USERPOLICY_INFO.read(note.fixed).flags == 3


@rule("UAPI-23", "UAPI-74")
def test_default_policies(bench: Bench) -> None:
    """BLOCK 1 refuses what matches no policy, ACCEPT 2 lets it go, UNSPEC 0 changes nothing."""
    host = bench.host()
    for out, sent in ((1, errno.EPERM), (0, errno.EPERM), (2, 0), (0, 0)):
        assert host.request(request(Msg.SETDEFAULT, bytes((0, 0, out)))).errno == 0
        assert host.send([packets.udp()]) == [sent]


# SA flags and whether an SA for output, or for input, may have them (STATE-10).
FLAGS = {
    1: (True, True), 2: (False, True), 4: (True, False), 8: (False, True), 16: (False, True),
    32: (True, True), 64: (True, True),
}  # fmt: skip


@rule("UAPI-24", profile="latest")
@pytest.mark.parametrize(("flag", "allowed"), FLAGS.items())
def test_sa_flags_have_their_direction(bench: Bench, flag: int, allowed: tuple[bool, bool]) -> None:
    """DECAP_DSCP, WILDRECV and ICMP are for input, NOPMTUDISC for output, the others for both."""
    host = bench.host()
    for attributes, fine in zip((DIR_OUT, DIR_IN), allowed, strict=True):
        wanted = 0 if fine else errno.EINVAL
        assert host.request(new_sa(flags=flag, attributes=attributes)).errno == wanted
        if fine:
            (note,) = host.request(request(Msg.GETSA, messages.sa_id())).notes
            assert layouts.USERSA_INFO.read(note.fixed).flags == flag
        host.request(request(Msg.FLUSHSA, b"\0"))


@rule("UAPI-24")
def test_esn_is_flag_128_and_needs_its_attribute(bench: Bench) -> None:
    """ESN without REPLAY_ESN_VAL: EINVAL; with it the SA has ESN. AF_UNSPEC keeps the selector's
    family 0."""
    host = bench.host()
    assert host.request(new_sa(flags=128)).errno == errno.EINVAL
    esn = {
        Attr.REPLAY_ESN_VAL: layouts.REPLAY_STATE_ESN.make(bmp_len=1, replay_window=32) + b"\0" * 4
    }
    assert host.request(new_sa(flags=128, attributes=esn)).errno == 0
    for spi, flags, family in ((2, 32, 0), (3, 0, 2)):
        assert host.request(new_sa(spi=spi, flags=flags)).errno == 0
        (note,) = host.request(request(Msg.GETSA, messages.sa_id(spi))).notes
        info = layouts.USERSA_INFO.read(note.fixed)
        assert layouts.SELECTOR.read(info.sel).family == family


@rule("UAPI-24", profile="latest")
@pytest.mark.parametrize("flag", [1, 2])
def test_extra_flags_are_for_output(bench: Bench, flag: int) -> None:
    """DONT_ENCAP_DSCP 1 and OSEQ_MAY_WRAP 2: refused on an SA for input, told on one for output."""
    host = bench.host()
    extra = {Attr.SA_EXTRA_FLAGS: struct.pack("<I", flag)}
    assert host.request(new_sa(attributes=extra | DIR_IN)).errno == errno.EINVAL
    assert host.request(new_sa(attributes=extra | DIR_OUT)).errno == 0
    (note,) = host.request(request(Msg.GETSA, messages.sa_id())).notes
    assert note.attributes[Attr.SA_EXTRA_FLAGS] == struct.pack("<I", flag)


@rule("UAPI-25")
def test_async_event_flags(bench: Bench) -> None:
    """RTHR 1 and ETHR 8 ask for their thresholds, and an event that a request caused is CU 64."""
    host = bench.host()
    assert host.request(new_sa()).errno == 0
    for flags in (0, 1, 8, 9):
        id = layouts.AEVENT_ID.make(sa_id=messages.sa_id(), flags=flags)
        (note,) = host.request(request(Msg.GETAE, id)).notes
        assert (Attr.REPLAY_THRESH in note.attributes) == bool(flags & 1)
        assert (Attr.ETIMER_THRESH in note.attributes) == bool(flags & 8)
    host.notes()
    change = {Attr.REPLAY_THRESH: struct.pack("<I", 9)}
    id = layouts.AEVENT_ID.make(sa_id=messages.sa_id())
    assert host.request(request(Msg.NEWAE, id, change, flags=0x104)).errno == 0
    (note,) = host.notes()
    assert layouts.AEVENT_ID.read(note.fixed).flags == 64


@rule("UAPI-26")
def test_infinite_limits_never_end_an_sa(bench: Bench) -> None:
    """2^64-1 bytes or packets and 0 seconds are no limit; one less infinite is one."""
    host = bench.host()
    host.ok(texts.state(host.dev, more="limit packet-hard 3"))
    host.ok(texts.policy(host.dev))
    (note,) = host.states()
    lft = layouts.LIFETIME_CFG.read(layouts.USERSA_INFO.read(note.fixed).lft)
    assert (lft.soft_byte, lft.hard_byte, lft.soft_packet, lft.hard_packet) == (
        INFINITE, INFINITE, INFINITE, 3,
    )  # fmt: skip
    assert (lft.soft_add, lft.hard_add, lft.soft_use, lft.hard_use) == (0, 0, 0, 0)
    host.ok(texts.state(host.dev, spi=0x2000, dst="10.1.0.3", reqid=2))
    host.ok(texts.policy(host.dev, dst="10.1.0.3", reqid=2))
    for dst in ("10.1.0.2", "10.1.0.3"):
        host.send([packets.udp(dst=dst)] * 5)
    bench.advance(60)
    left = host.states()
    spis = [layouts.ID.read(layouts.USERSA_INFO.read(one.fixed).id).spi for one in left]
    assert b"\0\0\x20\0" in spis
    assert b"\0\0\x10\0" not in spis


@rule("UAPI-27")
def test_at_most_6_templates(bench: Bench) -> None:
    """Six templates are taken, seven are not."""
    host = bench.host()
    assert host.request(new_policy(templates=[template()] * 7)).errno == errno.EINVAL
    assert host.request(new_policy(templates=[template()] * 6)).errno == 0
    (note,) = host.policies()
    assert len(note.attributes[Attr.TMPL]) == 6 * 64


@rule("UAPI-27")
def test_a_replay_window_has_at_most_4096_bits(bench: Bench) -> None:
    """A bitmap of 128 words is taken, one of 129 is not."""
    host = bench.host()
    for words, wanted in ((129, errno.EINVAL), (128, 0)):
        esn = layouts.REPLAY_STATE_ESN.make(bmp_len=words, replay_window=4096) + bytes(4 * words)
        refused = host.request(new_sa(flags=128, attributes={Attr.REPLAY_ESN_VAL: esn})).errno
        assert refused == wanted, words


@rule("UAPI-28")
def test_protocols_and_families(bench: Bench) -> None:
    """ESP, AH, COMP, ROUTING and DSTOPTS are template protocols, nothing else; families are 2 and
    10."""
    host = bench.host()
    for proto in (0, 17, 43, 50, 51, 60, 108, 255):
        wanted = 0 if proto in (43, 50, 51, 60, 108) else errno.EINVAL
        assert host.request(new_policy(templates=[template(proto=proto)])).errno == wanted, proto
        flush(host)
    for family in (1, 2, 3, 10, 17):
        wanted = 0 if family in (2, 10) else errno.EINVAL
        sel = messages.selector(family=family)
        assert host.request(new_policy(sel=sel, templates=[])).errno == wanted, family


@rule("UAPI-28")
def test_255_is_every_protocol_with_an_spi(bench: Bench) -> None:
    """FLUSHSA of 255 takes ESP and AH, one of 51 only AH."""
    host = bench.host()
    for proto in (50, 51):
        assert host.request(messages.alloc_spi(0x500, proto=proto)).errno == 0
    host.request(request(Msg.FLUSHSA, b"\x33"))
    (left,) = host.states()
    assert layouts.ID.read(layouts.USERSA_INFO.read(left.fixed).id).proto == 50
    host.request(request(Msg.FLUSHSA, b"\xff"))
    assert host.states() == []


@rule("UAPI-28")
def test_espinudp_is_encapsulation_2(bench: Bench) -> None:
    """ESPINUDP 2 is taken, a number without meaning is not."""
    host = bench.host()
    for kind in (0, 3, 99):
        encap = {Attr.ENCAP: struct.pack("<H", kind) + bytes(22)}
        assert host.request(new_sa(attributes=encap)).errno == errno.EINVAL
    assert host.request(new_sa(attributes={Attr.ENCAP: b"\2" + bytes(23)})).errno == 0
