# SPDX-License-Identifier: Apache-2.0
"""Every invariant fires on evidence that breaks it, and a life without fault breaks none."""

from collections.abc import Callable

import pytest

from host_driver.simulate.invariants import INVARIANTS
from host_driver.simulate.ledger import Audited, Expected, Limits, Selector, Violation
from support.scene import SPI, A, B, Scene, datagram, numbers

Broken = Callable[[Scene], list[Violation]]
SCENES: list[tuple[int, Broken]] = []


def breaks(*which: int) -> Callable[[Broken], Broken]:
    """A scene whose last step breaks at least these invariants."""

    def note(scene: Broken) -> Broken:
        SCENES.extend((number, scene) for number in which)
        return scene

    return note


# --- confidentiality and policy ---


@breaks(1, 2)
def clear_although_protected(scene: Scene) -> list[Violation]:
    scene.protected()
    return scene.step(clear=[datagram()], sent=[scene.ethernet(datagram())])


@breaks(1)
def clear_while_the_card_is_reset(scene: Scene) -> list[Violation]:
    scene.protected()
    scene.step(lives=[(0, "card", "reset-firmware")], settled=False)
    return scene.step(clear=[datagram()], sent=[scene.ethernet(datagram())], settled=False)


@breaks(3)
def sent_although_blocked(scene: Scene) -> list[Violation]:
    scene.policy(0, "out", "block")
    scene.step("AddPolicy")
    return scene.step(clear=[datagram()], sent=[scene.ethernet(datagram())])


@breaks(3)
def delivered_although_blocked(scene: Scene) -> list[Violation]:
    scene.policy(1, "in", "block")
    scene.step("AddPolicy")
    return scene.step(to_1=[scene.ethernet(datagram())], got=[datagram()])


@breaks(4)
def bypass_for_another_port(scene: Scene) -> list[Violation]:
    scene.protected()
    scene.policy(0, "out", "bypass", priority=9, selector=Selector(A, B, 17, 0, 53))
    scene.step("AddPolicy")
    return scene.step(clear=[datagram()], sent=[scene.ethernet(datagram())])


@breaks(4)
def clear_accepted_where_protected(scene: Scene) -> list[Violation]:
    scene.protected()
    return scene.step(to_1=[scene.ethernet(datagram())], got=[datagram()])


@breaks(5, 14)
def sealed_by_another_host(scene: Scene) -> list[Violation]:
    scene.protected()
    other = scene.sa(1, "out")
    scene.step("AddSa")
    return scene.step(clear=[datagram(1)], sent=[scene.sealed(other, 1)])


