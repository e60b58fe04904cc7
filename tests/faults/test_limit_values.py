# SPDX-License-Identifier: Apache-2.0
"""Limits of every size, of bytes and of time; and an SA that has passed one stays stopped."""

import pytest

from host_driver.lab import Lab
from proto.limits import AUDIT_INTERVAL_MS
from support.esp import GCM, datagram, state
from support.limited import Limited
from support.rows import row
from support.way import Way

INF = (1 << 64) - 1
SIZE = len(datagram()) - 20  # payload bytes of the packets here


@row("F-LIM-13")
@pytest.mark.parametrize("hard", [(1 << 32) + 1, 1 << 40, INF - 1])
def test_a_hard_limit_beyond_32_bits_is_not_cut(target, hard):
    """A card that kept the low 32 bits only would stop at once, or after one packet."""
    with Limited(target, f"limit packet-hard {hard}", bits=32) as sa:
        sa.send(300)
        assert sa.told == []
        assert sa.left() == 300


@row("F-LIM-13")
@pytest.mark.parametrize("hard", [256, 257, 1000, 5000])
def test_a_hard_limit_of_many_rounds_is_exact(target, hard):
    """The same arithmetic with a counter of 8 bits, where rounds end after 128 packets."""
    with Limited(target, f"limit packet-hard {hard}") as sa:
        sa.send(hard - 1)
        assert sa.told == []
        sa.send(300)
        sa.until([1])
        assert sa.left() == hard


@row("F-LIM-14")
@pytest.mark.parametrize(("soft", "hard"), [(1, 2), (10, 1000), (127, 128), (800, 1000), (1, 700)])
def test_a_soft_limit_far_below_the_hard_one_is_exact(target, soft, hard):
    with Limited(target, f"limit packet-soft {soft} limit packet-hard {hard}") as sa:
        if soft > 1:
            sa.send(soft - 1)
            assert sa.told == []
        sa.send(1)
        sa.until([0])
        sa.send(hard)
        sa.until([0, 1])
        assert sa.left() == hard


@row("F-LIM-15")
@pytest.mark.parametrize(
    "limits",
    ["packet-soft 5 limit packet-hard 5", "packet-soft 6 limit packet-hard 5", "packet-hard 0",
     "byte-soft 90 limit byte-hard 80", "byte-hard 0", "packet-soft 0 limit packet-hard 9"],
)  # fmt: skip
def test_limits_that_make_no_sense_are_refused(target, limits):
    with Lab(target=target, hosts=1, card="cx6dx:strict=yes", seed=1) as lab:
        (host,) = lab.hosts
        done = host.ip(state(GCM, extra=f"limit {limits} offload packet dev nic0 dir out"))
        assert done.rc == 2
        assert "limit" in done.stderr
        assert done.stderr.startswith("Error: ")
        assert not any(host.nic.census().values())


@row("F-LIM-16", process=True, once=True)
@pytest.mark.parametrize("sizes", [(50,), (0, 1400), (1400, 0, 7)])
def test_the_overshoot_of_a_byte_limit_is_less_than_one_packet(target, sizes):
    with Limited(target, "limit byte-hard 20000") as sa:
        sa.lab.faults.add("counters-late")
        packets = [datagram(sizes[number % len(sizes)]) for number in range(1500)]
        for first in range(0, len(packets), 250):
            sa.host.send(packets[first : first + 250])
        sa.lab.settle()
        bodies = [len(packet) - 20 for packet in packets[: sa.left()]]
        assert sum(bodies[:-1]) < 20_000 <= sum(bodies)
        sa.until([1])


@row("F-LIM-17", process=True)
def test_the_card_does_not_do_what_ends_an_sa(target):
    """The core took the SA out, so no packet is offered; the driver asks until the card obeys."""
    with Limited(target, "limit time-hard 2") as sa:
        sa.send(3)
        sa.lab.faults.add("end-refused")
        if target == "sim":
            sa.pass_time(4)
        else:
            sa.host.set_clock_forward(4)
        sa.until([1])
        sa.send(5)
        for _ in range(40):
            if sa.gone():
                break
            sa.pass_time(0.5)
        assert sa.gone()
        assert sa.left() == 3


