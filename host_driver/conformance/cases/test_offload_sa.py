# SPDX-License-Identifier: Apache-2.0
"""ADD-01..16 and STATE-16..27: the offload step of NEWSA, row by row, and the order of its tests.

Each row says what a request for crypto or packet offload comes to: an errno by name, `software`,
or the offload itself; and whenever it comes to no offload, no device is held.
"""

import contextlib
import errno
import struct
from typing import Any

import pytest

from host_driver.conformance.bench import PROBE, STATES_ONLY, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import ALGORITHMS, Reply, new_sa, offload
from host_driver.conformance.probe import QUIET, REFUSE, REPORT
from host_driver.conformance.subject import Subject
from proto.xfrm import Attr
from proto.xfrm_structs import EncapTmpl, ReplayStateEsn

AH = 51
LO = 1  # a device without callbacks
NOWHERE = 9999  # no device
IPV6, INBOUND, PACKET = 1, 2, 4
ESN_32 = {Attr.REPLAY_ESN_VAL: ReplayStateEsn(bmp_len=1, replay_window=32).pack()}
UDP_4500 = {Attr.ENCAP: EncapTmpl(2, 4500, 4500).pack()}
TFCPAD = {Attr.TFCPAD: struct.pack("<I", 64)}
IF_ID = {Attr.IF_ID: struct.pack("<I", 5)}
AUTH = {Attr.ALG_AUTH_TRUNC: ALGORITHMS[Attr.ALG_AUTH_TRUNC]}
IN, OUT = {Attr.SA_DIR: b"\1"}, {Attr.SA_DIR: b"\2"}

both = pytest.mark.parametrize("kind", ["crypto", "packet"])


def asked(
    host: Subject, kind: str, bits: int = 0, ifindex: int | None = None,
    attributes: dict[Attr, bytes] | None = None, **how: Any,
) -> Reply:  # fmt: skip
    """NEWSA with OFFLOAD_DEV of this kind, on the device unless `ifindex` says otherwise."""
    bits |= PACKET if kind == "packet" else 0
    wish = {Attr.OFFLOAD_DEV: offload(host.ifindex if ifindex is None else ifindex, bits)}
    return host.request(new_sa(attributes={**(attributes or {}), **wish}, **how))


def came(host: Subject, kind: str, bits: int = 0, **request: Any) -> str:
    """What such a request comes to. Judges with it what holds for all: nothing is left of one that
    is refused, and a device is held exactly by an SA that is offloaded to it."""
    before = len(host.states())
    reply = asked(host, kind, bits, **request)
    states = host.states()
    if reply.errno:
        result = errno.errorcode[reply.errno]
        assert len(states) == before
    else:
        record = states[0].attributes.get(Attr.OFFLOAD_DEV)
        ifindex, flags = struct.unpack_from("<iB", record) if record else (0, 0)
        assert ifindex in (0, host.ifindex)
        result = "software" if not record else "packet" if flags & PACKET else "crypto"
        assert not record or flags & INBOUND == bits & INBOUND
    with contextlib.suppress(pytest.skip.Exception):  # a kernel does not show its references
        assert host.refcnt() == sum(Attr.OFFLOAD_DEV in one.attributes for one in states)
    return result


def accepting(bench: Bench, kind: str) -> Subject:
    """A driver that accepts: the one under test where it must, else the probe."""
    return bench.host() if kind == "packet" else bench.host(driver=PROBE)


def old(bench: Bench, kind: str, late: str = "") -> str:
    """EINVAL in v6.2; what `late` says, or the offload itself, in kernels of today."""
    return (late or kind) if bench.latest else "EINVAL"


@rule("ADD-01", "STATE-16")
@both
def test_a_type_without_offload_handler_is_einval(bench: Bench, kind: str) -> None:
    """AH has none in any kernel: EINVAL for both kinds, and no driver is asked."""
    host = bench.host(driver=PROBE)
    for attributes in (AUTH, AUTH | IN):
        assert came(host, kind, INBOUND, attributes=attributes, proto=AH) == "EINVAL"
    assert host.order() == ""


@rule("ADD-02", "STATE-17", "STATE-27")
@both
def test_udp_encapsulation_is_for_the_driver_to_judge(bench: Bench, kind: str) -> None:
    """v6.2: EINVAL for both kinds, without the driver; kernels of today leave it to the driver."""
    host = bench.host(driver=PROBE)
    assert came(host, kind, attributes=UDP_4500) == old(bench, kind)
    assert host.order("U") == ("A" if bench.latest else "")


