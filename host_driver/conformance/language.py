# SPDX-License-Identifier: Apache-2.0
"""What our `ip xfrm` makes of a command: its exit, its complaint, the requests that it sends.

The requests go to nobody and are acknowledged, so a case about the language runs on every target.
They are read with the contract's own layouts.
"""

import struct
from types import SimpleNamespace
from typing import Any, NamedTuple

from host_driver.conformance import layouts, messages
from host_driver.conformance.bench import Bench
from host_driver.conformance.messages import Note
from host_driver.ip import run
from proto import netlink
from proto.xfrm import Msg

DEVICES = {"lo": 1, "nic0": 2, "nic7": 7}
ACK = netlink.message(netlink.NLMSG_ERROR, struct.pack("<i", 0) + bytes(16), 0, 1)
SA = "src 10.1.0.1 dst 10.1.0.2 proto esp spi 0x1000"
AEAD = f"aead rfc4106(gcm(aes)) 0x{messages.KEY.hex()} 128"
# Structures within structures, by the name of their member.
_NESTED = {
    "id": layouts.ID,
    "sel": layouts.SELECTOR,
    "lft": layouts.LIFETIME_CFG,
    "info": layouts.USERSA_INFO,
    "sa_id": layouts.USERSA_ID,
}
_FIXED = {
    Msg.NEWSA: layouts.USERSA_INFO,
    Msg.UPDSA: layouts.USERSA_INFO,
    Msg.DELSA: layouts.USERSA_ID,
    Msg.GETSA: layouts.USERSA_ID,
    Msg.ALLOCSPI: layouts.USERSPI_INFO,
    Msg.NEWPOLICY: layouts.USERPOLICY_INFO,
    Msg.UPDPOLICY: layouts.USERPOLICY_INFO,
    Msg.DELPOLICY: layouts.USERPOLICY_ID,
    Msg.GETPOLICY: layouts.USERPOLICY_ID,
}


class Said(NamedTuple):
    """How a command ended, and what it sent."""

    rc: int
    stderr: str
    requests: list[Note]

    @property
    def fixed(self) -> Any:
        """The fixed part of the one request, structures within it opened."""
        (request,) = self.requests
        return opened(_FIXED[Msg(request.type)].read(request.fixed))

    @property
    def attributes(self) -> dict[int, bytes]:
        """The attributes of the one request."""
        (request,) = self.requests
        return request.attributes


def opened(part: SimpleNamespace) -> SimpleNamespace:
    """The same members, with structures in the place of their bytes."""
    for name, value in vars(part).items():
        if name in _NESTED and isinstance(value, bytes):
            setattr(part, name, opened(_NESTED[name].read(value)))
    return part


def said(bench: Bench, text: str) -> Said:
    """What `ip TEXT` sends to a kernel of the bench's profile, and how it ends."""
    sent: list[bytes] = []

    def transact(datagram: bytes) -> list[bytes]:
        sent.append(datagram)
        return [ACK]

    result = run(text, transact, DEVICES, bench.latest)
    return Said(result.rc, result.stderr, messages.notes(sent))


def refused(bench: Bench, text: str, *codes: int) -> str:
    """The complaint about a command that the tool itself refuses, with one of these exits."""
    result = said(bench, text)
    assert result.requests == [], f"`ip {text}` was sent"
    assert result.rc in codes, f"`ip {text}` ended with {result.rc}: {result.stderr}"
    assert result.stderr.strip()
    return result.stderr


def accepted(bench: Bench, text: str) -> Said:
    """What a command sends that the tool accepts."""
    result = said(bench, text)
    assert (result.rc, result.stderr) == (0, ""), f"`ip {text}`"
    return result