@breaks(6)
def sa_of_another_policy(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair(reqid=2)
    return scene.step(clear=[datagram(1)], sent=[scene.sealed(out, 1)], opened=0, drops=GONE)


@breaks(6)
def beyond_the_selector(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair(selector=Selector(A, B, 17, 0, 53))
    return scene.exchange(out, 1)


@breaks(7)
def accepted_and_never_sent(scene: Scene) -> list[Violation]:
    scene.pair()
    scene.protected()
    return scene.step(clear=[datagram(1)], drops={(0, "tx_drop_no_sa"): 1})


@breaks(7)
def refused_without_need(scene: Scene) -> list[Violation]:
    scene.pair()
    scene.protected()
    return scene.step(refused=[datagram(1)])


@breaks(9)
def key_in_a_text(scene: Scene) -> list[Violation]:
    out, _ = scene.pair()
    return scene.step(text=f"bad key 0x{out.key.hex()}")


# --- cryptographic uniqueness ---


@breaks(10, 11)
def number_again(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair()
    scene.exchange(out, 1, 2)
    return scene.step(
        clear=[datagram(9)], sent=[scene.sealed(out, 2, datagram(9))], drops=REPLAYED, opened=0
    )


@breaks(10)
def number_again_after_a_restart(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair()
    scene.exchange(out, 1, 2)
    scene.step(lives=[(0, "card", "kill"), (0, "card", "restart")], settled=False)
    again = scene.sealed(out, 1, datagram(9), iv=b"anew....")
    return scene.step(clear=[datagram(9)], sent=[again], settled=False)


@breaks(11)
def iv_again(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair()
    frames = [scene.sealed(out, number, iv=b"constant") for number in (1, 2)]
    return scene.step(clear=[datagram(1), datagram(2)], sent=frames, got=[datagram(1), datagram(2)])


@breaks(12)
def wrapped(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair(sequence=(1 << 32) - 2)
    scene.exchange(out, (1 << 32) - 1)
    return scene.step(clear=[datagram(9)], sent=[scene.sealed(out, 0, datagram(9))])


@breaks(12, 29)
def high_half_skipped(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair(sequence=(1 << 32) - 2, esn=True)
    scene.exchange(out, (1 << 32) - 1)
    return scene.step(clear=[datagram(9)], sent=[scene.sealed(out, 2 << 32, datagram(9))])


@breaks(13)
def began_too_late(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair(sequence=10)
    return scene.exchange(out, 12)


@breaks(14)
def sealed_under_another_key(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair()
    wrong = scene.sealed(out, 1, key=bytes(20))
    return scene.step(clear=[datagram(1)], sent=[wrong], drops=INTEGRITY)


@breaks(14)
def sealed_something_else(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair()
    return scene.step(clear=[datagram(1)], sent=[scene.sealed(out, 1, datagram(2))])


@breaks(14)
def outer_addresses_are_others(scene: Scene) -> list[Violation]:
    scene.policy(0, "out", mode="tunnel", tunnel=("192.0.2.1", "192.0.2.2"))
    scene.step("AddPolicy")
    out, _ = scene.pair(mode="tunnel", src="192.0.2.1", dst="192.0.2.2")
    astray = scene.sealed(out, 1, dst="192.0.2.9")
    return scene.step(clear=[datagram(1)], sent=[astray])


@breaks(15)
def wrong_icv_accepted(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair()
    bad = flipped(scene.sealed(out, 1))
    return scene.step(to_1=[bad], got=[datagram(7)])


@breaks(16)
def opened_to_something_else(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair()
    return scene.step(clear=[datagram(1)], sent=[scene.sealed(out, 1)])


# --- anti-replay ---


@breaks(17)
def replayed_packet_delivered(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair()
    scene.exchange(out, 1, 2, 3)
    return scene.step(to_1=[scene.sealed(out, 2)], got=[datagram(2)])


@breaks(17, 21)
def window_switched_off(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair(window=32)
    again = [scene.sealed(out, 5)] * 2
    return scene.step(clear=[datagram(5)], sent=again[:1], to_1=again[:1], got=[datagram(5)] * 2)


@breaks(18)
def left_of_the_window(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair(window=32)
    late = scene.sealed(out, 8)
    scene.step(clear=[datagram(8)], sent=[late], settled=False)
    scene.exchange(out, 40)
    return scene.step(to_1=[late], got=[datagram(8)])


@breaks(18, 21)
def refused_within_the_window(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair(window=32)
    scene.exchange(out, 1, 33)
    return scene.step(to_1=[scene.sealed(out, 2, datagram(2))], drops=REPLAYED)


@breaks(19)
def forged_packet_moved_the_window(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair()
    scene.exchange(out, 1)
    scene.step(to_1=[scene.sealed(out, 5000, key=bytes(20))], drops=INTEGRITY)
    return scene.step(clear=[datagram(2)], sent=[scene.sealed(out, 2)], drops=REPLAYED)


# --- limits ---


@breaks(22)
def one_packet_too_many(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair(limits=Limits(hard_packets=3))
    return scene.exchange(out, 1, 2, 3, 4)


@breaks(22)
def new_limit_ignored(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair(limits=Limits(hard_packets=9))
    scene.exchange(out, 1)
    out.updates.append((len(scene.ledger.steps), Limits(hard_packets=2), 0))
    scene.step("UpdateSa")
    return scene.exchange(out, 2, 3)


@breaks(23)
def bytes_beyond_the_limit(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair(limits=Limits(hard_bytes=20))
    return scene.exchange(out, 1, 2, 3)


@breaks(24)
def expired_and_sends(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair(limits=Limits(hard_packets=1))
    scene.exchange(out, 1)
    out.expired_step = len(scene.ledger.steps)
    scene.step(told=[(0, scene.expire(out, 1, hard=True))])
    return scene.exchange(out, 2)


@breaks(25)
def soft_limit_not_told(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair(limits=Limits(soft_packets=2, hard_packets=9))
    return scene.exchange(out, 1, 2)


@breaks(25, 51)
def soft_limit_told_twice(scene: Scene) -> list[Violation]:
    scene.arm("events", "duplicate", healed=True)
    scene.protected()
    out, _ = scene.pair(limits=Limits(soft_packets=1))
    soft = (0, scene.expire(out, 1, hard=False))
    scene.step(clear=[datagram(1)], sent=[scene.sealed(out, 1)], got=[datagram(1)], told=[soft])
    return scene.step(told=[soft])


@breaks(26)
def hard_limit_not_told(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair(limits=Limits(hard_packets=2))
    return scene.exchange(out, 1, 2)


@breaks(26, 51)
def hard_limit_told_twice(scene: Scene) -> list[Violation]:
    scene.arm("events", "duplicate", healed=True)
    scene.protected()
    out, _ = scene.pair(limits=Limits(hard_packets=1))
    out.expired_step = len(scene.ledger.steps)
    hard = (0, scene.expire(out, 1, hard=True))
    return scene.step(
        clear=[datagram(1)], sent=[scene.sealed(out, 1)], got=[datagram(1)], told=[hard, hard]
    )


@breaks(26)
def too_old(scene: Scene) -> list[Violation]:
    scene.pair(limits=Limits(hard_seconds=5))
    return scene.step("Advance", after_ns=20_000_000_000)


@breaks(26)
def deleted_twice(scene: Scene) -> list[Violation]:
    call = {"call": "xdo_dev_state_delete", "object": 3, "handle": 3}
    return scene.step(trace=[[call, call], []])


@breaks(27)
def lost_event_not_made_good(scene: Scene) -> list[Violation]:
    scene.arm("events", "drop")
    scene.protected()
    out, _ = scene.pair(limits=Limits(hard_packets=2))
    scene.exchange(out, 1, 2)
    return scene.step("Advance", after_ns=60_000_000_000)


@breaks(28)
def expired_too_early(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair(limits=Limits(hard_packets=9))
    scene.exchange(out, 1, 2)
    return scene.step(told=[(0, scene.expire(out, 2, hard=True))])


# --- accounting ---


@breaks(30, 34)
def dropped_without_a_reason(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair()
    miscount = [(1, "rx_delivered", -1), (1, "driver_rx_packets", -1)]
    return scene.step(clear=[datagram(1)], sent=[scene.sealed(out, 1)], miscount=miscount)


@breaks(30)
def lost_between_card_and_stack(scene: Scene) -> list[Violation]:
    scene.step()
    return scene.step(to_1=[scene.ethernet(datagram(1))])


@breaks(30)
def a_damaged_header_that_nobody_counts(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair()
    frame = bytearray(scene.ethernet(scene.sealed(out, 1)))
    frame[22] ^= 1  # the time to live; the checksum says so
    scene.step()
    return scene.step(to_1=[bytes(frame)])


@breaks(30)
def delivered_twice(scene: Scene) -> list[Violation]:
    return scene.step(to_1=[scene.ethernet(datagram(1))], got=[datagram(1)] * 2)


@breaks(31)
def vanished_at_the_sender(scene: Scene) -> list[Violation]:
    scene.step()
    return scene.step(clear=[datagram(1)])


@breaks(31)
def sent_by_nobody(scene: Scene) -> list[Violation]:
    return scene.step(sent=[scene.ethernet(datagram(1))], got=[datagram(1)])


@breaks(34)
def dropped_for_two_reasons(scene: Scene) -> list[Violation]:
    scene.step()
    extra = [(0, "tx_drop_hard_limit", 1)]
    return scene.step(clear=[datagram(1)], drops={(0, "tx_drop_no_sa"): 1}, miscount=extra)


@breaks(34)
def wrong_reason(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair()
    bad = flipped(scene.sealed(out, 1))
    return scene.step(to_1=[bad], drops=REPLAYED)


@breaks(32)
def counter_fell(scene: Scene) -> list[Violation]:
    scene.step(clear=[datagram(1)], sent=[scene.ethernet(datagram(1))], got=[datagram(1)])
    return scene.step(miscount=[(0, "tx_bytes", -1), (0, "tx_packets", -1)])


@breaks(33)
def curlft_fell(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair(limits=Limits(soft_packets=1, hard_packets=9))
    scene.exchange(out, 1, 2, 3)
    scene.step(told=[(0, scene.expire(out, 3, hard=False))])
    return scene.step(told=[(0, scene.expire(out, 2, hard=True))])


@breaks(33)
def curlft_beyond_the_wire(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair(limits=Limits(soft_packets=1))
    scene.exchange(out, 1)
    return scene.step(told=[(0, scene.expire(out, 2, hard=False))])


@breaks(33)
def dump_tells_less(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair()
    scene.exchange(out, 1, 2)
    return scene.step(listed={0: ([scene.usersa(out, 1)], None)})


@breaks(35)
def sealed_in_software(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair()
    return scene.step(
        clear=[datagram(1)], sent=[scene.sealed(out, 1)], got=[datagram(1)],
        miscount=[(0, "ipsec_tx_pkts", -1)],
    )  # fmt: skip


@breaks(36)
def drops_counted_as_sealed(scene: Scene) -> list[Violation]:
    scene.protected()
    drops = {(0, "tx_drop_hard_limit"): 1}
    return scene.step(clear=[datagram(1)], drops=drops, miscount=[(0, "ipsec_tx_pkts", 1)])


@breaks(37)
def asking_counts(scene: Scene) -> list[Violation]:
    scene.step()
    miscount = [(0, name, 1) for name in ("rx_packets", "rx_delivered", "driver_rx_packets")]
    return scene.step("Ask what=counters", miscount=miscount)


# --- object lifecycle ---


@breaks(38, 39, 47)
def refused_and_left_behind(scene: Scene) -> list[Violation]:
    scene.arm("card.command", "status", healed=True)
    scene.protected()
    scene.sa(0, "out", errno=28, text="key table is full")
    scene.census_more[0]["keys"] += 1
    return scene.step("AddSa", errno=28)


@breaks(39)
def deleted_and_left_behind(scene: Scene) -> list[Violation]:
    out, into = scene.pair()
    scene.remove(out, into)
    scene.census_more[1]["rules_sa"] += 1
    return scene.step("DeleteSa")


@breaks(39, 47)
def left_behind_while_a_fault_elsewhere_is_armed(scene: Scene) -> list[Violation]:
    scene.arm("wire", "drop", healed=False)
    out, into = scene.pair()
    scene.remove(out, into)
    scene.census_more[1]["keys"] += 1
    return scene.step("DeleteSa")


@breaks(39)
def policy_still_listed(scene: Scene) -> list[Violation]:
    policy = scene.policy(0, "out")
    scene.step("AddPolicy")
    scene.remove(policy)
    scene.step("DeletePolicy")
    return scene.step(listed={0: (None, [scene.userpolicy(policy)])})


@breaks(40)
def sa_still_listed(scene: Scene) -> list[Violation]:
    out, into = scene.pair()
    scene.remove(out, into)
    scene.step("DeleteSa")
    return scene.step(listed={0: ([scene.usersa(out, 0)], None)})


@breaks(40)
def deleted_and_sends(scene: Scene) -> list[Violation]:
    scene.protected()
    out, into = scene.pair()
    scene.remove(out, into)
    scene.step("DeleteSa")
    return scene.exchange(out, 1)


@breaks(41)
def handle_again(scene: Scene) -> list[Violation]:
    calls = [
        {"call": "xdo_dev_state_delete", "object": number, "handle": 5} for number in (1, 2)
    ]  # fmt: skip
    scene.step(trace=[calls[:1], []])
    return scene.step(trace=[calls[1:], []])


@breaks(42)
def refused_without_a_word(scene: Scene) -> list[Violation]:
    scene.step()
    scene.sa(0, "out", errno=22)
    return scene.step("AddSa", errno=22)


@breaks(42)
def accepted_what_cannot_be(scene: Scene) -> list[Violation]:
    return scene.step("Refused host=0 which=0")


@breaks(43)
def beyond_the_page_and_accepted(scene: Scene) -> list[Violation]:
    scene.step()
    scene.sa(0, "out", icv_bytes=10)
    return scene.step("AddSa")


@breaks(43)
def within_the_page_and_refused(scene: Scene) -> list[Violation]:
    scene.step()
    scene.sa(0, "out", errno=22, text="not offered")
    return scene.step("AddSa", errno=22)


@breaks(44)
def audited_and_still_wrong(scene: Scene) -> list[Violation]:
    clean = {"objects": 3, "orphans": 0}
    return scene.step("Ask what=audit", audits=[Audited(0, clean, {**clean, "orphans": 1})])


@breaks(45)
def lost_in_a_rekey(scene: Scene) -> list[Violation]:
    scene.protected()
    old = scene.pair()
    fresh = scene.sa(0, "out", SPI + 1), scene.sa(1, "in", SPI + 1, key=b"another key of its own")
    scene.remove(*old)
    assert len(fresh) == 2
    return scene.step("Rekey pick=1", clear=[datagram(1)], drops={(0, "tx_drop_no_sa"): 1})


@breaks(45)
def old_sa_goes_on(scene: Scene) -> list[Violation]:
    scene.protected()
    old, _ = scene.pair()
    scene.pair(SPI + 1)
    return scene.exchange(old, 1)


# --- control path and recovery ---


@breaks(46)
def no_answer(scene: Scene) -> list[Violation]:
    return scene.step(unanswered=["host0 did not answer Counters within 30000 ms"])


@breaks(48)
def doubled_reply_credited(scene: Scene) -> list[Violation]:
    firing = {"party": "host0", "site": "mailbox.reply", "kind": "duplicate"}
    scene.step(firings=[firing])
    return scene.step()


@breaks(49)
def sa_of_an_earlier_boot(scene: Scene) -> list[Violation]:
    scene.protected()
    out, _ = scene.pair()
    scene.exchange(out, 1)
    scene.step(lives=[(0, "card", "restart")], settled=False)
    return scene.exchange(out, 1000)


@breaks(49)
def lost_without_a_word(scene: Scene) -> list[Violation]:
    scene.pair()
    scene.census_more[0]["sas"] -= 1
    return scene.step()


@breaks(49)
def sa_no_longer_listed(scene: Scene) -> list[Violation]:
    scene.pair()
    return scene.step(listed={0: ([], None)})


@breaks(49)
def policy_no_longer_listed(scene: Scene) -> list[Violation]:
    scene.protected()
    return scene.step(listed={0: (None, [])})


@breaks(49)
def the_dead_sends(scene: Scene) -> list[Violation]:
    scene.step(lives=[(0, "card", "kill")], settled=False)
    return scene.step(clear=[datagram(1)], sent=[scene.ethernet(datagram(1))], settled=False)


@breaks(50)
def not_working_again(scene: Scene) -> list[Violation]:
    wanted = Expected(len(scene.ledger.steps), 1, datagram(1), "both ends have fresh SAs")
    return scene.step("reconnect", phase="healed", expected=[wanted])


@breaks(52)
def consumer_past_producer(scene: Scene) -> list[Violation]:
    return scene.step(miscount=[(0, "tx_packets", 1)])


GONE = {(1, "XfrmInTmplMismatch"): 1}
REPLAYED = {(1, "rx_drop_replay"): 1}
INTEGRITY = {(1, "rx_drop_integrity"): 1}


def flipped(frame: bytes) -> bytes:
    """One bit of the ICV turned over."""
    return frame[:-1] + bytes((frame[-1] ^ 1,))


@pytest.mark.parametrize(
    ("number", "scene"), [pytest.param(n, scene, id=f"{n}-{scene.__name__}") for n, scene in SCENES]
)
def test_fires(number: int, scene: Broken) -> None:
    found = scene(Scene())
    assert number in numbers(found), found


def test_every_invariant_has_a_scene() -> None:
    assert {number for number, _ in SCENES} == set(INVARIANTS)


def test_a_life_without_fault() -> None:
    scene = Scene()
    scene.protected()
    out, into = scene.pair(limits=Limits(soft_packets=3, hard_packets=5))
    assert scene.exchange(out, 1, 2) == []
    soft = [(0, scene.expire(out, 3, hard=False)), (1, scene.expire(into, 3, hard=False))]
    packet = datagram(3)
    assert scene.step(clear=[packet], sent=[scene.sealed(out, 3)], got=[packet], told=soft) == []
    bad = [scene.sealed(out, 2), flipped(scene.sealed(out, 4))]
    assert scene.step(to_1=bad, drops=REPLAYED | INTEGRITY) == []
    assert scene.step("Advance", after_ns=10**12) == []
    hard = [(0, scene.expire(out, 5, hard=True)), (1, scene.expire(into, 5, hard=True))]
    out.expired_step = into.expired_step = len(scene.ledger.steps)
    packets = [datagram(4), datagram(5), datagram(6)]
    found = scene.step(
        clear=packets, sent=[scene.sealed(out, 4), scene.sealed(out, 5)], got=packets[:2],
        told=hard, drops={(0, "tx_drop_hard_limit"): 1},
    )  # fmt: skip
    assert found == []
