# SPDX-License-Identifier: Apache-2.0
"""The control channel: replies that are late, lost, doubled or wrong, commands that break on their
way, slots that stall. What an add says then, and that nothing of it stays on the card."""

import errno
import re

import pytest

from proto.limits import COMMAND_TIMEOUT_MS, MAILBOX_SLOTS
from proto.status import STATUS_ERRNO, OffloadError, Status
from support.adds import ADDS, attempt, clear_host, counted, empty, everything, labs, other
from support.esp import A, B, datagram
from support.rows import row

ADD, IN, POLICY = ADDS["packet-out"].text, ADDS["packet-in"].text, ADDS["protect-out"].text
TIMEOUT = COMMAND_TIMEOUT_MS / 1000

lab = labs(seed=41)


@pytest.fixture
def host(lab, target):
    """The host of the target's lab; empty before and after."""
    world = lab(target)
    (host,) = world.hosts
    clear_host(world)
    yield host
    clear_host(world)


@pytest.fixture
def world(lab, target):
    return lab(target)


# --- replies ---


@row("F-CTL-01", process=True)
def test_a_lost_reply_fails_the_add_and_leaves_no_orphan(world, host, target) -> None:
    """The slot stays out of use until the card answers in it; the SA that the card made is found
    and destroyed, and was never used."""
    assert attempt(host, POLICY) == (0, "")
    world.faults.add("reply-lost")
    code, said = attempt(host, ADD)
    assert code == errno.ETIMEDOUT
    assert said == f"Error: CREATE_SA: no reply from the card in {COMMAND_TIMEOUT_MS} ms.\n"
    host.send([datagram()])
    world.advance(TIMEOUT + 1)
    world.settle()
    assert host.nic.census() == {"keys": 0, "sas": 0, "rules_sa": 0, "rules_policy": 1}
    assert counted(host, "mailbox_late", "orphans_destroyed") == (1, 1)
    assert world.wire.frames() == []
    assert attempt(host, ADD) == (0, "")


@row("F-CTL-02", process=True)
def test_a_late_reply_is_nobody_elses(world, host, target) -> None:
    """While the first add's reply is late others come and go; each gets its own answer."""
    world.faults.add("reply-late")
    assert attempt(host, ADD)[0] == errno.ETIMEDOUT
    for number in range(3):
        assert attempt(host, other(IN, number)) == (0, "")
        assert attempt(host, other(POLICY, number)) == (0, "")
    world.advance(2 * TIMEOUT)
    world.settle()
    assert counted(host, "mailbox_late") == (1,)
    assert host.nic.census() == {"keys": 3, "sas": 3, "rules_sa": 3, "rules_policy": 3}
    assert host.nic.audit()["orphans"] == 0


@row("F-CTL-03")
def test_a_lost_interrupt_is_no_timeout(world, host, target) -> None:
    """The reply is found where it lies, before its deadline counts."""
    world.faults.add("interrupt-lost")
    started = world.now_ns()
    assert attempt(host, ADD) == (0, "")
    assert counted(host, "mailbox_timeouts", "mailbox_late") == (0, 0)
    assert counted(host, "mailbox_polled") == (1,)
    assert world.now_ns() - started <= COMMAND_TIMEOUT_MS * 1_000_000


@row("F-CTL-04", process=True)
def test_a_doubled_reply_is_counted_and_changes_nothing(world, host, target) -> None:
    world.faults.add("reply-doubled")
    assert attempt(host, ADD) == (0, "")
    assert attempt(host, POLICY) == (0, "")
    world.settle()
    doubled = sum(one["name"].startswith("reply-doubled") for one in world.faults.log())
    world.faults.reset()
    assert counted(host, "mailbox_unexpected")[0] >= 4 <= doubled
    assert host.nic.census() == {"keys": 1, "sas": 1, "rules_sa": 1, "rules_policy": 1}


@row("F-CTL-05")
@pytest.mark.parametrize("opcode", ["CREATE_KEY", "CREATE_SA", "CREATE_SA_RULE"])
def test_a_reply_with_a_wrong_token_is_no_success(world, host, target, opcode) -> None:
    world.faults.add("reply-wrong-token", match={"opcode": opcode})
    code, said = attempt(host, ADD)
    assert code == errno.EBADR
    assert f"{opcode}: the reply carries token" in said
    assert "(syndrome 0x0)" in said
    world.advance(TIMEOUT + 1)
    assert empty(host)
    assert attempt(host, ADD) == (0, "")


@row("F-CTL-06", process=True)
@pytest.mark.parametrize("opcode", ["CREATE_KEY", "CREATE_SA", "CREATE_SA_RULE"])
def test_every_refusal_is_told_with_its_syndrome(world, host, target, opcode) -> None:
    before = everything(host)
    for status in [status for status in Status if status] + [99]:
        world.faults.add(
            "command-refused", match={"opcode": opcode}, value=f"{int(status)}:0xfeedbeef"
        )
        code, said = attempt(host, ADD)
        world.faults.reset()
        assert code == (errno.EIO if status == 99 else STATUS_ERRNO[status])
        name = f"status {status}" if status == 99 else status.name
        assert said == f"Error: {opcode} failed with {name} (syndrome 0xfeedbeef).\n"
        assert everything(host) == before
    assert attempt(host, ADD) == (0, "")


