# SPDX-License-Identifier: Apache-2.0
"""Cryptographic uniqueness: invariants 10 to 16."""

from collections.abc import Iterator

from host_driver.simulate.evidence import Evidence
from host_driver.simulate.headers import ESP, ETHERNET_BYTES, NO_NEXT
from host_driver.simulate.invariants.registry import invariant
from host_driver.simulate.observer import cut
from host_driver.simulate.opening import pieced
from host_driver.simulate.outer import outer_problem
from host_driver.simulate.tracks import Fate, Seen
from host_driver.simulate.window import SPACE


@invariant(10, "Sequence numbers rise")
def numbers_rise(ev: Evidence) -> Iterator[str]:
    """On the wire the numbers of an outbound SA rise, with gaps at most, over every restart."""
    for seen in ev.sent():
        if seen.out is not None and seen.number <= seen.before:
            yield f"{seen.out} sent number {seen.number:#x} after {seen.before:#x}"


@invariant(11, "No (key, IV) twice")
def no_iv_twice(ev: Evidence) -> Iterator[str]:
    """For the life of a key no IV comes twice (RFC 4106 3.1)."""
    for seen in ev.sent():
        if seen.out is not None and seen.iv_uses > 1:
            yield f"{seen.out} used IV {seen.iv.hex()} again, with number {seen.number:#x}"


@invariant(12, "Numbers do not wrap")
def numbers_do_not_wrap(ev: Evidence) -> Iterator[str]:
    """Without ESN nothing follows number 2^32-1; with ESN the high half rises by one, once per
    cycle (RFC 4303 3.3.3)."""
    for seen in ev.sent():
        if seen.out is None:
            continue
        if not seen.out.sa.esn and seen.before >= SPACE - 1:
            yield f"{seen.out} sent number {seen.number:#x} after its last one"
        if seen.expected_high is not None and seen.number - seen.before >= SPACE:
            yield f"{seen.out} went from number {seen.before:#x} to {seen.number:#x}"


@invariant(13, "The first number")
def first_number(ev: Evidence) -> Iterator[str]:
    """The first packet of an SA has the number after the one that it began at."""
    for seen in ev.sent():
        track = seen.out
        if track is None or seen.nth != 1 or seen.number == track.sa.sequence + 1:
            continue
        if seen.number <= track.sa.sequence or (track.exact and track.sa.offload == "packet"):
            yield f"{track} began with number {seen.number:#x}, after {track.sa.sequence:#x}"


@invariant(14, "What is sent is what was meant")
def sent_as_meant(ev: Evidence) -> Iterator[str]:
    """Every ESP packet opens under the reference with the high half that is due, is padded with 1,
    2, 3, ..., has the SA's headers around it, in tunnel mode with what they take over from inside,
    and holds exactly a packet that the stack sent. A frame goes to the other host's device, and is
    no longer than the MTU of its own."""
    for seen in ev.sent():
        if not ev.ledger.faulty and (problem := _frame_problem(ev, seen, seen.frame.src or 0)):
            yield f"{seen} has {problem}"
        native = seen.parsed is not None and seen.parsed.proto == ESP and not seen.piece
        if seen.out is None:
            if native:
                yield f"{seen} opens under no SA of its sender"
            continue
        if problem := outer_problem(seen, seen.out.sa):
            yield f"{seen.out} sent number {seen.number:#x} with {problem}"
        if seen.padding != bytes(range(1, len(seen.padding) + 1)):  # RFC 4303 2.4
            yield f"{seen.out} padded with {seen.padding.hex()}, not 1, 2, 3, ..."
        if seen.next_header == NO_NEXT:
            continue  # a dummy (RFC 4303 2.6)
        if seen.inner is None:
            yield f"{seen.out} sent number {seen.number:#x} with nothing of its mode inside"
        elif seen.submitted is None:
            yield f"{seen.out} sent number {seen.number:#x} with what no stack sent inside"


def _frame_problem(ev: Evidence, seen: Seen, host: int) -> str:
    """What is wrong with a frame of a host, whatever is in it."""
    data, macs = seen.frame.data, ev.ledger.macs
    size, mtu = len(data) - ETHERNET_BYTES, ev.ledger.mtus[host]
    if size > mtu and not ev.touched(host):
        return f"{size} bytes, its device {mtu}"
    if macs and (data[:6], data[6:12]) != (macs[1 - host], macs[host]):
        return f"Ethernet addresses {data[6:12].hex(':')} > {data[:6].hex(':')}"
    return ""


@invariant(15, "What is accepted is good")
def accepted_is_good(ev: Evidence) -> Iterator[str]:
    """Every packet that a stack gets came in clear, or opens under the reference: ICV, trailer,
    length. What wire faults may have changed in clear counts only where it must be protected, and
    there not in a header that nothing protects."""
    flipped = ev.may_break("wire", kinds=("corrupt",))
    for delivered in ev.observer.unknown:
        if flipped and ev.observer.brought_changed(delivered):
            continue
        found = ev.ruling_in(delivered.host, delivered.packet, ev.step.number)
        protected = found is not None and found.policy is not None and found.surely("protect")
        if protected or not ev.may_break("wire", "ring.rx", "ring.tx"):
            yield (
                f"host{delivered.host} got a packet of {len(delivered.packet)} bytes that no frame "
                "brought"
            )
    for delivered, seen in ev.observer.matched:
        bad = seen.fate in (Fate.INTEGRITY, Fate.SHORT, Fate.TRAILER, Fate.MALFORMED)
        if bad and seen.into is not None and seen.into.exact:
            yield f"host{delivered.host} got what the reference rejects ({seen.fate.value}): {seen}"


@invariant(16, "Round trip")
def round_trip(ev: Evidence) -> Iterator[str]:
    """What one card sealed and the other opened is, byte for byte, what the stack sent; and of what
    is in order nothing is missing."""
    for delivered, seen in ev.observer.matched:
        if seen.into is None or seen.out is None or seen.submitted is None:
            continue
        sent, got = cut(seen.submitted.packet), cut(delivered.packet)
        if got != sent and (got != pieced(sent) or not ev.may_break("wire", kinds=("fragment",))):
            yield f"host{delivered.host} got another packet than was sent: {seen}"
    for seen in ev.missing():
        if seen.frame.src is not None and not seen.behind:
            yield f"never delivered, although authentic and fresh: {seen}"
