# SPDX-License-Identifier: Apache-2.0
"""What passed between `ip` and the core, as the recorder beside the kernel saw it, to be compared.

Left out is what the machine gave: sequence numbers, port ids, clocks, ifindexes, ports that `ping`
drew.
"""

import re
from collections.abc import Iterator
from typing import Any

from host_driver.lab.handles import HostHandle
from proto import netlink
from proto.netlink import NLMSG_ERROR, NLMSGHDR
from proto.xfrm import Msg

# Where curlft.add_time and use_time stand, by type (UAPI-36, 39, 64).
CLOCKS = {
    Msg.NEWSA: 192, Msg.UPDSA: 192, Msg.EXPIRE: 192, Msg.NEWPOLICY: 152, Msg.UPDPOLICY: 152,
    Msg.POLEXPIRE: 152, Msg.DELSA: 220, Msg.DELPOLICY: 220,
}  # fmt: skip
_DEVICE = re.compile(rb"(\x0c\0\x1c\0)....", re.DOTALL)  # OFFLOAD_DEV
_LAST_USED = re.compile(rb"(\x0c\0\x0f\0)........", re.DOTALL)
_SEL_IFINDEX, _SEL_PORTS = slice(16 + 48, 16 + 52), slice(16 + 32, 16 + 40)
_SEQ = slice(16 + 204, 16 + 208)


class Tap:
    """Keeps what a host is asked and what it answers."""

    def __init__(self, host: HostHandle) -> None:
        self._ask = host.netlink
        self._seen: list[tuple[bytes, list[bytes]]] = []
        host.netlink = self._pass  # type: ignore[method-assign]

    def take(self) -> list[tuple[list[bytes], list[bytes]]]:
        """Requests and answers since the last call, comparable."""
        seen, self._seen = self._seen, []
        return [
            ([comparable(m) for m in split(request)], [comparable(m) for m in answers])
            for request, answers in seen
        ]

    def _pass(self, request: bytes, privileged: bool = True) -> list[bytes]:
        answers = self._ask(request, privileged)
        self._seen.append((request, answers))
        return answers


def split(data: bytes) -> Iterator[bytes]:
    """The messages of a datagram, without padding behind them."""
    while data:
        length = int.from_bytes(data[:4], "little")
        yield data[:length]
        data = data[netlink.align(length) :]


def recorded(record: dict[str, Any]) -> list[tuple[list[bytes], list[bytes]]]:
    """The same of one command of a recording; what the recorder itself asked is left out."""
    found: list[tuple[list[bytes], list[bytes]]] = []
    own = False
    for item in record["messages"]:
        first, data = item["nlmsgs"][0], bytes.fromhex(item["hex"])
        if item["dir"] == "to_kernel":
            own = first["name"] == "GETSA" and (first["flags"], first["len"]) == (1, 40)
            if not own:
                found.append(([comparable(m) for m in split(data)], []))
        elif found and not own:
            # Notifications to a monitor have no port id.
            found[-1][1].extend(comparable(m) for m in split(data) if any(m[12:16]))
    return found


def comparable(message: bytes) -> bytes:
    """One message without what the machine gave."""
    patched = bytearray(_LAST_USED.sub(rb"\1" + bytes(8), _DEVICE.sub(rb"\1" + bytes(4), message)))
    patched[8:16] = bytes(8)
    type = patched[4]
    if type == NLMSG_ERROR:
        patched[NLMSGHDR.size + 12 : NLMSGHDR.size + 20] = bytes(8)
    if type in CLOCKS and len(patched) > CLOCKS[Msg(type)] + 16:
        patched[CLOCKS[Msg(type)] : CLOCKS[Msg(type)] + 16] = bytes(16)
    if type == Msg.NEWSA and any(patched[_SEL_IFINDEX]):  # a larval SA of a packet
        patched[_SEL_IFINDEX], patched[_SEL_PORTS] = bytes(4), bytes(8)
        patched[_SEQ] = bytes(4)
    return bytes(patched)
