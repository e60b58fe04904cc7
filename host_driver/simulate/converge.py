# SPDX-License-Identifier: Apache-2.0
"""After a run: everything is healed, and the system must find its feet again.

1. Faults are disarmed, what was killed, stopped or given up comes back, links go up; time passes.
2. Nothing moves any more.
3. All SAs go; every flow that both ends still protect gets new ones, and its packets arrive.
4. Everything goes, and nothing is left on either card.
"""

import errno
from collections.abc import Callable

from host_driver.simulate import play_life, play_policy, play_sa, surviving, traffic
from host_driver.simulate.actions import Flush, Link, Table
from host_driver.simulate.flows import FLOWS
from host_driver.simulate.ledger import Expected, Phase, Violation
from host_driver.simulate.play import Answer, Player

StepDone = Callable[[Phase, str, Callable[[Player], Answer]], list[Violation]]
RECOVERY_S = {"sim": 75, "process": 8}
FIRST_NUMBER = 60_000  # of the SAs made here


def converge(player: Player, step: StepDone) -> list[Violation]:
    """Play the end; -> the first violations that were found."""
    todo: list[tuple[Phase, str, Callable[[Player], Answer]]] = [
        ("run", "faults healed, everybody back", revive),
        ("healed", "time passes", wait),
        ("healed", "devices that were given up are tried once more", recover),
        *(("healed", f"host{host} is audited twice", audit(host)) for host in (0, 1)),
    ]
    todo += [("healed", f"flush state of host{host}", flush("state", host)) for host in (0, 1)]
    todo.append(("healed", "the card is empty of SAs", wait))
    for phase, words, do in todo:
        if violations := step(phase, words, do):
            return violations
    for number, (flow, way) in enumerate(surviving.ways(player.ledger, player.plan.profile)):
        words = f"flow {flow} way {way} gets new SAs and is used"
        if violations := step("healed", words, reconnect(flow, way, FIRST_NUMBER + number)):
            return violations
    return finish(step)


def finish(step: StepDone) -> list[Violation]:
    """Everything goes; -> the first violations that were found."""
    for words, do in (
        ("flush state of host0", flush("state", 0)),
        ("flush state of host1", flush("state", 1)),
        ("flush policies of host0", flush("policy", 0)),
        ("flush policies of host1", flush("policy", 1)),
        ("all is over", wait),
    ):
        phase: Phase = "end" if words == "all is over" else "healed"
        if violations := step(phase, words, do):
            return violations
    return []


def revive(player: Player) -> Answer:
    """Disarm every fault, bring back cards and hosts, set links as they were."""
    heal(player)
    for host in range(len(player.hosts)):
        play_life.link(player, Link(host=host, what="feature-on"))
        play_life.link(player, Link(host=host, what="up"))
        play_life.link(player, Link(host=host, what="mtu", mtu=1500))
    return Answer()


def heal(player: Player) -> None:
    """Disarm every fault; whoever hangs or died, of itself or not, is back."""
    player.lab.faults.reset()
    player.faults.clear()
    player.calm()
    play_life.healed(player)
    play_life.revive(player)


def wait(player: Player) -> Answer:
    """Long enough for every timeout, watchdog and reconcile loop."""
    player.lab.advance(RECOVERY_S[player.plan.target])
    return Answer()


def recover(player: Player) -> Answer:
    """`devlink health recover` at every host, and time for it."""
    for host, handle in enumerate(player.hosts):
        player.call(host, handle.nic.recover)
    return wait(player)


def audit(host: int) -> Callable[[Player], Answer]:
    """A step in which a driver compares itself with its card, and once more."""
    return lambda player: play_life.audit_twice(player, host)


def flush(what: Table, host: int) -> Callable[[Player], Answer]:
    """A step that takes all SAs or policies of a host."""
    return lambda player: play_policy.flush(player, Flush(host=host, what=what))


def reconnect(flow: int, way: int, number: int) -> Callable[[Player], Answer]:
    """A step in which one way of a flow gets an SA at both ends and carries a packet."""

    def do(player: Player) -> Answer:
        packet = traffic.udp(FLOWS[flow], way, f"healed{number};", 64)
        why = f"flow {flow} way {way} has policies at both ends, and fresh SAs are asked for"
        answer = play_sa.add_sa(player, surviving.fresh_sa(flow, way, number))
        if answer.errno == errno.ENOSPC:  # policies fill the table of rules, too
            return answer
        player.step.expected.append(Expected(player.step.number, 1 - way, packet, why))
        return answer if answer.errno else player.send(way, [packet])

    return do
