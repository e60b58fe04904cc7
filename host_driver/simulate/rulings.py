# SPDX-License-Identifier: Apache-2.0
"""What the users' policies say about a packet, by the observer's own matching.

A policy is in force for sure where its request was answered before the span of steps that is looked
at, and nobody asked to take it back until its end; it is in doubt where either falls into the span.
What is asked for counts, never what core or card hold: so the windows of install and delete show.
"""

import errno
import ipaddress
from collections.abc import Iterable
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from host_driver.simulate.headers import Parsed
from host_driver.simulate.ledger import Ledger, PolicyAsked, SaAsked, Selector

# Errors after which the card may have what was asked for.
UNCLEAR = (errno.ETIMEDOUT, errno.EBADR, errno.EIO)


class Standing(Enum):
    """Whether an object counts within a span of steps."""

    NO = 0
    DOUBT = 1
    SURE = 2


class Span(NamedTuple):
    """Steps from the one behind the last moment of rest to this one, both included. `resolved`: by
    that step audits have found what earlier requests had left unclear."""

    first: int
    last: int
    resolved: int = -1


def standing(asked: PolicyAsked | SaAsked, span: Span) -> Standing:
    """Of one object within a span. A refused request, and one without an answer, leave doubt while
    they may still be under way; an SA that expired is gone like one that was taken back."""
    if asked.asked_step > span.last:
        return Standing.NO
    gone = gone_step(asked)
    if gone is not None and gone < span.first:
        # a delete that was refused or timed out may have left it
        return Standing.DOUBT if getattr(asked, "remove_errno", None) else Standing.NO
    if asked.errno or not asked.answered_ns:
        return Standing.DOUBT if asked.asked_step >= span.first else _refused(asked, span)
    if asked.asked_step >= span.first or gone is not None:
        return Standing.DOUBT
    return Standing.SURE


def gone_step(asked: PolicyAsked | SaAsked) -> int | None:
    """The step in which it was taken back or expired, None while it was not."""
    steps = [asked.removed_step]
    if isinstance(asked, SaAsked):
        steps.append(asked.expired_step)
    return min((step for step in steps if step is not None), default=None)


def _refused(asked: PolicyAsked | SaAsked, span: Span) -> Standing:
    """After the step of the request: no answer at all means that nobody knows. Nor does anybody of
    a rule whose command the card has not answered, until an audit finds it; an SA is stopped."""
    unclear = isinstance(asked, PolicyAsked) and asked.offload and asked.errno in UNCLEAR
    if not asked.answered_ns or (unclear and asked.asked_step > span.resolved):
        return Standing.DOUBT
    return Standing.NO


@lru_cache(4096)
def _network(prefix: str) -> tuple[int, int, int]:
    """Version, address and mask of a prefix."""
    network = ipaddress.ip_network(prefix, strict=False)
    return network.version, int(network.network_address), int(network.netmask)


def inside(prefix: str, address: bytes) -> bool:
    """Whether an address (4 or 16 bytes) lies in a prefix."""
    version, network, mask = _network(prefix)
    return (version == 4) == (len(address) == 4) and int.from_bytes(address) & mask == network


def covers(selector: Selector, packet: Parsed) -> bool | None:
    """Whether a selector is about a packet; None where a piece of one does not tell its ports."""
    if not (inside(selector.src, packet.src) and inside(selector.dst, packet.dst)):
        return False
    proto, ports = selector.proto, selector.sport or selector.dport
    if (ports or proto) and not packet.whole and packet.version == 6 and packet.fragment:
        return None
    if proto and proto != packet.proto:
        return False
    if ports and packet.fragment:
        return None  # only the first piece has them, and the kernel reads none of any (XFRM flow)
    return (not selector.sport or selector.sport == packet.sport) and (
        not selector.dport or selector.dport == packet.dport
    )


class Ruling(NamedTuple):
    """What policies say: `policy` is the first of those in force for sure, None where none is.

    `certain`: no other could come first, and core and card see the same ones and take the same one:
    of offloaded ones the core takes the newest, or one of two hosts, whatever its priority (SPD-06,
    SPD-21), and they may hide from it a better one of its own (SPD-23). `rivals` are all others
    that could decide: those in doubt (in force, or about the packet) that come before `policy`, and
    where some are offloaded, the first of these and all of the core's.
    """

    policy: PolicyAsked | None
    rivals: tuple[PolicyAsked, ...]
    certain: bool

    @property
    def verdict(self) -> str:
        """protect, block or bypass; "none" without a policy."""
        return self.policy.verdict if self.policy else "none"

    def surely(self, *verdicts: str) -> bool:
        """Whether every policy that could decide says one of these."""
        every = {self.verdict, *(rival.verdict for rival in self.rivals)}
        return every <= set(verdicts)


def ruling(
    policies: Iterable[PolicyAsked], host: int, direction: str, packet: Parsed, span: Span
) -> Ruling:
    """The policies of a host and direction on a packet; of a kind the lowest priority is first."""
    sure: dict[bool, list[PolicyAsked]] = {False: [], True: []}  # by whether it is offloaded
    doubtful: list[PolicyAsked] = []
    offloaded = False
    for policy in policies:
        if (policy.host, policy.direction) != (host, direction):
            continue
        state = standing(policy, span)
        if state is Standing.NO:
            continue
        offloaded = offloaded or policy.offload
        about = covers(policy.selector, packet)
        if about is not False:
            in_force = state is Standing.SURE and about is True
            (sure[policy.offload] if in_force else doubtful).append(policy)
    for kind in sure.values():
        kind.sort(key=lambda policy: policy.priority)
    firsts = [kind[0] for kind in sure.values() if kind]
    best = min(firsts, key=lambda policy: policy.priority, default=None)
    rivals = [
        policy
        for policy in doubtful
        if not sure[policy.offload] or policy.priority <= sure[policy.offload][0].priority
    ]
    deciding = [*sure[True][:1], *(sure[False] if offloaded else sure[False][:1])]
    others = [policy for policy in deciding if policy is not best]
    said = {(p.offload, p.verdict, p.reqid) for p in (*sure[False], *sure[True], *doubtful)}
    certain = not rivals and (len(said) <= 1 or not offloaded)
    return Ruling(best, (*others, *rivals), certain)


def of_host(ledger: Ledger, host: int) -> list[PolicyAsked]:
    """All policies ever asked of a host."""
    return [policy for policy in ledger.policies if policy.host == host]


def same_network(selector: Selector, packet: Parsed) -> bool:
    """Whether the addresses fit, whatever protocol and ports say."""
    return inside(selector.src, packet.src) and inside(selector.dst, packet.dst)
