# SPDX-License-Identifier: Apache-2.0
"""Confidentiality and policy: invariants 1 to 9."""

import errno
from collections.abc import Iterator

from host_driver.simulate.evidence import Evidence, serves
from host_driver.simulate.headers import ESP, Parsed, parse
from host_driver.simulate.invariants.lifecycle import HEALED_S
from host_driver.simulate.invariants.registry import invariant
from host_driver.simulate.ledger import PolicyAsked, SaAsked
from host_driver.simulate.outer import sealed_bytes
from host_driver.simulate.rulings import Ruling, Span, Standing, covers, same_network, standing
from host_driver.simulate.tracks import Seen
from proto import netlink
from proto.xfrm import Msg

MTU_LEAST = 576  # what a device has that began anew, or may have while its card has another
WITH_KEYS = {Msg.NEWSA, Msg.UPDSA, Msg.DELSA}  # there the kernel tells listeners keys (UAPI-60)


def _in_clear(ev: Evidence) -> Iterator[tuple[Seen, Ruling]]:
    """Frames of a card without ESP around them, and what the sender's policies say."""
    for seen in ev.sent():
        if seen.esp or seen.parsed is None or seen.parsed.proto == ESP:
            continue
        found = ev.ruling_out(seen)
        if found is not None:
            yield seen, found


def _protected(found: Ruling) -> bool:
    """Whether a protect policy is in force and nothing that lets pass could come before it."""
    return found.verdict == "protect" and found.surely("protect", "block")


@invariant(1, "No plaintext leak")
def no_plaintext_leak(ev: Evidence) -> Iterator[str]:
    """No frame of a card is a packet in clear that a protect policy covers, from the answer to the
    policy's request until somebody asks to take it back: the union over time, not the tables."""
    for seen, found in _in_clear(ev):
        if _protected(found):
            assert found.policy is not None
            yield f"in clear: {seen}, although policy {found.policy.number} protects it"


@invariant(2, "Fail closed")
def fail_closed(ev: Evidence) -> Iterator[str]:
    """A packet that must be protected, and for which its host has no SA of the policy's reqid and
    mode, does not leave in any form."""
    for seen in ev.sent():
        found = ev.ruling_out(seen)
        if found is None or not found.certain or found.verdict != "protect":
            continue
        assert found.policy is not None
        first = seen.submitted.step if seen.submitted else seen.step
        if not any(
            standing(track.sa, Span(first, seen.step)) is not Standing.NO
            for track in ev.tracks(found.policy.host)
            if serves(track.sa, found.policy)
        ):
            yield f"without an SA left {seen}, policy {found.policy.number} asks for one"


@invariant(3, "Block is block")
def block_is_block(ev: Evidence) -> Iterator[str]:
    """A packet that a block policy stops, before all others, is neither on the wire nor in a
    stack."""
    for seen in ev.sent():
        found = None if seen.piece else ev.ruling_out(seen)  # of ESP that is not whole yet
        if found is None or found.policy is None or not found.surely("block"):
            continue
        if not ev.undead:  # a rule of before would still name its SA
            yield f"policy {found.policy.number} blocks, and yet left {seen}"
    for delivered, seen in ev.observer.matched:
        found = ev.ruling_in(delivered.host, delivered.packet, seen.step)
        if found is None or found.policy is None or not found.surely("block"):
            continue
        if ev.undead and found.policy.offload:  # a rule of before would go first
            continue
        if not _trusted(seen, found.policy) and not _believed(ev, found):
            yield f"policy {found.policy.number} blocks, and yet host{delivered.host} got {seen}"


def _trusted(seen: Seen, policy: PolicyAsked) -> bool:
    """Whether the core asks no policy: a packet-offload SA opened it, and the device has not got
    the policy to enforce it (RX-02)."""
    by_device = seen.into is not None and seen.into.sa.offload == "packet"
    return by_device and not policy.offload


@invariant(4, "Bypass is exact")
def bypass_is_exact(ev: Evidence) -> Iterator[str]:
    """Nothing crosses unprotected, outward or inward, because of a bypass policy that does not
    cover it; and nothing in clear reaches a stack whose policy asks for protection."""
    for seen, found in _in_clear(ev):
        wide = [p for p in ev.ledger.policies if _bypass_beside(ev, p, seen)]
        if _protected(found) and wide:
            yield f"bypass policy {wide[0].number} is not about it, and yet left in clear {seen}"
    for delivered, seen in ev.observer.matched:
        found_in = ev.ruling_in(delivered.host, delivered.packet, seen.step)
        if seen.into is not None or found_in is None or not _protected(found_in):
            continue
        if not _believed(ev, found_in):
            yield f"host{delivered.host} accepted in clear {seen}"


def _believed(ev: Evidence, found: Ruling) -> bool:
    """Whether a core that leaves offloaded policies to the card (RX-08) was told of one that is
    not there: the next audit finds out."""
    policy = found.policy
    return (
        policy is not None
        and policy.offload
        and ev.ledger.profile.offloaded_policy_trusted
        and ev.phantom
    )


