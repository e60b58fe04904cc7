# SPDX-License-Identifier: Apache-2.0
"""How long a limit takes from the card to the user: event of the card to EXPIRE of the core.

    python perf/events.py [--sizes 64 1420] [--packets 65536] [--sas 30] [--rounds 10]

A lab of real processes: two hosts, two cards, one wire. In each turn so many SAs are added at both
ends, each with a soft and a hard limit in packets, and a flow is sent through each until both have
fallen. One case for each size: the host's traffic source sends `packets` packets of `size` bytes in
clear as fast as the card takes them, the same ones round and round, CYCLES times: all of them of a
bulk flow but one for each SA. So limits fall at all times of the turn; what a flow sends past its
hard limit has no SA any more, and is refused. The case `idle` is the same without a bulk flow, one
limit after the other with a pause between. The cases take turns.

A delay is the time of the EXPIRE message less that of the card's event. The card's time is the
beginning of the step that raised the event (`host.nic.events()`), so it includes the rest of the
burst in which the limit fell; the other is the moment at which the core multicasts the message
(`host.timed_notifications()`). Both are read from clocks that agree on one machine, and joined by
SPI and by hard or soft. `tx` are the outbound SAs of the sending host, `rx` the inbound ones of the
receiving host.

Results, for each case: of tx and rx how many limits had to fall, how many of them the card told of
(`events`), how many soft ones the user heard of by the EXPIRE of the hard one, since both had
fallen before the core looked (`overtaken`: as in the kernel), how many events had no EXPIRE at all
(`lost`: it must be 0), and median, p90, p99 and greatest delay in ms over all turns; then the
packets per second of the turns, and the share of one CPU that each process had meanwhile (`lab`:
the wire). All of it depends on how many CPUs the five processes share, and with whom.
"""

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import measure
from seed_table import PARTIES, cpu_ns

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from host_driver.conformance.packets import udp
from host_driver.lab import Lab
from host_driver.lab.handles import HostHandle
from proto import netlink
from proto.xfrm import Group, Msg
from proto.xfrm_structs import UserExpire

SOURCE, BULK = "10.1.0.1", "10.1.0.2"
KEY = "0x0102030405060708090a0b0c0d0e0f1011121314"
CYCLES = 32  # of the traffic source in a turn: so many packets each flow has
FIRST, LIMITS, APART = 2, 14, 15  # soft limits: the lowest, how many; hard ones, so much above
PAUSE_S = 0.005
PATIENCE_S = 5.0  # a reconcile tick finds what events did not tell
MAX_SAS = 250  # a flow is one address
SIDES = ("tx", "rx")

Limit = tuple[int, bool]  # SPI, hard


@dataclass
class Turn:
    """What one turn of a case gave: by side, delays in ms and counts; rate and CPU shares."""

    delays_ms: dict[str, list[float]] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    packets_per_s: float = 0.0
    busy: dict[str, float] = field(default_factory=dict)


