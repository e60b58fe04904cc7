# SPDX-License-Identifier: Apache-2.0
"""The mailbox: slots, tokens, timeouts, late and doubled replies."""

import errno
from typing import get_args

import msgspec
import pytest

from host_driver.driver.command import CONTENTS, FENCE, CommandTimeout, CommandUnknown, checked
from host_driver.driver.slots import CREATE_SLOTS, RESERVED
from host_driver.sleep import wait
from proto import commands as c
from proto.frame import unpack
from proto.limits import COMMAND_TIMEOUT_MS, MAILBOX_QUEUE, MAILBOX_SLOTS, RESET_TIMEOUT_MS
from proto.status import STATUS_ERRNO, Delivery, OffloadError, Status


def execute(bench, command, name="reply"):
    def task():
        try:
            bench.results[name] = yield from bench.mailbox.execute(command)
        except OffloadError as error:
            bench.results[name] = error

    bench.sched.spawn(task())
    bench.run()
    return bench.results.get(name)


def test_a_command_gets_its_reply(bench) -> None:
    assert execute(bench, c.QueryCensus()).status == Status.OK
    assert bench.mailbox.idle


@pytest.mark.parametrize("status", [status for status in Status if status])
def test_every_refusal_becomes_errno_and_text_with_syndrome(bench, status) -> None:
    bench.card.refuse["QueryCensus"] = [status]
    error = execute(bench, c.QueryCensus())
    assert (error.errno, error.text) == (
        STATUS_ERRNO[status],
        "card refuses QueryCensus (syndrome 0x1234)",
    )


def test_what_a_reply_must_hold_is_known_of_every_command() -> None:
    assert set(CONTENTS) == set(get_args(c.AnyCommand))


def test_an_unknown_status_is_an_io_error(bench) -> None:
    bench.card.refuse["QueryCensus"] = [99]
    assert execute(bench, c.QueryCensus()).errno == errno.EIO


def test_commands_beyond_the_slots_wait_in_order(bench) -> None:
    posts = [bench.mailbox.post(c.QuerySa(handle)) for handle in range(MAILBOX_SLOTS * 3)]
    assert len(bench.card.inbox) == MAILBOX_SLOTS - 1, "the last one is no slot for queries"
    bench.run()
    assert all(post.done for post in posts)
    assert [command.handle for command in bench.card.commands] == list(range(MAILBOX_SLOTS * 3))


def test_a_lost_reply_times_out_and_comes_late(bench) -> None:
    bench.card.lose = ["CreateKey"]
    assert execute(bench, c.CreateKey(bytes(16))) is None
    bench.wait_ms(COMMAND_TIMEOUT_MS - 1)
    assert "reply" not in bench.results
    bench.wait_ms(1)
    error = bench.results["reply"]
    assert isinstance(error, CommandTimeout)
    assert error.errno == errno.ETIMEDOUT
    assert error.text == "CREATE_KEY: no reply from the card in 2000 ms"
    assert bench.card.log == ["CreateKey"], "asked again, but executed once"
    assert error.late.value.handle == 1
    assert bench.counters["mailbox_late"] == 1
    assert bench.mailbox.idle


def test_a_lost_command_is_sent_again(bench) -> None:
    execute(bench, c.QueryCensus())
    bench.mailbox.post(c.DestroyKey(5))
    bench.card.inbox.clear()
    bench.wait_ms(COMMAND_TIMEOUT_MS)
    assert bench.card.log == ["QueryCensus", "DestroyKey"]
    assert bench.mailbox.idle


def test_a_doubled_reply_completes_nothing(bench) -> None:
    execute(bench, c.QueryCensus())
    doubled = bench.card.last_reply
    bench.card.silent = True
    assert execute(bench, c.QueryCaps(), "second") is None
    bench.mailbox.replied(doubled)
    bench.run()
    assert "second" not in bench.results
    assert bench.counters["mailbox_unexpected"] == 1


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x90", msgspec.msgpack.encode(["x"] * 4)])
def test_garbage_is_counted(bench, body) -> None:
    bench.mailbox.replied(body)
    assert bench.counters["mailbox_malformed"] == 1


def stall(bench, command, slots) -> None:
    """Let so many commands of a kind stall, each in its slot."""
    bench.card.silent = True
    for number in range(slots):
        execute(bench, command(number), f"stalled{number}")
    bench.wait_ms(COMMAND_TIMEOUT_MS)
    assert bench.results["stalled0"].errno == errno.ETIMEDOUT