@row("F-LIM-18")
@pytest.mark.parametrize("deed", ["link", "mtu", "update", "neighbour", "feature"])
def test_nothing_wakes_an_sa_that_has_expired(target, deed):
    """While its end on the card is held up, link, MTU, peers' addresses and updates change."""
    with Limited(target, "limit packet-hard 20") as sa:
        sa.lab.faults.add("expired-sa-lingers")
        sa.host.send([datagram()] * 30)
        sa.lab.advance(1)  # what waits for the card to obey never settles
        assert sa.hear() == [1]
        if deed == "link":
            sa.host.set_link(up=False)
            sa.host.set_link(up=True)
        elif deed == "feature":
            sa.host.set_link(esp_hw_offload=False)
            sa.host.set_link(esp_hw_offload=True)
        elif deed == "mtu":
            sa.host.set_link(mtu=1300)
        elif deed == "update":
            command = state(GCM, extra="limit packet-hard 900 offload packet dev nic0 dir out")
            sa.host.ip(command.replace("state add", "state update"))
        else:
            sa.host.set_networks("10.1.0.0/24")
            sa.host.set_networks()
        for _ in range(4):
            sa.host.send([datagram()] * 5)
            sa.lab.advance(1)
        assert sa.left() == 20
        assert sa.told == [1]
        sa.lab.faults.reset()
        sa.pass_time(AUDIT_INTERVAL_MS / 1000 + 1)  # by now in quarantine, which audits look into
        assert sa.gone()


@row("F-LIM-19")
def test_limits_of_time_run_while_nothing_can_be_sent(target):
    """No peer is on the link, so not one packet leaves: the timer ends the SA all the same."""
    with Limited(target, "limit time-soft 3 limit time-hard 6") as sa:
        sa.host.set_networks("192.0.2.0/24")
        sa.send(5)
        sa.pass_time(10)
        assert sa.told == [0, 1]
        assert sa.left() == 0
        assert sa.gone()


@row("F-LIM-20")
def test_a_dead_sa_does_not_expire(target):
    """Its counters come after the user's delete: no EXPIRE, and one delete, one free."""
    with Limited(target, "limit packet-soft 20 limit packet-hard 40") as sa:
        sa.lab.faults.add("counters-after-the-end")
        sa.host.send([datagram()] * 60)
        sa.delete()
        sa.lab.faults.reset()
        sa.pass_time(5)
        assert sa.told == []
        calls = [entry["call"] for entry in sa.host.trace()]
        assert calls.count("xdo_dev_state_delete") == calls.count("xdo_dev_state_free") == 1
        assert sa.gone()


@row("F-LIM-21")
@pytest.mark.parametrize("bits", [4, 8])
def test_counters_do_not_wrap_with_the_counter_of_the_card(target, bits):
    """A counter of 4 bits wraps at every 16th packet; what the user reads never goes back."""
    with Limited(target, "limit packet-hard 100000", bits=bits) as sa:
        seen = [0]
        for _ in range(20):
            sa.send(37)
            sa.pass_time(1)
            line = sa.host.ip("-s xfrm state list").stdout.split("lifetime current:")[1]
            seen.append(int(line.split("(packets)")[0].split(",")[1]))
        assert seen == [37 * times for times in range(21)]


@row("F-LIM-26")
def test_dropped_packets_bring_no_limit_nearer(target):
    """Forgeries and replays are dropped on the way in: the SA still takes its 30 packets."""
    with Lab(target=target, hosts=2, card="full:counter_bits=8", seed=3) as lab:
        way = Way(lab)
        host = way.b
        host.ip("xfrm state flush")
        host.ip(
            state(GCM, extra="replay-window 32 limit packet-hard 30 offload packet dev nic0 dir in")
        )
        sent = way.send(29)
        frames = way.frames()
        for frame in frames:
            way.inject(frame, frame[:-1] + bytes((frame[-1] ^ 1,)), frame[:44])
        assert way.arrived() == sent
        assert "spi 0x00001000" in host.ip("xfrm state list").stdout
        assert way.send(5)[:1] == way.arrived()
        lab.advance(1)
        lab.settle()
        assert "spi 0x00001000" not in host.ip("xfrm state list").stdout


@row("F-LIM-27")
@pytest.mark.parametrize("dir", ["out", "in"])
def test_the_first_packet_begins_the_use_of_an_sa(target, dir):
    """The card has the data path, the core must learn of the first use all the same."""
    with Lab(target=target, hosts=2, card="full", seed=4) as lab:
        way = Way(lab)
        host = way.a if dir == "out" else way.b
        host.ip("xfrm state flush")
        window = "replay-window 32 " if dir == "in" else ""
        host.ip(
            state(
                GCM,
                extra=f"{window}limit time-use-soft 3 limit time-use-hard 6 "
                f"offload packet dev nic0 dir {dir}",
            )
        )
        host.notifications()
        lab.advance(20)
        assert "use -\n" in host.ip("-s xfrm state list").stdout
        way.send(1)
        assert len(way.arrived()) == 1
        lab.advance(8)
        lab.settle()
        assert "spi 0x00001000" not in host.ip("xfrm state list").stdout


@row("F-LIM-28")
def test_nobody_listens_when_an_sa_expires(target):
    with Limited(target, "limit packet-soft 10 limit packet-hard 20") as sa:
        sa.host.listen()
        sa.send(30)
        sa.pass_time(2)
        assert sa.told == []
        assert sa.gone()
        assert sa.left() == 20
