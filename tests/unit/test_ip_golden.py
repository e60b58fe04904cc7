# SPDX-License-Identifier: Apache-2.0
"""Every recorded `ip xfrm` command: bytes sent, stdout, stderr and exit status are the tool's.

The records are of iproute2 6.15 on Linux 7.3.4: `vectors/netlink` has the bytes of each command,
`vectors/transcripts` what the tool printed. The recorded replies are fed back.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from host_driver.ip import format_notification, run
from proto import netlink, xfrm
from proto.xfrm_structs import UserOffload, UserSaInfo

VECTORS = Path(__file__).parent.parent / "vectors"
SCENARIOS = sorted(path.stem for path in (VECTORS / "netlink" / "7.3.4").glob("*.json"))
# The tool prints the key here; ours never does.
KEY_IN_COMPLAINT = ("algo-gcm-key-badhex",)


def load(folder: str, scenario: str) -> dict[str, Any]:
    path = VECTORS / folder / "7.3.4" / f"{scenario}.json"
    return json.loads(path.read_text()) if path.exists() else {"commands": []}


def without_port(datagram: bytes) -> bytes:
    """The messages of a datagram with sequence number and port id set to 0."""
    parts = []
    for msg in netlink.messages(datagram):
        part = netlink.message(msg.type, msg.payload, msg.flags)
        parts.append(part.ljust(netlink.align(len(part)), b"\0"))
    return b"".join(parts)


def xfrm_commands(scenario: str) -> list[tuple[int, dict[str, Any]]]:
    """The `ip xfrm` commands of namespace A."""
    commands = enumerate(load("transcripts", scenario)["commands"])
    return [
        (index, command)
        for index, command in commands
        if command.get("ns") == "A" and "xfrm" in command.get("argv", []) and "rc" in command
    ]


def recorded(scenario: str) -> dict[int | None, list[dict[str, Any]]]:
    """The messages of each command, without what the recorder itself asked between commands."""
    found: dict[int | None, list[dict[str, Any]]] = {}
    for record in load("netlink", scenario)["records"]:
        found[record["index"]] = kept = []
        own = False
        for message in record["messages"]:
            if message["dir"] == "to_kernel":
                first = message["nlmsgs"][0]
                own = first["name"] == "GETSA" and (first["flags"], first["len"]) == (1, 40)
            if not own:
                kept.append(message)
    return found


def devices(scenario: str) -> dict[str, int]:
    """The device of the scenario: its name from the text, its ifindex from the bytes."""
    commands = load("transcripts", scenario)["commands"]
    spoken = [" ".join(command.get("argv", [])) for command in commands]
    spoken += [command.get("stdout", "") for command in commands]
    names = set(re.findall(" dev ([a-z]+[0-9]*)", " ".join(spoken))) - {"lo", "nosuch"}
    indexes = set()
    for record in load("netlink", scenario)["records"]:
        for message in record["messages"]:
            for msg in netlink.messages(bytes.fromhex(message["hex"])):
                indexes |= set(ifindexes(msg))
    found = dict(zip(sorted(names), sorted(indexes - {0, 1}), strict=False))
    return {"lo": 1} | found


def ifindexes(msg: netlink.NlMsg) -> Iterator[int]:
    if msg.type not in xfrm.MSG_MIN:
        return
    attributes = netlink.attributes(msg.payload, netlink.align(xfrm.MSG_MIN[msg.type])).values
    if xfrm.Attr.OFFLOAD_DEV in attributes:
        yield UserOffload.unpack(attributes[xfrm.Attr.OFFLOAD_DEV]).ifindex
    if msg.type == xfrm.Msg.NEWSA:
        yield UserSaInfo.unpack(msg.payload).sel.ifindex


class Kernel:
    """Answers with the recorded messages; keeps what was sent."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        self._messages = list(messages)
        self.expected = [
            without_port(bytes.fromhex(message["hex"]))
            for message in messages
            if message["dir"] == "to_kernel"
        ]
        self.sent: list[bytes] = []

    def transact(self, datagram: bytes) -> list[bytes]:
        self.sent.append(without_port(datagram))
        while self._messages and self._messages.pop(0)["dir"] != "to_kernel":
            pass
        replies = []
        while self._messages and self._messages[0]["dir"] == "from_kernel":
            replies.append(bytes.fromhex(self._messages.pop(0)["hex"]))
        return replies


CASES = [
    pytest.param(scenario, index, command, id=f"{scenario}-{index}")
    for scenario in SCENARIOS
    for index, command in xfrm_commands(scenario)
]


def test_there_are_records() -> None:
    assert len(CASES) > 400


@pytest.mark.parametrize(("scenario", "index", "command"), CASES)
def test_command(scenario: str, index: int, command: dict[str, Any]) -> None:
    kernel = Kernel(recorded(scenario).get(index, []))
    result = run(command["argv"], kernel.transact, devices(scenario))
    assert kernel.sent == kernel.expected
    stderr = command["stderr"]
    if scenario in KEY_IN_COMPLAINT:
        stderr = re.sub('argument "0x[^"]*"', 'argument "<<Keys hidden>>"', stderr)
    assert (result.rc, result.stdout, result.stderr) == (command["rc"], command["stdout"], stderr)


MONITORED = [
    scenario
    for scenario in SCENARIOS
    if any("monitor_stdout" in command for command in load("transcripts", scenario)["commands"])
]


@pytest.mark.parametrize("scenario", MONITORED)
def test_monitor(scenario: str) -> None:
    commands = load("transcripts", scenario)["commands"]
    printed = "".join(command.get("monitor_stdout", "") for command in commands)
    notified = b""
    for messages in recorded(scenario).values():
        datagrams = [
            bytes.fromhex(item["hex"]) for item in messages if item["dir"] == "from_kernel"
        ]
        for datagram in datagrams:
            first = next(netlink.messages(datagram))
            if not first.flags & netlink.NLM_F_MULTI:  # not the answer to a dump
                notified += datagram
    assert format_notification(notified, devices(scenario)) == printed
