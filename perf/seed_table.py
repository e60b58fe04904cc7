# SPDX-License-Identifier: Apache-2.0
"""What a host pays for IPsec: no IPsec, software, crypto offload and packet offload side by side.

    python perf/seed_table.py [--packets 8280] [--rounds 9] [--size 1420] [--large 46] [--text]

Each row is a lab of real processes of its own: two hosts, two cards, one wire, one UDP flow with
AES-GCM-128. As a stack does that sends much, the sender's hands over large packets (GSO) of `large`
packets each, or with 1 each by itself; who cuts them is a matter of the row. The rows take turns;
each turn sends `packets` packets, and the receiver reads them all. Measured is the CPU time of
every process over that (the kernel's own account of it), per packet: the lab has more processes
than this machine may have cores, so time on the clock would tell of the machine. From it are
computed:

    one core    what a host that has one core for itself can send or receive, by the dearer of both
    n cores     n times that, up to what the line carries
    the card    the same for one core that is the card

Prints JSON, with --text both tables for people: ours, and the one that came with packet offload to
Linux, measured there on a ConnectX-6 Dx with TCP, one stream for each CPU.
"""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import measure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from host_driver.conformance.packets import udp
from host_driver.lab import Lab

CORES = (1, 2, 4, 8, 16, 32)
LINE_GBIT_S = 100.0
BETWEEN_FRAMES = 24  # bytes of a line that no frame has: preamble, checksum and gap
ETHERNET = 14
TRANSPORT_ESP = 8 + 8 + 2 + 16  # header, IV, trailer without padding, ICV
SRC, DST = "10.1.0.1", "10.1.0.2"
SPI, KEY = 0x1000, "0x0102030405060708090a0b0c0d0e0f1011121314"
PUBLISHED = {  # Gbit/s at CORES CPUs; the cover letter of XFRM packet offload, 2022
    "baseline": (27.9, 59, 93.1, 92.8, 93.7, 94.4),
    "software": (6, 11.9, 23.3, 45.9, 83.8, 91.8),
    "crypto": (15, 29.7, 58.5, 89.6, 90.4, 90.8),
    "packet": (28, 57, 90.7, 91, 91.3, 91.9),
}
SIDES = ("host_tx", "host_rx", "card_tx", "card_rx")
PARTIES = ("host0", "host1", "card0", "card1")  # in the order of SIDES


Turn = tuple[float, ...]  # CPU time per packet in ns, of each of SIDES


def protect(lab: Lab, row: str) -> None:
    """SAs and policies of a row, at both ends."""
    if row == "baseline":
        return
    device = "" if row == "software" else f"offload {row} dev nic0"
    for host, way in zip(lab.hosts, ("out", "in"), strict=True):
        sa_device = f"{device} dir {way}" if device else ""
        policy_device = device if row == "packet" else ""
        window = "replay-window 32" if way == "in" else ""
        ends = f"src {SRC} dst {DST}"
        aead = f"aead 'rfc4106(gcm(aes))' {KEY} 128"
        for command in (
            f"state add {ends} proto esp spi {SPI:#x} reqid 7 mode transport {window} {aead} "
            + sa_device,
            f"policy add {ends} dir {way} {policy_device} tmpl proto esp reqid 7 mode transport",
        ):
            done = host.ip(f"xfrm {command}")
            if done.rc:
                raise RuntimeError(f"{row}: {command}: {done.stderr}")


