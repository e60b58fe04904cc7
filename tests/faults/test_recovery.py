# SPDX-License-Identifier: Apache-2.0
"""What the driver makes good: temporary SAs, broken replies, lost records, lost destroys."""

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from host_driver.lab import Lab
from proto import netlink
from proto.xfrm import Msg

ENDS = "src 10.0.0.1 dst 10.0.0.2"
PACKET = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / b"recover")


def sa(spi: int = 0x1000, verb: str = "add", dir: str = "out", more: str = "") -> str:
    return (
        f"xfrm state {verb} {ENDS} proto esp spi {spi:#x} reqid 1 mode transport "
        f"aead 'rfc4106(gcm(aes))' 0x{bytes(range(20)).hex()} 128 {more} "
        f"offload packet dev nic0 dir {dir}"
    )


def policy(dir: str = "out", tmpl: str = ENDS) -> str:
    return (
        f"xfrm policy add {ENDS} dir {dir} tmpl {tmpl} proto esp reqid 1 mode transport "
        "offload packet dev nic0"
    )


def expires(host) -> list[int]:
    return [
        message.payload[224]
        for raw in host.notifications()
        for message in netlink.messages(raw)
        if message.type == Msg.EXPIRE
    ]


@pytest.fixture
def lab():
    with Lab(target="sim", hosts=1, card="full", seed=9) as lab:
        yield lab


@pytest.mark.parametrize("verb", ["update", "add"])
def test_a_temporary_sa_never_sends(lab, verb):
    """An update and a refused duplicate offer the card a second SA for a moment (TRACE-03, -08)."""
    (host,) = lab.hosts
    assert host.ip(sa()).rc == host.ip(policy()).rc == 0
    for _ in range(4):
        host.send([PACKET] * 3)
        assert host.ip(sa(verb=verb)).rc == (0 if verb == "update" else 2)
        host.send([PACKET] * 3)
    lab.settle()
    numbers = [int.from_bytes(frame.data[38:42], "big") for frame in lab.wire.frames()]
    assert numbers == list(range(1, 25))
    assert host.nic.census() == {"keys": 1, "sas": 1, "rules_sa": 1, "rules_policy": 1}


@pytest.mark.parametrize("opcode", ["CREATE_KEY", "CREATE_SA", "CREATE_SA_RULE"])
@pytest.mark.parametrize("bit", range(0, 240, 7))
def test_a_flipped_bit_in_a_reply_is_found(lab, opcode, bit):
    """The reply is refused by its check, and the command asked again: nothing leaks or hangs."""
    (host,) = lab.hosts
    lab.faults.add(
        site="mailbox.reply", kind="corrupt", match={"opcode": opcode}, times=1, value=bit
    )
    result = host.ip(sa())
    lab.advance(10)
    lab.settle()
    if result.rc == 0:
        assert host.ip("xfrm state flush").rc == 0
    lab.settle()
    assert not any(host.nic.census().values())
    assert host.ip(sa()).rc == 0


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("limit time-use-soft 3 limit time-use-hard 6", [0, 1]),
        ("limit packet-soft 1 limit packet-hard 9", [0]),
    ],
    ids=["use-time", "packets"],
)
def test_lost_counter_records_are_found_by_the_tick(lab, more, told):
    (host,) = lab.hosts
    assert host.ip(sa(more=more)).rc == host.ip(policy()).rc == 0
    lab.faults.add(site="ring.counters", kind="drop", times=1)
    lab.faults.add(site="events", kind="drop")
    host.send([PACKET])
    lab.settle()
    seen = []
    for _ in range(20):
        lab.advance(1)
        lab.settle()
        seen += expires(host)
    assert seen == told


def test_a_gap_in_the_counter_records_is_caught_up(lab):
    (host,) = lab.hosts
    for spi in (0x1000, 0x2000):
        ends = ENDS if spi == 0x1000 else "src 10.0.0.1 dst 10.0.0.3"
        assert host.ip(sa(spi).replace(ENDS, ends)).rc == 0
        assert host.ip(policy().replace(ENDS, ends)).rc == 0
    lab.faults.add(site="ring.counters", kind="drop", times=1)
    host.send([PACKET])
    lab.settle()
    host.send([bytes(IP(src="10.0.0.1", dst="10.0.0.3") / UDP() / b"other")])
    lab.settle()
    assert host.ip("-s xfrm state").stdout.count("1(packets)") == 2