@rule("ADD-03", "STATE-17", "STATE-26")
@both
def test_tfc_padding_is_not_offloaded(bench: Bench, kind: str) -> None:
    """EINVAL for both kinds in every kernel, without the driver; in software the SA is fine."""
    host = bench.host(driver=PROBE)
    assert came(host, kind, attributes=TFCPAD, mode=1) == "EINVAL"
    assert host.request(new_sa(attributes=TFCPAD, mode=1)).errno == 0
    assert host.order() == ""


@rule("ADD-04", "STATE-18")
@both
@pytest.mark.parametrize("bit", [8, 16, 32, 64, 128])
def test_an_unknown_flag_is_einval(bench: Bench, kind: str, bit: int) -> None:
    """Any bit but IPV6, INBOUND and PACKET, alone or with them."""
    host = bench.host()
    for bits in (bit, bit | INBOUND, bit | IPV6, bit | 1 | INBOUND):
        assert came(host, kind, bits) == "EINVAL"


@rule("STATE-18")
@both
def test_the_ipv6_flag_means_nothing(bench: Bench, kind: str) -> None:
    """It is accepted, and not shown again."""
    host = accepting(bench, kind)
    assert came(host, kind, IPV6) == kind
    (state,) = host.states()
    assert not state.attributes[Attr.OFFLOAD_DEV][4] & IPV6


@rule("ADD-05", "STATE-19")
@both
@pytest.mark.parametrize("ifindex", [NOWHERE, 0, -1])
def test_no_device_and_no_route(bench: Bench, kind: str, ifindex: int) -> None:
    """Crypto: the SA stays in software. Packet: EINVAL."""
    host = bench.host(driver=PROBE)
    host.link(up=False)
    wanted = "software" if kind == "crypto" else "EINVAL"
    assert came(host, kind, ifindex=ifindex) == wanted
    assert came(host, kind, INBOUND, ifindex=ifindex, spi=0x1001) == wanted
    assert host.order() == ""


@rule("ADD-06", "STATE-19")
@both
@pytest.mark.parametrize("ifindex", [NOWHERE, 0, -1])
def test_no_device_but_a_route(bench: Bench, kind: str, ifindex: int) -> None:
    """The route's device takes the SA, and is what the SA then shows."""
    host = bench.host(driver=PROBE)
    assert came(host, kind, ifindex=ifindex) == kind
    assert came(host, kind, INBOUND, ifindex=ifindex, spi=0x1001) == kind
    assert host.order("U") == "A A"


@rule("STATE-19", "ADD-06")
@both
def test_the_route_leads_to_the_other_end(bench: Bench, kind: str) -> None:
    """To the destination of an SA for transmit, to the source of an INBOUND one."""
    host = bench.host(driver=PROBE)
    through_lo = "software" if kind == "crypto" else "EINVAL"
    own = "127.0.0.9"
    assert came(host, kind, ifindex=NOWHERE, dst=own) == through_lo
    assert came(host, kind, INBOUND, ifindex=NOWHERE, src=own, spi=0x1001) == through_lo
    assert came(host, kind, ifindex=NOWHERE, src=own, spi=0x1002) == kind
    assert came(host, kind, INBOUND, ifindex=NOWHERE, dst=own, spi=0x1003) == kind


@rule("ADD-07", "STATE-20")
@both
def test_a_device_without_callbacks(bench: Bench, kind: str) -> None:
    """Crypto: the SA stays in software. Packet: EINVAL. No other device is looked for."""
    host = bench.host()
    for bits, spi in ((0, 0x1000), (INBOUND, 0x1001), (IPV6, 0x1002)):
        wanted = "software" if kind == "crypto" else "EINVAL"
        assert came(host, kind, bits, ifindex=LO, spi=spi) == wanted


@rule("ADD-08", "STATE-22", "TRAP-02")
@both
def test_esn_needs_advance_esn(bench: Bench, kind: str) -> None:
    """Without that callback: EINVAL; since v6.4 packet offload does not need it."""
    host = bench.host(driver=STATES_ONLY)
    wanted = old(bench, kind) if kind == "packet" else "EINVAL"
    assert came(host, kind, INBOUND, attributes=ESN_32, flags=128) == wanted
    assert host.order("U") == ("A" if wanted == kind else "")
    with_it = bench.host(driver=PROBE)
    assert came(with_it, kind, INBOUND, attributes=ESN_32, flags=128) == kind


