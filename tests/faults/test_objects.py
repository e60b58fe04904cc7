# SPDX-License-Identifier: Apache-2.0
"""Objects of the card: tables that are full, objects that stay, and which of several one meets."""

import ipaddress

import pytest
from scapy.layers.inet6 import UDP, IPv6

from host_driver.lab import Lab
from host_driver.simulate.esp import Esp
from proto import netlink
from proto.xfrm import Msg
from support.esp import A6, B6, GCM, A, B, datagram, policy, state, template
from support.rows import row

KEY = bytes.fromhex("0102030405060708090a0b0c0d0e0f1011121314")
OTHER = bytes.fromhex("1112131415161718191a1b1c1d1e1f2021222324")
OTHER_KEY = f"aead 'rfc4106(gcm(aes))' 0x{OTHER.hex()} 128"
OUT = "offload packet dev nic0 dir out"
PROTECT = "offload packet dev nic0 " + template()
EMPTY = {"keys": 0, "sas": 0, "rules_sa": 0, "rules_policy": 0}


class One:
    """A lab of one host; what its card sends is looked at."""

    def __init__(self, target: str, card="full", seed=8):
        self.lab = Lab(target=target, hosts=1, card=card, seed=seed)

    def __enter__(self):
        self.lab.start()
        (self.host,) = self.lab.hosts
        return self

    def __exit__(self, *_):
        self.lab.close()

    def ip(self, command: str) -> None:
        done = self.host.ip(command)
        assert (done.rc, done.stderr) == (0, ""), command

    def refused(self, command: str, *texts: str) -> None:
        before = self.census()
        done = self.host.ip(command)
        assert done.rc == 2, command
        assert all(text in done.stderr for text in texts), done.stderr
        assert self.census() == before

    def census(self) -> dict[str, int]:
        self.lab.settle()
        return {name: self.host.nic.census()[name] for name in EMPTY}

    def send(self, *packets: bytes) -> list[bytes]:
        """The frames that these packets became, without their Ethernet header."""
        seen = len(self.lab.wire.frames())
        self.host.send(packets or [datagram()])
        self.lab.settle()
        return [frame.data[14:] for frame in self.lab.wire.frames(seen)]

    def spis(self, *packets: bytes) -> list[int]:
        """The SPIs in front of them; all of it must be ESP."""
        sent = self.send(*packets)
        assert all(packet[9] == 50 for packet in sent)
        return [int.from_bytes(packet[20:24]) for packet in sent]


def sa(spi=0x1000, algorithm=GCM, reqid=0x1000, more="") -> str:
    return state(algorithm, extra=more + OUT, spi=spi).replace(f"reqid {spi}", f"reqid {reqid}")


@row("F-TAB-01", process=True)
def test_the_table_of_sas_is_full(target) -> None:
    with One(target, "full:sa_max=2,key_max=9") as one:
        for command in (sa(0x1000), sa(0x1001, reqid=7), policy("out", PROTECT)):
            one.ip(command)
        for spi in (0x1002, 0x1003):
            one.refused(sa(spi), "SA table is full at 2")
        assert one.spis() == [0x1000]
        one.ip("xfrm state delete src 10.1.0.1 dst 10.1.0.2 proto esp spi 0x1001")
        one.lab.settle()
        one.ip(sa(0x1003, reqid=9))
        assert one.census() == {"keys": 2, "sas": 2, "rules_sa": 2, "rules_policy": 1}


@row("F-TAB-02", process=True)
def test_no_row_for_the_key(target) -> None:
    with One(target) as one:
        with one.lab.faults.inject("no-row-for-a-key"):
            one.refused(sa(), "key")
        one.ip(sa())


@row("F-TAB-02")
def test_a_key_size_that_the_card_does_not_have(target) -> None:
    with One(target, "cx6dx") as one:
        wide = f"aead 'rfc4106(gcm(aes))' 0x{bytes(range(28)).hex()} 128"
        one.refused(sa(algorithm=wide), "192")
        assert one.census() == EMPTY


@row("F-TAB-04", process=True)
def test_the_new_rule_of_a_policy_is_refused(target) -> None:
    """The old rule stays in its place, and the update can be asked for again."""
    with One(target) as one:
        for command in (sa(), sa(0x2000, OTHER_KEY, 2), policy("out", PROTECT)):
            one.ip(command)
        other = PROTECT.replace("reqid 4096", "reqid 2")
        update = policy("out", other).replace("policy add", "policy update")
        with one.lab.faults.inject("no-row-for-a-rule"):
            one.refused(update, "rule")
            assert one.spis() == [0x1000]
        one.ip(update)
        assert one.spis() == [0x2000]
        assert one.census()["rules_policy"] == 1


