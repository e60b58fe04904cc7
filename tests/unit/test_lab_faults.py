# SPDX-License-Identifier: Apache-2.0
"""The faults of a lab: who gets them, by which name, what the log says, how they end."""

import errno
import itertools

import pytest

from host_driver.faults import catalogue
from host_driver.lab import Lab
from proto.faults import SITES
from proto.status import OffloadError
from support.way import Way

SA = (
    "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1000 reqid 1 mode transport "
    "aead 'rfc4106(gcm(aes))' 0x000102030405060708090a0b0c0d0e0f10111213 128 "
    "offload packet dev nic0 dir out"
)
TWO = catalogue.Row(
    id="F-X-01", area="x", where="", trigger="", correct="", never="", fault="two-at-once",
    inject=[
        {"site": "card.table", "kind": "full", "match": {"table": "keys"}, "times": 1},
        {"site": "wire", "kind": "drop", "match": {"esp": 1}},
    ],
)  # fmt: skip


@pytest.fixture(scope="module")
def running():
    with Lab(target="sim", hosts=2, card="tiny", seed=5) as lab:
        yield lab


@pytest.fixture
def lab(running):
    yield running
    running.faults.reset()


@pytest.fixture
def known(monkeypatch):
    """A catalogue with one row of two faults."""
    monkeypatch.setattr(catalogue, "catalogue", lambda: {"F-X-01": TWO})


def parties(lab) -> list[str]:
    return [entry["party"] for entry in lab.faults.list()]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"site": "events", "kind": "drop"}, ["host0", "host1"]),
        ({"site": "events", "kind": "drop", "host": 1}, ["host1"]),
        ({"site": "card.command", "kind": "silent"}, ["card0", "card1"]),
        ({"site": "card", "kind": "full", "host": 0}, ["card0"]),
        ({"site": "wire", "kind": "drop"}, ["wire"]),
        ({"site": "wire", "kind": "drop", "host": 1}, ["wire"]),
    ],
)
def test_a_fault_goes_to_the_parties_that_own_its_site(lab, fields, expected):
    name = lab.faults.add(**fields)
    assert parties(lab) == expected
    lab.faults.remove(name)
    assert parties(lab) == []


def test_on_the_wire_a_host_means_what_its_card_sent(lab):
    lab.faults.add(site="wire", kind="drop", match={"esp": 1}, host=1)
    assert lab.faults.list()[0]["match"] == {"esp": 1, "src": 1}


def test_seeds_come_from_the_lab_and_differ_by_party(lab):
    lab.faults.add(site="events", kind="drop")
    lab.faults.add(site="events", kind="drop")
    seeds = [entry["seed"] for entry in lab.faults.list()]
    assert len(set(seeds)) == 4
    lab.faults.reset()
    lab.faults.add(site="events", kind="drop", seed=77)
    assert [entry["seed"] for entry in lab.faults.list()] == [77, 77]


def test_a_name_of_the_catalogue_arms_all_that_its_row_injects(lab, known):
    assert lab.faults.add("two-at-once", host=0) == "two-at-once"
    assert [(entry["party"], entry["name"]) for entry in lab.faults.list()] == [
        ("card0", "two-at-once"), ("wire", "two-at-once/2"),
    ]  # fmt: skip
    with pytest.raises(OffloadError, match="armed already"):
        lab.faults.add("two-at-once")
    assert len(parties(lab)) == 2
    lab.faults.remove("two-at-once")
    assert parties(lab) == []


def test_fields_override_those_of_the_catalogue(lab, known):
    lab.faults.add("two-at-once", host=1, times=5, name="mine")
    assert {(entry["name"], entry["times"]) for entry in lab.faults.list()} == {
        ("mine", 5), ("mine/2", 5),
    }  # fmt: skip


def test_a_fault_lasts_as_long_as_its_block(lab, known):
    host = lab.hosts[0]
    with lab.faults.inject("two-at-once", host=0) as name:
        refused = host.ip(SA)
        assert refused.rc == 2
        assert "key table is full" in refused.stderr
        assert name == "two-at-once"
    assert parties(lab) == []
    assert host.ip(SA).rc == 0
    host.ip("xfrm state flush")


def test_what_is_armed_tells_how_often_it_fired(lab, known):
    lab.faults.add("two-at-once", host=0)
    lab.hosts[0].ip(SA)
    assert [entry["fired"] for entry in lab.faults.list()] == [1, 0]


