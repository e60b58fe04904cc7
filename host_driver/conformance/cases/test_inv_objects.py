# SPDX-License-Identifier: Apache-2.0
"""INV-06, 08, 12, 13: what holds of SAs, policies and messages, whatever is asked for."""

import errno
import random
import re
from typing import Any

import pytest

from host_driver.conformance import layouts, messages, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import DESTINATION, SOURCE
from host_driver.conformance.subject import Subject
from host_driver.conformance.workload import GIVEN, Workload
from proto.xfrm import Attr, Msg

STEPS = 160
IPV6, INBOUND, PACKET = 1, 2, 4
IN, OUT = 0, 1
UNKNOWN_FLAG = 8
MANY = 40  # more SAs and policies than the small card of the case has places for
SMALL = "full:sa_max=4,key_max=16,rule_max=6"


# --- INV-06: a refusal changes nothing ---


def everything(host: Subject) -> dict[str, Any]:
    """All that a refusal must leave as it was; of the card what counts packets and objects."""
    packets = {
        name: count for name, count in host.counters().items()
        if "mailbox" not in name and "refused" not in name
    }  # fmt: skip
    return {
        "states": [(note.fixed, note.attributes) for note in host.states()],
        "policies": [(note.fixed, note.attributes) for note in host.policies()],
        "census": host.census(), "counters": packets, "mib": host.mib(), "refs": host.refcnt(),
    }  # fmt: skip


def offload(host: Subject, flags: int = PACKET, ifindex: int = -1) -> dict[Attr, bytes]:
    """OFFLOAD_DEV."""
    return {Attr.OFFLOAD_DEV: messages.offload(host.ifindex if ifindex < 0 else ifindex, flags)}


def refused(host: Subject, latest: bool) -> dict[str, bytes]:
    """Requests of every kind that cannot succeed, by what is wrong with them."""
    wish, lo = offload(host), offload(host, ifindex=1)
    unknown_flag = offload(host, PACKET | UNKNOWN_FLAG)
    elsewhere, nowhere = messages.selector("10.7.0.1", "10.7.0.2"), messages.sa_id(0x7777)
    found = {
        "SA there": messages.new_sa(attributes=wish, reqid=9),
        "SA not there": messages.new_sa(type=Msg.UPDSA, attributes=wish, spi=0x7777),
        "SA of the core's only": messages.new_sa(attributes=lo, spi=0x7777),
        "SA with an unknown flag": messages.new_sa(attributes=unknown_flag, spi=0x7777),
        "SA of a mode no card has": messages.new_sa(attributes=wish, spi=0x7777, mode=4),
        "SA without key": messages.new_sa(
            attributes={Attr.ALG_AEAD: messages.aead(b""), **wish}, spi=0x7777
        ),
        "SA deleted twice": messages.request(Msg.DELSA, nowhere),
        "policy for no device": messages.new_policy(attributes=lo, dst="10.7.0.2"),
        "policy of no direction": messages.new_policy(attributes=wish, dir=3),
        "policy with an unknown flag": messages.new_policy(attributes=unknown_flag, dst="10.7.0.2"),
        "policy of a mode no card has": messages.new_policy(
            attributes=wish, dst="10.7.0.2", templates=[messages.template(mode=4)]
        ),
        "policy not there": messages.request(Msg.DELPOLICY, messages.policy_id(elsewhere)),
        "range of no SPI": messages.alloc_spi(0x800, 0x700),
        "move of nothing": messages.migrate("10.7.0.9", old_dst="10.7.0.2", attributes=wish),
    }
    if latest:  # TRAP-05: v6.2 leaks here
        found["policy there"] = messages.new_policy(attributes=wish)
    return found


