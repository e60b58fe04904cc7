# SPDX-License-Identifier: Apache-2.0
"""INV-09, 10, 14: what holds of packets, whatever becomes of SAs and policies meanwhile."""

import random

from host_driver.conformance import packets, texts
from host_driver.conformance.bench import Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import DESTINATION, SOURCE
from host_driver.conformance.subject import Subject
from host_driver.conformance.workload import KEY_BYTES, Workload

STEPS = 160
ARRIVALS = 100
SPI = 0x1000
BROKEN = "broken replayed unknown_spi wrong_key clear dead".split()
TX_STATES = "XfrmOutState"
RX_STATES = "XfrmInState"


@rule("INV-09")
def test_no_covered_packet_leaves_in_clear(bench: Bench) -> None:
    """While an offloaded policy out covers a flow and does not let it pass, no packet of the flow
    is on the wire in clear: without SA, with a worn-out one, with a lost one, whatever is drawn."""
    life = Workload(bench, "INV-09").run(STEPS)
    assert life.lost == [], life.log
    assert any(bench.spis()), life.log


@rule("INV-09")
def test_only_a_bypass_lets_packets_pass_in_clear(bench: Bench) -> None:
    """An offloaded policy that allows without template does, a blocking one and one with a template
    do not, and a software bypass is none for the card."""
    host = bench.host()
    peers = ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5"]
    bypassed, blocked, protected, both = peers
    host.ok(texts.policy(host.dev, dst=bypassed, template=False))
    host.ok(texts.policy(host.dev, dst=blocked, template=False, more="action block"))
    host.ok(texts.policy(host.dev, dst=protected))
    host.ok(texts.policy(host.dev, dst=both, priority=9))
    host.ok(texts.policy(dst=both, template=False, priority=1, more="proto udp"))
    sent = [packets.udp(dst=peer) for peer in peers]
    host.send(sent)
    assert bench.on_the_wire() == sent[:1]


# --- arrivals ---


class Arrivals:
    """Packets for one inbound SA, right and wrong ones, as the seed draws them."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.host: Subject = bench.host()
        self.random = random.Random(f"{bench.options.seed} {name}")
        self._bench = bench
        self._number = 0
        self._seq = 0
        self._key = bytes(KEY_BYTES)
        self._last = b""
        self.host.ok(texts.policy(self.host.dev, dir="in", src=DESTINATION, dst=SOURCE))
        self.renew()

    def renew(self) -> None:
        """A new SA with a new key."""
        self._key, self._seq, self._last = self.random.randbytes(KEY_BYTES), 0, b""
        self.host.ok(
            texts.state(self.host.dev, src=DESTINATION, dst=SOURCE, dir="in", key=self._key)
        )

    def remove(self) -> None:
        """The SA goes."""
        self.host.ok(texts.delete(src=DESTINATION, dst=SOURCE))
        self.host.settle()  # what arrives meanwhile may meet the SA still alive on the card

    def arrive(self, kind: str) -> tuple[bytes, list[bytes]]:
        """One packet of a kind: what is inside, and what the stack was given."""
        self._number += 1
        inner = packets.udp(b"%d" % self._number, src=DESTINATION, dst=SOURCE)
        self._bench.arrive(self._sealed(kind, inner))
        return inner, self.host.receive()

    def _sealed(self, kind: str, inner: bytes) -> bytes:
        if kind == "clear":
            return inner
        if kind == "replayed" and self._last:
            return self._last
        key = self.random.randbytes(KEY_BYTES) if kind == "wrong_key" else self._key
        spi = SPI + 1 if kind == "unknown_spi" else SPI
        self._seq += 1
        packet = packets.Esp(spi, key).seal(inner, self._seq)
        if kind == "good":
            self._last = packet
        if kind in ("broken", "replayed"):  # without one to replay: a bit turned over
            at = self.random.randrange(28, len(packet))
            return packet[:at] + bytes((packet[at] ^ 1,)) + packet[at + 1 :]
        return packet


@rule("INV-10")
def test_what_is_accepted_was_authenticated(bench: Bench) -> None:
    """Of whatever arrives the stack gets exactly what the live SA's key has sealed, once each and
    untouched; nothing once the SA is gone."""
    arrivals = Arrivals(bench, "INV-10")
    accepted = 0
    for _ in range(ARRIVALS):
        kind = arrivals.random.choice(["good", "good", *BROKEN])
        if kind == "dead":
            arrivals.remove()
            assert arrivals.arrive("good")[1] == []
            arrivals.renew()
            continue
        inner, received = arrivals.arrive(kind)
        assert received == ([inner] if kind == "good" else []), kind
        accepted += len(received)
    assert accepted > ARRIVALS // 10


# --- software counters ---


def of_states(mib: dict[str, int]) -> dict[str, int]:
    """The counters about SAs that software would move."""
    return {name: n for name, n in mib.items() if name.startswith((TX_STATES, RX_STATES))}


@rule("INV-14")
def test_software_counts_nothing_that_the_card_does(bench: Bench) -> None:
    """Packets out and in, acquires, limits, updates and links going down: no XfrmOutState* and no
    XfrmInState* moves but for what the card dropped and its driver reports."""
    life = Workload(bench, "INV-14", software=False).run(STEPS)
    counted = of_states(life.host.mib())
    drops = sum(n for name, n in life.host.counters().items() if name.startswith("rx_drop"))
    assert sum(counted.values()) <= drops, (counted, life.log)
    assert not any(name.startswith(TX_STATES) for name in counted), (counted, life.log)


@rule("INV-14")
def test_drops_of_the_card_are_no_errors_of_software(bench: Bench) -> None:
    """Broken ICVs and replays, which the card drops, move a counter of SAs at most as far as the
    driver reports them of the SA, and in v6.2 none. Stray ESP is software's, and counted there."""
    arrivals = Arrivals(bench, "INV-14")
    host = arrivals.host
    arrivals.arrive("good")
    for kind, count in (("broken", 3), ("replayed", 2)):
        for _ in range(count):
            assert arrivals.arrive(kind)[1] == []
    reported = {"XfrmInStateProtoError": 3, "XfrmInStateSeqError": 2} if bench.latest else {}
    counted = of_states(host.mib())
    assert counted.items() <= reported.items()
    bench.arrive(packets.Esp(SPI + 1).seal(packets.udp(), 1))
    assert host.receive() == []
    assert of_states(host.mib()) == counted
    assert host.mib()["XfrmInNoStates"] == 1
