# SPDX-License-Identifier: Apache-2.0
"""NETLINK_XFRM requests: headers, attributes, dispatch, acks and errors (UAPI-01..13).

Whatever the bytes are, the answer is the kernel's: an errno with the request behind it, or nothing
where the kernel skips a message.
"""

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from host_driver.ops import Extack
from host_driver.sleep import Sleep, may_sleep
from host_driver.xfrm import (
    user_acquire,
    user_ae,
    user_info,
    user_migrate,
    user_policy,
    user_sa,
)
from host_driver.xfrm.answers import Answers
from host_driver.xfrm.nlattr import Invalid, nla_parse
from proto.netlink import (
    NLA,
    NLM_F_ACK,
    NLM_F_ACK_TLVS,
    NLM_F_CAPPED,
    NLM_F_DUMP,
    NLM_F_MULTI,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSGERR_ATTR_MSG,
    NLMSGERR_ATTR_OFFS,
    NLMSGHDR,
    NlMsg,
    align,
    attribute,
    attributes,
    message,
)
from proto.status import OffloadError
from proto.xfrm import MSG_MAX, MSG_MIN, Attr, Msg

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet

NLMSG_MIN_TYPE = 0x10
NLMSGERR_ATTR_POLICY = 4 | 0x8000


@dataclass
class Request:
    """One message with its parsed attributes; handlers put replies into `replies`."""

    nlh: NlMsg
    attributes: dict[int, bytes] = field(default_factory=dict)
    extack: Extack = field(default_factory=Extack)
    # NLMSGERR_ATTR_POLICY: what would have been valid.
    policy: bytes = b""
    replies: list[bytes] = field(default_factory=list)

    def rewrite(self, type: int, at: int, data: bytes) -> None:
        """Change the message itself, `at` within the payload of its last attribute `type`."""
        payload, start = self.nlh.payload, align(MSG_MIN[self.nlh.type])
        at += NLA.size + attributes(payload, start).offsets[type]
        payload = payload[:at] + data + payload[at + len(data) :]
        self.nlh = self.nlh._replace(payload=payload)

    def refused(self, refusal: OffloadError) -> int:
        """Keep what the refusal tells; -> its errno."""
        if refusal.text:
            self.extack.set(refusal.text)
        if isinstance(refusal, Invalid):
            self.policy = refusal.policy
        return refusal.errno


Handler = Callable[["XfrmNet", Request], Any]

# Handlers return None or are generators (may sleep); they raise OffloadError.
DISPATCH: dict[int, Handler] = {
    Msg.NEWSA: user_sa.xfrm_add_sa,
    Msg.DELSA: user_sa.xfrm_del_sa,
    Msg.GETSA: user_sa.xfrm_get_sa,
    Msg.NEWPOLICY: user_policy.xfrm_add_policy,
    Msg.DELPOLICY: user_policy.xfrm_get_policy,
    Msg.GETPOLICY: user_policy.xfrm_get_policy,
    Msg.ALLOCSPI: user_sa.xfrm_alloc_userspi,
    Msg.ACQUIRE: user_acquire.xfrm_add_acquire,
    Msg.EXPIRE: user_sa.xfrm_add_sa_expire,
    Msg.UPDPOLICY: user_policy.xfrm_add_policy,
    Msg.UPDSA: user_sa.xfrm_add_sa,
    Msg.POLEXPIRE: user_policy.xfrm_add_pol_expire,
    Msg.FLUSHSA: user_sa.xfrm_flush_sa,
    Msg.FLUSHPOLICY: user_policy.xfrm_flush_policy,
    Msg.NEWAE: user_ae.xfrm_new_ae,
    Msg.GETAE: user_ae.xfrm_get_ae,
    Msg.MIGRATE: user_migrate.xfrm_do_migrate,
    Msg.GETSADINFO: user_info.xfrm_get_sadinfo,
    Msg.NEWSPDINFO: user_info.xfrm_set_spdinfo,
    Msg.GETSPDINFO: user_info.xfrm_get_spdinfo,
    Msg.SETDEFAULT: user_info.xfrm_set_default,
    Msg.GETDEFAULT: user_info.xfrm_get_default,
}

DUMPS = {Msg.GETSA: user_sa.xfrm_dump_sa, Msg.GETPOLICY: user_policy.xfrm_dump_policy}


def netlink_rcv(net: "XfrmNet", datagram: bytes, privileged: bool = True) -> Sleep[Answers]:
    """Handle every message of a datagram under the configuration mutex (UAPI-07).

    Without CAP_NET_ADMIN (`privileged`) every type that there is gets EPERM (UAPI-03).
    """
    answers = Answers()
    yield from net.cfg_mutex.lock()
    try:
        offset = 0
        while offset + NLMSGHDR.size <= len(datagram):
            length, type, flags, seq, pid = NLMSGHDR.unpack_from(datagram, offset)
            if length < NLMSGHDR.size or offset + length > len(datagram):
                break
            payload = datagram[offset + NLMSGHDR.size : offset + length]
            nlh = NlMsg(type, flags, seq, pid, payload)
            yield from _message(net, Request(nlh), privileged, answers)
            offset += align(length)
        if offset < len(datagram):
            net.counters["netlink_malformed"] += 1  # a tail that is no message: skipped (UAPI-01)
    finally:
        net.cfg_mutex.unlock()
    return answers


