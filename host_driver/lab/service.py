# SPDX-License-Identifier: Apache-2.0
"""What the command line asks of a background lab: tagged MessagePack over one control socket.

Each request stands alone. An answer carries the number of its request, so that a client that gave
up waiting does not take a late answer for the next one.
"""

from pathlib import Path
from typing import Any, Union

import msgspec

from host_driver.faults.plan import PlannedFault
from proto.codec import decode
from proto.frame import Kind, pack, unpack
from proto.xfrm import Msg

CONTROL_SOCKET = "control"
PID_FILE = "pid"
LOG_FILE = "lab.log"
LAB_DIRECTORY = "run"  # where the lab itself has its sockets, below the run directory

# What the words of `ip xfrm monitor` select.
MONITOR_KINDS = {
    "acquire": {Msg.ACQUIRE},
    "expire": {Msg.EXPIRE, Msg.POLEXPIRE},
    "SA": {Msg.NEWSA, Msg.UPDSA, Msg.DELSA, Msg.FLUSHSA},
    "aevent": {Msg.NEWAE},
    "policy": {Msg.NEWPOLICY, Msg.UPDPOLICY, Msg.DELPOLICY, Msg.FLUSHPOLICY},
    "report": {Msg.REPORT},
}


class Request(msgspec.Struct, tag=lambda name: name, forbid_unknown_fields=True):
    """Base of all requests; the tag is the class name."""


class Status(Request):
    """-> dict: name, pid, settings, processes, devices, what died. Also the HELLO of a new lab."""


class Ip(Request):
    """An `ip` command line at a host -> dict: rc, stdout, stderr."""

    host: int
    text: str

    def __repr__(self) -> str:
        return f"Ip(host={self.host}, <{len(self.text)} characters>)"  # a key may be among them

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("host", self.host)]


class Monitor(Request):
    """Notifications since the last call as `ip xfrm monitor` prints them -> list of texts.

    `kinds` are names of MONITOR_KINDS; none means all.
    """

    host: int
    kinds: list[str] = []
    nokeys: bool = False
    stats: bool = False
    oneline: bool = False


class SendPackets(Request):
    """The stack of a host sends IP packets -> list of errno, 0 = accepted."""

    host: int
    packets: list[bytes]


class Settle(Request):
    """Wait until nothing moves -> None."""


class WriteCapture(Request):
    """Write what was seen since the lab began to `path` -> dict: packets; keys, if asked for."""

    path: str
    keys_path: str | None = None


class AddFault(Request):
    """Arm a fault: a name of the catalogue or fields, as `lab.faults.add` takes them -> its name.

    `host` None: everywhere.
    """

    fault: str | None = None
    host: int | None = None
    fields: dict[str, Any] = {}


class FollowPlan(Request):
    """Arm and disarm faults as a plan says, from now on -> None."""

    plan: list[PlannedFault]


class RemoveFault(Request):
    """Disarm one fault -> None."""

    name: str


class ResetFaults(Request):
    """Disarm everything, forget all plans -> None."""


class ListFaults(Request):
    """-> dict: armed, planned (lists of dicts, as `lab.faults` gives them)."""


class FaultLog(Request):
    """-> list of dict: the newest `limit` firings in order of time."""

    limit: int


class Live(Request):
    """One of kill, stop, resume, restart for a party ("card0") -> its state; a card may come back
    as another one."""

    party: str
    verb: str
    card: str | None = None


class ResetCard(Request):
    """Reset a card, "function" or "firmware" -> dict: its health."""

    host: int
    level: str


class Reload(Request):
    """Unload a host's driver and load it again -> None."""

    host: int


class Down(Request):
    """End the lab -> None; the answer comes before the end."""


AnyRequest = Union[
    Status, Ip, Monitor, SendPackets, Settle, WriteCapture, AddFault, FollowPlan, RemoveFault,
    ResetFaults, ListFaults, FaultLog, Live, ResetCard, Reload, Down,
]  # fmt: skip


class Asked(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A request with its number."""

    number: int
    request: AnyRequest


class Answered(msgspec.Struct, frozen=True, array_like=True):
    """`errno` not 0: refused, `text` says why."""

    number: int
    errno: int = 0
    text: str = ""
    value: Any = None


def encode(message: Asked | Answered) -> bytes:
    """The framed message."""
    return pack(Kind.CONTROL, msgspec.msgpack.encode(message))


def decode_request(raw: bytes) -> Asked:
    """Raises FrameError for anything else."""
    return decode(unpack(raw).body, Asked)


def decode_answer(raw: bytes) -> Answered:
    """Raises FrameError for anything else."""
    return decode(unpack(raw).body, Answered)


def control_address(path: Path) -> str:
    """Where the lab in that run directory listens."""
    return f"ipc://{path / CONTROL_SOCKET}"
