# SPDX-License-Identifier: Apache-2.0
"""The story, act after act. Each act does something, shows it, and claims what came out of it.

1 two hosts and two cards start              5 a soft limit is told to the packet
2 SAs and policies are offered to the cards  6 a rekey loses nothing
3 recorded traffic goes through              7 the card itself keeps a hard limit
4 one packet beside its ESP bytes            8 a bit flips on the wire
                                             9 what is left behind: pcapng, key file
"""

import os
from collections.abc import Callable
from pathlib import Path

from host_driver.demo import LAN_PCAP
from host_driver.demo.cast import A4, B4, Keys, Sa, Traffic, ends_of, recorded, without_key
from host_driver.demo.observer import Observer
from host_driver.demo.page import Page, beside, counters
from host_driver.lab import Lab
from host_driver.lab.pcapng import EspKey, write_esp_keys
from host_driver.simulate.esp import is_esp
from host_driver.simulate.headers import ETHERNET_BYTES, header_bytes
from proto import netlink
from proto.xfrm import Msg
from proto.xfrm_structs import UserExpire

CARD = "cx6dx"
SOFT, HARD = 60, 100
OVER = 30  # packets sent past the hard limit
SHOWN = (
    "tx_packets",
    "rx_packets",
    "ipsec_tx_pkts",
    "ipsec_tx_bytes",
    "ipsec_rx_pkts",
    "ipsec_rx_bytes",
)


