# SPDX-License-Identifier: Apache-2.0
"""Object lifecycle: invariants 38 to 45. The census of a card is what users asked for, exactly."""

import errno
from collections.abc import Iterator

from host_driver.simulate.evidence import SECOND_NS, Evidence, serves
from host_driver.simulate.headers import parse
from host_driver.simulate.invariants.registry import invariant
from host_driver.simulate.ledger import Limits, PolicyAsked, SaAsked
from host_driver.simulate.listed import id_of, policies, sas
from host_driver.simulate.rulings import Span, Standing, covers, standing
from host_driver.simulate.telling import untold
from host_driver.simulate.tracks import Seen, Track
from proto import netlink
from proto.caps import Caps
from proto.xfrm import Msg

# Where faults may leave an object on a card, take one, or keep an audit from finding out.
LEAVES = (
    "mailbox", "host", "card.command", "card.table", "card.object", "card.process", "card.health",
    "card.reset",
)  # fmt: skip
BACK_S = 5  # after a death alone
GROWS_AT = 8  # SAs; a host that ever had so many may have grown its table (SAD-05)
HEALED_S = 65  # what audits and retries may take once nothing disturbs them any more
# Refused by the core without a word, as by the kernel; all others say why.
SPEECHLESS = (errno.EEXIST, errno.ESRCH, errno.ENOENT, errno.EHOSTDOWN)


def expected(ev: Evidence, host: int) -> dict[str, int]:
    """The census of a card that has exactly what is asked of it."""
    sas = [sa for sa in ev.ledger.live_sas(host) if ev.ledger.on_card(sa)]
    steered = [sa for sa in sas if sa.offload == "packet" or sa.direction == "in"]
    return {
        "keys": len(sas),
        "sas": len(sas),
        "rules_sa": len(steered),
        "rules_policy": sum(1 for policy in ev.ledger.live_policies(host) if policy.offload),
    }


def surplus(ev: Evidence, host: int) -> dict[str, int]:
    """By kind, what a card has beyond that (below 0: lacks). Empty where nobody can tell yet."""
    census = ev.step.snapshots[host].census if ev.step.snapshots else None
    if not ev.at_rest or census is None or ev.armed(*LEAVES):
        return {}  # a fault that does not fire now may have left what only firing again shows
    found = {kind: census.get(kind, 0) - count for kind, count in expected(ev, host).items()}
    if ev.settled_s(HEALED_S):
        return found
    if ev.ledger.armed or not ev.settled_s(BACK_S):
        return {}
    return {kind: less for kind, less in found.items() if less < 0}  # what was lost is made again


@invariant(38, "A failed add leaves nothing")
def failed_add_leaves_nothing(ev: Evidence) -> Iterator[str]:
    """After a refused request the census is that of what was accepted."""
    refused = {sa.host: sa.text for sa in ev.ledger.sas if _refused(ev, sa.asked_step, sa.errno)}
    refused |= {
        policy.host: policy.text
        for policy in ev.ledger.policies
        if _refused(ev, policy.asked_step, policy.errno)
    }
    for host, text in refused.items():
        if left := {kind: more for kind, more in surplus(ev, host).items() if more > 0}:
            yield f"host{host} refused an object ({text}), card{host} has {left} too many"


def _refused(ev: Evidence, asked_step: int, error: int) -> bool:
    return bool(error) and ev.span.first <= asked_step <= ev.step.number


@invariant(39, "Full delete")
def full_delete(ev: Evidence) -> Iterator[str]:
    """Keys, SAs, rules and policies on a card are those that are asked for and not taken back, one
    for one; in the end none. And no core lists a policy that nobody asks for."""
    for host in ev.hosts:
        if left := {kind: more for kind, more in surplus(ev, host).items() if more > 0}:
            yield f"card{host} has {left} more than is asked of it"
    for snapshot in ev.step.snapshots:
        asked = {id_of(p) for p in ev.ledger.policies if _may_be(ev, p, snapshot.host)}
        for one in policies(snapshot) - asked if ev.at_rest else ():
            yield f"host{snapshot.host} lists a policy that nobody asks for: {one}"


