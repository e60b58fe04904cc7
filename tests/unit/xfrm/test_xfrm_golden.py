# SPDX-License-Identifier: Apache-2.0
"""Recorded requests of a real kernel (7.3.4): same answers, same notifications, byte for byte.

Port ids and wall-clock values apart. What needs another driver (netdevsim) or software ESP traffic
is not replayed.
"""

import json
from pathlib import Path
from typing import Any

import pytest

VECTORS = Path(__file__).parents[2] / "vectors" / "netlink"
CASES: list[dict[str, Any]] = json.loads((VECTORS / "raw" / "cases.json").read_text())

NETDEVSIM = {
    "nsim-debugfs", "nsim-delete-device", "offload-algos", "offload-esn", "offload-feature-off",
    "offload-many", "offload-to-down-dev",
}  # fmt: skip
ACQUIRES = {"acquire-expire", "acquire-then-sa"}
# After traffic that needs software ESP the last dump shows its counters.
SOFTWARE_ESP = {
    "esn-wrap-traffic", "traffic-soft-hard-bytes", "traffic-time-use", "two-sa-choice",
    "two-sa-rekey-delete",
}  # fmt: skip
SCENARIOS = sorted(
    path.stem
    for path in (VECTORS / "7.3.4").glob("*.json")
    if not path.stem.startswith("pkt-") and path.stem not in NETDEVSIM | ACQUIRES
)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_raw_requests(case: dict[str, Any], make_world: Any) -> None:
    world = make_world()
    world.net.rng.randint = lambda low, high: high  # which free SPI is chance; the kernel drew this
    for step in case["steps"]:
        world.take()
        replies = world.netlink(bytes.fromhex(step["request"]))
        recorded = [m for data in step["replies"] for m in world.split(bytes.fromhex(data))]
        notified = [m for data in step["notifications"] for m in world.split(bytes.fromhex(data))]
        assert [*map(world.timeless, replies)] == [*map(world.timeless, recorded)]
        assert [*map(world.timeless, world.take())] == [*map(world.timeless, notified)]


def exchanges(record: dict[str, Any]) -> list[tuple[bytes, list[bytes]]]:
    """Requests of a record, each with the datagrams that followed it."""
    found: list[tuple[bytes, list[bytes]]] = []
    for item in record["messages"]:
        if item["dir"] == "to_kernel":
            found.append((bytes.fromhex(item["hex"]), []))
        elif found:
            found[-1][1].append(bytes.fromhex(item["hex"]))
    return found


def add_named_device(world: Any, request: bytes) -> None:
    """A device without offload at the ifindex that the request offloads to."""
    at = request.find(b"\x0c\0\x1c\0")
    ifindex = int.from_bytes(request[at + 4 : at + 8], "little")
    if at > 0 and world.devices.by_index(ifindex) is None:
        world.add_device("va", ifindex).up = False


def replay(world: Any, record: dict[str, Any]) -> None:
    """Feed the requests of one command, and compare what comes back."""
    for request, datagrams in exchanges(record):
        world.take()
        add_named_device(world, request)
        recorded = [m for data in datagrams for m in world.split(data)]
        replies = [world.timeless(m) for m in recorded if any(m[12:16])]
        notified = [world.timeless(m) for m in recorded if not any(m[12:16])]
        ours = [world.timeless(m) for m in world.netlink(request)]
        assert ours == replies, record["argv"]
        if notified:  # only while a monitor was running
            assert [*map(world.timeless, world.take())] == notified, record["argv"]


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenarios(name: str, make_world: Any) -> None:
    world = make_world()
    scenario = json.loads((VECTORS / "7.3.4" / f"{name}.json").read_text())
    records = scenario["records"]
    if name in SOFTWARE_ESP:
        records = [r for r in records if "state" not in r["argv"] or "add" in r["argv"]]
    for record in records:
        replay(world, record)


@pytest.mark.parametrize("name", sorted(ACQUIRES))
def test_acquire_scenarios(name: str, make_world: Any) -> None:
    world = make_world()
    scenario = json.loads((VECTORS / "7.3.4" / f"{name}.json").read_text())
    for record in scenario["records"]:
        spontaneous = []
        for item in record["messages"]:
            if item["dir"] == "to_kernel":
                break
            spontaneous += world.split(bytes.fromhex(item["hex"]))
        for message in spontaneous:
            provoke(world, message, name)
            ours = [world.timeless(m) for m in world.take()]
            assert ours[-1] == world.timeless(message)
        replay(world, record)


def provoke(world: Any, message: bytes, name: str) -> None:
    """Do what made the kernel send this message: a packet for an ACQUIRE, time for an EXPIRE."""
    world.take()
    if message[4] == 0x17:
        sel = message[16 + 40 : 16 + 96]
        ifindex = int.from_bytes(sel[48:52], "little")
        if world.devices.by_index(ifindex) is None:
            world.add_device("va", ifindex)
        world.net._acqseq = int.from_bytes(message[16 + 276 : 16 + 280], "little") - 1
        world.net.acq_expires = 3 if name == "acquire-expire" else 30
        udp = sel[36:38] + sel[32:34] + (8).to_bytes(2, "big") + bytes(2)
        head = b"\x45\0\0\x1c" + bytes(4) + b"\x40\x11\0\0" + sel[16:20] + sel[0:4]
        assert world.net.output(head + udp) == 0
        assert world.net.mib.values()["XfrmOutNoStates"] == 1
    else:
        world.advance(4)
