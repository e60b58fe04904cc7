# SPDX-License-Identifier: Apache-2.0
"""What a core must tell all who listen: every request that it has met, and a flush that took
something (STATE-32, DEL-06). Its notifications against what users asked for."""

from collections import Counter
from collections.abc import Iterator

from host_driver.simulate.evidence import Evidence
from host_driver.simulate.ledger import PolicyAsked, SaAsked
from host_driver.simulate.rulings import Standing, standing
from proto import netlink
from proto.xfrm import Msg


def untold(ev: Evidence) -> Iterator[str]:
    """Of a host that lives: more requests of this step that were met than messages about it."""
    if ev.step.unanswered or ev.step.deaths:
        return
    flush = ev.step.action.startswith(("Flush ", "flush ")) and not ev.step.errno
    for host in ev.hosts:
        told = Counter(
            message.type
            for notice in ev.step.notices
            if notice.host == host
            for message in netlink.messages(notice.message)
        )
        for objects, made, gone, flushed in (
            (ev.ledger.sas, (Msg.NEWSA, Msg.UPDSA), Msg.DELSA, Msg.FLUSHSA),
            (
                ev.ledger.policies, (Msg.NEWPOLICY, Msg.UPDPOLICY), Msg.DELPOLICY,
                Msg.FLUSHPOLICY,
            ),
        ):  # fmt: skip
            ours = [one for one in objects if one.host == host and not one.errno]
            added = sum(one.asked_step == ev.step.number for one in ours)
            taken = sum(
                one.removed_step == ev.step.number and one.remove_errno == 0 for one in ours
            )
            changed = sum(_updates(ev, one) for one in ours if isinstance(one, SaAsked))
            if added + changed > sum(told[type] for type in made) or taken > told[gone]:
                met = f"{added} requests to add, {changed} to update and {taken} to delete"
                yield f"host{host} met {met}, told {told}"
            if flush and not told[flushed] and any(_flushed(ev, one) for one in ours):
                yield f"host{host} was flushed and told {told}"


def _updates(ev: Evidence, sa: SaAsked) -> int:
    """How many updates of an SA were met in this step."""
    return sum(step == ev.step.number and not error for step, _, error in sa.updates)


def _flushed(ev: Evidence, asked: SaAsked | PolicyAsked) -> bool:
    """Whether the flush of this step took an object that was surely there: without one it is silent
    (DEL-06)."""
    before = ev.span._replace(last=ev.step.number - 1)
    expired = isinstance(asked, SaAsked) and asked.expired_step is not None
    return (
        not ev.ledger.faulty and not expired and asked.removed_step == ev.step.number
        and standing(asked, before) is not Standing.NO and asked.asked_step < ev.span.first
    )  # fmt: skip
