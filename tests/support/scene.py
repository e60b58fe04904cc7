# SPDX-License-Identifier: Apache-2.0
"""Evidence made by hand: a ledger and steps as the outside would write them down, ESP sealed by
scapy. Books balance unless a scene unbalances them."""

import copy
import ipaddress
import random
from collections import Counter
from dataclasses import replace
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.layers.l2 import Ether

from host_driver.lab.record import Frame
from host_driver.simulate.judge import Judge
from host_driver.simulate.ledger import (
    Armed,
    Delivered,
    Ledger,
    Life,
    Notice,
    PolicyAsked,
    SaAsked,
    Selector,
    Snapshot,
    Step,
    Submitted,
    Violation,
)
from proto import netlink
from proto.xfrm import Msg
from proto.xfrm_structs import UserExpire, UserPolicyInfo, UserSaInfo, XfrmId

A, B = "10.1.0.1", "10.1.0.2"
SPI, SECOND = 0x1000, 1_000_000_000
START_NS = 1_700_000_000 * SECOND


def datagram(number: int = 0, src: str = A, dst: str = B, dport: int = 5000) -> bytes:
    """A packet like no other of its number."""
    family = IPv6 if ":" in src else IP
    return bytes(family(src=src, dst=dst) / UDP(sport=4000, dport=dport) / f"{number:08}".encode())