def cpu_ns(pid: int) -> int:
    """CPU time of a process so far (proc(5): the first field of schedstat, summed over threads)."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks)


class Row:
    """One lab with its flow."""

    def __init__(self, stack: ExitStack, name: str, packets: int, size: int, large: int) -> None:
        self.lab = stack.enter_context(Lab(target="process", hosts=2))
        protect(self.lab, name)
        payload = size - 28
        self._packet = udp(bytes(payload * large), 9, 10, SRC, DST)
        self._gso_size = payload if large > 1 else 0
        self._handed, self._count = packets // large, packets // large * large
        self._pids = self.lab.pids()

    def turn(self) -> Turn:
        """Send everything, from within the sender; read everything."""
        before = [cpu_ns(self._pids[party]) for party in PARTIES]
        sender, receiver = self.lab.hosts
        accepted = sender.generate([self._packet], self._handed, self._gso_size)["accepted"]
        self.lab.settle()
        arrived = receiver.discard()["packets"]
        self.lab.wire.forget()
        if (accepted, arrived) != (self._handed, self._count):
            raise RuntimeError(f"{arrived} of {self._count} packets arrived, {accepted} accepted")
        spent = [cpu_ns(self._pids[party]) for party in PARTIES]
        return tuple((b - a) / arrived for a, b in zip(before, spent, strict=True))


def line_gbit_s(size: int, row: str) -> float:
    """Of a line full of such packets, what is theirs."""
    sealed = 0 if row == "baseline" else TRANSPORT_ESP + -(size - 20 + 2) % 4
    return LINE_GBIT_S * size / (size + sealed + ETHERNET + BETWEEN_FRAMES)


def computed(size: int, row: str, ns: dict[str, float]) -> dict[str, Any]:
    """What follows from what a packet costs."""
    host_ns = max(ns["host_tx"], ns["host_rx"])
    one, line = 8 * size / host_ns, line_gbit_s(size, row)
    return {
        "limit": "host_tx" if ns["host_tx"] >= ns["host_rx"] else "host_rx",
        "gbit_s": {str(n): round(min(n * one, line), 3) for n in CORES},
        "line_gbit_s": round(line, 1),
        "card_gbit_s": round(8 * size / max(ns["card_tx"], ns["card_rx"]), 3),
    }


def run(packets: int, rounds: int, size: int, large: int) -> dict[str, Any]:
    """All rows in turns; costs, and the ratio of each to the baseline of the same round."""
    with ExitStack() as stack:
        rows = {name: Row(stack, name, packets, size, large) for name in PUBLISHED}
        turns = measure.in_turns({name: row.turn for name, row in rows.items()}, rounds)
    base = turns["baseline"]
    return {name: described(name, size, taken, base) for name, taken in turns.items()}


def described(name: str, size: int, taken: list[Turn], base: list[Turn]) -> dict[str, Any]:
    """What the turns of a row say, beside the baseline's of the same rounds."""
    ns, ratios = {}, {}
    for at, side in enumerate(SIDES):
        ns[side] = measure.summary([turn[at] for turn in taken], 0)
        pairs = zip(taken, base, strict=True)
        ratios[side] = measure.summary([turn[at] / other[at] for turn, other in pairs], 3)
    medians = {side: each["median"] for side, each in ns.items()}
    return {
        "measured_ns_per_packet": ns,
        "measured_ratio_to_baseline": ratios,
        "computed": computed(size, name, medians),
    }


def text(table: dict[str, Any]) -> str:
    """Both tables, for people."""
    ours = {name: tuple(row["computed"]["gbit_s"].values()) for name, row in table.items()}
    titles = {"computed from measured cost per packet": ours, "published": PUBLISHED}
    lines = []
    for title, rows in titles.items():
        lines += [f"Gbit/s, {title}", "cores".ljust(10) + "".join(f"{n:>8}" for n in CORES)]
        lines += [f"{name:10}" + "".join(f"{x:>8.3g}" for x in rows[name]) for name in rows]
        lines += [""]
    lines += ["CPU time per packet (and in proportion to the baseline's)"]
    lines += [
        f"{name:10}" + "  ".join(
            f"{side} {row['measured_ns_per_packet'][side]['median']:.0f} ns"
            f" ({row['measured_ratio_to_baseline'][side]['median']:.2f})" for side in SIDES
        )
        for name, row in table.items()
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    """Measure, and print one JSON document or the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packets", type=int, default=8280, help="in each turn")
    parser.add_argument("--rounds", type=int, default=measure.ROUNDS)
    parser.add_argument("--size", type=int, default=1420, help="bytes of the IP packet in clear")
    parser.add_argument("--large", type=int, default=46, help="packets that are handed over as one")
    parser.add_argument("--text", action="store_true", help="tables for people")
    options = parser.parse_args()
    table = run(options.packets, options.rounds, options.size, options.large)
    if options.text:
        print(text(table))
        return
    measure.report(
        table, benchmark="seed_table", unit="ns of CPU per packet", published_gbit_s=PUBLISHED,
        cores=CORES, packets=options.packets, size=options.size, large=options.large,
        rounds=options.rounds,
    )  # fmt: skip


if __name__ == "__main__":
    main()
