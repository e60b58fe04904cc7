# SPDX-License-Identifier: Apache-2.0
"""The replay window of an inbound SA against a set of the numbers that were seen (RFC 4303 3.4.3).

The sender counts in 64 bits where ESN is on. The model has no bitmap and no head: it keeps every
number that was taken, and the highest. Of a number the receiver sees 32 bits, so with ESN it takes
the one number with these bits among the 2^32 that begin at the left edge of the window (RFC 4303
A2.2); what a sender further away than that has sealed fails its ICV.
"""

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from host_driver.conformance.packets import Esp, frame, udp
from proto import commands as c
from proto.frame import Kind
from unit.firmware.conftest import Card

KEY, SALT, SPI = bytes(range(32)), b"salt", 0x1000
LOW, SPACE = (1 << 32) - 1, 1 << 32
WINDOWS = (1, 31, 32, 33, 64, 100, 200)
CARD = "full:key_max=1,sa_max=1,rule_max=1"


class CardReplay(RuleBasedStateMachine):
    """One inbound SA that meets any numbers in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.card = Card(CARD)
        self.window = self.top = self.handle = 0
        self.esn = False
        self.seen: set[int] = set()
        self.tally = {"replay": 0, "integrity": 0, "": 0}

    @initialize(
        window=st.sampled_from(WINDOWS), esn=st.booleans(),
        start=st.sampled_from((0, 0, 5, SPACE - 40, SPACE - 1)) | st.integers(0, LOW),
        high=st.sampled_from((0, 0, 1, LOW - 1)),
    )  # fmt: skip
    def begin(self, window: int, esn: bool, start: int, high: int) -> None:
        self.window, self.esn = window, esn
        self.top = start + (high * SPACE if esn else 0)
        command = self.card.sa(self.card.make(c.CreateKey(KEY)), c.IN)
        command = msgspec.structs.replace(
            command, seq=self.top, esn=esn, replay_window=window, spi=SPI
        )
        self.handle = self.card.make(command)
        self.card.make(c.CreateSaRule(self.handle))

    # --- what comes ---

    @rule(ahead=st.integers(1, 3))
    def in_order(self, ahead: int) -> None:
        self.receive(self.top + ahead)

    @rule(behind=st.integers(0, 250))
    def late(self, behind: int) -> None:
        self.receive(self.top - behind)

    @rule(around=st.integers(-2, 2))
    def at_the_edge(self, around: int) -> None:
        self.receive(self.top - self.window + around)

    @rule(ahead=st.sampled_from((30, 64, 65, 300, 5_000)))
    def jump(self, ahead: int) -> None:
        self.receive(self.top + ahead)

    @rule(ahead=st.sampled_from((SPACE // 2, SPACE - 300, SPACE - 1, SPACE, SPACE + 5)))
    def leap(self, ahead: int) -> None:
        self.receive(self.top + ahead)

    @rule(which=st.integers(0, 1 << 20))
    def again(self, which: int) -> None:
        if self.seen:
            self.receive(sorted(self.seen)[which % len(self.seen)])

    @rule(ahead=st.integers(-50, 50))
    def forged(self, ahead: int) -> None:
        """A wrong ICV never moves the window (INV-19)."""
        number = self.top + ahead
        if self.possible(number):
            self.receive(number, forged=True)

    # --- the model ---

    def possible(self, number: int) -> bool:
        """Whether a sender can count so far."""
        return 0 <= number <= (LOW if not self.esn else SPACE * SPACE - 1)

    def verdict(self, number: int) -> str:
        """Why the packet is dropped, or nothing."""
        if not self.esn:
            stale = number == 0 or number <= self.top - self.window or number in self.seen
            return "replay" if stale else ""
        left = self.top - self.window + 1
        taken_for = left + ((number & LOW) - left) % SPACE
        if taken_for in self.seen or (taken_for == 0 and self.top < self.window - 1):
            return "replay"
        return "" if taken_for == number else "integrity"

    def receive(self, number: int, *, forged: bool = False) -> None:
        if not self.possible(number):
            return
        esp = Esp(SPI, KEY + SALT, high=number >> 32 if self.esn else None)
        packet = udp(number.to_bytes(8))
        sealed = esp.seal(packet, number & LOW)
        if forged:
            sealed = sealed[:-1] + bytes((sealed[-1] ^ 1,))
        expected = self.verdict(number)
        if forged and not expected:
            expected = "integrity"
        got = self.card.received(messages := self.card.rx([frame(sealed)]))
        self.card.rx_done(sum(m.count for m in messages if m.kind is Kind.RX))
        self.tally[expected] += 1
        assert [data[14:] for _, data in got] == [packet] * (not expected), (number, expected)
        if not expected:
            self.seen.add(number)
            self.top = max(self.top, number)

    # --- what holds at every moment ---

    @invariant()
    def reasons_are_counted(self) -> None:
        counters = self.card.counters
        assert counters["rx_delivered"] == self.tally[""]
        assert counters["rx_drop_replay"] == self.tally["replay"]
        assert counters["rx_drop_integrity"] == self.tally["integrity"]

    @invariant()
    def the_card_says_what_was_seen(self) -> None:
        """The bitmap that the card exports has a bit for each number in the window (INV-20)."""
        if not self.handle:
            return
        state = self.card.command(c.QuerySa(self.handle)).sa
        assert state is not None and state.seq == self.top
        bits = sum(word.bit_count() for word in state.window)
        begin = self.top - self.window
        assert bits == sum(1 for number in self.seen if begin < number <= self.top)
