# SPDX-License-Identifier: Apache-2.0
"""STATE-13..15: building an SA, step by step, with the offload as the last one."""

import errno
import struct
from typing import Any

import pytest

from host_driver.conformance import messages, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import aead, new_sa
from host_driver.conformance.probe import REPORT
from host_driver.conformance.subject import Subject
from proto.xfrm import AF_INET6, Attr, Msg
from proto.xfrm_structs import (
    Algo,
    AlgoAuth,
    EncapTmpl,
    LifetimeCfg,
    LifetimeCur,
    ReplayState,
    ReplayStateEsn,
    UserSaInfo,
    XfrmSelector,
)

ESN, PACKET, INBOUND = 128, 4, 2
TUNNEL, RO = 1, 2
THRESHOLDS = 1 | 8  # of GETAE: AE_RTHR, AE_ETHR

UNKNOWN_CIPHER = {Attr.ALG_AEAD: aead(name=b"rfc9999(xyz)")}
OTHER_FAMILY = XfrmSelector(family=AF_INET6)
WINDOW_TOO_LARGE = {Attr.REPLAY_ESN_VAL: ReplayStateEsn(bmp_len=1, replay_window=33).pack()}


def thresholds(host: Subject) -> tuple[int, int]:
    """REPLAY_THRESH in packets and ETIMER_THRESH in 100 ms, as GETAE shows them."""
    aevent = messages.sa_id() + messages.address(messages.SOURCE)
    (note,) = host.request(
        messages.request(Msg.GETAE, aevent + struct.pack("<II", THRESHOLDS, 0))
    ).notes
    counts, times = (note.attributes[kind] for kind in (Attr.REPLAY_THRESH, Attr.ETIMER_THRESH))
    return int.from_bytes(counts, "little"), int.from_bytes(times, "little")


@rule("STATE-13")
def test_the_first_step_that_fails_says_why(bench: Bench) -> None:
    """Algorithms, then type and mode, then replay state, then the offload."""
    host = bench.host(driver=PROBE)
    bad_flag = host.offload(8)
    everything: dict[Attr, bytes] = {**UNKNOWN_CIPHER, **WINDOW_TOO_LARGE, **bad_flag}
    reply = host.request(new_sa(attributes=everything, flags=ESN, sel=OTHER_FAMILY))
    assert reply.errno == errno.ENOSYS
    del everything[Attr.ALG_AEAD]
    reply = host.request(new_sa(attributes=everything, flags=ESN, sel=OTHER_FAMILY))
    assert reply.errno == errno.EPROTONOSUPPORT
    reply = host.request(new_sa(attributes=everything, flags=ESN))
    assert reply.errno == errno.EINVAL
    assert reply.text == "ESN replay window is too large for the chosen bitmap size"
    del everything[Attr.REPLAY_ESN_VAL]
    reply = host.request(new_sa(attributes=everything))
    assert (reply.errno, reply.text) == (errno.EINVAL, "Unrecognized flags in offload request")
    assert host.order() == ""


@rule("STATE-13")
def test_authentication_is_looked_up_before_encryption(bench: Bench) -> None:
    """Of two unknown algorithms the first one in the kernel's order is named."""
    host = bench.host()
    unknown = {
        Attr.ALG_CRYPT: Algo(b"nope", 128).pack() + bytes(16),
        Attr.ALG_AUTH_TRUNC: AlgoAuth(b"nope", 256, 128).pack() + bytes(32),
    }
    reply = host.request(new_sa(attributes=unknown))
    assert (reply.errno, reply.text) == (errno.ENOSYS, "Requested AUTH_TRUNC algorithm not found")


@rule("STATE-13")
def test_the_driver_gets_the_finished_sa(bench: Bench) -> None:
    """Whatever the request says stands in the SA when the driver's add is called."""
    host = bench.host(driver=PROBE)
    attributes = {
        Attr.REPLAY_VAL: ReplayState(oseq=41).pack(),
        Attr.LTIME_VAL: LifetimeCur(packets=6).pack(), **host.offload(),
    }  # fmt: skip
    if bench.latest:
        attributes[Attr.ENCAP] = EncapTmpl(2, 4500, 4500).pack()
    limits = LifetimeCfg(hard_packet_limit=77)
    told = host.request(new_sa(attributes=attributes, reqid=REPORT, seq=9, lft=limits)).text
    assert "spi 0x1000 VOID 20 bytes of key" in told
    assert f"77 window 0 oseq 41 seq 9 packets 6 encap {bench.latest}" in told

    window = {Attr.REPLAY_ESN_VAL: ReplayStateEsn(bmp_len=2, replay_window=64).pack()}
    inbound = window | host.offload(PACKET | INBOUND)
    told = host.request(new_sa(attributes=inbound, flags=ESN, reqid=REPORT, spi=0x1001)).text
    assert "VOID 20 bytes of key" in told
    assert "window 64" in told


