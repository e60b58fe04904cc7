# SPDX-License-Identifier: Apache-2.0
"""The fault table: every field, every kind, the log, what is held, what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.clock import NS
from proto.faults import MESSAGE_KINDS, SITES, FaultSpec, FaultTable, Kind, Site
from proto.faults.held import HELD_MAX
from proto.status import OffloadError

MS = 1_000_000


def armed(**spec) -> FaultTable:
    table = FaultTable()
    table.add(FaultSpec(**{"site": "events", "kind": "drop", **spec}))
    return table


def through(count=10, at="events", facts=None, **spec):
    """`count` two-byte messages, one a millisecond: the table, and what came of each."""
    table = armed(**spec)
    return table, [table.apply(at, bytes([i, i]), facts or {}, i * MS) for i in range(count)]


def lost(**spec) -> list[int]:
    """Numbers from 1 of the messages that a drop took."""
    return [i for i, result in enumerate(through(**spec)[1], 1) if not result]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, list(range(1, 11))),
        ({"times": 2, "skip": 3}, [4, 5]),
        ({"interval": 3}, [3, 6, 9]),
        ({"interval": 3, "skip": 1, "times": 2}, [4, 7]),
        ({"fail_nth": 4}, [4]),
        ({"fail_nth": 11}, []),
        ({"space": 5}, [3, 4, 5, 6, 7, 8, 9, 10]),  # two messages of two bytes fit into five
        ({"space": 4, "times": 1}, [3]),
        ({"kind": "burst", "value": 3, "times": 1, "skip": 2}, [3, 4, 5]),
        ({"kind": "burst", "value": 2, "interval": 3}, [3, 4, 7, 8]),
        ({"kind": "outage", "delay_ms": 3, "times": 1, "skip": 2}, [3, 4, 5]),
    ],
)
def test_which_messages_a_fault_hits(fields, expected):
    assert lost(**fields) == expected


def test_a_burst_counts_once_and_is_logged_for_each_message():
    table, _ = through(kind="burst", value=3, times=1, name="b")
    assert table.fired() == {"b": 1}
    assert [firing.id for firing in table.log()] == [1, 2, 3]


def test_a_site_names_all_below_it():
    _, results = through(
        at="mailbox.reply", facts={"opcode": "CreateSa"}, site="mailbox",
        match={"opcode": "CREATE_SA"},
    )  # fmt: skip
    assert results == [[]] * 10
    assert through(at="ring.tx_done", site="ring.tx")[0].fired() == {"ring.tx-drop-1": 0}


@pytest.mark.parametrize(
    ("want", "fact", "same"),
    [
        ("CREATE_SA", "CreateSa", True),
        ("create_sa", "CreateKey", False),
        (0x1000, "0x1000", True),
        ("0x1000", 0x1000, True),
        ("0x1001", 0x1000, False),
        (1, True, True),
        ("none", None, True),
        ("0xyz", "0xyz", True),
    ],
)
def test_facts_compare_as_people_write_them(want, fact, same):
    table = armed(match={"handle": want})
    assert (table.apply("events", b"x", {"handle": fact}, 0) == []) is same


def test_kinds_that_change_bytes():
    assert through(kind="duplicate")[1][1] == [b"\1\1"] * 2
    assert through(kind="duplicate", value=3)[1][1] == [b"\1\1"] * 4
    assert through(kind="truncate", value=1)[1][1] == [b"\1"]
    assert through(kind="truncate")[1][1] == [b""]
    assert through(kind="corrupt", value=9)[1][1] == [b"\1\3"]
    longer = through(kind="extend", value=5)[1][1][0]
    assert (longer[:2], len(longer)) == (b"\1\1", 7)
    flipped = through(kind="corrupt", seed=3)[1][0][0]
    assert sum(byte.bit_count() for byte in flipped) == 1


def test_a_command_that_goes_nowhere_is_zeroed_and_copies_stay_writable():
    for kind in ("drop", "corrupt", "truncate", "extend"):
        table = armed(site="mailbox.command", kind=kind)
        command = bytearray(b"secret")
        results = table.apply("mailbox.command", command, {"opcode": "CreateKey"}, 0)
        assert command == bytes(6)
        assert all(isinstance(result, bytearray) for result in results)
    table = armed(site="mailbox.command", kind="duplicate")
    one, two = table.apply("mailbox.command", command, {}, 0)
    assert one is command
    assert isinstance(two, bytearray)
    assert two is not command


def test_delay_holds_until_its_time_and_no_longer():
    table = armed(kind="delay", delay_ms=5, times=1)
    assert table.apply("events", b"a", {}, 0, "context") == []
    assert table.apply("events", b"b", {}, 1) == [b"b"]
    assert (table.held, table.deadline_ns()) == (1, 5 * MS)
    assert table.due(5 * MS - 1) == []
    assert table.due(5 * MS) == [("events", b"a", "context")]
    assert (table.held, table.deadline_ns(), table.due(NS)) == (0, None, [])


def test_jitter_is_drawn_per_message_within_its_bound():
    table = armed(kind="delay", delay_ms=2, value=10, seed=5)
    for number in range(50):
        table.apply("events", bytes([number]), {}, 0)
    deadlines, order = set(), []
    while (deadline := table.deadline_ns()) is not None:
        deadlines.add(deadline)
        order += [released.data[0] for released in table.due(deadline)]
    assert 2 * MS <= min(deadlines) < max(deadlines) <= 12 * MS
    assert sorted(order) == list(range(50)) != order


def passing(table: FaultTable, now_ns: int, *messages: bytes, lane: int = 0) -> list[bytes]:
    """The order in which wire frames go on, asking for held ones after each, as parties do."""
    out = []
    for message in messages:
        out += table.apply("wire", message, {"dst": lane}, now_ns)
        out += [released.data for released in table.due(now_ns)]
    return out


def test_reorder_lets_go_behind_the_later_ones_of_the_same_stream():
    table = armed(site="wire", kind="reorder", value=2, times=1)
    assert passing(table, 0, b"a") == []
    assert passing(table, 0, b"other way", lane=1) == [b"other way"]
    assert passing(table, 0, b"b", b"c", b"d") == [b"b", b"c", b"a", b"d"]


def test_reorder_ends_with_time_where_nothing_follows():
    for fields, bound in (({}, 1000), ({"delay_ms": 7}, 7)):
        table = armed(site="wire", kind="reorder", **fields)
        passing(table, 0, b"a")
        assert table.deadline_ns() == bound * MS
        assert [released.data for released in table.due(bound * MS)] == [b"a"]


def test_rate_spaces_each_stream_by_its_bytes():
    table = armed(site="wire", kind="rate", value=1000)
    for lane in (0, 1):
        for _ in range(2):
            assert table.apply("wire", bytes(100), {"dst": lane}, 0, lane) == []
    assert [released.context for released in table.due(100 * MS)] == [0, 1]
    assert table.deadline_ns() == 200 * MS
    assert table.due(200 * MS - 1) == []
    assert len(table.due(200 * MS)) == 2
    table.apply("wire", bytes(10), {"dst": 0}, 5 * NS)  # what was not used is not saved up
    assert table.deadline_ns() == 5 * NS + 10 * MS


def test_a_message_is_held_as_the_faults_before_made_it():
    table = armed(kind="duplicate")
    table.add(FaultSpec(site="events", kind="delay", delay_ms=1))
    table.add(FaultSpec(site="events", kind="corrupt", value=0))
    assert table.apply("events", b"a", {}, 0) == []
    assert [released.data for released in table.due(MS)] == [b"`", b"`"]


def test_no_fault_sees_what_another_has_dropped():
    table = armed(name="first")
    table.add(FaultSpec(site="events", kind="drop", name="second"))
    table.apply("events", b"a", {}, 0)
    assert table.fired() == {"first": 1, "second": 0}


@pytest.mark.parametrize("heal", ["remove", "reset"])
def test_what_a_disarmed_fault_holds_goes_on_in_order(heal):
    table = armed(kind="delay", delay_ms=50, name="slow")
    table.add(FaultSpec(site="wire", kind="reorder", name="swap"))
    table.apply("events", b"a", {}, 0)
    table.apply("events", b"b", {}, 0)
    table.apply("wire", b"c", {"dst": 0}, 0)
    if heal == "remove":
        table.remove("slow")
        assert table.held == 3
    else:
        table.reset()
    data = [released.data for released in table.due(1)]
    assert sorted(data) == [b"a", b"b", b"c"][: 2 if heal == "remove" else 3]
    assert data.index(b"a") < data.index(b"b")
    assert table.armed is (heal == "remove")


def test_what_is_held_is_bounded_and_nothing_of_it_lost():
    table = armed(kind="delay", delay_ms=1000)
    for number in range(HELD_MAX + 10):
        table.apply("events", number.to_bytes(4), {}, 0)
        for released in table.due(0):
            assert int.from_bytes(released.data) == number - HELD_MAX
    assert table.held == HELD_MAX


def test_the_log_tells_each_firing_once_with_a_running_id():
    table, _ = through(times=3, interval=2, name="lost", facts={"type": "HARD_LIMIT", "handle": 7})
    log = table.log()
    assert [(firing.id, firing.time_ns) for firing in log] == [(1, MS), (2, 3 * MS), (3, 5 * MS)]
    first = log[0]
    assert (first.name, first.site, first.kind) == ("lost", "events", "drop")
    assert first.facts == {"type": "HARD_LIMIT", "handle": 7}
    assert table.log(after=2) == log[2:]
    assert table.log(after=1, most=1) == log[1:2]
    table.reset()
    assert table.log() == log


PROBE = Site("card", "for this test", {"melt": Kind("it melts", (str,))}, ("heat", "bytes"))


def test_a_site_without_messages_is_told(monkeypatch):
    monkeypatch.setitem(SITES, "card.probe", PROBE)
    table = armed(site="card.probe", kind="melt", value="slowly", delay_ms=3, match={"heat": 9})
    assert table.fire("card.probe", {"heat": 8}, 0) == []
    (fired,) = table.fire("card.probe", {"heat": 9}, 5)
    assert (fired.kind, fired.value, fired.delay_ms) == ("melt", "slowly", 3)
    assert table.log()[0].time_ns == 5
    assert armed().fire("card.probe", {}, 0) == []


def test_space_counts_the_bytes_that_a_site_tells(monkeypatch):
    monkeypatch.setitem(SITES, "card.probe", PROBE)
    table = armed(site="card.probe", kind="melt", space=100)
    assert [len(table.fire("card.probe", {"bytes": 60}, 0)) for _ in range(3)] == [0, 1, 1]


@given(st.integers(0, 1000), st.binary(min_size=1, max_size=30), st.integers(1, 5))
def test_probability_zero_changes_no_byte(seed, data, interval):
    table = FaultTable()
    for kind in (*MESSAGE_KINDS, "rate"):
        table.add(
            FaultSpec(
                site="wire", kind=kind, probability=0.0, seed=seed, interval=interval,
                delay_ms=5, value=None if kind in ("drop", "outage") else 2,
            )
        )  # fmt: skip
    for _ in range(5):
        assert table.apply("wire", data, {"dst": 1}, 0) == [data]
    assert (table.held, table.log(), table.due(NS)) == (0, [], [])


def test_the_same_seed_makes_the_same_decisions():
    runs = [through(count=200, probability=0.5, seed=seed)[1] for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_a_fault_draws_from_its_own_generator():
    alone = armed(probability=0.5, seed=3, name="one")
    both = armed(probability=0.5, seed=3, name="one")
    both.add(FaultSpec(site="events", kind="corrupt", probability=0.5, seed=4))
    for table in (alone, both):
        for _ in range(100):
            table.apply("events", b"xy", {}, 0)
    assert alone.fired()["one"] == both.fired()["one"]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"site": "moon"}, "known are"),
        ({"site": ""}, "known are"),
        ({"site": "wir"}, "known are"),
        ({"site": "ring.tx_"}, "known are"),
        ({"kind": "melt"}, "known are burst, corrupt"),
        ({"site": "events", "kind": "rate", "value": 1}, "unknown at events"),
        ({"times": 0}, "times 0 is outside 1"),
        ({"skip": -1}, "skip"),
        ({"interval": 0}, "interval"),
        ({"space": -1}, "space"),
        ({"fail_nth": 0}, "fail_nth"),
        ({"fail_nth": 2, "times": 1}, "says all"),
        ({"fail_nth": 2, "skip": 1}, "says all"),
        ({"seed": 1 << 64}, "seed"),
        ({"kind": "truncate", "value": -1}, "value -1"),
        ({"kind": "truncate", "value": "short"}, "type int"),
        ({"kind": "drop", "value": 1}, "takes no value"),
        ({"kind": "duplicate", "value": 65}, "1..64"),
        ({"kind": "delay"}, "needs delay_ms"),
        ({"kind": "delay", "delay_ms": -1}, "delay_ms"),
        ({"kind": "burst"}, "needs value"),
        ({"kind": "outage"}, "needs delay_ms"),
        ({"kind": "rate"}, "needs value"),
        ({"probability": 1.5}, "0..1"),
        ({"probability": float("nan")}, "0..1"),
        ({"match": {"opcode": "CREATE_SA"}}, "no facts"),
        ({"match": {"spi": "x" * 81}}, "printable"),
        ({"name": "two\nlines"}, "printable"),
    ],
)
def test_a_fault_that_cannot_happen_is_refused(spec, says):
    table = FaultTable()
    with pytest.raises(OffloadError, match=says) as caught:
        table.add(FaultSpec(**{"site": "wire", "kind": "drop", **spec}))
    assert caught.value.errno == 22
    assert table.specs() == []


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"kind": "status"}, "needs value"),
        ({"kind": "status", "value": ""}, "needs value"),
        ({"kind": "status", "value": "BROKEN"}, "none of OK, BAD_OPCODE"),
        ({"kind": "status", "value": "OK:nope"}, "UNKNOWN_OPCODE"),
        ({"kind": "status", "value": 1 << 32}, "32 bits"),
        ({"kind": "silent", "value": "after"}, "none of before"),
        ({"kind": "silent", "value": 1}, "type str"),
        ({"kind": "delay", "value": "before"}, "needs delay_ms"),
        ({"site": "card.table", "kind": "full", "value": "keys"}, "takes no value"),
    ],
)
def test_values_of_cards_are_read_before_they_are_armed(spec, says):
    with pytest.raises(OffloadError, match=says):
        FaultTable().add(FaultSpec(**{"site": "card.command", **spec}))


def test_names_are_unique_and_removable():
    table = FaultTable()
    name = table.add(FaultSpec(site="wire", kind="drop"))
    with pytest.raises(OffloadError, match="armed already"):
        table.add(FaultSpec(site="wire", kind="drop", name=name))
    table.remove(name)
    assert table.apply("wire", b"x", {}, 0) == [b"x"]
    with pytest.raises(OffloadError, match="no fault"):
        table.remove(name)
    assert table.add(FaultSpec(site="wire", kind="drop")) != name


def test_a_table_takes_so_many_faults_and_no_more():
    table = FaultTable()
    for _ in range(256):
        table.add(FaultSpec(site="wire", kind="drop"))
    with pytest.raises(OffloadError, match="256") as caught:
        table.add(FaultSpec(site="wire", kind="drop"))
    assert caught.value.errno == 28


def test_every_site_can_be_asked_for():
    for name, site in SITES.items():
        for kind, about in site.kinds.items():
            values = about.examples or ((max(about.low, 1),) if about.value else (None,))
            for value in values:
                armed(site=name, kind=kind, value=value, delay_ms=1)
