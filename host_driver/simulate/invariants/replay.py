# SPDX-License-Identifier: Apache-2.0
"""Anti-replay: invariants 17 to 21 (RFC 4303 3.4.3)."""

from collections.abc import Iterator

from host_driver.simulate.evidence import Evidence
from host_driver.simulate.invariants.accounting import refusals
from host_driver.simulate.invariants.registry import invariant
from host_driver.simulate.tracks import Fate, Seen, Track
from host_driver.simulate.window import SPACE


@invariant(17, "No number twice")
def no_number_twice(ev: Evidence) -> Iterator[str]:
    """No sequence number of an inbound SA with a window is delivered twice."""
    for delivered, seen in (*ev.observer.matched, *ev.observer.repeated):
        track = seen.into
        if track is not None and track.windowed and track.delivered[seen.number_in] > 1:
            yield f"host{delivered.host} got number {seen.number_in:#x} of {track} again"


@invariant(18, "The window holds")
def window_holds(ev: Evidence) -> Iterator[str]:
    """A number left of the window is never delivered; one within it that was not seen yet is."""
    for delivered, seen in ev.observer.matched:
        track = seen.into
        if track is None or not track.windowed:
            continue
        left = seen.number_in <= seen.top_before - track.sa.window
        if (left and not ev.may_break("ring", "wire")) or (track.exact and _refused(seen)):
            yield f"host{delivered.host} got number {seen.number_in:#x} of {track}, window passed"
    for seen, track in _refused_within(ev):
        yield f"refused within the window: number {seen.number_in:#x} of {track}"


def _refused(seen: Seen) -> bool:
    return seen.fate is Fate.REPLAY


def _refused_within(ev: Evidence) -> Iterator[tuple[Seen, Track]]:
    """What the reference takes, behind the top of its window, and no stack got."""
    for seen in ev.missing():
        if seen.behind and seen.into is not None and seen.into.windowed:
            yield seen, seen.into


@invariant(19, "The window moves after authentication only")
def window_moves_late(ev: Evidence) -> Iterator[str]:
    """After a forged packet with a number far ahead, what is in order is still taken, and what is
    forged again is no replay."""
    for seen in ev.missing():
        if seen.into is not None and seen.into.forged:
            yield f"refused after a forged packet: number {seen.number_in:#x} of {seen.into}"
    for host in ev.hosts if ev.balanced else ():
        told = {one.fate: one for one in refusals(ev, host)}
        replays, forged = told[Fate.REPLAY], told[Fate.INTEGRITY]
        if forged.counted >= forged.least:
            continue
        if replays.counted > replays.most:
            yield f"card{host} took {forged.least - forged.counted} forged packets for replays"
        for seen in ev.frames:
            if seen.frame.dst == host and seen.after_forged and seen.next_half:
                yield f"card{host} opened {seen.number_in:#x} of {seen.into} after a forged packet"


@invariant(21, "The window is no narrower than asked")
def window_as_asked(ev: Evidence) -> Iterator[str]:
    """Between the oldest number that the window asked for still covers and its top, nothing fresh
    is refused and nothing known is taken: neither narrowed nor switched off without a word. With
    ESN nothing within it is opened under the next high half, as behind a narrower one."""
    for seen, track in _refused_within(ev):
        behind = track.window.top - seen.number_in
        yield f"{track} has window {track.sa.window} and refused {behind} behind the top"
    for delivered, seen in ev.observer.matched:
        known = seen.into
        if known is None or not known.exact or not known.windowed:
            continue
        if _refused(seen):
            yield f"host{delivered.host} let a number in that {known} knew: {seen.number_in:#x}"
        if seen.next_half and seen.behind:
            number = seen.number_in - SPACE
            yield f"host{delivered.host} took {number:#x} in {known}'s window for one of the next"