class Scene:
    """Host 0 speaks to host 1. `step` writes one step down and gives what the judge finds."""

    def __init__(self, card: str = "full") -> None:
        self.ledger = Ledger(2, card, 0)
        self.judge = Judge(2)
        self.now_ns = START_NS
        self._payload: dict[bytes, int] = {}  # bytes of it, by frame
        self.counters = [Counter[str](), Counter[str]()]
        self.mib = [Counter[str](), Counter[str]()]
        self.wire = Counter[str]()
        self.census_more = [Counter[str](), Counter[str]()]
        self._rng = random.Random(7)

    # --- what users ask ---

    def sa(self, host: int, direction: Any, spi: int = SPI, **fields: Any) -> SaAsked:
        """An SA that was accepted in a step of its own."""
        sa = SaAsked(
            number=len(self.ledger.sas), pair=spi, host=host, direction=direction,
            src=fields.pop("src", A), dst=fields.pop("dst", B), spi=spi,
            reqid=fields.pop("reqid", 1), mode=fields.pop("mode", "transport"),
            offload=fields.pop("offload", "packet"),
            key=fields.pop("key", None) or self._rng.randbytes(20),
            window=fields.pop("window", 64 if direction == "in" else 0),
            asked_ns=self.now_ns, asked_step=len(self.ledger.steps), answered_ns=self.now_ns,
            **fields,
        )  # fmt: skip
        self.ledger.sas.append(sa)
        return sa

    def pair(self, spi: int = SPI, **fields: Any) -> tuple[SaAsked, SaAsked]:
        """Sender's and receiver's end; both rest before anything is sent."""
        window = fields.pop("window", 64)
        out = self.sa(0, "out", spi, **fields)
        into = self.sa(1, "in", spi, **{**fields, "key": out.key, "window": window})
        self.step("AddSa")
        return out, into

    def policy(self, host: int, direction: Any, verdict: Any = "protect", **fields: Any) -> Any:
        """A policy that was accepted; the next step comes after it."""
        policy = PolicyAsked(
            number=len(self.ledger.policies), host=host, direction=direction,
            selector=fields.pop("selector", Selector(f"{A}/32", f"{B}/32")), verdict=verdict,
            priority=fields.pop("priority", 100), offload=fields.pop("offload", True),
            reqid=fields.pop("reqid", 1), asked_ns=self.now_ns,
            asked_step=len(self.ledger.steps), answered_ns=self.now_ns, **fields,
        )  # fmt: skip
        self.ledger.policies.append(policy)
        return policy

    def protected(self) -> None:
        """Both ends have a protect policy, and everything rests."""
        self.policy(0, "out")
        self.policy(1, "in")
        self.step("AddPolicy")

    def remove(self, *asked: Any) -> None:
        """Somebody asks to take objects back, with success."""
        for one in asked:
            one.removed_ns, one.removed_step = self.now_ns, len(self.ledger.steps)
            one.remove_errno = 0

    def arm(self, site: str, kind: str = "drop", *, healed: bool = False) -> None:
        """A fault is armed; `healed`: and gone already."""
        number = len(self.ledger.steps)
        spec = {"site": site, "kind": kind}
        self.ledger.armed.append(Armed(number, site, None, spec, number if healed else None))

    # --- what the wire shows ---

    def sealed(
        self,
        sa: SaAsked,
        number: int,
        packet: bytes | None = None,
        *,
        iv: bytes = b"",
        **wrong: Any,
    ) -> bytes:
        """An Ethernet frame with ESP, as scapy makes it. `wrong`: fields of the SA to falsify."""
        key, esn = wrong.get("key", sa.key), sa.esn
        tunnel = None
        if sa.mode == "tunnel":
            tunnel = (IPv6 if ":" in sa.src else IP)(src=sa.src, dst=wrong.get("dst", sa.dst))
        encap = UDP(sport=sa.encap[0], dport=sa.encap[1]) if sa.encap else None
        scapy_sa = SecurityAssociation(
            ESP, spi=wrong.get("spi", sa.spi), crypt_algo="AES-GCM", crypt_key=key,
            tunnel_header=tunnel, nat_t_header=encap, esn_en=esn, crypt_icv_size=sa.icv_bytes,
            esn=wrong.get("high", number >> 32),
        )  # fmt: skip
        clear = packet if packet is not None else datagram(number)
        parsed = (IPv6 if clear[0] >> 4 == 6 else IP)(clear)
        made = scapy_sa.encrypt(
            parsed, seq_num=number & 0xFFFF_FFFF, iv=iv or number.to_bytes(8),
            esn_en=esn, esn=wrong.get("high", number >> 32),
        )  # fmt: skip
        frame = self.ethernet(bytes(made))
        head = 0 if tunnel else 40 if clear[0] >> 4 == 6 else 20
        self._payload[frame] = len(clear) - head
        return frame

    @staticmethod
    def ethernet(packet: bytes) -> bytes:
        """The packet in an Ethernet frame."""
        kind = 0x86DD if packet[0] >> 4 == 6 else 0x0800
        return bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02", type=kind)) + packet

    def expire(self, sa: SaAsked, packets: int, *, hard: bool) -> bytes:
        """An EXPIRE message as the core multicasts it."""
        state = UserSaInfo()
        state.id = XfrmId(daddr=_padded(sa.dst), spi=sa.spi, proto=50)
        state.reqid, state.curlft.packets = sa.reqid, packets
        body = UserExpire(state=state, hard=int(hard)).pack()
        return netlink.message(Msg.EXPIRE, body)

    @staticmethod
    def usersa(sa: SaAsked, packets: int) -> bytes:
        """An SA as a dump lists it."""
        info = UserSaInfo()
        info.id, info.reqid = XfrmId(daddr=_padded(sa.dst), spi=sa.spi, proto=50), sa.reqid
        info.curlft.packets = packets
        return info.pack()

    @staticmethod
    def userpolicy(policy: PolicyAsked) -> bytes:
        """A policy from A to B as a dump lists it."""
        info = UserPolicyInfo(dir=1 if policy.direction == "out" else 0)
        info.sel.saddr, info.sel.daddr = _padded(A), _padded(B)
        info.sel.prefixlen_s = info.sel.prefixlen_d = 32
        return info.pack()

    # --- one step ---

    def step(self, action: str = "Send", **what: Any) -> list[Violation]:
        """Write a step down and judge it.

        sent: frames of card 0; to_1: frames of nobody to host 1; clear: packets that the stack of
        host 0 had accepted; refused: those that it was refused; got: packets that the stack of
        host 1 got; told: (host, message); listed: {host: (SAs, policies)} of a dump, None without;
        drops: {(host, counter): n}; lives: (host, party, what). Everything else as in Step.
        """
        number = len(self.ledger.steps)
        self.now_ns += what.pop("after_ns", SECOND)
        step = Step(number, what.pop("phase", "run"), action, self.now_ns)
        step.settled = what.pop("settled", True)
        step.submitted = [
            Submitted(number, host, packet, 0, self.now_ns)
            for host, packet in what.pop("submitted", [(0, p) for p in what.pop("clear", [])])
        ]
        step.submitted += [
            Submitted(number, 0, packet, 113, self.now_ns) for packet in what.pop("refused", [])
        ]
        frames = [Frame(data, self.now_ns, 0, 1) for data in what.pop("sent", [])]
        frames += [Frame(data, self.now_ns, None, 1) for data in what.pop("to_1", [])]
        frames += [Frame(data, self.now_ns, 1, 0) for data in what.pop("back", [])]
        step.frames = frames
        step.delivered = [Delivered(number, 1, p, self.now_ns) for p in what.pop("got", [])]
        step.notices = [Notice(number, h, m, self.now_ns) for h, m in what.pop("told", [])]
        step.lives = [Life(number, *life, 0, self.now_ns) for life in what.pop("lives", [])]
        step.trace = what.pop("trace", [[], []])
        self._count(step, what.pop("drops", {}), what.pop("opened", None))
        for host, name, more in what.pop("miscount", []):
            self.counters[host][name] += more
        step.wire = dict(self.wire)
        step.snapshots = [self._snapshot(host) for host in (0, 1)] if step.settled else []
        for host, (sas, policies) in what.pop("listed", {}).items():
            step.snapshots[host] = replace(step.snapshots[host], sas=sas, policies=policies)
        for name, value in what.items():
            setattr(step, name, value)
        self.now_ns += SECOND
        step.ended_ns = self.now_ns
        self.ledger.steps.append(step)
        return self.judge.judge(self.ledger, step)

    def exchange(self, sa: SaAsked, *numbers: int) -> list[Violation]:
        """Packets go and arrive as they should."""
        packets = [datagram(number) for number in numbers]
        frames = [self.sealed(sa, number) for number in numbers]
        return self.step(clear=packets, sent=frames, got=packets)

    def _count(self, step: Step, drops: dict[tuple[int, str], int], opened: int | None) -> None:
        for frame in step.frames:
            esp = frame.data[23] == 50
            if frame.src is not None:
                self.counters[frame.src].update(tx_packets=1, tx_descriptors=1)
                self.counters[frame.src].update(tx_bytes=len(frame.data))
                self.counters[frame.src].update(ipsec_tx_pkts=int(esp))
                self.counters[frame.src].update(ipsec_tx_bytes=self._payload.get(frame.data, 0))
                self.wire[f"from_{frame.src}"] += 1
            self.counters[frame.dst].update(rx_packets=1, rx_delivered=1, driver_rx_packets=1)
            self.counters[frame.dst].update(rx_bytes=len(frame.data))
            self.wire[f"to_{frame.dst}"] += 1
        came = [f.data for f in step.frames if f.dst == 1 and f.data[23] == 50]
        got = min(len(came), len(step.delivered)) if opened is None else opened
        octets = sum(self._payload.get(data, 0) for data in came[:got])
        self.counters[1].update(ipsec_rx_pkts=got, ipsec_rx_bytes=octets)
        for (host, name), count in drops.items():
            where = self.mib if name.startswith("Xfrm") else self.counters
            where[host][name] += count
            if name.startswith("rx_drop"):
                self.counters[host].update(rx_delivered=-count, driver_rx_packets=-count)
            if name.startswith("tx_drop"):
                self.counters[host].update(tx_descriptors=count)

    def _snapshot(self, host: int) -> Snapshot:
        sas = [sa for sa in self.ledger.live_sas(host) if sa.offload != "none"]
        rules = [p for p in self.ledger.live_policies(host) if p.offload]
        census = Counter(keys=len(sas), sas=len(sas), rules_sa=len(sas), rules_policy=len(rules))
        census.update(self.census_more[host])
        return Snapshot(
            host, dict(self.counters[host]), dict(census), copy.copy(dict(self.mib[host]))
        )


def _padded(address: str) -> bytes:
    return ipaddress.ip_address(address).packed.ljust(16, b"\0")


def numbers(found: list[Violation]) -> set[int]:
    """Which invariants broke."""
    return {violation.invariant for violation in found}
