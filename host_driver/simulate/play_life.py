# SPDX-License-Identifier: Apache-2.0
"""Links, time, deaths and returns, questions, and the faults of a plan."""

import errno
import functools
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from host_driver.faults.plan import PlannedFault, specs_of
from host_driver.lab.handles import HostHandle
from host_driver.simulate.actions import (
    Advance,
    Arm,
    Ask,
    Heal,
    Incident,
    Link,
    Live,
    Party,
)
from host_driver.simulate.ledger import Armed, Audited
from host_driver.simulate.play import Answer, Player
from proto.status import OffloadError

MS = 1000


def link(player: Player, action: Link) -> Answer:
    """What the device is told. Down flushes what is offloaded if the feature is on (NDEV-01)."""
    settings: dict[str, dict[str, Any]] = {
        "down": {"up": False},
        "up": {"up": True},
        "feature-off": {"esp_hw_offload": False},
        "feature-on": {"esp_hw_offload": True},
        "mtu": {"mtu": action.mtu},
    }
    host = player.hosts[action.host]
    answer, _ = player.call(action.host, lambda: host.set_link(**settings[action.what]))
    if answer.errno:
        return player.live(action.host, "link", action.what, answer)
    if action.what == "down" and action.host in player.featured:
        player.forget(action.host, offloaded=True)
    if action.what == "feature-off":
        player.featured.discard(action.host)
    if action.what == "feature-on":
        player.featured.add(action.host)
    if action.what == "mtu":
        player.ledger.mtus[action.host] = action.mtu
    return player.live(action.host, "link", action.what, answer)


def live(player: Player, action: Live) -> Answer:
    """Kill, stop, resume, restart, reset. What makes no sense now is refused here, not tried."""
    host = player.hosts[action.host]
    party: Any = host.nic if action.party == "card" else host
    alive = player.cards if action.party == "card" else player.running
    verb, _, argument = action.what.partition("-")
    if not _sensible(player, action, action.host in alive):
        return Answer(errno.EALREADY, f"no {action.what} of this {action.party} now")
    try:
        getattr(party, verb)(*filter(None, [argument]))
        answer = Answer()
    except OffloadError as error:
        answer = Answer(error.errno, error.text)
    if verb in ("kill", "stop"):
        alive.discard(action.host)
    elif verb in ("resume", "restart"):
        alive.add(action.host)
    if action.party == "host" and verb in ("kill", "restart"):
        player.forget(action.host)
    player.stopped.discard((action.party, action.host))
    if verb == "stop":
        player.stopped.add((action.party, action.host))
    return player.live(action.host, action.party, action.what, answer)


def _sensible(player: Player, action: Live, alive: bool) -> bool:
    """What can be done to a party: the table of its states.

    alive    kill, stop, restart, reset, reload
    stopped  kill, resume, restart
    dead     restart
    """
    if (action.party, action.host) in player.stopped:
        return action.what in ("kill", "resume", "restart")
    if not alive:
        return action.what == "restart"
    return action.what != "resume"


def advance(player: Player, action: Advance) -> Answer:
    """Time for everybody, and a leap for the timers of the cores. Real time is dear."""
    for number in sorted(player.running) if action.leap_s else ():
        leap = functools.partial(player.hosts[number].set_clock_forward, action.leap_s)
        player.call(number, leap)
    player.lab.advance(min(action.ms, MS if player.plan.target == "process" else action.ms) / MS)
    return Answer()


def _dump(text: str) -> Callable[[HostHandle], Any]:
    return lambda host: host.ip(text)


AUDIT = "audit"
QUESTIONS: dict[str, Callable[[HostHandle], Any]] = {
    "states": _dump("-s xfrm state list"),
    "policies": _dump("-s xfrm policy list"),
    "count": _dump("xfrm state count"),
    "counters": lambda host: host.nic.counters(),
    "census": lambda host: host.nic.census(),
    "mib": lambda host: host.mib(),
    "info": lambda host: host.info(),
    AUDIT: lambda host: host.nic.audit(),
}


def ask(player: Player, action: Ask) -> Answer:
    """A question changes nothing (INV-37)."""
    if action.what == AUDIT:
        return audit_twice(player, action.host)
    host = player.hosts[action.host]
    return player.call(action.host, lambda: QUESTIONS[action.what](host))[0]


def audit_twice(player: Player, host: int) -> Answer:
    """Two audits: whatever the first one found, the second finds nothing (INV-44)."""
    nic = player.hosts[host].nic
    reports: list[dict[str, int]] = []
    for _ in range(2):
        answer, report = player.call(host, nic.audit)
        if report is None:
            return answer
        reports.append(report)
    player.step.audits.append(Audited(host, *reports))
    return answer


def arm(player: Player, action: Arm) -> Answer:
    """Arm a fault; what a lab does not offer is refused, and the run goes on without."""
    try:
        name = player.lab.faults.add(host=action.host, **{"name": action.fault, **action.fields})
    except OffloadError as error:
        return Answer(error.errno, error.text)
    player.faults[action.fault] = name
    number = len(player.ledger.armed)
    armed = Armed(player.step.number, name, action.host, action.fields, None)
    player.ledger.armed.append(armed)
    return Answer(0, f"fault {number}")


def follow(player: Player, planned: Sequence[PlannedFault]) -> None:
    """Faults that come and go at times of their own, until all are healed."""
    if planned:
        player.lab.faults.follow(planned)
    for one in planned:
        for spec in specs_of(one.fault, one.fields, ""):  # the judge asks where and of what kind
            fields = msgspec.structs.asdict(spec) | {"at_s": one.at_s, "until_s": one.until_s}
            player.ledger.armed.append(Armed(0, spec.name, one.host, fields, None))


def heal(player: Player, action: Heal) -> Answer:
    """Disarm a fault."""
    name = player.faults.pop(action.fault, None)
    if name is None:
        return Answer(errno.ENOENT, "not armed")
    try:
        player.lab.faults.remove(name)
    except OffloadError as error:
        return Answer(error.errno, error.text)
    healed(player, name)
    return Answer()


def healed(player: Player, name: str | None = None) -> None:
    """Write down that a fault, or every fault, is gone."""
    for number, one in enumerate(player.ledger.armed):
        if one.healed_step is None and name in (None, one.name):
            player.ledger.armed[number] = one._replace(healed_step=player.step.number)


def revive(player: Player) -> None:
    """Whoever hangs goes on, whoever died starts again, hosts first."""
    parties: tuple[tuple[Party, set[int]], ...] = (
        ("host", player.running),
        ("card", player.cards),
    )
    for party, alive in parties:
        for number in sorted(set(range(len(player.hosts))) - alive):
            what: Incident = "resume" if (party, number) in player.stopped else "restart"
            live(player, Live(host=number, party=party, what=what))
