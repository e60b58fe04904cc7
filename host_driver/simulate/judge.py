# SPDX-License-Identifier: Apache-2.0
"""The judge: lets the observer follow each step, then asks every invariant.

step -> observer (frames, deliveries) -> evidence (span since rest) -> invariants -> violations
"""

from host_driver.simulate.evidence import Evidence, Rest, Told, expiries
from host_driver.simulate.invariants import INVARIANTS
from host_driver.simulate.invariants.lifecycle import HEALED_S
from host_driver.simulate.ledger import Delivered, Ledger, Snapshot, Step, Submitted, Violation
from host_driver.simulate.observer import Observer
from host_driver.simulate.rulings import Span
from host_driver.simulate.tracks import Seen, Track

ACTIVE = "active"  # the state of a card that has a driver
KEPT_STEPS = 400  # frames older than that are delivered no more


class Judge:
    """Judges one run, step after step. Frames are bytes: it knows nothing of the inside."""

    def __init__(self, hosts: int = 2) -> None:
        self.observer = Observer(hosts)
        self._first = 0  # of the span
        self._rest: Rest | None = None
        self._rested = -1
        self._resolved = -1  # the last one behind which no request is unclear
        self._calm_since_ns = 0
        self._answered: dict[int, Snapshot] = {}  # the last answers of each host
        self._booted: set[tuple[str, int]] = set()  # since then
        self._told: list[Told] = []  # since the last step that settled
        self._frames: list[Seen] = []
        self._deliveries: list[Delivered] = []
        self._submitted: list[Submitted] = []
        self._refused: list[Submitted] = []

    def judge(self, ledger: Ledger, step: Step) -> list[Violation]:
        """What did not hold in this step, the smallest number first."""
        evidence = self.look(ledger, step)
        found = [
            Violation(one.number, step.number, text)
            for one in INVARIANTS.values()
            for text in one.check(evidence)
        ]
        self._next(evidence)
        return found

    def look(self, ledger: Ledger, step: Step) -> Evidence:
        """Follow a step, and gather what the invariants may see."""
        observer = self.observer
        observer.follow(ledger, step)
        told = list(expiries(step, observer.tracks))
        _note(told, step.number)
        self._told += told
        if disturbed(step):
            self._disturbed(step)
        self._frames += observer.seen
        self._deliveries += step.delivered
        self._submitted += [one for one in step.submitted if not one.errno]
        self._refused += [one for one in step.submitted if one.errno]
        for one in step.deaths:
            observer.forget_handles(one.host)
        self._booted |= {(one.party, one.host) for one in step.deaths}
        return Evidence(
            ledger, step, observer, Span(self._first, step.number, self._resolved), self._rest,
            at_rest=self._at_rest(step), rested=self._rested,
            calm_since_ns=self._calm_since_ns, told=told,
            told_of=self._told if step.settled else [], frames=self._frames,
            deliveries=self._deliveries, submitted=self._submitted, refused=self._refused,
            answered=self._answered, booted=self._booted,
        )  # fmt: skip

    def _at_rest(self, step: Step) -> bool:
        answered = all(one.counters is not None and _has_driver(one) for one in step.snapshots)
        return step.settled and bool(step.snapshots) and answered and not disturbed(step)

    def _disturbed(self, step: Step) -> None:
        """The books are open again, and what cards know of windows is not known here."""
        self._rest, self._calm_since_ns = None, step.ended_ns
        for track in self.observer.tracks:
            track.exact = False

    def _next(self, evidence: Evidence) -> None:
        step = evidence.step
        for snapshot in step.snapshots:
            if snapshot.counters is not None:
                self._answered[snapshot.host] = snapshot
                self._booted -= {("card", snapshot.host), ("host", snapshot.host)}
        if evidence.at_rest and evidence.settled_s(HEALED_S):
            self._resolved = step.number
        if evidence.at_rest:
            self._rest, self._rested = Rest(step.number, step.snapshots, step.wire), step.number
            for host in evidence.hosts:
                self.observer.give_up(host)
            for track in self.observer.tracks:
                _note_update(track, step.number)
        if evidence.at_rest or self._rest is None:
            self._first = step.number + 1
            self._frames, self._deliveries = [], []
            self._submitted, self._refused = [], []
        if step.settled:
            self._told = []
        if step.number % KEPT_STEPS == 0:
            self.observer.forget(step.number - KEPT_STEPS)


def _note_update(track: Track, step: int) -> None:
    """At rest everything that was under way when limits changed has been counted."""
    taken = [when for when, _, error in track.sa.updates if not error]
    if taken and (track.updated is None or track.updated[0] < taken[-1]):
        track.updated = (taken[-1], *track.moved)


def _note(told: list[Told], step: int) -> None:
    """Every expiry, on its SA."""
    for one in told:
        if one.track is not None:
            (one.track.hard_told if one.hard else one.track.soft_told).append(step)


def disturbed(step: Step) -> bool:
    """Whether something happened in a step that no reference follows: a fault fired, a card or host
    was killed, stopped or reset, or somebody did not answer."""
    return bool(step.firings or step.unanswered or step.restless or step.deaths)


def _has_driver(snapshot: Snapshot) -> bool:
    """Whether a card works for its host, which has not given it up; else what the host tells of
    counters is of before."""
    return snapshot.card in (None, ACTIVE)


def make_judge() -> Judge:
    """A judge that knows nothing yet: one for every run."""
    return Judge()
