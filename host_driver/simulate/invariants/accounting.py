# SPDX-License-Identifier: Apache-2.0
"""Accounting: invariants 30 to 37. Between two moments of rest the books balance to the packet."""

from collections.abc import Iterator
from typing import NamedTuple

from host_driver.simulate.evidence import Evidence
from host_driver.simulate.invariants.registry import invariant
from host_driver.simulate.ledger import Snapshot, Step
from host_driver.simulate.listed import sas
from host_driver.simulate.tracks import Fate, Seen
from host_driver.xfrm.mib import NAMES
from host_driver.xfrm.snmp import ended

# What the driver drops of received packets, each with a counter of its own.
DRIVER_RX = (
    "driver_rx_malformed", "driver_rx_not_ip", "driver_rx_length", "driver_rx_error_status",
    "driver_rx_device_down", "driver_rx_not_written", "driver_rx_flushed",
)  # fmt: skip
# What the core drops inward. The driver adds to the last two what the card has dropped (MLX-14).
MIB_IN = (*(name for name in NAMES if name.startswith("XfrmIn")), "XfrmAcquireError")
SHARED = ("XfrmInStateSeqError", "XfrmInStateProtoError")
MIB_OUT = ("XfrmOutNoStates",)  # with it a packet vanishes, and its sender hears of no error
TRAFFIC = ("tx_", "rx_", "ipsec_")
OFFLOADED = ("packet", "crypto")


@invariant(30, "Conservation inward")
def conservation_in(ev: Evidence) -> Iterator[str]:
    """Frames that the wire handed to a card = delivered to the host + drops by reason; what the
    host got = delivered to the stack + drops by reason. Nothing in clear is delivered twice."""
    for delivered, seen in ev.observer.repeated:
        if seen.into is None and not ev.may_break("wire", "ring"):
            yield f"host{delivered.host} got twice: {seen}"
    if not ev.balanced:
        return
    for host in ev.hosts:
        handed, taken = ev.wire_delta(f"to_{host}"), ev.delta(host, "rx_packets")
        kept, dropped = ev.delta(host, "rx_delivered"), ev.delta_of(host, "rx_drop_")
        lost = ev.delta(host, "rx_lost")
        if handed != taken + lost:
            yield f"card{host} was handed {handed} frames and counted {taken}"
        if taken != kept + dropped:
            yield f"card{host} took {taken} frames: {kept} delivered, {dropped} dropped"
        yield from _octets(ev, host, "rx", [s for s in ev.frames if s.frame.dst == host], taken)
        yield from _host_in(ev, host, kept)


def _octets(ev: Evidence, host: int, way: str, frames: list[Seen], count: int) -> Iterator[str]:
    """The same in bytes, where the wire is known to have shown these frames and no others."""
    shown, counted = sum(len(seen.frame.data) for seen in frames), ev.delta(host, f"{way}_bytes")
    if count == len(frames) and counted != shown and not ev.may_break("wire", "ring", "card.seal"):
        yield f"card{host} counted {counted} bytes ({way}), the wire shows {shown}"


def _host_in(ev: Evidence, host: int, came: int) -> Iterator[str]:
    """The host's half. Pieces of ESP become one packet; broken headers and keepalives in UDP end
    below XFRM, which has counters of its own."""
    at_driver = sum(ev.delta(host, name) for name in DRIVER_RX)
    at_driver += ev.delta_of(host, "driver_rx_drop_")
    passed = ev.delta(host, "driver_rx_packets")
    if came != passed + at_driver:
        yield f"card{host} delivered {came}, its driver passed {passed} and dropped {at_driver}"
    stack = sum(1 for one in ev.deliveries if one.host == host)
    sure = ev.mib_delta(host, *(name for name in MIB_IN if name not in SHARED))
    shared = ev.mib_delta(host, *SHARED)
    below = ended(ev.snmp_delta(host))
    if not stack + sure + below <= passed <= stack + sure + below + shared:
        yield (
            f"host{host} got {passed} packets: {stack} to the stack, {sure} to {sure + shared} "
            f"dropped, {below} ended below XFRM"
        )


@invariant(31, "Conservation outward")
def conservation_out(ev: Evidence) -> Iterator[str]:
    """Packets that a stack had accepted = on the wire + drops by reason; descriptors = frames +
    drops; and nothing is on the wire that no stack sent."""
    for seen in ev.sent():
        strange = not seen.esp and seen.submitted is None and not seen.piece
        if strange:
            yield f"no stack sent this: {seen}"
    if not ev.balanced:
        return
    for host in ev.hosts:
        sent, dropped = ev.delta(host, "tx_packets"), ev.delta_of(host, "tx_drop_")
        yield from _octets(ev, host, "tx", [s for s in ev.frames if s.frame.src == host], sent)
        queued = ev.delta(host, "tx_descriptors") + ev.delta(host, "tx_segmented")
        on_wire = ev.wire_delta(f"from_{host}")
        if queued != sent + dropped:
            yield f"card{host} got {queued} descriptors: {sent} frames, {dropped} dropped"
        if sent != on_wire:
            yield f"card{host} counted {sent} frames, {on_wire} are on the wire"
        missing = sum(1 for one in ev.observer.on_the_way(host) if one.step >= ev.span.first)
        counted = dropped + ev.mib_delta(host, *MIB_OUT)
        pieces = any(seen.piece for seen in ev.frames if seen.frame.src == host)
        if missing > counted or (missing < counted and not pieces):
            yield f"host{host} accepted {missing} packets that never left, {counted} are counted"


