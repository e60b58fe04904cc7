# SPDX-License-Identifier: Apache-2.0
"""Cards crash, hang, are killed and restarted: what is left, and what never happens meanwhile."""

import errno

import pytest

from proto.limits import FATAL_RECOVERIES
from proto.status import OffloadError
from support.both import ONLY_POLICIES, Both, sa
from support.esp import A, B, datagram
from support.rows import row


@row("F-LIF-01", process=True)
def test_a_killed_card_takes_its_link_with_it(both, target) -> None:
    both = both(target)
    both.say(both.a, 20)
    both.a.nic.kill()
    both.wait_for(lambda: not both.up(both.a))
    start = len(both.frames())
    assert both.a.nic.health() == {"state": "dead"}
    (nic,) = [dev for dev in both.a.devices() if dev["name"] == "nic0"]
    assert (nic["up"], nic["carrier"]) == (True, False)
    assert both.a.send([datagram(40, (A, "10.9.9.9"))]) == [errno.ENETDOWN]
    both.say(both.a, 5)
    both.lab.settle()
    assert [one for one in both.frames()[start:] if one.src == 0] == []
    assert both.reporter(both.a, "fw_fatal")["last_error"] == "the channel to the card is closed"
    done = both.a.ip(sa(0x9000, A, B, "out"))
    assert done.rc == 2
    assert "the channel to the card is closed" in done.stderr
    assert both.up(both.b), "the other card does not care"


@row("F-LIF-02", process=True)
def test_a_hanging_card_is_reported_and_commands_end(both, target) -> None:
    both = both(target)
    fatal = both.reporter(both.a, "fw_fatal")["error"]
    both.a.nic.stop()
    began = both.lab.now_ns()
    done = both.a.ip(sa(0x9000, A, B, "out"))
    assert (done.rc, "no reply from the card in 2000 ms" in done.stderr) == (2, True)
    assert both.lab.now_ns() - began < 10 * 10**9
    both.wait_for(lambda: both.reporter(both.a, "fw")["state"] == "error", 12)
    fw = both.reporter(both.a, "fw")
    assert "has not moved for 3 polls" in fw["last_error"]
    assert fw["dump"]["missed"] == 3
    assert both.up(both.a)
    both.a.nic.resume()
    both.wait_for(lambda: both.reporter(both.a, "fw")["state"] == "healthy")
    both.wait_for(lambda: both.a.nic.census() == both.b.nic.census())
    assert both.reporter(both.a, "fw_fatal")["error"] == fatal
    both.talk()


@row("F-LIF-03", process=True)
def test_a_short_hang_makes_commands_late_and_does_nothing_twice(both, target) -> None:
    both = both(target)
    before = both.a.nic.census()
    both.lab.faults.add("card-hangs-briefly", host=0)
    Both.ip(both.a, sa(0x9000, A, B, "out"))
    both.lab.settle()
    grown = {name: count - before[name] for name, count in both.a.nic.census().items()}
    assert grown == {"keys": 1, "sas": 1, "rules_sa": 1, "rules_policy": 0}
    assert both.up(both.a)
    Both.ip(both.a, f"xfrm state delete src {A} dst {B} proto esp spi 0x9000")
    both.lab.settle()
    assert both.a.nic.census() == before
    both.talk()


@row("F-LIF-04", process=True)
def test_a_card_that_comes_back_empty_has_policies_and_no_sa(both, target) -> None:
    both = both(target)
    both.a.nic.restart()
    both.comes_back(both.a)
    assert both.expired(both.a) == [both.spi, both.spi + 1]
    assert both.a.nic.census() == ONLY_POLICIES
    start = len(both.frames())
    both.say(both.a)
    both.lab.settle()
    assert both.frames()[start:] == [], "without an SA it waits or is dropped, and is never clear"
    assert both.expired(both.b) == []
    both.rekey()
    both.talk()


@row("F-SEC-11", process=True)
def test_a_restart_opens_no_window_for_old_packets(both, target) -> None:
    """With the SA its window is gone, and neither the empty card nor the core takes them again."""
    both = both(target)
    start = len(both.frames())
    both.talk(5)
    old = [frame.data for frame in both.frames()[start:] if frame.dst == 1]
    assert len(old) == 5
    both.b.nic.restart()
    both.comes_back(both.b)
    both.b.receive()
    for _ in range(2):
        both.lab.wire.inject(host=1, frames=old)
        both.lab.settle()
        assert both.b.receive() == []
        both.rekey()
    both.talk()


