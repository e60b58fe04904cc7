# SPDX-License-Identifier: Apache-2.0
"""Devices are reset, unplugged, reloaded, changed; hosts die, labs end: what is left then."""

import errno
import time

import msgspec
import pytest

from host_driver.lab import Lab
from proto import commands as c
from proto.frame import Channel, Kind, pack
from proto.limits import HOST_LOST_MS
from proto.status import OffloadError
from support.both import CARD, EMPTY, Both, sa
from support.esp import A, B, datagram
from support.inside import party, say
from support.rows import row


@row("F-LIF-11", process=True)
def test_after_a_function_reset_no_object_answers(both, target) -> None:
    both = both(target)
    before = both.a.nic.health()
    resets = both.a.nic.counters()["function_resets"]
    both.a.nic.reset("function")
    both.wait_for(lambda: both.a.nic.health()["epoch"] not in (0, before["epoch"]))
    both.wait_for(lambda: both.up(both.a))
    after = both.a.nic.health()
    assert (after["boot"], after["state"]) == (before["boot"], "active")
    assert after["epoch"] != before["epoch"]
    assert both.expired(both.a) == [both.spi, both.spi + 1]
    both.comes_back_and_talks()
    assert both.a.nic.counters()["function_resets"] == resets + 1


@row("F-LIF-14", process=True)
def test_a_cable_that_is_pulled_costs_frames_and_no_sa(both, target) -> None:
    both = both(target)
    census = both.a.nic.census()
    both.lab.wire.set_carrier(host=0, up=False)
    both.wait_for(lambda: not carrier(both.a))
    assert both.a.send([datagram(40, (A, "10.9.9.9"))]) == [errno.ENETDOWN]
    both.say(both.b, 4)
    both.lab.settle()
    assert both.a.receive() == []
    assert both.lab.wire.counters()["no_carrier"] >= 4
    assert both.a.nic.census() == census
    assert both.up(both.a)
    both.lab.wire.set_carrier(host=0, up=True)
    both.wait_for(lambda: carrier(both.a))
    both.talk()
    assert both.expired(both.a) == []


def carrier(host) -> bool:
    return next(dev["carrier"] for dev in host.devices() if dev["name"] == "nic0")


@row("F-LIF-15", process=True)
def test_down_and_up_flushes_and_blocks_until_somebody_negotiates(both, target) -> None:
    both = both(target)
    Both.ip(both.a, "xfrm policy setdefault out block")
    both.a.set_link(up=False)
    assert both.a.send([datagram(40, (A, B))]) != [0]
    both.a.set_link(up=True)
    both.lab.settle()
    assert both.a.nic.census() == EMPTY
    start = len(both.frames())
    both.say(both.a)
    both.lab.settle()
    assert [one for one in both.frames()[start:] if one.src == 0] == []
    both.add_policies(both.a)
    both.rekey()
    both.talk()
    Both.ip(both.a, "xfrm policy setdefault out accept")


@row("F-LIF-19", "F-CTL-20", process=True)
def test_firmware_with_other_capabilities_is_asked_anew(both, target) -> None:
    """What it cannot do any more is refused and reported, and no check is left out."""
    both = both(target)
    esn = sa(0x9000, B, A, "in") + " flag esn replay-window 32"
    Both.ip(both.a, esn)
    both.a.nic.restart(CARD + ",esn=0,key_bits=256")
    both.comes_back(both.a)
    assert both.a.info()["caps"]["esn"] is False
    done = both.a.ip(esn)
    assert (done.rc, "ESN" in done.stderr.upper()) == (2, True)
    done = both.a.ip(sa(0x9000, A, B, "out"))
    assert (done.rc, "128" in done.stderr) == (2, True)
    start = len(both.frames())
    both.say(both.a)
    both.lab.settle()
    assert [one for one in both.frames()[start:] if one.src == 0] == []
    both.a.nic.restart()
    both.wait_for(lambda: both.up(both.a) and both.a.info()["caps"]["esn"])
    both.comes_back_and_talks()


@row("F-CTL-13", process=True)
def test_a_card_of_another_command_revision_is_not_used(both, target) -> None:
    both = both(target)
    both.a.nic.restart(CARD + ",revision=4")
    both.wait_for(lambda: both.a.info()["device_state"] == "failed")
    fatal = both.reporter(both.a, "fw_fatal")
    assert fatal["last_error"] == (
        "the card speaks revision 4 of the command interface, this driver speaks 5"
    )
    assert both.a.nic.health()["state"] == "active", "it was asked, and no more"
    assert both.a.send([datagram(40, (A, "10.9.9.9"))]) == [errno.ENETDOWN]
    assert both.a.ip(sa(0x9000, A, B, "out")).rc == 2
    if target == "sim":
        both.lab.advance(120)
        assert both.reporter(both.a, "fw_fatal") == fatal, "nobody asks it any more"
    both.a.nic.restart()
    both.comes_back_and_talks()


def test_a_host_that_finds_such_a_card_comes_up_without_a_device() -> None:
    """The first probe ends with -EINVAL, and nothing is half there."""
    with Lab(target="sim", hosts=1, card="tiny:revision=6") as lab:
        (host,) = lab.hosts
        info = host.info()
        assert "revision 6" in info["error"]
        assert "EINVAL" in info["error"]
        assert (info["device_state"], info["caps"]) == ("failed", None)
        (nic,) = [dev for dev in info["devices"] if dev["name"] == "nic0"]
        assert (nic["up"], nic["carrier"], nic["features"]) == (False, False, [])
        assert host.ip(sa(0x9000, A, B, "out")).rc == 2
        host.nic.restart("tiny")
        lab.advance(5)
        assert (host.info()["device_state"], host.info()["caps"]["name"]) == ("up", "tiny")
        Both.ip(host, sa(0x9000, A, B, "out"))