def test_all_slots_stalled_refuses_at_once_and_recovers(bench) -> None:
    bench.card.silent = True
    for number in range(MAILBOX_SLOTS - 1):
        execute(bench, c.QuerySa(number), f"stalled{number}")
    execute(bench, c.QueryCensus(), "queued")
    bench.wait_ms(COMMAND_TIMEOUT_MS)
    assert bench.results["stalled0"].errno == errno.ETIMEDOUT
    assert bench.results["queued"].errno in (errno.EAGAIN, errno.EBUSY)
    assert execute(bench, c.QueryCensus(), "at once").errno == errno.EAGAIN
    patient = bench.mailbox.post(c.QueryCensus())
    bench.card.silent = False
    bench.wait_ms(COMMAND_TIMEOUT_MS)
    assert patient.done
    assert bench.mailbox.idle
    assert execute(bench, c.QueryCensus(), "after").status == Status.OK


def test_a_flood_of_adds_leaves_slots_to_destroys_and_queries(bench) -> None:
    """F-CTL-10: commands that make objects get half of the slots; the rest goes on."""
    posts = [bench.mailbox.post(c.CreateSaRule(number)) for number in range(1000)]
    assert len(bench.card.inbox) == CREATE_SLOTS
    bench.mailbox.post(c.DestroyRule(77))
    bench.mailbox.post(c.QueryCensus())
    names = [bench.card.name_of(raw) for raw in bench.card.inbox]
    assert names == ["CreateSaRule"] * CREATE_SLOTS + ["DestroyRule", "QueryCensus"]
    bench.run()
    assert all(post.done for post in posts)


def test_stalled_adds_are_refused_while_destroys_and_queries_pass(bench) -> None:
    stall(bench, lambda number: c.CreateSaRule(number), CREATE_SLOTS)
    error = execute(bench, c.CreateSaRule(99), "refused")
    assert (error.errno, error.text) == (
        errno.EAGAIN, "CREATE_SA_RULE: all 16 mailbox slots for new objects wait for the card",
    )  # fmt: skip
    bench.card.silent = False
    bench.card.inbox.clear()
    assert execute(bench, c.QueryCensus(), "query").status == Status.OK


def test_the_last_slot_is_kept_for_what_makes_the_card_safe(bench) -> None:
    """While queries are stuck in all others, destroys still get through, one at a time."""
    stall(bench, lambda number: c.QuerySa(number), RESERVED)
    bench.card.silent = False
    bench.card.inbox.clear()
    first, second = bench.mailbox.post(c.StopSa(5)), bench.mailbox.post(c.DestroyRule(6))
    assert [bench.card.name_of(raw) for raw in bench.card.inbox] == ["StopSa"]
    bench.run()
    assert first.done
    assert second.done
    assert bench.card.log == ["StopSa", "DestroyRule"]
    assert execute(bench, c.QueryCensus(), "query").errno == errno.EAGAIN


def test_the_queue_is_bounded(bench) -> None:
    bench.card.silent = True
    for _ in range(MAILBOX_QUEUE + RESERVED):
        assert not bench.mailbox.post(c.QueryCensus()).done
    refused = bench.mailbox.post(c.QueryCensus())
    assert refused.value.status == Status.NO_RESOURCES_NOW
    error = execute(bench, c.QueryCensus(), "impatient")
    assert error.errno == errno.EAGAIN
    assert error.text == "QUERY_CENSUS: 4096 commands wait for the card"
    assert not bench.mailbox.post(c.DestroyKey(1)).done, "what frees memory is never refused"


def test_a_command_waits_for_a_slot_no_longer_than_its_deadline(bench) -> None:
    """The card answers, but slowly: 17 adds find 16 slots."""
    for number in range(CREATE_SLOTS):
        bench.mailbox.post(c.CreateSaRule(number))
    execute_later = bench.card.inbox.copy()
    bench.card.silent = True
    execute(bench, c.CreateSaRule(99), "late")
    assert bench.mailbox.deadline_ns() == bench.now_ns + COMMAND_TIMEOUT_MS * 1_000_000
    bench.now_ns += COMMAND_TIMEOUT_MS * 1_000_000
    bench.mailbox.expire(bench.now_ns)
    bench.sched.run(bench.now_ns)
    error = bench.results["late"]
    assert (error.errno, error.text) == (
        errno.EBUSY, "CREATE_SA_RULE: no mailbox slot became free",
    )  # fmt: skip
    bench.card.silent = False
    bench.card.inbox = execute_later
    bench.run()
    assert bench.card.log == ["CreateSaRule"] * CREATE_SLOTS, "the 17th was never sent"