def test_the_log_is_that_of_all_parties_in_order(lab):
    before = len(lab.faults.log())
    lab.faults.add(site="card.command", kind="silent", match={"opcode": "QUERY_CENSUS"}, times=1)
    lab.faults.add(site="mailbox.reply", kind="drop", match={"opcode": "QUERY_CENSUS"}, times=1)
    lab.hosts[1].nic.census()
    lab.faults.reset()
    log = lab.faults.log()[before:]
    assert [(entry["party"], entry["kind"]) for entry in log] == [
        ("card1", "silent"), ("host1", "drop"),
    ]  # fmt: skip
    assert log[0]["time_ns"] < log[1]["time_ns"]
    assert log[1]["facts"] == {"opcode": "QueryCensus"}
    ids = [entry["id"] for entry in lab.faults.log()]
    assert len(set(ids)) == len(ids)
    assert all(entry["id"].startswith(entry["party"] + ":") for entry in log)


@pytest.mark.parametrize(
    ("fields", "says", "code"),
    [
        ({"site": "nowhere", "kind": "drop"}, "known are", errno.EINVAL),
        ({"site": "wire", "kind": "drop", "host": 2}, "no host 2", errno.EINVAL),
        ({"site": "wire", "kind": "drop", "colour": 1}, "colour", errno.EINVAL),
        ({"site": "wire", "kind": "drop", "times": "often"}, "int", errno.EINVAL),
        ({"kind": "drop"}, "site", errno.EINVAL),
        ({"fault": "no-such-fault"}, "no fault is named", errno.ENOENT),
    ],
)
def test_bad_faults_are_refused_and_nothing_armed(lab, fields, says, code):
    with pytest.raises(OffloadError, match=says) as caught:
        lab.faults.add(fields.pop("fault", None), **fields)
    assert caught.value.errno == code
    assert parties(lab) == []


def test_what_one_party_refuses_is_armed_nowhere(lab):
    for _ in range(256):
        lab.faults.add(site="events", kind="drop", host=1)
    with pytest.raises(OffloadError, match="256") as caught:
        lab.faults.add(site="events", kind="drop")
    assert caught.value.errno == errno.ENOSPC
    assert "host0" not in parties(lab)


def test_an_unknown_name_is_not_removed(lab):
    with pytest.raises(OffloadError, match="no fault"):
        lab.faults.remove("nothing")


def test_a_delayed_event_and_frame_are_waited_for_by_settle(lab):
    a, b = lab.hosts
    lab.faults.add(site="wire", kind="delay", delay_ms=250)
    packet = bytes.fromhex("4500001c000000004011000a0a0000010a000002") + bytes(8)
    a.send([packet])
    lab.settle()
    assert len(b.receive()) == 1


def life(lab) -> list[object]:
    """A little of everything, and all that can be seen of it from outside."""
    way = Way(lab)
    way.ids = itertools.count(1)
    for _ in range(3):
        way.send(20)
        lab.advance(1)
    way.add_sa(0x2000)
    way.delete_sa(0x1000)
    way.send(20)
    seen = [way.arrived(), lab.wire.frames(), lab.wire.counters(), lab.now_ns()]
    for host in lab.hosts:
        seen += [host.notifications(), host.trace(), host.mib(), host.nic.counters()]
    return seen


def arm_everything(faults, **how) -> None:
    """Every kind of every site, with what it needs."""
    for site, about in SITES.items():
        for kind, needs in about.kinds.items():
            value = None
            if "value" in needs.needs:
                value = needs.examples[0] if needs.examples else max(needs.low, 1)
            delay_ms = 5 if "delay_ms" in needs.needs else 0
            faults.add(site=site, kind=kind, value=value, delay_ms=delay_ms, **how)


def test_faults_of_probability_zero_change_no_byte_of_a_life() -> None:
    seen = []
    for armed in (False, True, True):
        with Lab(target="sim", hosts=2, card="full", seed=9) as lab:
            if armed:
                arm_everything(lab.faults, probability=0.0)
            seen.append(life(lab))
            assert lab.faults.log() == []
    assert seen[0] == seen[1] == seen[2]


def test_a_seed_repeats_a_life_with_faults_of_every_site() -> None:
    seen = []
    for _ in range(2):
        with Lab(target="sim", hosts=2, card="full", seed=9) as lab:
            lab.faults.add(site="wire", kind="corrupt", probability=0.1)
            lab.faults.add(site="wire", kind="delay", delay_ms=30, value=40, probability=0.3)
            lab.faults.add(site="ring", kind="reorder", probability=0.2)
            lab.faults.add(site="mailbox", kind="duplicate", probability=0.3)
            lab.faults.add(site="card.command", kind="delay", delay_ms=20, probability=0.3)
            seen.append([*life(lab), lab.faults.log()])
    assert seen[0] == seen[1]
    assert len(seen[0][-1]) > 20
