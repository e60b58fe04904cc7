# SPDX-License-Identifier: Apache-2.0
"""What a packet costs the card, in ns: the burst kernels alone, and the whole Firmware.step.

Prints JSON. One SA and one policy per direction, AES-GCM-128 with a 16-byte ICV, equal packets of
64 and 1420 bytes of IP. `burst` is the kernel; beside it, in the same turns, libipsec-mb seals or
opens as many texts of that size and does nothing else, where it is installed (perf/ipsec_mb.py):
`ratio` is the one to the other. `step` contains the kernel and everything around it: messages,
credits, descriptors, counters. The inbound SA has no replay window, so that the same frames can
come again.
"""

import random
import time
from collections.abc import Callable
from typing import Any

import ipsec_mb
import measure
import msgspec
import numpy as np

from nic_model.datapath import rx_burst, tx_burst
from nic_model.esp import BACKEND
from nic_model.firmware import Firmware
from proto import commands as c
from proto.caps import PROFILES
from proto.frame import Channel, Kind, pack, unpack
from proto.layouts import DESCRIPTOR
from proto.limits import BUFFER_BYTES, BURST, MTU_DEFAULT, RING_SIZE
from proto.link.dma import Dma, slots_of, tx_offset
from proto.wire import Frames
from proto.xfrm import AF_INET

EPOCH = 1  # of the host that has the card
SIZES = (64, 1420)
REFERENCE = "ipsec-mb"
BURSTS = 40  # bursts per measurement
KEY = bytes(range(16))
COUNTED = 2 * BURST + 1  # a burst, the credits for it, and one COUNTERS record
SOURCE, TARGET = bytes((10, 1, 0, 1)), bytes((10, 1, 0, 2))


def frame(size: int) -> bytes:
    """An Ethernet frame around `size` bytes of IPv4 and UDP."""
    ethernet = bytes.fromhex("0200000000020200000000010800")
    ip = bytes.fromhex("4500") + size.to_bytes(2) + bytes.fromhex("0000000040110000")
    udp = bytes.fromhex("03e807d0") + (size - 20).to_bytes(2) + bytes(2)
    return ethernet + ip + SOURCE + TARGET + udp + bytes(size - 28)


def do(card: Firmware, command: c.Command) -> int:
    """Let a card carry out a command of the host that took it in EPOCH; -> the handle it gives."""
    message = pack(Kind.COMMAND, msgspec.msgpack.encode(c.Request(0, command)), epoch=EPOCH)
    outputs = card.step(0, [(Channel.MAILBOX, message)])
    (raw,) = (raw for channel, raw in outputs if channel is Channel.MAILBOX)
    reply = msgspec.msgpack.decode(unpack(raw).body, type=c.Reply)
    if reply.status:
        raise RuntimeError(f"{command}: {reply.text}")
    return reply.handle


class Bench:
    """A card with one protected flow out and in, and messages for it."""

    def __init__(self, size: int) -> None:
        self.frame = frame(size)
        self.dma = Dma.anonymous()
        self.card = Firmware("bench", PROFILES["full"], self.dma, random.Random(1))
        self.card.step(0, [])  # HELLO
        do(self.card, c.InitFunction(EPOCH))
        key = do(self.card, c.CreateKey(KEY))
        for direction in (c.OUT, c.IN):
            self._protect(key, direction)
        for slot in range(RING_SIZE):
            at = tx_offset(slot)
            self.dma.memory[at : at + len(self.frame)] = np.frombuffer(self.frame, np.uint8)
        self.tx_index = self.wire_index = 0
        self.dma.tx_marks[:] = np.arange(RING_SIZE) + 1
        self.sealed = self._seal_one_burst()

    def _protect(self, key: int, direction: int) -> None:
        sa = c.CreateSa(
            key=key, salt=b"salt", icv_bytes=16, spi=0x1000, family=AF_INET,
            saddr=SOURCE.ljust(16, b"\0"), daddr=TARGET.ljust(16, b"\0"), direction=direction,
            reqid=1, selector=c.Selector(),
        )  # fmt: skip
        do(self.card, c.CreateSaRule(do(self.card, sa)))
        policy = c.CreatePolicyRule(
            direction=direction, selector=c.Selector(family=AF_INET), priority=0,
            action=c.ALLOW, protect=True, reqid=1,
        )  # fmt: skip
        do(self.card, policy)

    def _seal_one_burst(self) -> bytes:
        outputs = self.card.step(0, [self.tx_message()])
        body = next(unpack(raw).body for channel, raw in outputs if channel is Channel.WIRE)
        self.card.step(
            0, [(Channel.WIRE, pack(Kind.WIRE_DONE, count=BURST, epoch=self.card.life.boot))]
        )
        return bytes(body)

    def _descriptors(self, first: int) -> np.ndarray:
        descriptors = np.zeros(BURST, DESCRIPTOR)
        descriptors["offset"] = [tx_offset(first + i) for i in range(BURST)]
        descriptors["length"] = len(self.frame)
        return descriptors

    def tx_message(self) -> tuple[Channel, bytes]:
        """One burst of descriptors, at the next ring positions."""
        message = pack(
            Kind.TX,
            self.dma.gather(self._descriptors(self.tx_index)),
            self.tx_index,
            BURST,
            epoch=EPOCH,
        )
        self.tx_index += BURST
        return Channel.RINGS, message

    def wire_message(self) -> tuple[Channel, bytes]:
        """One burst of ESP frames, with the next numbers."""
        message = pack(Kind.WIRE, self.sealed, self.wire_index, BURST, self.card.life.boot)
        self.wire_index += BURST
        return Channel.WIRE, message

    def wire_done(self) -> tuple[Channel, bytes]:
        """The wire has taken one burst."""
        return Channel.WIRE, pack(Kind.WIRE_DONE, count=BURST, epoch=self.card.life.boot)

    def rx_done(self) -> tuple[Channel, bytes]:
        """The slots of the burst before the next are free."""
        return Channel.RINGS, pack(
            Kind.RX_DONE, index=self.wire_index - BURST, count=BURST, epoch=EPOCH
        )

    def tx_burst(self) -> Callable[[], None]:
        """The transmit kernel, once."""
        descriptors, verdict = self._descriptors(0)[:BURST], np.zeros(BURST, np.uint8)
        out, out_length = np.zeros(BURST * BUFFER_BYTES, np.uint8), np.zeros(BURST, np.int64)
        t = self.card.objects.tables

        slots, marks = slots_of(0, BURST)

        def run() -> None:
            self.dma.tx_marks[slots] = marks
            sent = tx_burst(
                t, self.dma.memory, 0, descriptors, BURST, MTU_DEFAULT, out,
                out_length, verdict,
            )  # fmt: skip
            assert sent == (BURST, BURST)

        return run

    def rx_burst(self) -> Callable[[], None]:
        """The receive kernel, once."""
        sealed = Frames.unpack(self.sealed, BURST)
        frames, offsets = sealed.data, sealed.offsets
        descriptors, verdict = np.zeros(BURST, DESCRIPTOR), np.zeros(BURST, np.uint8)
        t = self.card.objects.tables

        def run() -> None:
            delivered = rx_burst(
                t, frames, offsets, sealed.lengths, BURST, self.dma.memory, 0, 0, BURST,
                descriptors, verdict,
            )  # fmt: skip
            assert delivered == BURST

        return run

    def steps(
        self,
        make: Callable[[], tuple[Channel, bytes]],
        done: Callable[[], tuple[Channel, bytes]],
    ) -> Callable[[], None]:
        """BURSTS bursts through Firmware.step, credits given back at once."""
        first = self.tx_index
        inputs = [[make(), done()] for _ in range(BURSTS)]
        written = [slots_of(first + number * BURST, BURST) for number in range(BURSTS)]

        def run() -> None:
            for messages, (slots, marks) in zip(inputs, written, strict=True):
                self.dma.tx_marks[slots] = marks
                outputs = self.card.step(0, messages)
                assert sum(unpack(raw).count for _, raw in outputs) == COUNTED

        return run