class Bench:
    """The lab, its bulk flow, and `sas` flows whose SAs each turn adds anew."""

    def __init__(self, lab: Lab, sas: int) -> None:
        self.lab = lab
        self._flows = [f"10.1.1.{number + 1}" for number in range(sas)]
        self._spi = 0x1000
        self._seen = {host.number: 0 for host in lab.hosts}  # events of its card
        self._pids = {**lab.pids(), "lab": os.getpid()}
        for host in lab.hosts:
            host.listen(Group.EXPIRE)
        for number, address in enumerate((BULK, *self._flows), 1):
            for host, way in zip(lab.hosts, ("out", "in"), strict=True):
                told(
                    host, f"policy add src {SOURCE} dst {address} dir {way} offload packet "
                    f"dev nic0 tmpl proto esp reqid {number} mode transport",
                )  # fmt: skip
        self._add_sa(BULK, 1, "")

    def _add_sa(self, address: str, reqid: int, limits: str) -> int:
        """One SA at both ends; -> its SPI, which no other one has."""
        self._spi += 1
        for host, way in zip(self.lab.hosts, ("out", "in"), strict=True):
            window = "replay-window 32" if way == "in" else ""
            told(
                host, f"state add src {SOURCE} dst {address} proto esp spi {self._spi:#x} reqid "
                f"{reqid} mode transport {window} aead 'rfc4106(gcm(aes))' {KEY} 128 {limits} "
                f"offload packet dev nic0 dir {way}",
            )  # fmt: skip
        return self._spi

    def turn(self, size: int | None, packets: int) -> Turn:
        """All limits once, among so many packets of `size` bytes, or (None) by themselves."""
        spis = [
            self._add_sa(flow, number, f"limit packet-soft {soft} limit packet-hard {hard}")
            for number, (flow, soft, hard) in enumerate(self._limited(), 2)
        ]
        wanted = {(spi, hard) for spi in spis for hard in (False, True)}
        turn = Turn()
        before, began = self._cpu_ns(), time.perf_counter_ns()
        if size is None:
            count, elapsed_ns = self._idle()
        else:
            count, elapsed_ns = self._loaded(size, packets)
        took_ns = time.perf_counter_ns() - began
        turn.packets_per_s = count * 1e9 / elapsed_ns
        turn.busy = {name: (ns - before[name]) / took_ns for name, ns in self._cpu_ns().items()}
        for side, host in zip(SIDES, self.lab.hosts, strict=True):
            self._collect(turn, side, host, wanted)
        self.lab.settle()
        self.lab.hosts[1].discard()
        self.lab.wire.forget()
        return turn

    def _limited(self) -> Iterator[tuple[str, int, int]]:
        """Each flow with its soft and hard limit."""
        for number, flow in enumerate(self._flows):
            soft = FIRST + number % LIMITS
            yield flow, soft, soft + APART

    def _cpu_ns(self) -> dict[str, int]:
        return {name: cpu_ns(self._pids[name]) for name in (*PARTIES, "lab")}

    def _loaded(self, size: int, packets: int) -> tuple[int, int]:
        """One run of the traffic source; -> packets, and ns until the card was done with them."""
        bulk, *flows = (udp(bytes(size - 28), 9, 10, SOURCE, to) for to in (BULK, *self._flows))
        done = self.lab.hosts[0].generate(mixed(bulk, flows, packets // CYCLES), packets)
        return done["accepted"], done["elapsed_ns"]

    def _idle(self) -> tuple[int, int]:
        """Each limit by itself; -> packets, and ns that it took."""
        host, began_ns, sent = self.lab.hosts[0], time.perf_counter_ns(), 0
        for flow, soft, hard in self._limited():
            for count in (soft, hard - soft):
                sent += host.generate([udp(bytes(36), 9, 10, SOURCE, flow)], count)["accepted"]
                self.lab.advance(PAUSE_S)
        return sent, time.perf_counter_ns() - began_ns

    def _collect(self, turn: Turn, side: str, host: HostHandle, wanted: set[Limit]) -> None:
        """Join what the card raised and what the core sent, once it all came or patience ends."""
        sent: dict[Limit, int] = {}
        ends = time.monotonic() + PATIENCE_S
        while True:
            for time_ns, message in host.timed_notifications():
                for limit in expires(message):
                    sent.setdefault(limit, time_ns)
            # The hard limit is the last word about an SA.
            if all((spi, True) in sent for spi, _ in wanted) or time.monotonic() > ends:
                break
            self.lab.advance(PAUSE_S)
        events = host.nic.events(self._seen[host.number])
        self._seen[host.number] += len(events)
        raised = dict(reversed([*limits_of(events)]))  # the first event of each limit
        turn.delays_ms[side], turn.counts[side] = joined(wanted, raised, sent)


def told(host: HostHandle, command: str) -> None:
    """Run `ip xfrm ...`, which must succeed."""
    done = host.ip(f"xfrm {command}")
    if done.rc:
        raise RuntimeError(f"{command}: {done.stderr}")


def mixed(bulk: bytes, flows: list[bytes], packets: int) -> list[bytes]:
    """So many packets, all of the bulk flow but one for each flow, evenly among them."""
    sent = [bulk] * packets
    for number, packet in enumerate(flows):
        sent[packets * number // len(flows)] = packet
    return sent


def expires(message: bytes) -> Iterator[Limit]:
    """The limits of SAs that an EXPIRE tells of."""
    for one in netlink.messages(message):
        if one.type == Msg.EXPIRE:
            expire = UserExpire.unpack(one.payload)
            yield expire.state.id.spi, bool(expire.hard)


def limits_of(events: list[dict[str, Any]]) -> Iterator[tuple[Limit, int]]:
    """The limits that a card's events tell of, and when."""
    for event in events:
        if event["type"] in ("soft_limit", "hard_limit"):
            yield (int(event["spi"], 16), event["type"] == "hard_limit"), event["time_ns"]


def joined(
    wanted: set[Limit], raised: dict[Limit, int], sent: dict[Limit, int]
) -> tuple[list[float], dict[str, int]]:
    """Delays in ms of the limits that the card told of, and how many there are of which kind. Where
    one look finds both limits, the core tells of the hard one only; the user hears of the soft one
    by that."""
    delays_ms, counts = [], {"limits": len(wanted), "events": 0, "overtaken": 0, "lost": 0}
    for spi, hard in sorted(wanted & raised.keys()):
        counts["events"] += 1
        told_by = hard or (spi, False) not in sent
        if (spi, told_by) not in sent:
            counts["lost"] += 1
            continue
        counts["overtaken"] += told_by and not hard
        delays_ms.append((sent[spi, told_by] - raised[spi, hard]) / 1e6)
    return delays_ms, counts


def percentile(values: list[float], percent: float) -> float:
    """The smallest value that so many percent of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def described(turns: list[Turn]) -> dict[str, Any]:
    """What the turns of a case say together."""
    result: dict[str, Any] = {}
    for side in SIDES:
        delays = [delay for turn in turns for delay in turn.delays_ms[side]]
        result[side] = {
            name: sum(turn.counts[side][name] for turn in turns) for name in turns[0].counts[side]
        }
        if delays:
            found = {"median": statistics.median(delays), "max": max(delays)}
            found |= {f"p{percent}": percentile(delays, percent) for percent in (90, 99)}
            result[side]["ms"] = {
                name: round(found[name], 3) for name in ("median", "p90", "p99", "max")
            }
    result["packets_per_s"] = measure.summary([turn.packets_per_s for turn in turns], 0)
    result["busy"] = {
        name: measure.summary([turn.busy[name] for turn in turns], 2) for name in turns[0].busy
    }
    return result


def main() -> None:
    """Measure, and print one JSON document; exit status 1 where an event had no EXPIRE."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64], help="bytes of bulk packets")
    parser.add_argument("--packets", type=int, default=65536, help="of the bulk flow in each turn")
    parser.add_argument("--sas", type=int, default=30, help="in each turn, at both ends")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    if not 0 < options.sas <= MAX_SAS:
        parser.error(f"--sas {options.sas} is outside 1..{MAX_SAS}")
    if options.packets < CYCLES * options.sas:
        parser.error(f"--packets {options.packets} has no room for {options.sas} SAs")
    with Lab(target="process", hosts=2) as lab:
        bench = Bench(lab, options.sas)
        cases = {"idle": partial(bench.turn, None, 0)}
        for size in options.sizes:
            cases[f"load_{size}"] = partial(bench.turn, size, options.packets)
        turns = measure.in_turns(cases, options.rounds)
    results = {name: described(taken) for name, taken in turns.items()}
    measure.report(
        results, benchmark="events", unit="ms from event to EXPIRE", sizes=options.sizes,
        packets=options.packets, sas=options.sas, rounds=options.rounds,
    )  # fmt: skip
    lost = sum(case[side]["lost"] for case in results.values() for side in SIDES)
    if lost:
        print(f"{lost} events had no EXPIRE", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
