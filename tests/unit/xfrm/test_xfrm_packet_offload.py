# SPDX-License-Identifier: Apache-2.0
"""Recorded driver calls: the core calls the same callbacks in the same order (TRACE-*).

The recorded driver also logged update_stats of timer shots, whose place is chance: such lines may
be missing in ours, everything else must be there in order. Its counters come from its own log.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from host_driver.netdev import CRYPTO_DONE, SecPath, Skb

VECTORS = Path(__file__).parents[2] / "vectors" / "netlink"
SCENARIOS = sorted(path.stem for path in (VECTORS / "packet-offload").glob("*.json"))
# The device's own steps, and software ESP, which this core does not have.
NOT_CALLS = ("xmit", "hardware", "rx ", "driver ")
CALL = re.compile(
    r"(\w+) (?:dev=\w+ )?(?:(spi=\w+)(?:.* (km_state=\d))?|(index=\d+) (prio=\d+).* (dead=\d))"
)
STATS = re.compile(r"update_stats spi=(\w+) cur_p=(\d+) cur_b=(\d+)")


def calls(log: list[str]) -> list[str]:
    """Callback, object and its state of each call."""
    found = []
    for line in log:
        if not line.startswith(NOT_CALLS):
            match = CALL.match(line)
            assert match, line
            found.append(" ".join(part for part in match.groups() if part))
    return found


def same(ours: list[str], recorded: list[str]) -> bool:
    """Whether ours is the record without some of its update_stats lines."""
    at = 0
    for line in recorded:
        if at < len(ours) and ours[at] == line:
            at += 1
        elif not line.startswith("update_stats"):
            return False
    return at == len(ours)


class Player:
    """Does with our core what was done with the kernel."""

    def __init__(self, world: Any, ops: Any, scenario: dict[str, Any], netlink: dict[str, Any]):
        self.world, self.ops = world, ops
        self.requests = {
            r["index"]: r
            for r in netlink["records"]
            if any(m["dir"] == "to_kernel" for m in r["messages"])
        }
        self.ends = ("10.1.0.1", "10.1.0.2")
        self.counted = world.net.mib.values()
        for record in netlink["records"]:
            self._device(record)

    def _device(self, record: dict[str, Any]) -> None:
        for item in record["messages"]:
            data = bytes.fromhex(item["hex"])
            at = data.find(b"\x0c\0\x1c\0")
            if self.world.nic is None and item["dir"] == "to_kernel" and at > 0:
                ifindex = int.from_bytes(data[at + 4 : at + 8], "little")
                self.world.nic = self.world.add_device("pks0", ifindex, self.ops)

    def play(self, index: int, command: dict[str, Any]) -> None:
        log = command.get("driver_log") or []
        self.ops.log.clear()
        for line in log:
            if match := STATS.match(line):
                self.ops.totals[int(match[1], 16)] = (int(match[2]), int(match[3]))
        argv, action = command.get("argv") or [], command.get("action", "")
        if index in self.requests:
            self._netlink(self.requests[index])
        elif argv[:1] == ["python3"]:
            self._send(argv[2], command["stdout"], log)
        elif argv[:3] == ["ip", "link", "set"]:
            self.world.devices.set_up(self.world.nic, argv[4] == "up")
            self.world.sched.run(self.world.net.now_ns)
        elif argv[:2] == ["ethtool", "-K"]:
            self.world.nic.features.discard("esp-hw-offload")
        elif action == "driver removed at the end":
            self.world.devices.unregister(self.world.nic)
            self.world.sched.run(self.world.net.now_ns)
        elif action.startswith("driver parameter"):
            what, how = action.split()[-1].split("=")
            setattr(self.ops, what, int(how))
        elif action.startswith("inject"):
            self._inject(action, bytes.fromhex(command["frame"])[14:])
        elif action == "xfrm_stat_delta":
            self._counters(command["delta"].get("A", {}))
        polled = len(self.requests[index]["messages"]) > 9 if index in self.requests else False
        if not polled and (not argv or log):
            assert same(self.ops_log(), calls(log)), (argv or action, self.ops_log(), calls(log))

    def ops_log(self) -> list[str]:
        return list(self.ops.log)

    def _netlink(self, record: dict[str, Any]) -> None:
        world = self.world
        requests = [bytes.fromhex(m["hex"]) for m in record["messages"] if m["dir"] == "to_kernel"]
        answers = [m for m in record["messages"] if m["dir"] == "from_kernel"]
        recorded = [m for a in answers for m in world.split(bytes.fromhex(a["hex"]))]
        ours = [m for request in requests for m in world.netlink(request)]
        replies = [world.timeless(m) for m in recorded if any(m[12:16])]
        assert [*map(world.timeless, ours)] == replies, record["argv"]

    def _send(self, script: str, printed: str, log: list[str]) -> None:
        count = int(re.search(r"range\((\d+)\)", script)[1])  # type: ignore[index]
        size = int(re.search(r"b'x'\*(\d+)", script)[1])  # type: ignore[index]
        packet = b"\x45\0" + (28 + size).to_bytes(2, "big") + bytes(4) + b"\x40\x11\0\0"
        packet += bytes((10, 1, 0, 1, 10, 1, 0, 2)) + b"\x91\x1e\0\x09"
        packet += (8 + size).to_bytes(2, "big") + bytes(2) + b"x" * size
        errnos = [int(e) for e in re.findall(r"errno (\d+)", printed)] or [0] * count
        sent = self._checks(log)
        for at in range(count):
            assert self.world.net.output(packet) == -errnos[at]
            for spi, totals, result in sent.get(at, []):
                self._check_expire(spi, totals, result)

    def _checks(self, log: list[str]) -> dict[int, list[tuple[int, tuple[int, int], int]]]:
        """After which packet the recorded driver called check_expire, with which totals."""
        packet, totals, found = -1, (0, 0), {}  # type: ignore[var-annotated]
        for line in log:
            packet += line.startswith("xmit")
            if match := STATS.match(line):
                totals = (int(match[2]), int(match[3]))
            if match := re.match(r"driver called check_expire spi=(\w+) -> (-?\d+)", line):
                found.setdefault(packet, []).append((int(match[1], 16), totals, int(match[2])))
        return found

    def _check_expire(self, spi: int, totals: tuple[int, int], result: int) -> None:
        self.ops.totals[spi] = totals
        x = next(x for x in self.world.net.sad if x.id.spi == spi)
        assert self.world.net.xfrm_state_check_expire(x) == result
        self.world.net.run_timers()
        self.world.sched.run(self.world.net.now_ns)

    def _inject(self, action: str, packet: bytes) -> None:
        match = re.search(r"mode=(\w+) spi=(\w+)", action)
        assert match
        skb = Skb(packet, in_dev=self.world.nic)
        if match[1] != "plain":
            x = next(x for x in self.world.net.sad if x.id.spi == int(match[2], 16))
            skb.sec_path = SecPath(x, CRYPTO_DONE, 1 if match[1] == "packet" else 2)
        self.world.net.input(skb)

    def _counters(self, delta: dict[str, int]) -> None:
        now = self.world.net.mib.values()
        moved = {k: v - self.counted[k] for k, v in now.items() if v != self.counted[k]}
        self.counted = now
        assert moved == delta


@pytest.mark.parametrize(
    "name", [n for n in SCENARIOS if n not in ("pkt-rx-packet-esp-arrives", "pkt-tx-sw-sa")]
)
def test_scenarios(name: str, make_world: Any, pktsim: Any) -> None:
    scenario = json.loads((VECTORS / "packet-offload" / f"{name}.json").read_text())
    netlink = json.loads((VECTORS / "7.3.4" / f"{name}.json").read_text())
    player = Player(make_world(), pktsim, scenario, netlink)
    for index, command in enumerate(scenario["commands"]):
        player.play(index, command)
    assert player.world.nic.refcnt == 0  # INV-04


def test_keys_are_gone_at_free(make_world: Any, pktsim: Any) -> None:
    netlink = json.loads((VECTORS / "7.3.4" / "pkt-sa-dup.json").read_text())
    player = Player(make_world(), pktsim, {}, netlink)
    for record in netlink["records"][:2]:
        player._netlink(record)
    assert pktsim.keys_at_free == [0]
