# SPDX-License-Identifier: Apache-2.0
"""SAs: pairs with a key of their own, other limits, deletes, make-before-break rekeys."""

import dataclasses
import errno
import random

from host_driver.simulate import texts, traffic
from host_driver.simulate.actions import AddSa, AllocSpi, DeleteSa, Ends, Picking, Rekey, UpdateSa
from host_driver.simulate.flows import FLOWS
from host_driver.simulate.ledger import Direction, Limits, SaAsked
from host_driver.simulate.play import DEVICE, Answer, Player

FIRST_SPI, SALT_BYTES = 0x1000, 4
ENCAP_PORT = 4500
NOTHING = Answer(errno.ENOENT, "there is none")


def key_of(seed: int, number: int, bits: int) -> bytes:
    """Key and salt of SA `number`: its own in every run of a seed, whatever came before."""
    return random.Random(f"{seed} key {number}").randbytes(bits // 8 + SALT_BYTES)


def add_sa(player: Player, action: AddSa) -> Answer:
    """Both ends of one key, the receiver first, or one end only."""
    answer = Answer()
    for direction in _directions(action.ends):
        answer = offer(player, _asked(player, action, direction))
        if answer.errno:
            break
    return answer


def _directions(ends: Ends) -> tuple[Direction, ...]:
    return ("in", "out") if ends == "both" else (ends,)


def _asked(player: Player, action: AddSa, direction: Direction) -> SaAsked:
    flow, ledger = FLOWS[action.flow], player.ledger
    source, target = flow.outer(action.way)
    spi = FIRST_SPI + action.number
    if action.respi and (like := player.choose(action, ledger.sas, name_of)):
        spi = like.spi
    return SaAsked(
        number=len(ledger.sas),
        pair=action.number,
        host=action.way if direction == "out" else 1 - action.way,
        direction=direction,
        src=source,
        dst=target,
        spi=spi,
        reqid=flow.reqid(action.way),
        mode=flow.mode,
        offload="packet" if flow.offload == "packet" else "crypto" if action.crypto else "none",
        key=key_of(player.plan.seed, action.number, action.key_bits),
        inner_family=flow.family,
        icv_bytes=action.icv_bytes,
        esn=action.esn,
        window=action.window if direction == "in" or player.out_needs_window(action.esn) else 0,
        sequence=action.start,
        encap=(ENCAP_PORT, ENCAP_PORT) if flow.encap else None,
        selector=flow.selector(action.way, "whole") if action.selector else None,
        limits=action.limits if action.limited in ("both", direction) else Limits(),
    )


def offer(player: Player, sa: SaAsked, verb: str = "add") -> Answer:
    """Ask a host for an SA; the ledger has it whatever the answer is."""
    sa.asked_ns, sa.asked_step = player.lab.now_ns(), player.step.number
    player.ledger.sas.append(sa)
    answer = player.ip(sa.host, texts.state(sa, verb, DEVICE))
    sa.answered_ns, sa.errno, sa.text = player.lab.now_ns(), answer.errno, answer.text
    return answer


def take_back(player: Player, sa: SaAsked) -> Answer:
    """Ask a host to delete an SA."""
    return player.take_back(sa, texts.state_delete(sa))


def name_of(sa: SaAsked) -> str:
    """The same in every run of a plan, whatever else there is."""
    return f"{sa.pair} {sa.direction}"


def _picked(player: Player, action: Picking) -> SaAsked | None:
    return player.choose(action, player.ledger.live_sas(), name_of)


def _other_end(player: Player, sa: SaAsked) -> SaAsked | None:
    for other in player.ledger.live_sas():
        if other.pair == sa.pair and other is not sa:
            return other
    return None


def update_sa(player: Player, action: UpdateSa) -> Answer:
    """The same SA with other limits. The core takes them, so the ledger has them, too."""
    sa = _picked(player, action)
    if sa is None:
        return NOTHING
    wanted = dataclasses.replace(sa, limits=action.limits)
    answer = player.ip(sa.host, texts.state(wanted, "update", DEVICE))
    sa.updates.append((player.step.number, action.limits, answer.errno))
    return answer


def delete_sa(player: Player, action: DeleteSa) -> Answer:
    """One end, or both: the sender's first."""
    sa = _picked(player, action)
    if sa is None:
        return NOTHING
    ends = [sa]
    if action.both and (other := _other_end(player, sa)):
        ends = sorted((sa, other), key=lambda end: end.direction != "out")
    return [take_back(player, end) for end in ends][-1]


def rekey(player: Player, action: Rekey) -> Answer:
    """New SA in, new SA out, packets, old SA out gone, packets, old SA in gone (RFC 7296 2.8).

    Where a new SA is refused, the old ones stay.
    """
    paired = [
        end
        for end in player.ledger.live_sas()
        if end.direction == "out" and _other_end(player, end)
    ]
    sender = player.choose(action, paired, name_of)
    receiver = sender and _other_end(player, sender)
    if sender is None or receiver is None:
        return NOTHING
    old = {"out": sender, "in": receiver}
    fresh = [_successor(player, old[direction], action) for direction in _directions("both")]
    for number, end in enumerate(fresh):
        end.number = len(player.ledger.sas)
        answer = offer(player, end)
        if answer.errno:
            for made in fresh[:number]:
                take_back(player, made)
            return answer
    flow, way = (old["out"].reqid - 1) // 2, old["out"].host
    for leaving in ("out", "in"):
        for one in range(action.packets):
            packet = traffic.udp(FLOWS[flow], way, f"{action.id}{leaving}{one};", 64)
            player.send(way, [packet])
        take_back(player, old[leaving])
        player.settle()
    return Answer()


def _successor(player: Player, old: SaAsked, action: Rekey) -> SaAsked:
    bits = 8 * (len(old.key) - SALT_BYTES)
    return dataclasses.replace(
        old, pair=action.number, spi=FIRST_SPI + action.number, sequence=0,
        key=key_of(player.plan.seed, action.number, bits), limits=action.limits, updates=[],
        removed_ns=None, removed_step=None, remove_errno=None,
    )  # fmt: skip


def alloc_spi(player: Player, action: AllocSpi) -> Answer:
    """A larval SA; it goes by itself when nobody completes it."""
    source, target = FLOWS[action.flow].outer(action.way)
    player.ledger.larvals[1 - action.way] += 1
    return player.ip(
        1 - action.way,
        f"xfrm state allocspi src {source} dst {target} proto esp mode {FLOWS[action.flow].mode} "
        f"reqid {FLOWS[action.flow].reqid(action.way)} min 0x90000 max 0x90fff",
    )