def test_a_destroy_that_got_lost_does_not_stand_in_the_way(lab):
    (host,) = lab.hosts
    assert host.ip(sa(dir="in")).rc == 0
    lab.faults.add(site="mailbox.command", kind="drop", match={"opcode": "DESTROY_RULE"}, times=1)
    assert host.ip("xfrm state delete dst 10.0.0.2 proto esp spi 0x1000").rc == 0
    assert host.ip(sa(dir="in")).stderr == ""
    lab.settle()
    assert host.nic.census()["sas"] == host.nic.census()["rules_sa"] == 1


@pytest.mark.parametrize("soft", ["byte-soft 20", "time-soft 2", "packet-soft 2"])
def test_the_card_leaves_a_dying_sa_as_the_core_does(lab, soft):
    """TX-13: a dying SA is used only while there is no other, however it came to die."""
    (host,) = lab.hosts
    assert host.ip(sa(0x1000)).rc == host.ip(policy()).rc == 0
    lab.advance(1)
    assert host.ip(sa(0x2000, more=f"limit {soft}")).rc == 0
    for _ in range(4):
        host.send([PACKET])
        lab.settle()
        lab.advance(1)
    spis = [int.from_bytes(frame.data[34:38], "big") for frame in lab.wire.frames()]
    assert spis[0] == 0x2000
    assert spis[-1] == 0x1000
    assert expires(host) == [0]


def test_an_update_before_the_first_packet_limits_the_card(lab):
    (host,) = lab.hosts
    assert host.ip(sa()).rc == host.ip(policy()).rc == 0
    assert host.ip(sa(verb="update", more="limit packet-hard 5")).rc == 0
    lab.settle()
    host.send([PACKET] * 30)
    lab.settle()
    assert len(lab.wire.frames()) == 5


def test_a_transport_templates_addresses_do_not_count(lab):
    """TX-10: the SA is chosen by the packet's addresses, in the core and on the card."""
    (host,) = lab.hosts
    assert host.ip(sa()).rc == 0
    assert host.ip(policy(tmpl="src 10.9.9.9 dst 10.8.8.8")).rc == 0
    assert host.send([PACKET]) == [0]
    lab.settle()
    assert [frame.data[23] for frame in lab.wire.frames()] == [50]


def test_used_up_sequence_numbers_expire_the_sa(lab):
    """REPLAY-05: the card stops, and the user hears of it as of a hard limit."""
    (host,) = lab.hosts
    assert host.ip(sa(more="replay-oseq 0xfffffffd")).rc == host.ip(policy()).rc == 0
    lab.faults.add(site="events", kind="drop")
    host.send([PACKET] * 5)
    lab.settle()
    assert len(lab.wire.frames()) == 2
    assert expires(host) == [1]
    assert host.ip("xfrm state list").stdout == ""


@pytest.mark.parametrize("site", ["ring.tx", "ring.tx_done", "ring.rx", "ring.counters"])
@pytest.mark.parametrize("bit", [32, 40, 63, 80, 150, 200])
def test_a_flipped_bit_on_a_ring_loses_no_more_than_its_message(lab, site, bit):
    (host,) = lab.hosts
    assert host.ip(sa()).rc == host.ip(policy()).rc == 0
    lab.faults.add(site=site, kind="corrupt", times=1, value=bit)
    other = bytes(Ether() / IP(src="10.0.0.9", dst="10.0.0.1") / UDP() / b"clear")
    for _ in range(3):
        host.send([PACKET])
        lab.wire.inject(host=0, frames=[other])
        lab.advance(10)
        lab.settle()
    assert len(lab.wire.frames()) == 3 + 3
    assert len(host.receive()) == (2 if site == "ring.rx" else 3)
    assert "3(packets)" in host.ip("-s xfrm state").stdout


def test_settle_survives_a_lost_fence(lab):
    lab.faults.add(site="mailbox.reply", kind="drop", times=2, match={"opcode": "FENCE"})
    lab.settle()