def _bypass_beside(ev: Evidence, policy: PolicyAsked, seen: Seen) -> bool:
    """Whether a bypass policy of the sender is in force for other packets of these addresses."""
    assert seen.parsed is not None
    return (
        (policy.host, policy.direction, policy.verdict) == (seen.frame.src, "out", "bypass")
        and ev.standing(policy) is not Standing.NO
        and same_network(policy.selector, seen.parsed)
        and covers(policy.selector, seen.parsed) is False
    )


@invariant(5, "Right device")
def right_device(ev: Evidence) -> Iterator[str]:
    """A card seals with the SAs of its own host and no other's."""
    for seen in ev.sent():
        if seen.foreign is not None:
            yield f"{seen} opens under {seen.foreign}, which is not of its sender"


@invariant(6, "Policy and SA belong together")
def policy_and_sa_pair(ev: Evidence) -> Iterator[str]:
    """What an SA sealed is covered by its selector, and the policy that decides for the packet
    names that SA. What an SA opened is delivered only under the same conditions."""
    for seen in ev.sent():
        if seen.out is None or seen.inner is None:
            continue
        found = ev.ruling_out(seen)
        yield from _pairing(seen, seen.out.sa, seen.inner, found, "sealed")
    for delivered, seen in ev.observer.matched:
        if seen.into is not None and seen.into.sa.direction == "in":
            found = ev.ruling_in(delivered.host, delivered.packet, seen.step)
            yield from _pairing(seen, seen.into.sa, delivered.packet, found, "delivered")


def _pairing(
    seen: Seen, sa: SaAsked, packet: bytes, found: Ruling | None, done: str
) -> Iterator[str]:
    parsed = parse(packet)
    if parsed is None or found is None:
        return
    if sa.selector is not None and covers(sa.selector, parsed) is False:
        yield f"SA {sa.number} has a selector that does not cover what it {done}: {seen}"
    policy = found.policy
    if not found.certain or policy is None or (done == "delivered" and _trusted(seen, policy)):
        return
    if policy.verdict == "protect" and not serves(sa, policy):
        yield f"policy {policy.number} names other SAs than SA {sa.number}, which {done} {seen}"
    if policy.verdict == "bypass" and done == "sealed":
        yield f"policy {policy.number} is a bypass, and yet SA {sa.number} sealed {seen}"


@invariant(7, "Order of installation does not matter")
def order_does_not_matter(ev: Evidence) -> Iterator[str]:
    """Whatever came first, policies or SAs: where both are there, what a stack sends is accepted,
    sealed and on the wire, if it fits the MTU then."""
    if not ev.balanced:
        return
    for host in ev.hosts:
        if ev.touched(host):
            continue
        for one in (*ev.observer.on_the_way(host), *ev.refused):
            packet = parse(one.packet)
            if one.host != host or one.step < ev.span.first or packet is None:
                continue
            if not _plain(packet) or packet.end != len(one.packet):
                continue  # what stands behind a packet counts where its size is judged
            found = ev.ruling(host, "out", packet, ev.span)
            if found.certain and found.policy is not None and _usable(ev, found.policy, packet):
                what = "accepted" if not one.errno else f"refused ({errno.errorcode[one.errno]})"
                yield (
                    f"host{host} {what} a packet in step {one.step} that never left, although "
                    f"policy {found.policy.number} and its SAs are there"
                )


def _plain(packet: Parsed) -> bool:
    """Whether a packet is whole and without options."""
    head = 20 if packet.version == 4 else 40
    return not packet.fragment and packet.whole and packet.at == head


def _usable(ev: Evidence, policy: PolicyAsked, packet: Parsed) -> bool:
    """Whether a protect policy has SAs, and all that it may have can seal the packet: then it does
    not matter which one is chosen. A rule that is a phantom only an audit finds out."""
    if policy.offload and ev.phantom:
        return False
    same = ev.settled_s(HEALED_S) and not ev.ledger.deadly
    room = ev.ledger.mtus[policy.host] if same else MTU_LEAST
    serving = [
        track
        for track in ev.tracks(policy.host)
        if policy.verdict == "protect"
        and serves(track.sa, policy)
        and ev.standing(track.sa) is not Standing.NO
    ]
    return bool(serving) and all(
        ev.sure(track.sa)
        and (track.sa.offload == "packet") == policy.offload
        and track.exact
        and sealed_bytes(track.sa, packet) <= room
        and not track.limit_reached()
        and not track.exhausted
        and (track.sa.selector is None or covers(track.sa.selector, packet) is True)
        for track in serving
    )


@invariant(9, "No key outside key memory")
def no_key_outside(ev: Evidence) -> Iterator[str]:
    """No key of an SA, AES key or salt with it, stands in a frame, a text, a trace or a counter's
    name; in no notification but those in which the kernel tells keys."""
    told = [
        message
        for notice in ev.step.notices
        for message in netlink.messages(notice.message)
        if message.type not in WITH_KEYS
    ]
    words = f"{ev.step.action} {ev.step.text} {ev.step.trace} {ev.step.snapshots}"
    places = {
        "a frame": b"".join(frame.data for frame in ev.step.frames),
        "a notification": b"".join(message.payload for message in told),
    }
    for track in ev.tracks():
        key = track.sa.key[:-4]
        for place, data in places.items():
            if key in data:
                yield f"the key of SA {track.sa.number} stands in {place}"
        if key.hex() in words or repr(key)[2:-1] in words:
            yield f"the key of SA {track.sa.number} stands in a text, trace or answer"