@rule("INV-06")
def test_a_refusal_leaves_everything_as_it_was(bench: Bench) -> None:
    """SAs, policies, the card's objects, counters and references are those from before, nobody is
    told, and what the driver took for the request it was told to give back."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    host.ok(texts.state(host.dev, spi=0x1001, src=DESTINATION, dst=SOURCE, dir="in"))
    host.ok(texts.policy(host.dev))
    host.ok(texts.policy(dir="in", src=DESTINATION, dst=SOURCE))
    host.notes()
    asked = list(refused(host, bench.latest).items())
    random.Random(bench.options.seed).shuffle(asked)
    before = everything(host)
    for what, request in asked:
        since = len(host.calls())
        reply = host.request(request)
        assert reply.errno != 0, what
        assert (everything(host), host.note_names()) == (before, []), what
        assert balance(host.calls()[since:]) == 0, (what, host.order(since=since))


def balance(calls: list[dict[str, Any]]) -> int:
    """Adds that succeeded, less the frees."""
    adds = sum(call["call"].endswith("_add") and call["result"] == 0 for call in calls)
    frees = sum(call["call"].endswith("_free") for call in calls)
    return int(adds - frees)


# --- INV-08: how often an SA expires ---


# One soft expiry for each update, told before UPDSA when the update itself is its cause; then a
# hard one, or the delete, and nothing after that.
ONE_LIFE = re.compile("s?(Us?|sU)*[hD]?")
LETTERS = {"NEWSA": "N", "UPDSA": "U", "DELSA": "D"}


@rule("INV-08")
def test_an_sa_expires_softly_once_and_hard_once(bench: Bench) -> None:
    """Whatever life an SA has: one soft EXPIRE between two updates, one hard one at most, and none
    once it was deleted."""
    life = Workload(bench, "INV-08").run(STEPS).drain()
    told = tales(life.notes)
    for one, tale in told.items():
        for part in re.split("[NM]", tale):
            assert ONE_LIFE.fullmatch(part), (one, tale, life.log)
    assert {"s", "h"} & set("".join(told.values())), life.log


def tales(notes: list[messages.Note]) -> dict[object, str]:
    """What was told of each SA in order: N new, U updated, s and h expired, D deleted, M perhaps
    moved away."""
    told: dict[object, str] = {}
    for note in notes:
        if note.name in ("FLUSHSA", "MIGRATE"):
            letter = "D" if note.name == "FLUSHSA" else "M"
            told = {one: tale + ("" if tale[-1] in "hD" else letter) for one, tale in told.items()}
        elif note.name in LETTERS or note.name == "EXPIRE":
            letter = LETTERS.get(note.name) or "sh"[layouts.USER_EXPIRE.read(note.fixed).hard]
            one = identity(note)
            if one[1] not in GIVEN:  # ALLOCSPI tells nobody where their lives begin
                told[one] = told.get(one, "") + letter
    return told


def identity(note: messages.Note) -> tuple[bytes, int, int]:
    """What tells SAs apart: destination, SPI, and of larval ones without it the sequence number."""
    if note.name == "DELSA":
        id = layouts.USERSA_ID.read(note.fixed)
        return id.daddr, int.from_bytes(id.spi), 0
    info = layouts.USERSA_INFO.read(note.fixed)
    id = layouts.ID.read(info.id)
    spi = int.from_bytes(id.spi)
    return id.daddr, spi, 0 if spi else info.seq


# --- INV-12: a full table ---


def fill(host: Subject, policies: bool) -> int:
    """Add until the driver has no place any more, the first of all being the case's; how many."""
    for number in range(MANY):
        end = f"10.1.0.{2 + number}"
        if policies:
            request = messages.new_policy(attributes=offload(host), dst=end)
        else:
            request = messages.new_sa(attributes=offload(host), spi=0x1000 + number)
        code = host.request(request).errno
        if code:
            assert code == errno.ENOSPC
            return number
    pytest.skip(f"the card's table has places for more than {MANY}")


@rule("INV-12")
def test_a_duplicate_needs_a_place_of_its_own(bench: Bench) -> None:
    """NEWSA for an SA that is there: EEXIST with a spare place in the table, and the driver's
    ENOSPC without; the SA stays as it was."""
    host = bench.host(card=SMALL)
    places = fill(host, policies=False)
    assert places > 1
    before, again = host.sa(), messages.new_sa(attributes=offload(host), reqid=9)
    assert host.request(again).errno == errno.ENOSPC
    host.ok(texts.delete(spi=0x1000 + places - 1))
    assert host.request(again).errno == errno.EEXIST
    assert host.sa() == before
    assert len(host.states()) == places - 1