class Story:
    """One telling. `page` holds the claims afterwards, `files` what was written, by kind."""

    def __init__(self, echo: Callable[[str], None], seed: int, out: Path, *, keys: bool) -> None:
        self.page = Page(echo)
        self.seed = seed
        self.out = out
        self.with_keys = keys
        self.keys = Keys(seed)
        self.observer = Observer()
        self.files: dict[str, str] = {}
        self._seen = 0

    def tell(self) -> None:
        """All acts. Raises what Lab raises, PeerDied among it; a false claim does not raise."""
        with Lab(target="process", hosts=2, card=CARD, seed=self.seed) as lab:
            self.lab, self.hosts = lab, lab.hosts
            lab.start_capture()
            self.start()
            first = self.keys.first_four()
            self.offload(first)
            traffic = recorded(LAN_PCAP)
            frames = self.go_through(traffic)
            self.show_packet(traffic.sent[0], frames)
            flow = [p for p in traffic.sent[0] if ends_of(p) == (A4, B4)]
            second = self.soft_limit(first[0], flow)
            third = self.rekey(second, flow)
            self.hard_limit(third, flow)
            self.bit_flip(first[1], traffic.sent[1])
            self.leave_behind()

    # --- tools of the acts ---

    def ip(self, host: int, command: str, *, shown: bool = True) -> int:
        """One `ip` command at a host, shown without its key; a refusal is shown with its text."""
        result = self.hosts[host].ip(command)
        if shown or result.rc:
            self.page.command("AB"[host], without_key(command))
        if result.rc:
            self.page.say(result.stderr)
        return result.rc

    def new_frames(self, source: int) -> list[bytes]:
        """Frames that a host's card sent since the last look at the wire."""
        frames = self.lab.wire.frames()
        fresh, self._seen = frames[self._seen :], len(frames)
        return [frame.data for frame in fresh if frame.src == source]

    def pass_along(self, source: int, packets: list[bytes]) -> tuple[list[bytes], list[bytes]]:
        """Send and wait; gives what the other host received, and what the wire saw in clear."""
        self.hosts[source].send(packets)
        self.lab.settle()
        _, clear = self.observer.judge(self.new_frames(source))
        return self.hosts[1 - source].receive(), clear

    def expires(self, host: int) -> list[str]:
        """SPI and "soft" or "hard" of every EXPIRE message since the last call."""
        told = []
        for raw in self.hosts[host].notifications():
            for message in netlink.messages(raw):
                if message.type == Msg.EXPIRE:
                    expire = UserExpire.unpack(message.payload)
                    kind = "hard" if expire.hard else "soft"
                    told.append(f"{kind}, SPI {expire.state.id.spi:#x}")
        return told

    def no_complaints(self) -> None:
        """Claim that the observer found nothing wrong so far."""
        complaints = "; ".join(self.observer.complaints) or "none"
        self.page.expect("complaints of the observer", complaints, "none")

    # --- the acts ---

    def start(self) -> None:
        """Act 1."""
        self.page.title(1, f"Two hosts, two {CARD} cards, one wire (seed {self.seed})")
        pids = self.lab.pids()
        self.page.say(", ".join(f"{name} is process {pid}" for name, pid in sorted(pids.items())))
        self.page.expect("processes beside this one", len({*pids.values()} - {os.getpid()}), 4)

    def offload(self, sas: list[Sa]) -> None:
        """Act 2. Both ends of every flow, first the SA and then the policy that asks for it."""
        self.page.title(2, "SAs and policies are offered to the cards")
        codes = []
        for sa in sas:
            first = sa is sas[0]
            for host in (0, 1):
                codes.append(self.ip(host, sa.add(sa.direction(host)), shown=first))
                codes.append(self.ip(host, sa.policy(sa.direction(host)), shown=first))
        self.page.say(f"... and {len(codes) - 4} more for the way back, and for IPv6")
        self.page.expect("offers that were accepted", codes.count(0), len(codes))
        for host, name in enumerate("AB"):
            census = self.hosts[host].nic.census()
            self.page.expect(f"SAs on the card of {name}", census["sas"], len(sas))
            self.page.expect(f"policies on the card of {name}", census["rules_policy"], len(sas))
        self.observer.learn(sas)

    def go_through(self, traffic: Traffic) -> list[bytes]:
        """Act 3. Gives the frames that A sent."""
        page, sent = self.page, traffic.sent
        page.title(3, f"Recorded traffic: {len(sent[0])} packets from A, {len(sent[1])} from B")
        if traffic.skipped_bytes:
            page.say(f"({traffic.skipped_bytes} bytes of {LAN_PCAP.name} are no packets: skipped)")
        errnos = [errno for host in (0, 1) for errno in self.hosts[host].send(sent[host])]
        page.expect("packets that a host refused to send", len(errnos) - errnos.count(0), 0)
        self.lab.settle()
        frames = self.lab.wire.frames()
        self._seen = len(frames)
        by_host = [[frame.data for frame in frames if frame.src == host] for host in (0, 1)]
        for host, name in enumerate("AB"):
            inside, clear = self.observer.judge(by_host[host])
            covered = [p for p in sent[host] if ends_of(p) in self.observer.flows()]
            page.expect(f"ESP packets from {name}", len(inside), len(covered))
            page.expect("  each opens to exactly the packet that was sent", inside == covered, True)
            page.expect(
                "  protected packets in clear", self.observer.in_clear_although_covered(clear), 0
            )
            page.expect(
                "  arrived byte for byte", self.hosts[1 - host].receive() == sent[host], True
            )
        self.no_complaints()
        self.count(sent)
        return by_host[0]

    def count(self, sent: tuple[list[bytes], list[bytes]]) -> None:
        """Conservation: what one card sent, the other received; nothing was dropped."""
        values = [host.nic.counters() for host in self.hosts]
        for name, one in zip("AB", values, strict=True):
            self.page.say(f"counters of {name}'s card")
            self.page.say(counters(one, SHOWN))
        for host, name in enumerate("AB"):
            out, into = values[host], values[1 - host]
            moved = (out["tx_packets"], into["rx_packets"])
            self.page.expect(f"sent by {name} and received by the other card", moved,
                             (len(sent[host]),) * 2)  # fmt: skip
        drops = sum(n for one in values for name, n in one.items() if "_drop_" in name)
        self.page.expect("packets dropped by the cards", drops, 0)

    def show_packet(self, packets: list[bytes], frames: list[bytes]) -> None:
        """Act 4. The first short packet that went as ESP, and what became of it."""
        self.page.title(4, "One packet, as A sent it and as the wire saw it")
        covered = [p for p in packets if ends_of(p) == (A4, B4)]
        sealed = [f for f in frames if is_esp(p := f[ETHERNET_BYTES:]) and ends_of(p) == (A4, B4)]
        clear, frame = covered[0], sealed[0]
        packet = frame[ETHERNET_BYTES:]
        self.page.say(beside(clear, packet, ("clear, from the IP header", "ESP"), rows=8))
        payload = clear[header_bytes(clear) + 8 :]
        self.page.expect("its payload is not to be seen", payload[:16] not in packet, True)

    def soft_limit(self, old: Sa, flow: list[bytes]) -> Sa:
        """Act 5. A new SA with limits takes over from the first one."""
        page = self.page
        page.title(5, f"A soft limit at packet {SOFT}")
        sa = self.keys.sa(0x2001, A4, B4, old.reqid)
        self.observer.learn([sa])
        limits = f"limit packet-soft {SOFT} limit packet-hard {HARD}"
        codes = [self.ip(1, sa.add("in")), self.ip(0, sa.add("out", limits))]
        codes += [self.ip(host, old.delete()) for host in (0, 1)]
        page.expect("commands that were accepted", codes.count(0), len(codes))
        self.expires(0)
        for count, wanted in ((SOFT - 1, []), (1, [f"soft, SPI {sa.spi:#x}"])):
            received, _ = self.pass_along(0, flow[:count])
            page.expect(f"of {count} more packets arrived", len(received), count)
            page.expect("  EXPIRE messages to the user", self.expires(0), wanted)
        return sa

    def rekey(self, old: Sa, flow: list[bytes]) -> Sa:
        """Act 6. The receiver first, then the sender, and packets all the time."""
        page = self.page
        page.title(6, "The user answers with a rekey; packets keep flowing")
        sa = self.keys.sa(0x3001, A4, B4, old.reqid)
        self.observer.learn([sa])
        received, codes = [], []
        steps = (
            (1, sa.add("in")),
            (0, sa.add("out", f"limit packet-hard {HARD}")),
            (0, old.delete()),
            (1, old.delete()),
        )
        for number, (host, command) in enumerate(steps):
            codes.append(self.ip(host, command))
            received += self.pass_along(0, flow[10 * number : 10 * number + 10])[0]
        page.expect("commands that were accepted", codes.count(0), len(codes))
        page.expect("packets sent in between that arrived", len(received), 40)
        page.expect("  byte for byte, in order", received == flow[:40], True)
        page.expect("  by the new SA", self.observer.opened[sa.spi], 30)
        return sa

    def hard_limit(self, sa: Sa, flow: list[bytes]) -> None:
        """Act 7. One burst runs past the limit before any event could reach the host."""
        page = self.page
        left = HARD - 30
        page.title(7, f"A hard limit: {left} packets are left, {left + OVER} are sent at once")
        before = self.hosts[0].nic.counters()["tx_drop_hard_limit"]
        received, clear = self.pass_along(0, flow[: left + OVER])
        page.expect("packets that arrived", len(received), left)
        page.expect(f"ESP packets of SPI {sa.spi:#x} in all", self.observer.opened[sa.spi], HARD)
        page.expect("  packets in clear", len(clear), 0)
        dropped = self.hosts[0].nic.counters()["tx_drop_hard_limit"] - before
        page.expect("dropped by the card (tx_drop_hard_limit)", dropped, OVER)
        page.expect("EXPIRE messages to the user", self.expires(0), [f"hard, SPI {sa.spi:#x}"])
        listed = self.hosts[0].ip("xfrm state list").stdout
        page.expect("the SA is gone from `ip xfrm state`", f"{sa.spi:#010x}" not in listed, True)

    def bit_flip(self, sa: Sa, packets: list[bytes]) -> None:
        """Act 8. One bit of one ciphertext, on its way from B to A."""
        page = self.page
        page.title(8, "One bit flips on the wire, in the first of three packets")
        flow = [packet for packet in packets if ends_of(packet) == (sa.src, sa.dst)][:3]
        before = self.hosts[0].nic.counters()["rx_drop_integrity"]
        bit = 8 * (ETHERNET_BYTES + header_bytes(flow[0]) + 16) + 3  # behind ESP header and IV
        self.lab.faults.add(
            site="wire", kind="corrupt", match={"spi": f"{sa.spi:#x}"}, times=1, value=bit
        )
        received, _ = self.pass_along(1, flow)
        self.lab.faults.reset()
        page.expect("the two others arrived", received == flow[1:], True)
        dropped = self.hosts[0].nic.counters()["rx_drop_integrity"] - before
        page.expect("dropped by A's card (rx_drop_integrity)", dropped, 1)

    def leave_behind(self) -> None:
        """Act 9. Everything since the start, for Wireshark; the keys only on request."""
        page = self.page
        page.title(9, "What is left behind")
        capture = self.out / "demo.pcapng"
        packets = self.lab.capture(capture)
        self.files["pcapng"] = str(capture)
        page.say(f"{packets} packets, both hosts in clear and the wire: {capture}")
        if self.with_keys:
            file = self.out / "demo.esp_sa"
            file.unlink(missing_ok=True)
            sas = self.observer.sas.values()
            write_esp_keys(file, (EspKey(sa.src, sa.dst, sa.spi, sa.key, 16) for sa in sas))
            self.files["keys"] = str(file)
            page.say(f"keys in clear, for Wireshark's ESP preferences: {file}")
        frames = len(self.lab.wire.frames())
        page.expect("the capture holds the wire and more", packets > frames, True)
        self.no_complaints()
