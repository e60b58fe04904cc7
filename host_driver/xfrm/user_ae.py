# SPDX-License-Identifier: Apache-2.0
"""GETAE and NEWAE: replay counters and thresholds read and set by a key manager (UAPI-68, UAPI-73).

Neither tells or asks the driver (UAPI-68, REPLAY-13).
"""

import errno
from typing import TYPE_CHECKING

from host_driver.xfrm.attributes import mark_of, refuse
from host_driver.xfrm.construct import xfrm_update_ae_params
from host_driver.xfrm.encode import aevent_attributes, build, state_id
from host_driver.xfrm.replay import parse_esn, verify_window
from host_driver.xfrm.state import KmState, XfrmState
from proto.netlink import NLM_F_REPLACE
from proto.xfrm import AE_CU, Attr, Group, Msg
from proto.xfrm_structs import AeventId, ReplayStateEsn

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet
    from host_driver.xfrm.user import Request

SETTABLE = (
    Attr.LTIME_VAL,
    Attr.REPLAY_VAL,
    Attr.REPLAY_ESN_VAL,
    Attr.ETIMER_THRESH,
    Attr.REPLAY_THRESH,
)


def _lookup(net: "XfrmNet", request: "Request") -> tuple[AeventId, XfrmState]:
    event = AeventId.unpack(request.nlh.payload)
    id, mark = event.sa_id, mark_of(request.attributes)
    x = net.sad.lookup(mark.v & mark.m, id.daddr, id.spi, id.proto, id.family)
    if x is None:
        raise refuse("", errno.ESRCH)
    return event, x


def build_aevent(x: XfrmState, flags: int, seq: int, pid: int) -> bytes:
    """NEWAE as reply or notification; `flags` says which thresholds are told."""
    event = AeventId(state_id(x), x.props.saddr, flags, x.props.reqid)
    return build(Msg.NEWAE, event.pack() + aevent_attributes(x, flags), seq, pid)


def xfrm_get_ae(net: "XfrmNet", request: "Request") -> None:
    """GETAE: the counters as of the last synchronization."""
    event, x = _lookup(net, request)
    request.replies.append(build_aevent(x, event.flags, request.nlh.seq, request.nlh.pid))


def xfrm_new_ae(net: "XfrmNet", request: "Request") -> None:
    """NEWAE: set what the attributes name, then tell all listeners."""
    if not any(type in request.attributes for type in SETTABLE):
        raise refuse("Missing required attribute for AE")
    if not request.nlh.flags & NLM_F_REPLACE:
        raise refuse("NLM_F_REPLACE flag is required")
    _, x = _lookup(net, request)
    if x.km.state != KmState.VALID:
        raise refuse("SA must be in VALID state")
    esn = request.attributes.get(Attr.REPLAY_ESN_VAL)
    if esn is not None and x.replay_esn is not None:
        wanted = parse_esn(esn)
        words = wanted.fixed.bmp_len
        if words != x.replay_esn.fixed.bmp_len or len(esn) < ReplayStateEsn.size() + 4 * words:
            raise refuse("ESN replay state length mismatch")
        verify_window(wanted)
        x.replay_esn = wanted
    xfrm_update_ae_params(x, request.attributes)
    net.multicast(Group.AEVENTS, build_aevent(x, AE_CU, request.nlh.seq, request.nlh.pid))