@invariant(32, "Counters are monotonic")
def counters_monotonic(ev: Evidence) -> Iterator[str]:
    """No counter of card, driver or core decreases, but by a new boot of its party."""
    for after in ev.step.snapshots:
        before = ev.answered.get(after.host)
        for where, name, old, new in _falling(before, after) if before else ():
            party = "card" if where == "counters" and not name.startswith("driver_") else "host"
            if (party, after.host) not in ev.booted:
                yield f"host{after.host}: {name} fell from {old} to {new}"


def _falling(before: Snapshot, after: Snapshot) -> Iterator[tuple[str, str, int, int]]:
    for where in ("counters", "mib", "snmp"):
        old, new = getattr(before, where), getattr(after, where)
        if old is None or new is None:
            continue
        for name, value in old.items():
            if new.get(name, 0) < value:
                yield where, name, value, new.get(name, 0)


@invariant(33, "curlft is monotonic and true")
def curlft_true(ev: Evidence) -> Iterator[str]:
    """What EXPIRE messages and dumps tell of an SA never decreases, and is never more than the wire
    has shown: what was sealed by it, or came in for it. At rest a dump tells exactly that; of what
    the core counts itself, no less than was sealed or delivered."""
    for one in ev.told_of:
        track = one.track
        if track is None or ev.misread(track):
            continue
        packets = one.expire.state.curlft.packets
        if packets < track.curlft:
            yield f"{track} was told at {packets} packets after {track.curlft}"
        track.curlft = packets
        if track.sa.offload == "packet":
            shown = track.sent if track.sa.direction == "out" else track.came
            twice = not track.windowed and ev.may_break("wire", kinds=("duplicate",))
            if packets > shown and not twice:
                yield f"{track} was told at {packets} packets, the wire has shown {shown}"

    yield from _listed_curlft(ev)


def _listed_curlft(ev: Evidence) -> Iterator[str]:
    """The same of dumps; and at rest a dump tells exactly what the wire has shown: packets, bytes,
    replays and wrong ICVs."""
    for snapshot in ev.step.snapshots:
        for listed in sas(snapshot):
            for track in ev.named(snapshot.host, listed.spi, listed.target):
                if not ev.sure(track.sa):
                    continue
                if listed.packets < track.curlft:
                    yield f"{track} is listed with {listed.packets} packets after {track.curlft}"
                track.curlft = listed.packets
                if track.sa.offload != "packet":
                    moved = track.moved
                    if ev.balanced and (listed.packets < moved[0] or listed.octets < moved[1]):
                        text = f"{listed.packets} packets, {listed.octets} bytes"
                        yield f"{track} is listed with {text}, it moved {moved}"
                    continue
                out = track.sa.direction == "out"
                shown = track.sent if out else track.taken
                octets = track.sent_bytes if out else track.taken_bytes
                told = ev.ledger.profile.update_at_serialization and track.exact and ev.balanced
                if told and listed.packets != shown:
                    yield f"{track} is listed with {listed.packets} packets, it moved {shown}"
                if told and listed.octets != octets:
                    yield f"{track} is listed with {listed.octets} bytes, it moved {octets}"
                refused = (track.replays, track.failed)
                if told and (listed.replays, listed.failed) != refused:
                    counted = f"{listed.replays} replays and {listed.failed} wrong ICVs"
                    yield f"{track} is listed with {counted}, it refused {refused}"


@invariant(34, "One reason per drop")
def one_reason_per_drop(ev: Evidence) -> Iterator[str]:
    """Every frame that a card does not pass on has one reason, no more and no less; replays and
    wrong ICVs are counted as what they are."""
    if not ev.balanced:
        return
    for host in ev.hosts:
        gone_in = ev.delta(host, "rx_packets") - ev.delta(host, "rx_delivered")
        gone_out = ev.delta(host, "tx_descriptors") + ev.delta(host, "tx_segmented")
        gone_out -= ev.delta(host, "tx_packets")
        for way, gone in (("rx", gone_in), ("tx", gone_out)):
            reasons = ev.delta_of(host, f"{way}_drop_")
            if reasons != gone:
                yield f"card{host} passed {gone} frames not on ({way}), with {reasons} reasons"
        for one in refusals(ev, host):
            if not one.least <= one.counted <= one.most:
                yield (
                    f"card{host} counted {one.counted} frames as {one.fate.value}, "
                    f"the reference {one.least} to {one.most}"
                )