@row("F-CTL-21", process=True)
@pytest.mark.parametrize("level", ["function", "firmware"])
def test_a_reset_that_another_function_refuses_changes_nothing(both, target, level) -> None:
    both = both(target)
    before = both.a.nic.health(), both.a.nic.census()
    both.lab.faults.add("reset-refused", host=0)
    with pytest.raises(OffloadError, match="does not agree to a") as refused:
        both.a.nic.reset(level)
    assert refused.value.errno == errno.EBUSY
    after = both.a.nic.health(), both.a.nic.census()
    assert after[1] == before[1]
    assert {name: after[0][name] for name in ("boot", "epoch", "state")} == {
        name: before[0][name] for name in ("boot", "epoch", "state")
    }
    both.talk()
    with pytest.raises(OffloadError, match="reset level 'chip' is none of function, firmware"):
        both.a.nic.reset("chip")


@row("F-LIF-09", process=True)
def test_a_card_whose_host_is_dead_forgets_it(both, target) -> None:
    both = both(target)
    both.a.kill()
    start = len(both.frames())
    both.say(both.b, 5)
    both.wait_for(lambda: both.a.nic.health()["state"] == "idle", 2 * HOST_LOST_MS / 1000)
    both.say(both.b, 5)
    both.lab.settle()
    assert [one for one in both.frames()[start:] if one.src == 0] == []
    both.a.restart()
    assert both.a.nic.census() == EMPTY
    counters = both.a.nic.counters()
    assert counters["host_lost"] >= 1
    assert counters["rx_drop_closed"] >= 5
    both.add_policies(both.a)
    both.rekey()
    both.talk()


@row("F-LIF-10", process=True)
def test_a_driver_that_is_unloaded_deletes_its_states_first(both, target) -> None:
    both = both(target)
    start = len(both.a.trace())
    both.a.set_link(unregister=True)
    both.lab.settle()
    calls = [entry["call"] for entry in both.a.trace(start)]
    gone = [call for call in calls if "delete" in call or "free" in call]
    deleted = [at for at, call in enumerate(gone) if call == "xdo_dev_state_delete"]
    freed = [at for at, call in enumerate(gone) if call == "xdo_dev_state_free"]
    assert len(deleted) == len(freed) == 2
    assert all(one < other for one, other in zip(deleted, freed, strict=True))
    assert both.a.nic.census() == EMPTY
    both.a.restart()
    both.wait_for(lambda: both.up(both.a))


@row("F-LIF-18", process=True)
def test_a_driver_is_not_reloaded_while_anything_is_offloaded(both, target) -> None:
    both = both(target)
    census, epoch = both.a.nic.census(), both.a.nic.health()["epoch"]
    with pytest.raises(OffloadError, match="2 SAs and 2 policies are offloaded") as refused:
        both.a.reload()
    assert refused.value.errno == errno.EBUSY
    assert (both.a.nic.census(), both.a.nic.health()["epoch"]) == (census, epoch)
    both.talk()
    for table in ("state", "policy"):
        Both.ip(both.a, f"xfrm {table} flush")
    both.lab.settle()
    both.a.reload()
    assert both.a.nic.health()["epoch"] != epoch
    assert both.up(both.a)
    both.add_policies(both.a)
    both.rekey()
    both.talk()


@row("F-LIF-20", process=True)
def test_a_lab_ends_in_time_although_a_card_hangs(target) -> None:
    began = time.monotonic()
    with Lab(target=target, hosts=1, card="tiny", seed=8) as lab:
        began = time.monotonic()
        lab.hosts[0].nic.stop()
        Both.ip(lab.hosts[0], "xfrm state flush") if target == "sim" else None
    assert time.monotonic() - began < 15
    with pytest.raises(OffloadError, match="closed"):
        lab.hosts[0].nic.health()


@row("F-LIF-21")
def test_a_second_driver_gets_an_empty_card_and_nothing_of_the_first(both, target) -> None:
    """Processes are not let in at all; here a stranger's message is on the bus."""
    both = both(target)
    card, stranger = party(both.lab, "card0"), 0x5A5A5A5A
    say(both.lab, "card0", Channel.MAILBOX, command(c.InitFunction(stranger), 33, stranger))
    assert card.epoch != party(both.lab, "host0").epoch or both.expired(both.a)
    handles = [command(c.QuerySa(row), 40 + row, stranger) for row in range(1, 8)]
    say(both.lab, "card0", Channel.MAILBOX, *handles)
    both.wait_for(lambda: both.reporter(both.a, "fw_fatal")["recover"] == 1)
    assert both.expired(both.a) in ([both.spi, both.spi + 1], [])
    assert card.epoch == party(both.lab, "host0").epoch
    both.comes_back_and_talks()


def command(asked, token: int, epoch: int) -> bytes:
    """A command as a stranger's driver would send it."""
    return bytearray(
        pack(Kind.COMMAND, msgspec.msgpack.encode(c.Request(token, asked)), 0, 0, epoch)
    )
