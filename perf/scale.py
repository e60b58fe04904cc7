# SPDX-License-Identifier: Apache-2.0
"""What a packet costs the card as its tables grow, and what an SA takes of memory, as JSON.

    python perf/scale.py [--sizes 2 1000 100000 1000000] [--rounds 9]

A card of each size holds so many SAs (half of them outbound) and as many policies, all offloaded,
each pair of ends its own. Random traffic of 64-byte packets over all of them goes through the burst
kernels, the sizes in turns: ns of CPU per packet. `growth` is the cost at a size over that at the
smallest one of the same round. `bytes_per_sa` is what the process grew by while it was filled, an
SA with its key, its rule and its policy; `installs_per_s` how fast the firmware took their
commands.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline import EPOCH, do

from nic_model.datapath import rx_burst, tx_burst
from nic_model.esp import BACKEND
from nic_model.firmware import Firmware
from proto import commands as c
from proto.caps import PROFILES
from proto.layouts import DESCRIPTOR
from proto.limits import BUFFER_BYTES, BURST, MTU_DEFAULT
from proto.link.dma import Dma, slots_of, tx_offset
from proto.xfrm import AF_INET

SIZES = (2, 1_000, 100_000, 1_000_000)
ETHERNET, SIZE = 14, 64
FLOWS = 8_192  # that the traffic is drawn from, in bursts that differ
HEAD = bytes.fromhex("020000000002020000000001080045000040000000004011")
COMMANDS_PER_SA = 4


def end(number: int) -> bytes:
    """One address of 10/8 for each number."""
    return (0x0A00_0000 + number).to_bytes(4)


def frame(number: int) -> bytes:
    """The 64-byte packet of a flow, in its Ethernet frame."""
    ends = end(0) + end(number + 1)
    return HEAD + bytes(2) + ends + bytes.fromhex("03e807d0002c0000") + bytes(SIZE - 28)


class Card:
    """A card with `size` SAs and policies, and bursts of random traffic for it."""

    def __init__(self, size: int) -> None:
        caps = msgspec.structs.replace(
            PROFILES["full"], sa_max=size, key_max=size, rule_max=2 * size
        )
        self.flows = size // 2
        self.dma = Dma.anonymous()
        self.firmware = Firmware("bench", caps, self.dma, random.Random(1))
        self.firmware.step(0, [])
        do(self.firmware, c.InitFunction(EPOCH))
        before, started = resident_bytes(), time.perf_counter()
        for flow in range(self.flows):
            for direction in (c.OUT, c.IN):
                self._install(flow, direction)
        elapsed = time.perf_counter() - started
        self.bytes_per_sa = (resident_bytes() - before) / size
        self.installs_per_s = size / elapsed
        self._make_bursts()

    def _install(self, flow: int, direction: int) -> None:
        """Key, SA, its rule and its policy. Both directions have the same ends, so that what was
        sealed here can be opened here."""
        saddr, daddr = (address.ljust(16, b"\0") for address in (end(0), end(flow + 1)))
        key = do(self.firmware, c.CreateKey(flow.to_bytes(16)))
        sa = c.CreateSa(
            key=key, salt=b"salt", icv_bytes=16, spi=0x1000 + flow, family=AF_INET, saddr=saddr,
            daddr=daddr, direction=direction, reqid=flow + 1, selector=c.Selector(),
        )  # fmt: skip
        do(self.firmware, c.CreateSaRule(do(self.firmware, sa)))
        selector = c.Selector(AF_INET, saddr, daddr, 32, 32)
        policy = c.CreatePolicyRule(
            direction=direction, selector=selector, priority=0, action=c.ALLOW, protect=True,
            reqid=flow + 1,
        )  # fmt: skip
        do(self.firmware, policy)

    def _make_bursts(self) -> None:
        """Frames in clear for one direction, and what the card makes of them for the other."""
        rng = random.Random(2)
        self.descriptors = np.zeros(BURST, DESCRIPTOR)
        self.descriptors["offset"] = [tx_offset(slot) for slot in range(BURST)]
        self.descriptors["length"] = ETHERNET + SIZE
        self.out = np.zeros(BURST * BUFFER_BYTES, np.uint8)
        self.out_length, self.verdict = np.zeros(BURST, np.int64), np.zeros(BURST, np.uint8)
        self.clear, self.sealed = [], []
        for _ in range(FLOWS // BURST):
            frames = [frame(rng.randrange(self.flows)) for _ in range(BURST)]
            self.clear.append(np.frombuffer(b"".join(frames), np.uint8).reshape(BURST, -1))
            self._load(self.clear[-1])
            self._send()
            self.sealed.append(
                (self.out[: self.out_length.sum()].tobytes(), self.out_length.copy())
            )

    def _load(self, frames: np.ndarray) -> None:
        for slot, data in enumerate(frames):
            at = tx_offset(slot)
            self.dma.memory[at : at + len(data)] = data
        slots, marks = slots_of(0, BURST)
        self.dma.tx_marks[slots] = marks

    def _send(self) -> None:
        sent = tx_burst(
            self.firmware.objects.tables, self.dma.memory, 0, self.descriptors, BURST, MTU_DEFAULT,
            self.out, self.out_length, self.verdict,
        )  # fmt: skip
        if sent[1] != BURST:
            raise RuntimeError(f"{sent} of {BURST} packets were sealed")

    def tx(self) -> float:
        """ns per packet of the transmit kernel over all bursts."""
        spent = 0
        for frames in self.clear:
            self._load(frames)
            started = time.thread_time_ns()
            self._send()
            spent += time.thread_time_ns() - started
        return spent / (len(self.clear) * BURST)

    def rx(self) -> float:
        """ns per packet of the receive kernel over all bursts."""
        spent, tables = 0, self.firmware.objects.tables
        for frames, lengths in self.sealed:
            data, descriptors = np.frombuffer(frames, np.uint8), np.zeros(BURST, DESCRIPTOR)
            offsets = np.cumsum(lengths) - lengths
            started = time.thread_time_ns()
            delivered = rx_burst(
                tables, data, offsets, lengths, BURST, self.dma.memory, 0, 0, BURST,
                descriptors, self.verdict,
            )  # fmt: skip
            spent += time.thread_time_ns() - started
            if delivered != BURST:
                raise RuntimeError(f"{delivered} of {BURST} packets were opened")
        return spent / (len(self.sealed) * BURST)


def resident_bytes() -> int:
    """Memory of this process that is there (proc(5): statm)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def main() -> None:
    """Fill all cards, measure in turns, and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=measure.ROUNDS)
    options = parser.parse_args()
    if min(options.sizes) < 2:
        parser.error("a card needs an SA for each direction: sizes begin at 2")
    cards: dict[int, Card] = {}
    for size in options.sizes:
        print(f"{size} SAs and policies ...", file=sys.stderr)
        cards[size] = Card(size)
    results: dict[str, Any] = {
        str(size): {
            "bytes_per_sa": round(card.bytes_per_sa),
            "installs_per_s": round(card.installs_per_s),
        }
        for size, card in cards.items()
    }
    for way in ("tx", "rx"):
        cases: dict[str, Callable[[], float]] = {
            str(size): getattr(card, way) for size, card in cards.items()
        }
        timed = measure.in_turns(cases, options.rounds)
        first = next(iter(timed.values()))
        for size, ns in timed.items():
            growth = [each / base for each, base in zip(ns, first, strict=True)]
            results[size][way] = {
                "ns_per_packet": measure.summary(ns), "growth": measure.summary(growth, 2)
            }  # fmt: skip
    measure.report(
        results, benchmark="scale", form=BACKEND, packet_bytes=SIZE, burst=BURST, flows=FLOWS,
        commands_per_sa=COMMANDS_PER_SA, rounds=options.rounds,
    )  # fmt: skip


if __name__ == "__main__":
    main()