class Refusals(NamedTuple):
    """How many frames a card counted as refused for a reason, and how many the reference did."""

    fate: Fate
    counted: int
    least: int
    most: int


def refusals(ev: Evidence, host: int) -> Iterator[Refusals]:
    """Frames whose fate is certain bound their counter from below, all others from above."""
    doubt, certain = 0, {Fate.REPLAY: 0, Fate.INTEGRITY: 0}
    for seen in ev.frames:
        track = seen.into
        if seen.frame.dst != host or track is None:
            continue
        if track.exact and ev.sure(track.sa) and track.sa.offload == "packet":
            if seen.fate in certain:
                certain[seen.fate] += 1
        else:
            doubt += 1
    for fate, count in certain.items():
        counted = ev.delta(host, f"rx_drop_{fate.value}")
        yield Refusals(fate, counted, count, count + doubt)


@invariant(35, "No silent software path")
def no_software_path(ev: Evidence) -> Iterator[str]:
    """ESP of packet offload on the wire was sealed by the card, and what such SAs delivered was
    opened by it: its own counters say so. What a card has no inbound SA for is ESP like any other:
    a core without directions opens its own frames that come back (RX-12)."""
    if not ev.balanced:
        return
    for host in ev.hosts:
        sealed = sum(1 for seen in ev.frames if _by_card(seen, host, ("packet",)))
        counted = ev.delta(host, "ipsec_tx_pkts")
        if sealed > counted:
            yield f"host{host} sent {sealed} packets of packet offload, its card sealed {counted}"
        opened = sum(
            1 for seen in ev.frames
            if seen.frame.dst == host and seen.delivered
            and seen.into is not None and seen.into.sa.offload == "packet"
            and seen.into.sa.direction == "in"
        )  # fmt: skip
        counted = ev.delta(host, "ipsec_rx_pkts")
        if opened > counted:
            yield f"host{host} got {opened} packets of packet offload, its card opened {counted}"


def _by_card(seen: Seen, host: int, offloads: tuple[str, ...]) -> bool:
    return (
        seen.frame.src == host and seen.out is not None and seen.out.sa.offload in offloads
    )  # fmt: skip


@invariant(36, "Drops are no successes")
def drops_are_no_successes(ev: Evidence) -> Iterator[str]:
    """A card counts as sealed and opened no more than the wire and the reference show."""
    if not ev.balanced:
        return
    for host in ev.hosts:
        sealed = [seen for seen in ev.frames if _by_card(seen, host, OFFLOADED)]
        counted, octets = ev.delta(host, "ipsec_tx_pkts"), ev.delta(host, "ipsec_tx_bytes")
        shown = sum(seen.sealed for seen in sealed)
        if counted > len(sealed):
            yield f"card{host} counted {counted} packets as sealed, the wire shows {len(sealed)}"
        if counted == len(sealed) and octets != shown:
            yield f"card{host} counted {octets} bytes as sealed, the wire shows {shown}"
        opened = [seen for seen in ev.frames if seen.frame.dst == host and _may_count(ev, seen)]
        counted, octets = ev.delta(host, "ipsec_rx_pkts"), ev.delta(host, "ipsec_rx_bytes")
        shown = sum(seen.size for seen in opened)
        if counted > len(opened):
            yield (
                f"card{host} counted {counted} packets as opened, "
                f"the reference {len(opened)} at most"
            )
        certain = all(seen.fate is Fate.TAKEN for seen in opened)
        if counted == len(opened) and certain and octets != shown:
            yield f"card{host} counted {octets} bytes as opened, the reference {shown}"


def _may_count(ev: Evidence, seen: Seen) -> bool:
    """Whether a card may have opened a frame: the reference does, or nobody knows."""
    track = seen.into
    if track is None or track.sa.offload not in OFFLOADED:
        return False
    crypto = track.sa.offload == "crypto"  # opened before anybody looks at window and limits
    sure = track.exact and ev.sure(track.sa) and not crypto
    return not sure or seen.fate in (Fate.TAKEN, Fate.TRAILER)


@invariant(37, "Questions change nothing")
def questions_change_nothing(ev: Evidence) -> Iterator[str]:
    """Where nothing was sent and nothing arrived, no traffic counter of a card moves."""
    if not ev.balanced or ev.frames or ev.submitted or _injected(ev.step):
        return
    for host in ev.hosts:
        before, after = ev.rest and ev.rest.snapshots[host], ev.step.snapshots[host]
        if before is None or before.counters is None or after.counters is None:
            continue
        for name, value in after.counters.items():
            if name.startswith(TRAFFIC) and value != before.counters.get(name, 0):
                yield f"card{host}: {name} went from {before.counters.get(name, 0)} to {value}"


def _injected(step: Step) -> bool:
    return bool(step.injected)