@invariant(40, "Delete is final")
def delete_is_final(ev: Evidence) -> Iterator[str]:
    """Once a moment of rest has followed the delete of an SA, nothing is sealed or delivered by it,
    and no core lists it: in-flight packets have until then."""
    for seen in ev.sent():
        if seen.out is not None and _deleted(ev, seen.out.sa):
            yield f"{seen.out} was deleted in step {seen.out.sa.removed_step} and sent {seen}"
    for delivered, seen in ev.observer.matched:
        track = seen.into
        if track is not None and _deleted(ev, track.sa) and ev.rested < seen.step:
            gone = track.sa.removed_step
            yield f"{track} is gone since step {gone}, host{delivered.host} got {seen}"
    for snapshot in ev.step.snapshots if ev.at_rest else ():
        for listed in sas(snapshot):
            known = list(ev.named(snapshot.host, listed.spi, listed.target))
            if known and all(ev.standing(track.sa) is Standing.NO for track in known):
                yield f"host{snapshot.host} lists {known[-1]}, which is gone"


def _may_be(ev: Evidence, policy: PolicyAsked, host: int) -> bool:
    return policy.host == host and ev.standing(policy) is not Standing.NO


def _deleted(ev: Evidence, sa: SaAsked) -> bool:
    """Surely, unless its card may have kept it."""
    gone = sa.removed_step is not None and not sa.remove_errno and ev.surely_gone(sa)
    return gone and not ev.undead


@invariant(41, "Handles are fresh")
def handles_are_fresh(ev: Evidence) -> Iterator[str]:
    """No two objects of a driver have had the same handle, from one probe to the next."""
    for host, calls in enumerate(ev.step.trace):
        for call in calls:
            handle, number = call.get("handle", 0), call["object"]
            kind = "policy" if "policy" in call["call"] else "state"
            if handle and ev.observer.handles.setdefault((host, kind, handle), number) != number:
                yield f"host{host}: handle {handle} of {kind} {number} was another's"


def _no_driver(ev: Evidence, asked: SaAsked | PolicyAsked) -> bool:
    """Whether the device may have had no driver since a death: no reason is given (STATE-20)."""
    return asked.errno == errno.EINVAL and ev.ledger.deadly


@invariant(42, "Refusals say why and do nothing")
def refusals_do_nothing(ev: Evidence) -> Iterator[str]:
    """A refused request has a known errno and a text, and nobody is told of a new object. One that
    is met is told to all who listen (STATE-32)."""
    everything: list[SaAsked | PolicyAsked] = [*ev.ledger.sas, *ev.ledger.policies]
    for asked in everything:
        if asked.asked_step != ev.step.number or not asked.errno:
            continue
        made_up = any(firing["kind"] == "fail" for firing in ev.step.firings)
        if asked.errno not in errno.errorcode and not made_up:
            yield f"errno {asked.errno} of a refused request is none"
        elif not asked.text and asked.errno not in SPEECHLESS and not _no_driver(ev, asked):
            yield f"a request was refused with {errno.errorcode[asked.errno]} without a text"
    yield from untold(ev)
    if ev.step.action.startswith("Refused") and not ev.step.errno and not ev.step.unanswered:
        yield f"a request that cannot be met was accepted: {ev.step.action}"
    refused = [sa for sa in ev.ledger.sas if sa.asked_step == ev.step.number and sa.errno]
    spis = {
        (notice.host, message.payload[72:76])
        for notice in ev.step.notices
        for message in netlink.messages(notice.message)
        if message.type == Msg.NEWSA
    }
    for sa in refused:
        twin = any(o.errno == 0 and (o.host, o.spi) == (sa.host, sa.spi) for o in ev.ledger.sas)
        if (sa.host, sa.spi.to_bytes(4)) in spis and not twin:
            yield f"host{sa.host} refused SA {sa.number} and told of a new one"