@rule("ADD-09", "STATE-23")
@both
def test_a_driver_that_accepts_has_the_sa(bench: Bench, kind: str) -> None:
    """Offloaded, the device held once, in the direction that was asked for."""
    host = accepting(bench, kind)
    assert came(host, kind) == kind
    assert came(host, kind, INBOUND, spi=0x1001, replay_window=32) == kind
    adds = host.calls_of("state_add")
    offered = [(call["type"], call["dir"], call["dev"]) for call in adds]
    assert offered == [(kind, "out", host.dev), (kind, "in", host.dev)]


@rule("STATE-23")
@both
def test_the_driver_finds_a_filled_record(bench: Bench, kind: str) -> None:
    """dev, dir, type before the driver is called; real_dev is dev in v6.2, and none since."""
    host = bench.host(driver=PROBE)
    for bits, dir in ((0, 2), (INBOUND, 1)):
        told = asked(host, kind, bits, reqid=REPORT).text
        type = 2 if kind == "packet" else 1
        assert f"dir {dir} type {type} on {host.dev} is True" in told
        assert told.endswith(f"real_dev {None if bench.latest else host.dev}")


@rule("ADD-10", "STATE-24")
@both
def test_a_driver_that_cannot(bench: Bench, kind: str) -> None:
    """EOPNOTSUPP: crypto goes on in software, packet fails with it."""
    host = bench.host(driver=PROBE)
    wanted = "software" if kind == "crypto" else errno.errorcode[errno.EOPNOTSUPP]
    assert came(host, kind, reqid=REFUSE | errno.EOPNOTSUPP) == wanted
    assert host.order("U") == "A"
    host.ok("xfrm state flush")
    assert host.order("U") == "A"  # a software SA is none of the driver's business


@rule("ADD-11", "STATE-24")
@both
@pytest.mark.parametrize("name", ["EINVAL", "ENOSPC", "ENOMEM", "EBUSY", "EPERM", "EIO", "EEXIST"])
def test_a_driver_that_refuses(bench: Bench, kind: str, name: str) -> None:
    """Any other errno is the request's, for both kinds; no delete, no free."""
    host = bench.host(driver=PROBE)
    assert came(host, kind, reqid=REFUSE | getattr(errno, name)) == name
    assert (host.order(), host.note_names()) == ("A", [])


@rule("STATE-24", "STATE-26")
def test_a_refusal_always_has_a_text(bench: Bench) -> None:
    """The driver's own; if it says none, the core does."""
    host = bench.host(driver=PROBE)
    own = asked(host, "packet", reqid=REFUSE | errno.ENOSPC)
    assert own.text == "probe: told to refuse with ENOSPC"
    none = asked(host, "packet", reqid=REFUSE | QUIET | errno.ENOSPC)
    assert (none.errno, none.text) == (errno.ENOSPC, "Device failed to offload this state")


@rule("ADD-12")
@both
def test_an_identity_that_exists(bench: Bench, kind: str) -> None:
    """The driver has accepted, then EEXIST: what it has is taken back, no reference stays."""
    host = accepting(bench, kind)
    assert came(host, kind) == kind
    assert came(host, kind) == "EEXIST"
    assert host.order("U") == "A A D F"


@rule("ADD-13", "STATE-26")
@both
def test_if_id_is_not_for_inbound_offload(bench: Bench, kind: str) -> None:
    """INBOUND with if_id: EINVAL since v6.16, before that the driver's to judge; OUT is."""
    host = bench.host(driver=PROBE)
    assert came(host, kind, INBOUND, attributes=IF_ID) == ("EINVAL" if bench.latest else kind)
    assert came(host, kind, attributes=IF_ID, spi=0x1001) == kind


@rule("ADD-14", "STATE-26")
@both
def test_directions_agree(bench: Bench, kind: str) -> None:
    """SA_DIR against INBOUND: EINVAL; v6.2 does not know SA_DIR."""
    host = bench.host(driver=PROBE)
    wanted = "EINVAL" if bench.latest else kind
    assert came(host, kind, INBOUND, attributes=OUT) == wanted
    assert came(host, kind, 0, attributes=IN, spi=0x1001) == wanted
    assert came(host, kind, INBOUND, attributes=IN, spi=0x1002) == kind
    assert came(host, kind, 0, attributes=OUT, spi=0x1003) == kind