@row("F-TAB-06")
@pytest.mark.parametrize("seed", range(8))
def test_traffic_runs_while_rules_are_replaced(target, seed) -> None:
    """Nothing waits between update and packets: whichever rule they meet, they are protected."""
    with One(target, seed=seed) as one:
        for command in (sa(), sa(0x2000, OTHER_KEY, 2), policy("out", PROTECT)):
            one.ip(command)
        one.lab.faults.add("rules-replaced-slowly")
        for turn in range(12):
            reqid = (2, 4096)[turn % 2]
            what = PROTECT.replace("reqid 4096", f"reqid {reqid}")
            one.host.send([datagram()] * 3)
            one.ip(policy("out", what).replace("policy add", "policy update"))
            one.host.send([datagram()] * 3)
        one.lab.settle()
        frames = [frame.data[14:] for frame in one.lab.wire.frames()]
        assert all(packet[9] == 50 for packet in frames)
        assert len(frames) == 12 * 6
        assert one.census()["rules_policy"] == 1


@row("F-TAB-08", process=True, once=True)
@pytest.mark.parametrize("opcode", ["DestroyRule", "DestroySa", "DestroyKey"])
def test_one_destroy_of_three_fails(target, opcode) -> None:
    """The others still run, users before what they use, and it is tried again."""
    with One(target) as one:
        one.ip(sa())
        one.lab.faults.add("sa-not-destroyed", match={"opcode": opcode})
        one.ip("xfrm state flush")
        for _ in range(40):
            if one.host.nic.census()["keys"] == 0:
                break
            one.lab.advance(0.5)
        assert one.census() == EMPTY
        one.ip(sa())


@row("F-TAB-09", process=True)
def test_an_sa_of_the_same_identity_is_refused(target) -> None:
    with One(target) as one:
        one.ip(sa())
        one.ip(policy("out", PROTECT))
        one.refused(sa(algorithm=OTHER_KEY), "File exists")
        (sent,) = one.send()
        assert Esp(0x1000, KEY).open(sent) == datagram()


@row("F-TAB-10", process=True)
def test_two_outbound_sas_share_a_reqid(target) -> None:
    """The newest is used (TX-13); when it goes, the other is, and none that is gone."""
    with One(target) as one:
        for command in (sa(), policy("out", PROTECT)):
            one.ip(command)
        assert one.spis() == [0x1000]
        if target == "sim":
            one.lab.advance(2)
        else:
            one.host.set_clock_forward(2)
        one.ip(sa(0x2000, OTHER_KEY, 4096))
        assert one.spis() == [0x2000]
        one.ip("xfrm state delete src 10.1.0.1 dst 10.1.0.2 proto esp spi 0x2000")
        one.lab.settle()  # nobody waits for the card to take the rule out
        assert one.spis() == [0x1000]


@row("F-TAB-11", process=True)
def test_the_row_of_a_key_is_used_again(target) -> None:
    """Only one row: the next key is in it alone, and what the old one sealed means nothing."""
    with One(target, "full:key_max=1,sa_max=1") as one:
        one.ip(policy("out", PROTECT))
        for turn in range(4):
            algorithm, key = ((GCM, KEY), (OTHER_KEY, OTHER))[turn % 2]
            one.ip(sa(algorithm=algorithm))
            (sent,) = one.send()
            assert Esp(0x1000, key).open(sent) == datagram()
            one.ip("xfrm state flush")
            one.lab.settle()
        assert one.census() == EMPTY | {"rules_policy": 1}


@row("F-TAB-12", process=True)
def test_overlapping_policies_have_one_order(target) -> None:
    """The lowest priority number; a strict card refuses the number that its table cannot hold."""
    with One(target) as one:
        for command in (sa(), sa(0x2000, OTHER_KEY, 2)):
            one.ip(command)
        wide = policy("out", "priority 20 " + PROTECT, ends=("10.0.0.0/8", "10.0.0.0/8"))
        one.ip(wide)
        assert one.spis() == [0x1000]
        one.ip(policy("out", "priority 10 " + PROTECT.replace("reqid 4096", "reqid 2")))
        assert one.spis() == [0x2000]
        one.ip(f"xfrm policy delete src {A} dst {B} dir out")
        one.lab.settle()  # nobody waits for the card to take the rule out
        assert one.spis() == [0x1000]
    with One(target, "cx6dx:strict=yes") as one:
        one.refused(policy("out", f"priority {0xFFFFFFFF} " + PROTECT), "priority")