def per_packet(run: Callable[[], None], times: int, packets: int) -> float:
    """Nanoseconds for each of the `packets` that `times` calls move."""
    started = time.perf_counter_ns()
    for _ in range(times):
        run()
    return (time.perf_counter_ns() - started) / packets


def gcm(size: int, opens: bool) -> Callable[[], None] | None:
    """libipsec-mb on BURST texts of this size, once; None where it is not installed."""
    library = ipsec_mb.load()
    if library is None:
        return None
    stride = (size + ipsec_mb.ICV_BYTES + 63) & ~63
    key = ipsec_mb.expand_key(library, KEY)
    source, target = (ipsec_mb.aligned(BURST * stride) for _ in range(2))
    context, iv, aad = (ipsec_mb.aligned(ipsec_mb.CONTEXT_BYTES) for _ in range(3))
    burst = ipsec_mb.make_burst(library, len(KEY), opens)
    return lambda: burst(key, context, aad, iv, source, target, size, stride, BURST)


def cases(size: int) -> dict[str, Callable[[], float]]:
    """The measures of one packet size; messages are made outside the measured time."""
    bench = Bench(size)

    def kernel(name: str, run: Callable[[], None] | None) -> dict[str, Callable[[], float]]:
        return {name: lambda: per_packet(run, BURSTS, BURSTS * BURST)} if run else {}

    def step(name: str, make: Any, done: Any) -> dict[str, Callable[[], float]]:
        return {name: lambda: per_packet(bench.steps(make, done), 1, BURSTS * BURST)}

    # each step right behind the kernel of its direction, of whose SA it reports the counters
    return (
        kernel(f"{REFERENCE} seal {size}", gcm(size, opens=False))
        | kernel(f"tx burst {size}", bench.tx_burst())
        | step(f"tx step {size}", bench.tx_message, bench.wire_done)
        | kernel(f"{REFERENCE} open {size}", gcm(size, opens=True))
        | kernel(f"rx burst {size}", bench.rx_burst())
        | step(f"rx step {size}", bench.wire_message, bench.rx_done)
    )


def rows(values: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Each case's median and range, and of the kernels the ratio to the library's cipher."""
    results: dict[str, dict[str, Any]] = {}
    for name, ns in values.items():
        results[name] = measure.summary(ns)
        way = {"tx burst": "seal", "rx burst": "open"}.get(name.rsplit(" ", 1)[0])
        theirs = values.get(f"{REFERENCE} {way} {name.split()[-1]}")
        if theirs:
            ratios = [ours / their for ours, their in zip(ns, theirs, strict=True)]
            results[name] |= {"ratio": measure.summary(ratios, digits=2)}
    return results


def main() -> None:
    """Measure and print."""
    table = {name: case for size in SIZES for name, case in cases(size).items()}
    results = rows(measure.in_turns(table))
    measure.report(results, unit="ns per packet", form=BACKEND, burst=BURST, bursts=BURSTS)


if __name__ == "__main__":
    main()