@rule("ADD-15")
@both
def test_no_direction_is_fine(bench: Bench, kind: str) -> None:
    """Without SA_DIR the flag alone says it, and the SA shows no direction."""
    host = accepting(bench, kind)
    assert came(host, kind) == kind
    assert came(host, kind, INBOUND, spi=0x1001, replay_window=32) == kind
    assert all(Attr.SA_DIR not in state.attributes for state in host.states())


@rule("ADD-16")
def test_without_the_attribute_it_is_a_software_sa(bench: Bench) -> None:
    """No driver is called, no device is held, the SA shows no offload."""
    host = bench.host()
    assert host.request(new_sa()).errno == 0
    (state,) = host.states()
    assert Attr.OFFLOAD_DEV not in state.attributes
    assert (host.order(), host.refcnt()) == ("", 0)


@rule("STATE-25")
def test_packet_offload_never_falls_back_to_software(bench: Bench) -> None:
    """Whatever fails, NEWSA fails and nothing is there: no SA, no notification, no reference."""
    host = bench.host(driver=PROBE)
    failing: tuple[dict[str, Any], ...] = (
        {"ifindex": LO}, {"bits": 8}, {"attributes": TFCPAD, "mode": 1},
        {"ifindex": NOWHERE, "dst": "127.0.0.9"}, {"attributes": AUTH, "proto": AH},
        *({"reqid": REFUSE | code} for code in (errno.EOPNOTSUPP, errno.ENOSPC, errno.EINVAL)),
    )  # fmt: skip
    for request in failing:
        assert came(host, "packet", **request).startswith("E")
    assert (host.states(), host.note_names(), host.census()) == ([], [], {})


@rule("STATE-16", "STATE-17", "STATE-18", profile="v6.2")
def test_what_is_refused_before_the_device_is_looked_up(bench: Bench) -> None:
    """Handler, encapsulation and padding, flags: EINVAL even where no device would mean software;
    ESN comes behind the device."""
    host = bench.host()
    first: tuple[dict[str, Any], ...] = (
        {"attributes": AUTH, "proto": AH}, {"attributes": UDP_4500},
        {"attributes": TFCPAD, "mode": 1}, {"bits": 8},
    )  # fmt: skip
    for request in first:
        assert came(host, "crypto", ifindex=LO, **request) == "EINVAL"
    assert came(host, "crypto", ifindex=LO, flags=128, attributes=ESN_32) == "software"


@rule("STATE-26", profile="latest")
def test_the_order_of_the_tests(bench: Bench) -> None:
    """Flags, direction, if_id, padding; then the device; then ESN, then the type's handler."""
    host = bench.host(driver=STATES_ONLY)
    texts = (
        "Unrecognized flags in offload request",
        "Mismatched SA and offload direction",
        "XFRM if_id is not supported in RX path",
        "TFC padding can't be offloaded",
    )
    wrong: list[dict[Attr, bytes]] = [{}, OUT, IF_ID, TFCPAD]
    for at, text in enumerate(texts):
        everything = {kind: value for part in wrong[at:] for kind, value in part.items()}
        bits = INBOUND | (8 if at == 0 else 0)
        for ifindex in (host.ifindex, LO):
            reply = asked(host, "crypto", bits, ifindex, everything, mode=1)
            assert (reply.errno, reply.text) == (errno.EINVAL, text)
    # From here on a device without callbacks means software.
    assert came(host, "crypto", ifindex=LO, attributes=ESN_32, flags=128) == "software"
    ah = AUTH | ESN_32
    assert came(host, "crypto", ifindex=LO, attributes=ah, flags=128, proto=AH) == "software"
    reply = asked(host, "crypto", attributes=ah, flags=128, proto=AH, spi=0x1001)
    assert (reply.errno, reply.text) == (errno.EINVAL, "Device doesn't support offload with ESN")
    reply = asked(host, "crypto", attributes=AUTH, proto=AH, spi=0x1001)
    assert (reply.errno, reply.text) == (errno.EINVAL, "Type doesn't support offload")