def test_commands_that_empty_the_card_have_more_time(bench) -> None:
    bench.card.silent = True
    execute(bench, c.Teardown())
    bench.wait_ms(RESET_TIMEOUT_MS - 1)
    assert "reply" not in bench.results
    bench.wait_ms(1)
    assert bench.results["reply"].text == "TEARDOWN: no reply from the card in 10000 ms"


def test_completions_are_matched_in_any_order(bench) -> None:
    """F-CTL-11"""
    posts = [bench.mailbox.post(c.CreateSaRule(number)) for number in range(8)]
    bench.card.inbox.reverse()
    bench.run()
    assert [post.value.handle for post in posts] == [8, 7, 6, 5, 4, 3, 2, 1]


def test_a_lost_interrupt_is_no_timeout(bench) -> None:
    """F-CTL-03: the entry lies there and is found before the deadline counts."""
    bench.card.announced = False
    assert execute(bench, c.CreateKey(bytes(16))) is None
    bench.wait_ms(COMMAND_TIMEOUT_MS)
    assert bench.results["reply"].handle == 1
    assert bench.counters["mailbox_timeouts"] == 0
    assert bench.counters["mailbox_polled"] == 1
    bench.card.announced = False
    assert execute(bench, c.QueryCensus(), "silent") is None
    bench.card.announced = True
    execute(bench, c.QueryCensus(), "next")
    assert bench.results["silent"].status == Status.OK, "the next interrupt finds both"


@pytest.mark.parametrize(
    ("delivery", "code"),
    [
        (1, "EBADR"), (2, "EBADR"), (3, "EFAULT"), (4, "EFAULT"), (5, "EFAULT"), (6, "EIO"),
        (7, "ENOMSG"), (8, "ENOMSG"), (9, "ENOMSG"), (0x10, "ENOMSG"), (77, "EINVAL"),
    ],
)  # fmt: skip
def test_what_was_not_delivered_is_told_apart_from_what_was_refused(bench, delivery, code) -> None:
    bench.card.script = {"QueryCensus": {"delivery": delivery, "syndrome": 0xABCD}}
    error = execute(bench, c.QueryCensus())
    assert (error.errno, error.delivered) == (getattr(errno, code), False)
    assert error.inner_errno == error.errno
    assert error.text.endswith("(syndrome 0xabcd)")
    bench.card.script = {"QueryCensus": {"status": Status.OBJECT_BUSY, "syndrome": 1 << 40 | 5}}
    error = execute(bench, c.QueryCensus())
    assert (error.errno, error.delivered, error.inner_errno) == (
        errno.EBUSY, True, errno.EREMOTEIO,
    )  # fmt: skip
    assert error.syndrome == 5, "32 bits"


def test_a_long_text_does_not_hide_the_syndrome(bench) -> None:
    bench.card.script = {"QueryCensus": {"status": 9, "syndrome": 0x77, "text": "x" * 100_000}}
    error = execute(bench, c.QueryCensus())
    assert len(error.text) < 1000
    assert error.text.endswith("(syndrome 0x77)")


@pytest.mark.parametrize(
    ("command", "script", "text"),
    [
        (c.QueryCensus(), {"values": {}}, "no values"),
        (c.QuerySa(1), {}, "no sa"),
        (c.QueryCaps(), {"caps": None}, "no caps"),
        (c.DestroyKey(1), {"handle": 9}, "a handle that was not asked for"),
        (c.QuerySa(1), {"values": {"keys": 1}}, "no sa, a values that was not asked for"),
        (c.CreateKey(bytes(16)), {"handle": 1, "generation": 1, "values": {"a": 1}}, "a values"),
    ],
)
def test_a_truncated_reply_or_one_of_another_shape_is_no_success(
    bench, command, script, text
) -> None:
    """F-CTL-08: stale or default fields never pass for an answer."""
    bench.card.script = {type(command).__name__: {"status": 0, **script}}
    error = execute(bench, command)
    assert (error.errno, error.status) == (errno.EIO, Status.BAD_OUTPUT_LENGTH)
    assert text in error.text
    assert not error.clean
    assert bench.counters["mailbox_misshapen"] == 1


def test_a_token_that_was_never_given_leaves_the_command_unknown(bench) -> None:
    """F-CTL-05: -EBADR at once; the slot stays out of use until the right reply comes."""
    bench.card.silent = True
    assert execute(bench, c.CreateKey(bytes(16)), "first") is None
    token = msgspec.msgpack.decode(unpack(bench.card.inbox_last).body, type=c.Request).token
    wrong = c.Reply(token + 5 * MAILBOX_SLOTS, 0, 0x42, handle=1, generation=1)
    bench.mailbox.replied(msgspec.msgpack.encode(wrong))
    bench.run()
    error = bench.results["first"]
    assert isinstance(error, CommandUnknown)
    assert error.errno == errno.EBADR
    assert "(syndrome 0x42)" in error.text
    assert not error.late.done
    bench.card.silent = False
    assert execute(bench, c.QueryCaps(), "second").token % MAILBOX_SLOTS == 1, "slot 0 is not free"
    bench.wait_ms(COMMAND_TIMEOUT_MS)
    assert error.late.value.handle == 1
    assert bench.mailbox.idle


