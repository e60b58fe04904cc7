# SPDX-License-Identifier: Apache-2.0
"""The mailbox: slots, tokens, timeouts, late and doubled replies."""

import errno

import msgspec
import pytest

from host_driver.driver.mailbox import CommandTimeout
from host_driver.sleep import wait
from proto import commands as c
from proto.limits import COMMAND_TIMEOUT_MS, MAILBOX_SLOTS
from proto.status import STATUS_ERRNO, OffloadError, Status


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


def test_an_unknown_status_is_an_io_error(bench) -> None:
    bench.card.refuse["QueryCensus"] = [99]
    assert execute(bench, c.QueryCensus()).errno == errno.EIO


def test_commands_beyond_the_slots_wait_in_order(bench) -> None:
    posts = [bench.mailbox.post(c.QuerySa(handle)) for handle in range(MAILBOX_SLOTS * 3)]
    assert len(bench.card.inbox) == MAILBOX_SLOTS
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


def test_all_slots_stalled_refuses_at_once_and_recovers(bench) -> None:
    bench.card.silent = True
    for number in range(MAILBOX_SLOTS):
        execute(bench, c.QueryCensus(), f"stalled{number}")
    execute(bench, c.QueryCensus(), "queued")
    patient = bench.mailbox.post(c.DestroyKey(1))
    bench.wait_ms(COMMAND_TIMEOUT_MS)
    assert bench.results["stalled0"].errno == errno.ETIMEDOUT
    assert bench.results["queued"].errno == errno.EAGAIN
    assert execute(bench, c.QueryCensus(), "at once").errno == errno.EAGAIN
    bench.card.silent = False
    bench.wait_ms(COMMAND_TIMEOUT_MS)
    assert patient.done
    assert bench.mailbox.idle
    assert execute(bench, c.QueryCensus(), "after").status == Status.OK


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