@row("F-TAB-13", process=True, once=True)
@pytest.mark.parametrize(("source", "target_"), [(64, 128), (128, 48), (127, 65), (0, 128)])
def test_prefixes_of_ipv6_are_each_their_own(target, source, target_) -> None:
    """Of unequal length; a card that swaps the masks protects other packets than it should."""
    with One(target) as one:
        one.ip(policy("out", "action block offload packet dev nic0",
                      ends=(f"{A6}/{source}", f"{B6}/{target_}")))  # fmt: skip

        def clear(src: str, dst: str) -> int:
            return len(one.send(bytes(IPv6(src=src, dst=dst) / UDP(sport=1, dport=2))))

        def flipped(address: str, bit: int) -> str:
            """The address with this bit of it turned over, counted from the left."""
            number = int(ipaddress.ip_address(address)) ^ 1 << (127 - bit)
            return str(ipaddress.ip_address(number))

        assert clear(A6, B6) == 0
        for bits, change in ((source, 0), (target_, 1)):
            ends = [A6, B6]
            if bits < 128:
                ends[change] = flipped(ends[change], bits)
                assert clear(*ends) == 0, "outside the prefix length"
            if bits:
                ends = [A6, B6]
                ends[change] = flipped(ends[change], bits - 1)
                assert clear(*ends) == 1, "inside it"


@row("F-TAB-14", process=True)
def test_a_policy_without_an_sa_lets_nothing_through(target) -> None:
    with One(target) as one:
        one.ip(policy("out", PROTECT))
        one.host.notifications()
        assert one.send(*[datagram()] * 5) == []
        told = [m.type for raw in one.host.notifications() for m in netlink.messages(raw)]
        assert told.count(Msg.ACQUIRE) == 1


@row("F-TAB-15", process=True)
def test_an_offloaded_sa_behind_a_policy_of_software_is_not_used(target) -> None:
    """No clear packet, no work of the card, and a counter and an ACQUIRE that tell of it."""
    with One(target) as one:
        one.ip(sa())
        one.ip(policy("out", template()))
        one.host.notifications()
        before = one.host.nic.counters()["ipsec_tx_pkts"]
        assert one.send(*[datagram()] * 3) == []
        assert one.host.nic.counters()["ipsec_tx_pkts"] == before
        told = [m.type for raw in one.host.notifications() for m in netlink.messages(raw)]
        assert Msg.ACQUIRE in told


@row("F-TAB-16", process=True)
def test_sa_and_policy_on_different_devices_do_not_meet(target) -> None:
    with One(target) as one:
        one.host.add_device("nic1")
        one.ip(sa())
        one.ip(policy("out", PROTECT.replace("nic0", "nic1")))
        assert one.send(*[datagram()] * 3) == []


@row("F-TAB-17", process=True)
def test_the_last_sa_goes_while_policies_stay(target) -> None:
    with One(target) as one:
        for turn in range(3):
            one.ip(sa())
            if not turn:
                one.ip(policy("out", PROTECT))
            assert one.spis() == [0x1000]
            one.ip("xfrm state flush")
            assert one.send() == []
        one.ip("xfrm policy flush")
        assert one.census() == EMPTY


@row("F-TAB-19", process=True)
def test_the_counter_of_every_sa_moves_with_its_traffic(target) -> None:
    with One(target) as one:
        for number in range(1, 6):
            ends = (A, f"10.1.0.{10 + number}")
            one.ip(state(GCM.replace("0x01", f"0x{number:02x}"), extra=OUT, spi=number + 256,
                         ends=ends))  # fmt: skip
            what = PROTECT.replace("reqid 4096", f"reqid {number + 256}")
            one.ip(policy("out", what, ends=ends))
            one.send(*[datagram(ends=ends)] * number)
        one.lab.advance(0.1)
        listed = one.host.ip("-s xfrm state list").stdout.split("proto esp spi ")[1:]
        counts = {
            int(text.split("(")[0], 16): int(
                text.split("lifetime current:")[1].split("(packets)")[0].split(",")[1]
            )
            for text in listed
        }
        assert counts == {number + 256: number for number in range(1, 6)}


@row("F-TAB-20", process=True, once=True)
@pytest.mark.parametrize("what", [sa(), policy("out", PROTECT)], ids=["sa", "policy"])
def test_no_row_for_the_rule(target, what) -> None:
    """All else that was made for it goes away again, and the next try works."""
    with One(target) as one:
        with one.lab.faults.inject("no-row-for-any-rule", times=1):
            one.refused(what, "rule")
        assert one.census() == EMPTY
        one.ip(what)
