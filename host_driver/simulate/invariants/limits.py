# SPDX-License-Identifier: Apache-2.0
"""Limits: invariants 22 to 29. Counted by what the wire shows, told by EXPIRE messages."""

from collections.abc import Iterator
from dataclasses import asdict

from host_driver.simulate.evidence import SECOND_NS, Evidence
from host_driver.simulate.invariants.registry import invariant
from host_driver.simulate.ledger import SaAsked
from host_driver.simulate.rulings import Standing
from host_driver.simulate.tracks import Fate, Track
from host_driver.simulate.window import SPACE

POLL_S = 10  # twice what events, counters and the reconcile tick need to tell of a limit
TIMER_S = 2  # how late a timer of whole seconds may be
TIMER_LATE_S = 30  # longer than faults hold a timer back
HINTS = ("events", "ring.counters")  # sites whose faults only delay what the host learns


@invariant(22, "The hard packet limit is exact")
def hard_packets_exact(ev: Evidence) -> Iterator[str]:
    """At most so many packets as the hard limit says are sealed by an SA, or opened and delivered,
    whatever the card's counters are wide."""
    for track in _moving(ev):
        hard, count = track.allowed("hard_packets"), track.moved[0]
        if hard is not None and count > hard:
            yield f"{track} processed {count} packets, its hard limit is {hard}"
    for delivered, seen in ev.observer.matched:
        if seen.fate is Fate.LIMIT and seen.into is not None and seen.into.exact:
            yield f"host{delivered.host} got number {seen.number_in:#x} beyond {seen.into}'s limit"


def _moving(ev: Evidence) -> Iterator[Track]:
    """SAs that moved packets in this step."""
    out = {seen.out for seen in ev.sent() if seen.out is not None}
    into = {seen.into for _, seen in ev.observer.matched if seen.into is not None}
    return (track for track in ev.tracks() if track in out or track in into)


@invariant(23, "The hard byte limit is bounded")
def hard_bytes_bounded(ev: Evidence) -> Iterator[str]:
    """No packet is processed once the bytes before it have reached the hard limit: the overshoot is
    one packet, for the card counts every one."""
    for track in _moving(ev):
        hard, moved = track.allowed("hard_bytes"), track.moved[1]
        if hard is not None and moved - track.last_bytes >= hard:
            yield f"{track} processed {moved} bytes, its hard limit is {hard}"


@invariant(24, "Expired stays expired")
def expired_stays(ev: Evidence) -> Iterator[str]:
    """After its hard expiry an SA seals and delivers nothing, whatever follows."""
    for seen in ev.sent():
        out = seen.out
        if out is not None and out.hard_told and ev.surely_gone(out.sa) and not ev.undead:
            yield f"{out} expired in step {out.hard_told[0]} and sent {seen.number:#x}"
    for delivered, seen in ev.observer.matched:
        track = seen.into
        if track is not None and track.hard_told and _gone_before(ev, track.sa, seen.step):
            yield f"{track} expired in step {track.hard_told[0]}: host{delivered.host} got {seen}"


def _gone_before(ev: Evidence, sa: SaAsked, step: int) -> bool:
    """Whether it was surely gone when a frame came."""
    return ev.surely_gone(sa) and ev.rested < step


@invariant(25, "Soft before hard, once")
def soft_before_hard(ev: Evidence) -> Iterator[str]:
    """A soft limit is told once (and once more after every update), and it is told by the time that
    everything rests, while the hard one is still to come."""
    for one in ev.told:
        track = one.track
        if track is None or one.hard:
            continue
        if len(track.soft_told) > 1 + len(track.sa.updates):
            yield f"{track} told its soft limit in steps {track.soft_told}"
    if not _timely(ev):
        return
    for track in ev.tracks():
        if track.sa.updates or not track.exact or track.soft_told or track.hard_told:
            continue
        if ev.sure(track.sa) and not track.limit_reached() and (passed := _soft_passed(track)):
            yield f"{track} has {passed}, and its soft limit was not told"
        if _too_old(ev, track, "soft"):
            yield f"{track} is older than its soft limit, and it was not told"


def _timely(ev: Evidence) -> bool:
    """Whether the books balance, and no timer of a host may still be late: one that a fault holds
    back tells of the limits of others, too, until it may run."""
    return ev.balanced and (not ev.may_break("host.timer") or ev.settled_s(TIMER_LATE_S))


def _soft_passed(track: Track) -> str:
    """What of an SA has reached its soft limit. The core looks before it counts, so that without
    packet offload the last packet is not looked at yet (LIFE-16)."""
    limits, out = track.sa.limits, track.sa.direction == "out"
    packets, octets = (track.sent, track.sent_bytes) if out else (track.taken, track.taken_bytes)
    if track.sa.offload != "packet":
        packets, octets = packets - 1, octets - (track.last_bytes if out else track.last_taken)
    if limits.soft_packets is not None and packets >= limits.soft_packets:
        return f"{packets} packets of {limits.soft_packets}"
    if limits.soft_bytes is not None and octets >= limits.soft_bytes > 0:
        return f"{octets} bytes of {limits.soft_bytes}"
    return ""


@invariant(26, "Hard once")
def hard_once(ev: Evidence) -> Iterator[str]:
    """A hard limit is told once, and is told by the time that everything rests; the driver hears
    of one deletion."""
    for one in ev.told:
        if one.track is not None and one.hard and len(one.track.hard_told) > 1:
            yield f"{one.track} expired hard in steps {one.track.hard_told}"
    if _timely(ev):
        for track in ev.tracks():
            if _overdue(ev, track):
                yield f"{track} has reached its hard limit, and nobody was told"
            elif _too_old(ev, track, "hard"):
                yield f"{track} is older than its hard limit, and nobody was told"
    for host, calls in enumerate(ev.step.trace):
        deleted = [c["object"] for c in calls if c["call"] == "xdo_dev_state_delete"]
        twice = {number for number in deleted if deleted.count(number) > 1}
        for number in sorted(twice):
            yield f"host{host} deleted object {number} of its driver twice"