@row("F-CTL-07", process=True)
@pytest.mark.parametrize("table", ["keys", "sas", "rules"])
@pytest.mark.parametrize("kind", ["alias", "zero-handle"])
def test_a_handle_that_is_none_or_in_use_is_refused(world, host, target, table, kind) -> None:
    """Nobody shares a handle: the new object is found by its cookie and goes, the old one stays."""
    assert attempt(host, other(ADD, 1)) == (0, "")
    before = everything(host)
    if kind == "alias":
        world.faults.add("handle-in-use", match={"table": table})
    else:
        world.faults.add(site="card.object", kind=kind, match={"table": table}, times=1)
    code, said = attempt(host, ADD)
    assert code == errno.EIO
    assert ("which is in use" if kind == "alias" else "the card gave no handle") in said
    world.faults.reset()
    assert everything(host) == before
    assert attempt(host, ADD) == (0, "")


@row("F-CTL-08", process=True)
@pytest.mark.parametrize("opcode", ["CREATE_KEY", "CREATE_SA", "CREATE_SA_RULE"])
@pytest.mark.parametrize("kind", ["truncated", "other-shape"])
def test_a_cut_or_strange_reply_is_an_error(world, host, target, opcode, kind) -> None:
    before = everything(host)
    if kind == "truncated":
        world.faults.add("reply-truncated", match={"opcode": opcode})
    else:
        world.faults.add(site="card.command", kind=kind, match={"opcode": opcode}, times=1)
    code, said = attempt(host, ADD)
    assert (code, opcode in said) == (errno.EIO, True)
    assert everything(host) == before
    assert attempt(host, ADD) == (0, "")


@row("F-CTL-08", process=True)
@pytest.mark.parametrize(
    ("site", "kind", "code"),
    [("card.command", "other-shape", errno.EIO), ("mailbox.reply", "drop", errno.ETIMEDOUT)],
)
def test_an_mtu_that_nobody_is_sure_of_is_soon_the_device_s_again(
    world, host, target, site, kind, code
) -> None:
    """The card has taken it and its answer said nothing sure: the user is refused, the device has
    what it had, and the card must not go on dropping what the device lets through."""
    world.faults.add(site=site, kind=kind, match={"opcode": "SET_PORT"}, times=1)
    with pytest.raises(OffloadError) as refused:
        host.set_link(mtu=576)
    assert refused.value.errno == code
    assert {dev["name"]: dev["mtu"] for dev in host.devices()}["nic0"] == 1500
    world.advance(TIMEOUT + 2)
    world.settle()
    assert host.send([datagram(1400)]) == [0]
    world.settle()
    assert len(world.wire.frames()) - host.frames_before == 1


@row("F-CTL-08")
def test_a_card_that_comes_back_is_told_as_well(world, host, target) -> None:
    """The same while the driver brings back what a card that was reset had."""
    assert attempt(host, ADDS["block"].text)[0] == 0
    slow = {"opcode": "CREATE_POLICY_RULE"}
    world.faults.add(site="mailbox.reply", kind="delay", delay_ms=1500, match=slow)
    host.nic.reset("function")
    while host.info()["device_state"] != "recovering":
        world.advance(0.05)
    world.advance(0.3)
    world.faults.add(site="card.command", kind="other-shape", match={"opcode": "SET_PORT"}, times=1)
    with pytest.raises(OffloadError):
        host.set_link(mtu=576)
    assert host.info()["device_state"] == "recovering"
    world.faults.reset()
    world.advance(10)
    world.settle()
    assert host.ip("xfrm policy flush").rc == 0
    world.settle()
    assert host.send([datagram(1400)]) == [0]
    world.settle()
    assert len(world.wire.frames()) - host.frames_before == 1


@row("F-CTL-11", process=True)
def test_replies_in_any_order_find_their_commands(world, host, target) -> None:
    for number in range(60):
        assert attempt(host, other(IN, number)) == (0, "")
    world.faults.add("replies-swapped")
    assert host.ip("xfrm state flush").rc == 0
    world.advance(2)
    world.settle()
    assert len(world.faults.log()) > 20
    world.faults.reset()
    assert counted(host, "mailbox_unexpected", "mailbox_timeouts", "destroy_errors") == (0, 0, 0)
    assert empty(host)


# --- slots and queues ---