@invariant(43, "Capabilities are honest")
def capabilities_honest(ev: Evidence) -> Iterator[str]:
    """An SA within what the card's page promises is accepted while there is room, and so are other
    limits of it; one beyond it is refused. Only one whose like is there exists already."""
    if ev.ledger.faulty or not ev.step.snapshots:
        return
    caps = ev.ledger.caps
    for sa in ev.ledger.sas:
        if sa.asked_step != ev.step.number or sa.offload != "packet" or not sa.answered_ns:
            continue
        promised = _promised(caps, sa)
        if sa.errno == 0 and not promised:
            yield f"SA {sa.number} is beyond what card {caps.name} offers, and was accepted"
        if sa.errno in (errno.EINVAL, errno.EOPNOTSUPP) and promised and _plain(ev, sa):
            yield f"SA {sa.number} is what card {caps.name} offers, and was refused: {sa.text}"
        if sa.errno == errno.EEXIST and not _like_it(ev, sa):
            yield f"SA {sa.number} is said to exist, and nobody asked for one like it"

    for sa in ev.ledger.sas:
        refused = any(
            step == ev.step.number and error in (errno.EINVAL, errno.EOPNOTSUPP)
            for step, _, error in sa.updates
        )
        if refused and _promised(caps, sa) and _plain(ev, sa) and ev.sure(sa):
            yield f"SA {sa.number} is what card {caps.name} offers, and new limits were refused"


def _like_it(ev: Evidence, sa: SaAsked) -> bool:
    """Whether another SA of its host may have its destination and SPI (STATE-28)."""
    return any(
        other is not sa and (other.host, other.id) == (sa.host, sa.id)
        and ev.standing(other) is not Standing.NO
        for other in ev.ledger.sas
    )  # fmt: skip


def _promised(caps: Caps, sa: SaAsked) -> bool:
    window = sa.window if sa.direction == "in" else 0
    listed = not caps.replay_windows or window in (0, *caps.replay_windows)
    return (
        caps.packet
        and 8 * (len(sa.key) - 4) in caps.key_bits
        and sa.icv_bytes in caps.icv_bytes
        and (caps.esn or not sa.esn)
        and (not sa.esn or sa.direction == "out" or window > 0)
        and (caps.tunnel or sa.mode == "transport")
        and (caps.espinudp or sa.encap is None)
        and listed
        and window <= caps.replay_window_max
    )


def _plain(ev: Evidence, sa: SaAsked) -> bool:
    """Whether only the card could refuse it: early kernels want a window of ESN out, too."""
    caps = ev.ledger.caps
    return not caps.strict and sa.encap is None and not (sa.esn and sa.direction == "out")


@invariant(44, "Audits are idempotent")
def audits_idempotent(ev: Evidence) -> Iterator[str]:
    """Of two audits in a row, with no fault between them, the second one finds nothing."""
    for host, _, second in ev.step.audits if not ev.step.firings else ():
        sizes = ("objects", "known", "bound")
        found = {name: count for name, count in second.items() if count and name not in sizes}
        if found and "unfinished" not in second:
            yield f"the second audit of host{host} still found {found}"


@invariant(45, "Rekey continuity")
def rekey_continuity(ev: Evidence) -> Iterator[str]:
    """Make before break, without faults: every packet of the step arrives, and once a newer SA of
    the same policy is there, the older one seals no more (TX-13)."""
    for seen in ev.sent():
        newer = _newer(ev, seen) if seen.out is not None else None
        if newer is not None:
            yield f"{seen.out} sent number {seen.number:#x}, although {newer} has taken over"
    if not ev.step.action.startswith("Rekey") or ev.step.errno or not ev.balanced:
        return
    if ev.rested != ev.step.number - 1:
        return
    for one in ev.step.submitted:
        parsed = parse(one.packet)
        if one.errno or parsed is None:
            continue
        if not _continues(ev, one.host):
            continue
        came = [d for d, seen in ev.observer.matched if seen.submitted is one]
        if not came:
            yield f"host{one.host} rekeyed in step {ev.step.number} and lost a packet"