@rule("STATE-13")
def test_current_lifetimes_are_taken_from_ltime_val_only(bench: Bench) -> None:
    """Bytes, packets, add_time, use_time; what stands in the fixed part is not looked at."""
    host = bench.host()
    info = messages.sa_info()
    info.curlft = LifetimeCur(bytes=1, packets=2, add_time=3, use_time=4)
    assert host.request(new_sa(info)).errno == 0
    fresh = host.sa()
    assert fresh and (fresh.curlft.bytes, fresh.curlft.packets, fresh.curlft.use_time) == (0, 0, 0)
    assert fresh.curlft.add_time > 1_000_000
    given = LifetimeCur(bytes=700, packets=7, add_time=1_700_000_000, use_time=1_700_000_001)
    assert host.request(new_sa(spi=0x1001, attributes={Attr.LTIME_VAL: given.pack()})).errno == 0
    found = host.sa(0x1001)
    assert found and found.curlft == given


@rule("STATE-13")
def test_replay_state_is_installed(bench: Bench) -> None:
    """REPLAY_VAL and REPLAY_ESN_VAL come back as they were given; km.seq is the request's."""
    host = bench.host()
    replay = ReplayState(oseq=5, seq=6, bitmap=0x21).pack()
    request = new_sa(attributes={Attr.REPLAY_VAL: replay}, replay_window=32, seq=0x77)
    assert host.request(request).errno == 0
    (state,) = host.states()
    assert state.attributes[Attr.REPLAY_VAL] == replay
    assert UserSaInfo.unpack(state.fixed).seq == 0x77
    host.ok("xfrm state flush")
    esn = ReplayStateEsn(2, 5, 6, 1, 2, 64).pack() + struct.pack("<II", 0x21, 0x80)
    request = new_sa(attributes={Attr.REPLAY_ESN_VAL: esn}, flags=ESN)
    assert host.request(request).errno == 0
    (state,) = host.states()
    assert state.attributes[Attr.REPLAY_ESN_VAL] == esn


@rule("STATE-13")
def test_thresholds_come_from_the_sysctls_or_the_request(bench: Bench) -> None:
    """2 packets and 10 times 100 ms by default; a sysctl changes what later SAs get."""
    host = bench.host()
    assert host.request(new_sa()).errno == 0
    assert thresholds(host) == (2, 10)
    host.sysctl("aevent_rseqth", 7)
    host.sysctl("aevent_etime", 33)
    assert thresholds(host) == (2, 10)
    host.ok("xfrm state flush")
    assert host.request(new_sa()).errno == 0
    assert thresholds(host) == (7, 33)
    host.ok("xfrm state flush")
    own = {Attr.REPLAY_THRESH: struct.pack("<I", 4), Attr.ETIMER_THRESH: struct.pack("<I", 50)}
    assert host.request(new_sa(attributes=own)).errno == 0
    assert thresholds(host) == (4, 50)


@rule("STATE-14")
@pytest.mark.parametrize(
    ("how", "code"),
    [({"attributes": UNKNOWN_CIPHER}, errno.ENOSYS), ({"sel": OTHER_FAMILY}, errno.EPROTONOSUPPORT),
     ({"attributes": {Attr.ALG_AEAD: aead(bytes(19))}}, errno.EINVAL),
     ({"attributes": WINDOW_TOO_LARGE, "flags": ESN}, errno.EINVAL)],
)  # fmt: skip
def test_a_failure_inside_leaves_nothing(bench: Bench, how: dict[str, Any], code: int) -> None:
    """Its errno; no SA, no message, no reference, and the driver has heard nothing."""
    host = bench.host()
    attributes = how.get("attributes", {}) | host.offload()
    assert host.request(new_sa(**how | {"attributes": attributes})).errno == code
    assert (host.states(), host.note_names()) == ([], [])
    assert (host.order(), host.refcnt(), host.census()) == ("", 0, {})
    host.ok(texts.state(host.dev))


@rule("STATE-15")
def test_the_selector_has_the_family_of_the_sa_unless_in_a_tunnel(bench: Bench) -> None:
    """Transport: EPROTONOSUPPORT; tunnel and BEET carry the other family."""
    host = bench.host()
    for mode, wanted in ((0, errno.EPROTONOSUPPORT), (TUNNEL, 0), (4, 0)):
        request = new_sa(sel=OTHER_FAMILY, mode=mode, spi=0x1000 + mode)
        assert host.request(request).errno == wanted


@rule("STATE-15")
def test_route_optimization_is_for_ipv6(bench: Bench) -> None:
    """A mode that the family does not have: EPROTONOSUPPORT."""
    host = bench.host()
    assert host.request(new_sa(mode=RO)).errno == errno.EPROTONOSUPPORT
    six = messages.sa_info(src="2001:db8::1", dst="2001:db8::2", mode=RO)
    assert host.request(new_sa(six)).errno == 0