def _overdue(ev: Evidence, track: Track) -> bool:
    """Whether a hard limit of a packet-offload SA was reached and it is still there."""
    return (
        track.exact
        and track.sa.offload == "packet"
        and not track.sa.updates
        and (track.limit_ns is not None or track.exhausted)
        and not track.hard_told
        and ev.standing(track.sa) is Standing.SURE
    )


def _too_old(ev: Evidence, track: Track, kind: str) -> bool:
    """Whether an SA lives on behind its limits in seconds, since it was added and since it was used
    first. Where the clock was set, the kernel may let it live (LIFE-21)."""
    if track.sa.updates or track.hard_told or not _timed(ev, track.sa):
        return False
    now_ns, limits = ev.step.began_ns, asdict(track.sa.limits)
    age_s, use_s = limits[f"{kind}_seconds"], limits[f"{kind}_use_seconds"]
    old = age_s is not None and now_ns - track.sa.answered_ns >= (age_s + TIMER_S) * SECOND_NS
    if use_s is not None and track.used_ns is not None and track.exact:
        old |= now_ns - track.used_ns >= (use_s + POLL_S) * SECOND_NS
    return old and ev.sure(track.sa)


def _timed(ev: Evidence, sa: SaAsked) -> bool:
    """Whether nothing but time moved the clock that an SA lives by."""
    steps = [*ev.ledger.steps[sa.asked_step :], ev.step]
    leaps = ev.may_break("host.clock") or any("leap_s=" in step.action for step in steps)
    return not leaps and not ev.lived(sa)


@invariant(27, "Lost events change nothing")
def event_loss_tolerated(ev: Evidence) -> Iterator[str]:
    """With events and counters dropped, doubled, late or broken, a reached hard limit is told
    within the poll bound."""
    if not ev.only_broken(HINTS):
        return
    for track in ev.tracks():
        late = track.limit_ns is not None and ev.step.ended_ns - track.limit_ns
        if (
            track.sa.direction == "out"
            and track.sa.offload == "packet"
            and not track.sa.updates
            and not track.hard_told
            and ev.standing(track.sa) is Standing.SURE
            and late is not False
            and late > POLL_S * SECOND_NS
        ):
            yield f"{track} reached its hard limit {late / SECOND_NS:.0f} s ago, nobody was told"


@invariant(28, "Limits are told where they are")
def told_where_they_are(ev: Evidence) -> Iterator[str]:
    """An SA expires hard with exactly its hard limit of packets counted, soft not before the soft
    one, where packets alone can expire it; and not before its time, where time alone can."""
    stale = ev.may_break("card.counters", kinds=("stale",))  # told with the count that was read
    for one in ev.told_of:
        track = one.track
        if track is None or track.sa.updates or ev.lived(track.sa):
            continue
        if track.exhausted:
            continue  # its sequence numbers are used up: that expires it, too (RFC 4303 3.3.3)
        if _early(ev, track, kind := "hard" if one.hard else "soft"):
            yield f"{track} told its {kind} limit before its time, {track.sa.limits}"
        if not _packets_alone(track.sa) or ev.misread(track) or stale:
            continue
        packets, limits = one.expire.state.curlft.packets, track.sa.limits
        if one.hard and packets != limits.hard_packets:
            yield f"{track} expired hard at {packets} packets, not {limits.hard_packets}"
        soft = limits.soft_packets
        if not one.hard and (soft is None or packets < soft):
            yield f"{track} told its soft limit at {packets} packets, not {soft}"


def _packets_alone(sa: SaAsked) -> bool:
    limits = asdict(sa.limits)
    return all(limits[name] is None for name in limits if not name.endswith("packets"))


def _early(ev: Evidence, track: Track, kind: str) -> bool:
    """Whether a limit was told before its time, where time alone could be why. First uses are known
    of packet offload: software looks before it authenticates (LIFE-11)."""
    sa, limits = track.sa, asdict(track.sa.limits)
    age_s, use_s = limits[f"{kind}_seconds"], limits[f"{kind}_use_seconds"]
    if not _timed(ev, sa) or limits[f"{kind}_packets"] or limits[f"{kind}_bytes"]:
        return False
    if use_s is not None and not (track.exact and sa.offload == "packet"):
        return False
    now_ns = ev.step.ended_ns
    used_ns = now_ns if track.used_ns is None else track.used_ns
    added_ns = ev.ledger.steps[sa.asked_step].began_ns
    return not any(
        limit is not None and now_ns - since_ns >= (limit - 1) * SECOND_NS
        for limit, since_ns in ((age_s, added_ns), (use_s, used_ns))
    )


@invariant(29, "The high half is the reference's")
def high_half_agrees(ev: Evidence) -> Iterator[str]:
    """With ESN every packet sent carries in its ICV the high half that the reference expects, and
    none is refused, or taken, inward because the receiver took another."""
    for seen in ev.sent():
        if seen.expected_high is not None and seen.number // SPACE != seen.expected_high:
            due = seen.expected_high
            yield f"{seen.out} sealed number {seen.number:#x}, high half {due} was due"
    for seen in ev.missing():
        track = seen.into
        if track is not None and track.sa.esn and seen.number_in >= SPACE:
            yield f"refused with its high half: number {seen.number_in:#x} of {track}"
    for delivered, seen in ev.observer.matched:
        if seen.next_half and seen.into is not None and seen.into.exact:
            yield f"host{delivered.host} took {seen.number_in:#x} of {seen.into}, a half too far"