@rule("INV-12")
def test_a_replaced_policy_needs_two_places(bench: Bench) -> None:
    """UPDPOLICY of a policy that is there: done with a spare place in the table, and the driver's
    ENOSPC without; then the old one stays."""
    host = bench.host(card=SMALL)
    places = fill(host, policies=True)
    assert places > 1
    update = messages.new_policy(type=Msg.UPDPOLICY, attributes=offload(host), priority=7)
    assert host.request(update).errno == errno.ENOSPC
    assert priorities(host) == [0] * places
    host.ok(texts.policy_delete(dst=f"10.1.0.{1 + places}"))
    assert host.request(update).errno == 0
    assert sorted(priorities(host)) == [0] * (places - 2) + [7]
    assert host.request(update).errno == 0, "the place of the old one is free again"


def priorities(host: Subject) -> list[int]:
    """Of all policies."""
    return [layouts.USERPOLICY_INFO.read(note.fixed).priority for note in host.policies()]


# --- INV-13: what was asked for is what is shown ---


@rule("INV-13")
@pytest.mark.parametrize("kind", [PACKET, 0])
@pytest.mark.parametrize("inbound", [INBOUND, 0])
@pytest.mark.parametrize("ipv6", [IPV6, 0])
def test_an_sa_shows_the_offload_that_was_asked_for(
    bench: Bench, kind: int, inbound: int, ipv6: int
) -> None:
    """OFFLOAD_DEV of the dump: the device, and the request's flags without IPV6; a request made of
    that asks for the same again."""
    host = bench.host(driver=PROBE)
    ends: dict[str, Any] = {"src": DESTINATION, "dst": SOURCE} if inbound else {}
    flags = kind | inbound | ipv6
    for asked in (flags, flags & ~IPV6):
        window = 32 if inbound else 0
        request = messages.new_sa(attributes=offload(host, asked), replay_window=window, **ends)
        assert host.request(request).errno == 0
        (shown,) = host.states()
        assert shown.attributes[Attr.OFFLOAD_DEV] == messages.offload(host.ifindex, flags & ~IPV6)
        host.ok("xfrm state flush")


@rule("INV-13")
@pytest.mark.parametrize("dir", ["in", "out"])
def test_printed_text_asks_for_the_same_again(bench: Bench, dir: str) -> None:
    """`ip xfrm state` prints device, direction and mode; said again, they give the same SA."""
    host = bench.host()
    ends: dict[str, Any] = {"src": DESTINATION, "dst": SOURCE} if dir == "in" else {}
    host.ok(texts.state(host.dev, dir=dir, **ends))
    (line,) = (
        line for line in host.ok("xfrm state list").splitlines() if "offload parameters" in line
    )
    words = line.split()
    assert words[0] == "crypto" and words[1:3] == ["offload", "parameters:"]
    values = dict(zip(words[3::2], words[4::2], strict=True))
    before = host.states()[0].attributes[Attr.OFFLOAD_DEV]
    host.ok("xfrm state flush")
    host.ok(texts.state(values["dev"], dir=values["dir"], offload=values["mode"], **ends))
    assert host.states()[0].attributes[Attr.OFFLOAD_DEV] == before


@rule("INV-13")
@pytest.mark.parametrize(("dir", "reported"), [(IN, PACKET | INBOUND), (OUT, PACKET)])
def test_a_policy_shows_its_direction_as_well(bench: Bench, dir: int, reported: int) -> None:
    """A policy's OFFLOAD_DEV is the request's, with INBOUND for one of dir IN."""
    host = bench.host()
    assert host.request(messages.new_policy(attributes=offload(host), dir=dir)).errno == 0
    (shown,) = host.policies()
    assert shown.attributes[Attr.OFFLOAD_DEV] == messages.offload(host.ifindex, reported)