@row("F-LIF-05", process=True, once=True)
@pytest.mark.parametrize("offload", ["packet", "crypto"])
def test_no_sa_goes_on_after_a_restart(both, target, offload) -> None:
    """Its sequence numbers may have been used: nobody knows which."""
    both = both(target)
    if offload == "crypto":
        for host in both.lab.hosts:
            Both.ip(host, "xfrm state flush")
            Both.ip(host, "xfrm policy flush")
        both.lab.settle()
        both = Both(both.lab)  # its policies are offloaded, and crypto SAs do not fit them
        for number, (source, dest, sender) in enumerate(((A, B, both.a), (B, A, both.b))):
            dir = "out" if sender is both.a else "in"
            Both.ip(both.a, sa(0x7000 + number, source, dest, dir, "crypto"))
    else:
        both.say(both.a, 50)
    old = both.a.ip("xfrm state count").stdout
    assert "SAD count 4" in old or "SAD count 2" in old
    both.a.nic.restart()
    both.comes_back(both.a)
    assert f"{both.spi:#010x}" not in both.a.ip("xfrm state list").stdout
    assert "spi 0x00007000" not in both.a.ip("xfrm state list").stdout
    start = len(both.frames())
    both.say(both.a, 5)
    both.lab.settle()
    assert [one for one in both.frames()[start:] if one.src == 0] == []


@row("F-LIF-06")
def test_a_card_that_fails_again_and_again_is_given_up(both, target) -> None:
    both = both(target)
    both.lab.faults.add("card-fails-again-and-again", host=0)
    both.wait_for(lambda: both.a.info()["device_state"] == "failed", 60)
    fatal = both.reporter(both.a, "fw_fatal")
    assert (fatal["state"], fatal["failures"]) == ("failed", FATAL_RECOVERIES)
    assert fatal["recover"] == FATAL_RECOVERIES
    assert "syndrome 0x1" in fatal["last_error"]
    resets = both.a.nic.health()["boot"]
    both.lab.advance(300)
    assert both.a.info()["device_state"] == "failed"
    assert both.a.nic.health()["boot"] == resets, "nobody asks it any more"
    assert both.a.send([datagram(40, (A, "10.9.9.9"))]) == [errno.ENETDOWN]
    both.lab.faults.reset()
    both.a.nic.recover()
    both.comes_back_and_talks()


@row("F-LIF-07", process=True, once=True)
@pytest.mark.parametrize(
    "step", [("add", 0), ("add", 1), ("add", 2), ("delete", 0), ("update", 0)], ids=str
)
def test_a_crash_in_the_middle_of_a_command_leaves_nothing(both, target, step) -> None:
    both = both(target)
    verb, commands = step
    if verb != "add":
        Both.ip(both.a, sa(0x9000, A, B, "out"))
    both.lab.faults.add("card-crashes-in-command", host=0, skip=commands)
    command = sa(0x9000, A, B, "out").replace("state add", f"state {verb}")
    if verb == "delete":
        command = f"xfrm state delete src {A} dst {B} proto esp spi 0x9000"
    began = both.lab.now_ns()
    done = both.a.ip(command)
    assert both.lab.now_ns() - began < 10 * 10**9
    assert verb == "delete" or (done.rc == 2 and done.stderr)
    both.wait_for(lambda: both.lab.state("card0") == "dead")
    both.wait_for(lambda: not both.up(both.a))
    both.a.nic.restart()
    both.comes_back(both.a)
    assert both.a.nic.census() == ONLY_POLICIES
    audit = both.a.nic.audit()
    assert {audit[name] for name in ("orphans", "undead", "missing", "lost")} == {0}
    both.rekey()
    both.talk()


@row("F-LIF-08")
def test_a_limit_whose_event_died_with_the_card_is_no_way_out(both, target) -> None:
    both = both(target)
    Both.ip(both.a, sa(0x9000, A, B, "out") + " limit packet-hard 10")
    both.say(both.a, 3)
    both.lab.settle()
    both.lab.faults.add("card-crashes-with-events", host=0)
    both.say(both.a, 20)
    both.say(both.a, 1)
    both.wait_for(lambda: both.lab.state("card0") == "dead")
    both.a.nic.restart()
    both.comes_back(both.a)
    assert 0x9000 in both.expired(both.a)
    used = [one for one in both.frames() if one.data[34:38] == (0x9000).to_bytes(4)]
    assert len(used) <= 10
    both.comes_back_and_talks()


@row("F-LIF-12", process=True)
@pytest.mark.parametrize("level", ["function", "firmware"])
def test_a_reset_under_traffic_lets_nothing_out_in_clear(both, target, level) -> None:
    both = both(target)
    before = both.reporter(both.a, "fw_fatal")["recover"]
    for number in range(5):
        both.say(both.a, 100)
        both.say(both.b, 100)
        if number == 2:
            both.a.nic.reset(level)
    both.wait_for(lambda: both.reporter(both.a, "fw_fatal")["recover"] > before)
    both.comes_back_and_talks()


@row("F-LIF-13", process=True)
def test_counters_of_a_card_that_is_gone_stand_still(both, target) -> None:
    both = both(target)
    before = {name: count for name, count in both.a.nic.counters().items() if "driver_" not in name}
    both.a.nic.kill()
    both.wait_for(lambda: not both.up(both.a))
    after = both.a.nic.counters()
    assert {name: after[name] for name in before} == before
    with pytest.raises(OffloadError, match="the channel to the card is closed"):
        both.a.nic.census()