def _newer(ev: Evidence, seen: Seen) -> Track | None:
    """A younger SA that could have sealed a packet: nothing ends it, and it was there before the
    stack sent."""
    old = seen.out
    parsed = parse(seen.inner or b"")
    if old is None or parsed is None or seen.submitted is None or _may_look_younger(old.sa):
        return None
    name = (old.sa.src, old.sa.dst, old.sa.reqid, old.sa.mode, old.sa.offload, "out")
    for track in ev.tracks(old.sa.host):
        sa = track.sa
        if (
            sa.number > old.sa.number
            and not _may_tie(ev, old.sa, sa)
            and name == (sa.src, sa.dst, sa.reqid, sa.mode, sa.offload, sa.direction)
            and standing(sa, Span(seen.submitted.step, seen.step)) is Standing.SURE
            and track.exact
            and sa.limits == Limits()
            and not sa.updates
            and not track.exhausted
            and (sa.selector is None or covers(sa.selector, parsed) is True)
        ):
            return track
    return None


def _may_look_younger(sa: SaAsked) -> bool:
    """Whether a core may think that it was added later than it was: the kernel moves that time
    where the clock is set while a soft alarm runs (LIFE-21). Cards do not ask for it."""
    ever = (sa.limits, *(limits for _, limits, _ in sa.updates))
    timed = any(limits.soft_seconds is not None for limits in ever)
    return timed and sa.offload != "packet"


def _may_tie(ev: Evidence, older: SaAsked, newer: SaAsked) -> bool:
    """Whether the older one may go first: both are of one second, so that their order in the table
    decides (TX-13), which is turned round when the table grows (SAD-05)."""
    soon = newer.asked_ns - older.answered_ns < SECOND_NS
    had = sum(sa.host == newer.host and not sa.errno for sa in ev.ledger.sas)
    return soon and had + ev.ledger.larvals[newer.host] >= GROWS_AT


def _continues(ev: Evidence, host: int) -> bool:
    """Whether old and new SAs of the rekey are free of limits that would end them, the new one also
    of those that make others of its policy go before it, and policies ask for them."""
    made = [sa for sa in ev.ledger.sas if sa.asked_step == ev.step.number and not sa.errno]
    taken = [sa for sa in ev.ledger.sas if sa.removed_step == ev.step.number]
    if len(made) != 2 or len(taken) != 2 or ev.touched(0) or ev.touched(1):
        return False
    exact = all(ev.observer.tracks.of(sa).exact for sa in (*made, *taken))
    tied = any(
        (sa.host, sa.reqid, sa.direction) == (new.host, new.reqid, "out") and sa not in taken
        and standing(sa, ev.span) is not Standing.NO and _may_tie(ev, sa, new)
        for new in made for sa in ev.ledger.sas if sa is not new
    )  # fmt: skip
    limited = any(
        limit is not None
        for sa in (*made, *taken)
        for limit in (
            sa.limits.hard_packets,
            sa.limits.hard_bytes,
            sa.limits.hard_seconds,
            sa.limits.hard_use_seconds,
        )
    ) or any(sa.limits != Limits() for sa in made)
    policies = [p for p in ev.ledger.policies if standing(p, ev.span) is not Standing.NO]
    asked = {sa.host: False for sa in made}
    for sa in made:
        deciding = [
            p for p in policies
            if (p.host, p.direction) == (sa.host, sa.direction)
            and (p.reqid == sa.reqid or p.verdict != "protect")
        ]  # fmt: skip
        asked[sa.host] = bool(deciding) and all(
            p.verdict == "protect" and serves(sa, p) and p.offload == (sa.offload == "packet")
            for p in deciding
        )
    return exact and not tied and not limited and all(asked.values()) and host in asked