@row("F-CTL-09")
def test_where_every_slot_is_stalled_an_add_fails_at_once(world, host, target) -> None:
    """Half of the slots take commands that make objects: when they all wait for the card, the
    next add does not, and destroys and queries still have slots."""
    assert attempt(host, other(POLICY, 1)) == (0, "")
    world.faults.add("slots-stalled")
    for _ in range(MAILBOX_SLOTS // 2):
        assert attempt(host, ADD)[0] == errno.ETIMEDOUT
    started = world.now_ns()
    for text in (ADD, IN, POLICY):
        code, said = attempt(host, text)
        assert code == errno.EAGAIN
        assert "all 16 mailbox slots for new objects wait for the card" in said
    assert world.now_ns() - started < TIMEOUT * 1e9 / 10
    assert host.ip("xfrm policy flush").rc == 0
    assert host.nic.census()["rules_policy"] == 0
    world.faults.reset()
    world.advance(2 * TIMEOUT)
    assert empty(host)
    assert attempt(host, ADD) == (0, "")


@row("F-CTL-10")
def test_a_flood_of_commands_to_a_slow_card_is_bounded_and_starves_nobody(
    world, host, target
) -> None:
    for number in range(300):
        assert attempt(host, other(IN, number)) == (0, "")
    world.faults.add("card-slow")
    assert host.ip("xfrm state flush").rc == 0  # 900 destroys at one moment
    started = world.now_ns()
    assert host.nic.counters()["ipsec_rx_pkts"] == 0, "a query is answered"
    assert attempt(host, ADD) == (0, ""), "an add finds its slots"
    assert world.now_ns() - started < 30 * TIMEOUT * 1e9
    world.advance(40)
    world.settle()
    world.faults.reset()
    assert host.nic.census() == {"keys": 1, "sas": 1, "rules_sa": 1, "rules_policy": 0}
    assert counted(host, "mailbox_stalled") == (0,)


@row("F-CTL-12", process=True, once=True)
@pytest.mark.parametrize("kind", ["truncate", "corrupt"])
@pytest.mark.parametrize("value", [0, 1, 13, 19, 20, 21, 30, 77])
def test_a_command_that_broke_on_its_way_is_not_executed(world, host, target, kind, value) -> None:
    """Length and check of the message are judged before anything of it is read; the host asks
    again, and a copy that came through is executed once."""
    world.faults.add("command-broken", kind=kind, value=value * (8 if kind == "corrupt" else 1) + 3)
    code, _ = attempt(host, ADD)
    world.advance(TIMEOUT + 1)
    world.settle()
    world.faults.reset()
    assert host.nic.counters()["msg_malformed"] > 0
    assert code == errno.ETIMEDOUT
    assert empty(host)
    assert attempt(host, ADD) == (0, "")


# --- what comes in the end ---


@row("F-CTL-17")
def test_an_old_answer_does_not_turn_counters_back(world, host, target) -> None:
    """The card is read while packets go on: what the slow answer says is older than what counter
    records have told meanwhile."""
    limited = ADD.replace("offload", "limit packet-soft 1000 limit packet-hard 2000 offload")
    assert attempt(host, limited) == attempt(host, POLICY) == (0, "")
    host.send([datagram(ends=(A, B))])
    world.settle()
    world.faults.add("answer-stale")
    seen = []
    for _ in range(12):
        host.send([datagram(ends=(A, B))] * 3)
        world.advance(0.4)
        seen.append(packets(host))
    assert len(world.faults.log()) > 1
    assert seen == sorted(seen)
    world.faults.reset()
    world.advance(3)
    assert packets(host) == 37


def packets(host) -> int:
    """What the SA has counted, as a user sees it."""
    (count,) = re.findall(r"\d+\(bytes\), (\d+)\(packets\)", host.ip("-s xfrm state list").stdout)
    return int(count)


@row("F-CTL-18", process=True)
def test_nothing_is_announced_before_the_result_is_there(world, host, target) -> None:
    """The card has taken the command, and says no after a second: the SA was never told of, and no
    packet has used it."""
    assert attempt(host, POLICY) == (0, "")
    host.notifications()
    world.faults.add("result-fails-late")
    assert attempt(host, ADD)[0] == errno.EIO
    assert host.notifications() == []
    assert host.ip("xfrm state list").stdout == ""
    assert host.nic.census()["sas"] == 0


@row("F-CTL-19", process=True, once=True)
@pytest.mark.parametrize(
    ("kind", "counter"),
    [("wrong-id", "events_unknown"), ("wrong-generation", "events_unknown"),
     ("unknown-type", "events_malformed")],
)  # fmt: skip
def test_an_event_that_names_nothing_is_counted_and_the_limit_still_told(
    world, host, target, kind, counter
) -> None:
    """Events are hints: the tick reads what they should have named."""
    limited = ADD.replace("offload", "limit packet-soft 2 limit packet-hard 4 offload")
    assert attempt(host, limited) == attempt(host, POLICY) == (0, "")
    world.faults.add("event-of-nothing", kind=kind)
    host.send([datagram(ends=(A, B))] * 9)
    world.settle()
    world.advance(3)
    world.settle()
    assert counted(host, counter)[0] >= 1
    assert len(world.wire.frames()) - host.frames_before == 4
    assert host.ip("xfrm state list").stdout == "", "it has expired"