def _message(net: "XfrmNet", request: Request, privileged: bool, answers: Answers) -> Sleep[None]:
    """One message: replies, and an ack if it was asked for or failed (UAPI-13)."""
    nlh, error = request.nlh, 0
    if nlh.flags & NLM_F_REQUEST and nlh.type >= NLMSG_MIN_TYPE:
        try:
            _admit(net, nlh.type, privileged)
            if nlh.type in DUMPS and nlh.flags & NLM_F_DUMP:
                if answers.dumping:
                    raise OffloadError(errno.EBUSY, "")
                answers.start(_dump(net, request))
                return  # a dump is never acked (UAPI-04)
            yield from _dispatch(net, request)
        except OffloadError as refusal:
            error = request.refused(refusal)
            net.counters["netlink_refused"] += 1
    else:
        net.counters["netlink_skipped"] += 1
    if error or nlh.flags & NLM_F_ACK:
        request.replies.append(_ack(request, error))
    answers.add(request.replies)


def _admit(net: "XfrmNet", type: int, privileged: bool) -> None:
    """What is looked at before the payload: the type (UAPI-02), then who asks (UAPI-03)."""
    if type > MSG_MAX or (type == MSG_MAX and not net.profile.migrate_state_known):
        raise OffloadError(errno.EINVAL, "")
    if not privileged:
        raise OffloadError(errno.EPERM, "")


def _dispatch(net: "XfrmNet", request: Request) -> Sleep[None]:
    type = request.nlh.type
    _parse(net, request, 0 if type == Msg.NEWSADINFO else MSG_MIN.get(type, 0))
    handler = DISPATCH.get(type)
    if handler is None and type == Msg.MIGRATE_STATE:
        raise OffloadError(errno.EOPNOTSUPP, f"Message type {type:#x} is not supported here")
    if handler is None:
        raise OffloadError(errno.EINVAL, "")
    _reject_unused(request)
    yield from may_sleep(handler(net, request))


def _parse(net: "XfrmNet", request: Request, minimum: int) -> None:
    """Length, then each attribute against its own type (UAPI-05, UAPI-06)."""
    payload = request.nlh.payload
    if len(payload) < minimum:
        raise OffloadError(errno.EINVAL, "Invalid header length")
    request.attributes = nla_parse(
        payload, align(minimum), net.profile, request.extack,
        spdinfo=request.nlh.type == Msg.NEWSPDINFO,
    )  # fmt: skip


def _reject_unused(request: Request) -> None:
    """Attributes that only some types may carry (UAPI-09, UAPI-10)."""
    taking = (Msg.NEWSA, Msg.UPDSA, Msg.ALLOCSPI, Msg.NEWSPDINFO)  # the last has its own types
    if request.nlh.type in taking:
        return
    acquire = request.nlh.type == Msg.ACQUIRE
    if Attr.SA_DIR in request.attributes:
        raise OffloadError(errno.EINVAL, "Invalid attribute SA_DIR")
    if Attr.SA_PCPU in request.attributes and not acquire:
        raise OffloadError(errno.EINVAL, "Invalid attribute SA_PCPU")


def _dump(net: "XfrmNet", request: Request) -> Iterator[bytes]:
    """All objects, then DONE, which carries what went wrong; texts only when it comes first."""
    nlh, error, began = request.nlh, 0, False
    try:
        if nlh.type == Msg.GETSA:  # xfrm_dump_policy looks at no attribute
            _parse(net, request, 0)
        for reply in DUMPS[Msg(nlh.type)](net, request):
            began = True
            yield reply
    except OffloadError as refusal:
        error = request.refused(refusal)
        net.counters["netlink_refused"] += 1
    tlvs = b"" if began else _tlvs(request, error)
    flags = NLM_F_MULTI | (NLM_F_ACK_TLVS if tlvs else 0)
    done = (-error).to_bytes(4, "little", signed=True) + tlvs
    yield message(NLMSG_DONE, done, flags, nlh.seq, nlh.pid)


def _tlvs(request: Request, error: int) -> bytes:
    """The extended ack: text, then where and what in the request was wrong."""
    extack = request.extack
    tlvs = attribute(NLMSGERR_ATTR_MSG, extack.msg.encode() + b"\0") if extack.msg else b""
    if error and extack.offset is not None:
        tlvs += attribute(NLMSGERR_ATTR_OFFS, extack.offset.to_bytes(4, "little"))
    if error and request.policy:
        tlvs += attribute(NLMSGERR_ATTR_POLICY, request.policy)
    return tlvs


def _ack(request: Request, error: int) -> bytes:
    """NLMSG_ERROR; only a failure repeats the whole request."""
    nlh, tlvs = request.nlh, _tlvs(request, error)
    length = NLMSGHDR.size + len(nlh.payload)
    body = (-error).to_bytes(4, "little", signed=True)
    body += NLMSGHDR.pack(length, nlh.type, nlh.flags, nlh.seq, nlh.pid)
    if error:
        body += nlh.payload.ljust(align(len(nlh.payload)), b"\0")
    flags = (0 if error else NLM_F_CAPPED) | (NLM_F_ACK_TLVS if tlvs else 0)
    return message(NLMSG_ERROR, body + tlvs, flags, nlh.seq, nlh.pid)
