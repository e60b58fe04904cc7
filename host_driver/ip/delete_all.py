# SPDX-License-Identifier: Apache-2.0
"""`deleteall` of states and policies: dump, delete what matches, and again (CLI-20).

The tool copies mark and if_id of what it deletes. A mark it copies with 4 bytes too many, which are
those behind it in the dump; the kernel does not look at them.
"""

import itertools
import os
from collections.abc import Callable

from host_driver.ip.command import Command
from host_driver.ip.words import IpError
from proto import netlink
from proto.netlink import NlMsg
from proto.xfrm import MSG_MIN, Attr
from proto.xfrm_structs import XfrmMark

DELETE_ALL = "Delete-all"
_BUFFER_BYTES = 8192

Requests = Callable[[], list[tuple[int, bytes]]]


def copied_mark(msg: NlMsg) -> bytes:
    """The mark attribute of a dumped object, as the tool sends it back."""
    found = netlink.attributes(msg.payload, netlink.align(MSG_MIN[msg.type]))
    at = found.offsets.get(Attr.MARK)
    if at is None:
        return b""
    start, size = at + netlink.NLA.size, netlink.NLA.size + XfrmMark.size()
    return netlink.attribute(Attr.MARK, msg.payload[start : start + size].ljust(size, b"\0"))


def delete_all(command: Command, requests: Requests, failed: str) -> None:
    """Delete in rounds until nothing that matches is left; `failed` is the tool's complaint.

    Raises IpError when a deletion is refused, or when one round finds just what the last one had.
    """
    before: list[tuple[int, bytes]] = []
    for round in itertools.count():
        if command.stats > 1:
            command.notes.append(f"{DELETE_ALL} round = {round}\n")
        found = _that_fit(requests())
        if not found:
            break
        if found == before:
            raise IpError(1, f"{DELETE_ALL} terminated\n")
        if errno := command.talk.post(found):
            raise IpError(1, f"{failed}: {os.strerror(errno)}\n")
        before = found
        if command.stats > 1:
            command.notes.append(f"{DELETE_ALL} nlmsg count = {len(found)}\n")
    if command.stats > 1:
        command.notes.append(f"{DELETE_ALL} completed\n")


def _that_fit(requests: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """The first of them, as many as the tool's buffer takes."""
    room, fit = _BUFFER_BYTES, []
    for type, payload in requests:
        room -= netlink.NLMSGHDR.size + netlink.align(len(payload))
        if room < 0:
            break
        fit.append((type, payload))
    return fit
