# SPDX-License-Identifier: Apache-2.0
"""Control path and recovery: invariants 46 to 54."""

from collections.abc import Iterator

from host_driver.simulate.evidence import Evidence
from host_driver.simulate.invariants.lifecycle import surplus
from host_driver.simulate.invariants.registry import invariant
from host_driver.simulate.listed import id_of, policies, sas
from host_driver.simulate.rulings import Standing, gone_step
from host_driver.simulate.tracks import Track

GONE = ("kill", "stop")
LIVES_KEPT = 200  # steps in which somebody may have died
FRESH = ("restart", "reset-firmware")


@invariant(46, "Every command terminates")
def commands_terminate(ev: Evidence) -> Iterator[str]:
    """A living host answers every question within its bound, whatever its card does; without a
    disturbance everything comes to rest."""
    yield from ev.step.unanswered
    if ev.step.restless and ev.calm_s > 0 and not ev.ledger.faulty:
        yield ev.step.restless


@invariant(47, "An error has no effect, or is found")
def error_has_no_effect(ev: Evidence) -> Iterator[str]:
    """After faults of the mailbox or the tables are healed, the audit leaves on a card what was
    accepted, and nothing that a failed command may have made."""
    if not ev.ledger.armed:
        return
    for host in ev.hosts:
        if left := {kind: more for kind, more in surplus(ev, host).items() if more > 0}:
            yield f"card{host} still has {left} that nobody was told of"


@invariant(48, "No completion for another command")
def no_foreign_completion(ev: Evidence) -> Iterator[str]:
    """Every reply that a fault doubled has found no command that waits for it, and is counted as
    unexpected: none was credited to the next command of its slot."""
    if ev.booted or not ev.at_rest or not _replies_only_doubled(ev):
        return
    for snapshot in ev.step.snapshots:
        doubled = sum(
            1
            for step in ev.ledger.steps
            for firing in step.firings
            if (firing["party"], firing["site"]) == (f"host{snapshot.host}", "mailbox.reply")
        )
        counted = (snapshot.counters or {}).get("driver_mailbox_unexpected", 0)
        if counted < doubled:
            yield f"{doubled} replies to host{snapshot.host} came twice, {counted} were unexpected"


def _replies_only_doubled(ev: Evidence) -> bool:
    """Whether doubling is all that faults have done to replies, and nobody died meanwhile."""
    kinds = {
        firing["kind"]
        for step in ev.ledger.steps
        for firing in step.firings
        if firing["site"].startswith(("mailbox", "card.command"))
    }
    return kinds == {"duplicate"} and not _lives(ev)


def _lives(ev: Evidence) -> bool:
    """Whether anybody ever died, hung or was reset, or may have before this run; a host also begins
    anew with a card of which it hears nothing."""
    return ev.ledger.lived or ev.ledger.deadly or ev.may_break("card.health")


@invariant(49, "A crash leaves all or nothing")
def crash_leaves_all_or_nothing(ev: Evidence) -> Iterator[str]:
    """After a new boot of a card no SA of before seals or opens a packet, and the host knows: each
    is told as expired, or was taken back. What a host believes to be on its card is there, what was
    asked of it is listed, and a dead card sends nothing."""
    for seen in ev.sent():
        if seen.out is not None and _of_an_earlier_boot(ev, seen.out, seen.frame.time):
            yield f"{seen.out} is of an earlier boot of its card and sent {seen}"
    for host in ev.hosts:
        short = {kind: -less for kind, less in surplus(ev, host).items() if less < 0}
        if short and not ev.phantom:  # a full card has no room to make a policy's rule again
            yield f"card{host} lacks {short} that its host believes to be there"
    yield from _lost(ev)
    yield from _of_the_dead(ev)


def _lost(ev: Evidence) -> Iterator[str]:
    """SAs and policies that are there for sure, and that no dump lists."""
    for snapshot in ev.step.snapshots if ev.at_rest else ():
        host = snapshot.host
        if snapshot.sas is not None:
            named = {(one.spi, one.target) for one in sas(snapshot)}
            for track in ev.tracks(host):
                name = (track.sa.spi, track.target.ljust(16, b"\0"))
                if ev.sure(track.sa) and name not in named:
                    yield f"host{host} has lost {track} without a word"
        if snapshot.policies is not None:
            listed = policies(snapshot)
            for policy in ev.ledger.live_policies(host):
                if ev.standing(policy) is Standing.SURE and id_of(policy) not in listed:
                    yield f"host{host} has lost policy {policy.number} without a word"


def _of_the_dead(ev: Evidence) -> Iterator[str]:
    """Frames of a card that was killed or hangs, before it is back; at the moment itself either
    may have come first."""
    for seen in ev.sent():
        last = None
        for step in ev.ledger.steps[max(0, seen.step - LIVES_KEPT) :]:
            for life in step.lives:
                if (life.party, life.host) == ("card", seen.frame.src) and not life.errno:
                    late = life.time_ns >= seen.frame.time + (life.what not in GONE)
                    last = last if late else life
        if last is not None and last.what in GONE:
            yield f"card{last.host} has been dead since step {last.step}, and sent {seen}"


def _of_an_earlier_boot(ev: Evidence, track: Track, time_ns: int) -> bool:
    """Whether the card of an offloaded SA booted anew between the SA's request and a frame."""
    sa = track.sa
    return ev.ledger.on_card(sa) and any(
        life.host == sa.host and life.party == "card" and life.what in FRESH and not life.errno
        and sa.asked_ns < life.time_ns < time_ns
        for step in (*ev.ledger.steps[sa.asked_step :], ev.step)
        for life in step.lives
    )  # fmt: skip


@invariant(50, "Recovery ends")
def recovery_ends(ev: Evidence) -> Iterator[str]:
    """Once everything is healed and everybody is back, what both ends still protect works again:
    with fresh SAs its packets arrive."""
    got = [(one.host, one.packet) for one in ev.step.delivered]
    for one in ev.step.expected:
        if (one.host, one.packet) not in got:
            yield f"host{one.host} did not get a packet in step {one.step}: {one.why}"


@invariant(51, "Handlers are idempotent")
def handlers_idempotent(ev: Evidence) -> Iterator[str]:
    """Doubled and late events tell nobody twice, and bring back no SA."""
    if not ev.may_break("events"):
        return
    for one in ev.told:
        track = one.track
        if track is None:
            continue
        if len(track.hard_told) > 1 or len(track.soft_told) > 1 + len(track.sa.updates):
            yield f"{track} was told hard in steps {track.hard_told}, soft in {track.soft_told}"
        if track.sa.removed_step is not None and ev.surely_gone(track.sa):
            yield f"{track} was taken back in step {gone_step(track.sa)}, and expired now"


@invariant(52, "Rings keep their bounds")
def rings_keep_bounds(ev: Evidence) -> Iterator[str]:
    """What a card has done with descriptors is never more than it was given, and what a host took
    never more than the card delivered."""
    for snapshot in ev.step.snapshots:
        one = snapshot.counters
        if one is None:
            continue
        drops = sum(count for name, count in one.items() if name.startswith("tx_drop_"))
        given = one.get("tx_descriptors", 0) + one.get("tx_segmented", 0)
        if one.get("tx_packets", 0) + drops > given:
            yield f"card{snapshot.host} is done with more descriptors than it was given"
        if one.get("driver_rx_packets", 0) > one.get("rx_delivered", 0) and not _lives(ev):
            yield f"host{snapshot.host} took more packets than its card delivered"
