# SPDX-License-Identifier: Apache-2.0
"""Talking to the core: requests out, replies in, refusals turned into the tool's words (CLI-02)."""

import os
import struct
from collections.abc import Callable, Sequence

from host_driver.ip.words import IpError
from proto import netlink
from proto.netlink import NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_REQUEST, NlMsg

Transact = Callable[[bytes], list[bytes]]


class Talk:
    """One command's conversation. `transact` sends one datagram and gives the reply messages.

    `warnings` collects what acknowledgements warn of; it belongs on stderr.
    """

    def __init__(self, transact: Transact) -> None:
        self._transact = transact
        self._seq = 0
        self.warnings = ""

    def _message(self, type: int, payload: bytes, flags: int) -> bytes:
        self._seq += 1
        return netlink.message(type, payload, NLM_F_REQUEST | flags, self._seq)

    def _send(self, datagram: bytes) -> list[NlMsg]:
        return [msg for reply in self._transact(datagram) for msg in netlink.messages(reply)]

    def do(self, type: int, payload: bytes) -> None:
        """A request that is acknowledged. Raises IpError with status 2 when it is refused."""
        for msg in self._send(self._message(type, payload, NLM_F_ACK)):
            if msg.type == netlink.NLMSG_ERROR:
                self._accept(msg)
                return
        raise IpError(2, "EOF on netlink\n")

    def get(self, type: int, payload: bytes) -> NlMsg:
        """A request that is answered by one message. Raises IpError with status 2 when refused."""
        for msg in self._send(self._message(type, payload, 0)):
            if msg.type != netlink.NLMSG_ERROR:
                return msg
            self._accept(msg)
        raise IpError(2, "EOF on netlink\n")

    def dump(self, type: int, payload: bytes = b"", what: str = "Dump") -> list[NlMsg]:
        """All messages of a dump. Raises IpError with status 1 when it fails; `what` then ends."""
        found = []
        for msg in self._send(self._message(type, payload, NLM_F_DUMP)):
            if msg.type == netlink.NLMSG_DONE:
                break
            if msg.type == netlink.NLMSG_ERROR:
                errno, warning = _refusal(msg)
                raise IpError(1, (warning or _errno_text(errno)) + f"{what} terminated\n")
            found.append(msg)
        return found

    def post(self, requests: Sequence[tuple[int, bytes]]) -> int:
        """Several requests in one datagram, answered only if refused; gives the first errno."""
        parts = [self._message(type, payload, 0) for type, payload in requests]
        datagram = b"".join(part.ljust(netlink.align(len(part)), b"\0") for part in parts)
        for msg in self._send(datagram):
            if msg.type == netlink.NLMSG_ERROR and (errno := _refusal(msg)[0]):
                return errno
        return 0

    def _accept(self, msg: NlMsg) -> None:
        """Take an acknowledgement; raises IpError when it is a refusal."""
        errno, text = _refusal(msg)
        if errno:
            raise IpError(2, text or _errno_text(errno))
        self.warnings += text


def _errno_text(errno: int) -> str:
    return f"RTNETLINK answers: {os.strerror(errno)}\n"


def _refusal(msg: NlMsg) -> tuple[int, str]:
    """Errno (0 is success) and the line for the extended-ack text, empty when there is none."""
    (error,) = struct.unpack_from("<i", msg.payload)
    errno = min(abs(error), 0x7FFF_FFFF)
    text = ""
    if msg.flags & NLM_F_ACK_TLVS:
        (length,) = struct.unpack_from("<I", msg.payload, 4)
        echoed = netlink.NLMSGHDR.size if msg.flags & NLM_F_CAPPED else netlink.align(length)
        tlvs = netlink.attributes(msg.payload, 4 + echoed).values
        text = tlvs.get(netlink.NLMSGERR_ATTR_MSG, b"").split(b"\0")[0].decode(errors="replace")
    if text:
        text = f"{'Error' if errno else 'Warning'}: {text}{'' if text.endswith('.') else '.'}\n"
    return errno, text