def test_fail_all_ends_everything_and_lets_destroys_count_as_done(bench) -> None:
    bench.card.silent = True
    key = bytearray(b"k" * 16)
    execute(bench, c.CreateKey(key), "create")
    execute(bench, c.QueryCensus(), "stalled")
    bench.wait_ms(COMMAND_TIMEOUT_MS)
    late = bench.results["stalled"].late
    posts = [bench.mailbox.post(command(1)) for command in (c.DestroySa, c.QuerySa, c.StopSa)]
    execute(bench, c.CreateKey(bytearray(16)), "second")
    bench.mailbox.fail_all(OffloadError(errno.ENXIO, "card0 is in error: fatal"))
    bench.run()
    destroyed, queried, stopped = (post.value for post in posts)
    assert destroyed.status == stopped.status == Status.OK
    assert queried.status == Status.BAD_SYSTEM_STATE
    assert {one.delivery for one in (destroyed, queried, stopped)} == {Delivery.ABORTED}
    assert bench.results["second"].errno == errno.ENXIO
    assert bench.results["second"].text == "card0 is in error: fatal"
    assert late.value.delivery == Delivery.ABORTED
    assert key == bytes(16)
    assert bench.mailbox.idle
    assert execute(bench, c.QueryCensus(), "down").errno == errno.ENXIO
    assert bench.mailbox.post(c.DestroyKey(3)).value.status == Status.OK

    bench.mailbox.begin(7)
    bench.card.silent = False
    bench.card.inbox.clear()
    assert execute(bench, c.QueryCensus(), "again").status == Status.OK


def test_a_reply_from_before_a_reset_is_nobodys(bench) -> None:
    bench.card.silent = True
    execute(bench, c.CreateKey(bytes(16)), "before")
    old = bench.card.inbox_last
    bench.mailbox.begin(7)
    bench.run()
    assert bench.results["before"].errno == errno.ENXIO
    assert execute(bench, c.QueryCensus(), "after") is None
    bench.card.silent = False
    bench.card.inbox.append(old)
    bench.run()
    assert "after" not in bench.results
    assert bench.counters["mailbox_unexpected"] == 1


def test_the_key_of_an_answered_command_is_zeroed(bench) -> None:
    key = bytearray(b"k" * 16)
    bench.mailbox.post(c.CreateKey(key))
    assert key == b"k" * 16
    bench.run()
    assert key == bytes(16)


def test_a_late_reply_never_reaches_the_next_user_of_the_slot(bench) -> None:
    bench.card.silent = True
    execute(bench, c.QueryCensus(), "first")
    bench.wait_ms(COMMAND_TIMEOUT_MS)
    assert bench.results["first"].errno == errno.ETIMEDOUT
    bench.card.silent = False
    assert execute(bench, c.QueryCaps(), "second").token % MAILBOX_SLOTS == 1, "slot 0 is not free"


def test_tokens_are_never_zero_and_never_repeat(bench) -> None:
    tokens = set()
    for _ in range(100):
        tokens.add(execute(bench, c.QueryCensus()).token)
    assert len(tokens) == 100
    assert 0 not in tokens


def test_post_gets_a_refusal_as_a_reply(bench) -> None:
    bench.card.refuse["DestroyKey"] = [Status.OBJECT_BUSY]
    answered = bench.mailbox.post(c.DestroyKey(1))
    bench.run()

    def task():
        bench.results["status"] = (yield from wait(answered)).status

    bench.sched.spawn(task())
    bench.run()
    assert bench.results["status"] == Status.OBJECT_BUSY


def test_a_fence_that_leaves_something_out_is_refused():
    """Rings are repaired by what it says: half an answer is none."""
    whole = dict.fromkeys(FENCE, 1)
    assert checked(c.Fence(), c.Reply(1, values=whole)).status == 0
    for name in FENCE:
        values = {key: value for key, value in whole.items() if key != name}
        reply = checked(c.Fence(), c.Reply(1, values=values))
        assert reply.status == Status.BAD_OUTPUT_LENGTH
        assert f"no {name}" in reply.text
