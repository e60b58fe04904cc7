# SPDX-License-Identifier: Apache-2.0
"""Bugs of a driver and its host: mailbox, objects, events, what passes between card and stack."""

from typing import Any

import msgspec
import pytest

from host_driver.device_queries import DeviceQueries
from host_driver.driver import policy as driver_policy
from host_driver.driver import reference
from host_driver.driver.events import EventHandler
from host_driver.driver.reference import ReferenceDriver
from host_driver.driver.sa import Sa
from host_driver.driver.totals import Totals
from host_driver.driver.tx_queue import TxQueue
from host_driver.host import Host
from host_driver.ops import Extack
from host_driver.sleep import Completion, wait
from planted.plant import bug, every, wrap
from proto.commands import OUT

# --- events and limits ---


@bug(25, 26, seed=0, steps=43)
def events_lost_and_no_reconcile(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks at an SA, whatever events, counters and ticks say."""
    patch.setattr(EventHandler, "_look", lambda self, sa: None)


@bug(28, 33, seed=0, steps=21)
def one_packet_too_many(patch: pytest.MonkeyPatch) -> None:
    """The driver tells of one packet more than the card has counted."""

    def tell(original: Any, self: ReferenceDriver, x: Any) -> None:
        original(self, x)
        x.curlft.packets += bool(x.curlft.packets)

    wrap(patch, ReferenceDriver, "xdo_dev_state_update_curlft", tell)


# --- objects ---


@bug(39, 40, 7, seed=0, steps=23)
def policy_rule_left_behind(patch: pytest.MonkeyPatch) -> None:
    """A deleted policy stays on the card."""
    patch.setattr(ReferenceDriver, "xdo_dev_policy_delete", lambda self, xp: None)


@bug(39, 40, seed=0, steps=12)
def sa_left_behind(patch: pytest.MonkeyPatch) -> None:
    """A deleted SA stays on the card."""
    patch.setattr(ReferenceDriver, "xdo_dev_state_delete", lambda self, dev, x: None)
    patch.setattr(ReferenceDriver, "xdo_dev_state_free", lambda self, dev, x: None)


@bug(41, seed=0, steps=14)
def handle_reused(patch: pytest.MonkeyPatch) -> None:
    """The driver's handles count what is there, so a new object gets that of an old one."""
    patch.setattr(ReferenceDriver, "_new_handle", lambda self: len(self._sas) + 1)


# --- mailbox ---


@bug(46, seed=0, steps=38)
def question_hangs(patch: pytest.MonkeyPatch) -> None:
    """After some commands the host answers no census any more."""

    def census(original: Any, self: DeviceQueries, query: Any) -> Any:
        if self._host.counters["mailbox_commands"] > 150:
            yield from wait(Completion())
        return (yield from original(self, query))

    wrap(patch, DeviceQueries, "_census", census)


@bug(42, seed=1, steps=4)
def refusal_without_text(patch: pytest.MonkeyPatch) -> None:
    """Nobody says why an offer was refused."""
    patch.setattr(Extack, "set", lambda self, text: None)
    patch.setattr(Extack, "set_weak", lambda self, text: None)


@bug(9, seed=1, steps=4)
def key_in_a_text(patch: pytest.MonkeyPatch) -> None:
    """A refusal quotes the key that was offered."""

    def add(original: Any, self: ReferenceDriver, x: Any, extack: Extack) -> Any:
        quoted = x.aead.key.hex() if x.aead else ""
        error = yield from original(self, x, extack)
        if error:
            extack.set(f"{quoted} was refused")
        return error

    wrap(patch, ReferenceDriver, "_add", add)


@bug(43, seed=0, steps=298)
def long_keys_refused(patch: pytest.MonkeyPatch) -> None:
    """The driver refuses 256-bit keys that the card offers."""

    def check(original: Any, x: Any, caps: Any) -> None:
        bits = tuple(bits for bits in caps.key_bits if bits < 256)
        original(x, msgspec.structs.replace(caps, key_bits=bits))

    wrap(patch, reference, "check_state", check)


# --- packets ---


@bug(30, seed=0, steps=20)
def packet_dropped_silently(patch: pytest.MonkeyPatch) -> None:
    """Every seventh received packet vanishes in the driver."""
    seventh = every(7)

    def receive(original: Any, self: Host, skb: Any) -> None:
        if not seventh():
            original(self, skb)

    wrap(patch, Host, "netif_rx", receive)


@bug(17, 30, seed=0, steps=10)
def packet_delivered_twice(patch: pytest.MonkeyPatch) -> None:
    """Every fifth received packet goes up twice."""
    fifth = every(5)

    def receive(original: Any, self: Host, skb: Any) -> None:
        original(self, skb)
        if fifth():
            original(self, skb)

    wrap(patch, Host, "netif_rx", receive)


@bug(31, seed=0, steps=21)
def packet_not_queued(patch: pytest.MonkeyPatch) -> None:
    """Every sixth packet is accepted and never queued."""
    sixth = every(6)

    def enqueue(original: Any, self: TxQueue, skb: Any) -> int:
        return 0 if sixth() else original(self, skb)

    wrap(patch, TxQueue, "enqueue", enqueue)


@bug(1, seed=0, steps=19)
def policy_not_installed_and_not_marked(patch: pytest.MonkeyPatch) -> None:
    """Protect policies out are bypasses on the card, and descriptors do not say otherwise."""

    def create(original: Any, xp: Any, *rest: Any) -> Any:
        command = original(xp, *rest)
        if command.direction == OUT and command.protect:
            command.protect = False
        return command

    def enqueue(original: Any, self: TxQueue, skb: Any) -> int:
        skb.protect = False
        return int(original(self, skb))

    wrap(patch, driver_policy, "create_policy_rule", create)
    wrap(patch, TxQueue, "enqueue", enqueue)


@bug(14, 31, seed=0, steps=21)
def packet_changed(patch: pytest.MonkeyPatch) -> None:
    """In every ninth packet the last bit is another on its way into the ring."""
    ninth = every(9)

    def enqueue(original: Any, self: TxQueue, skb: Any) -> int:
        if ninth():
            skb.data = skb.data[:-1] + bytes((skb.data[-1] ^ 1,))
        return int(original(self, skb))

    wrap(patch, TxQueue, "enqueue", enqueue)


@bug(33, seed=0, steps=25)
def packets_told_as_bytes(patch: pytest.MonkeyPatch) -> None:
    """The core hears the count of packets where it asks for bytes."""

    def update(original: Any, self: ReferenceDriver, x: Any) -> None:
        before = x.curlft.bytes
        original(self, x)
        x.curlft.bytes = max(before, x.curlft.packets)

    wrap(patch, ReferenceDriver, "xdo_dev_state_update_curlft", update)


@bug(33, seed=0, steps=57)
def refused_frames_not_told(patch: pytest.MonkeyPatch) -> None:
    """What an SA has refused as replays or with wrong ICVs stays on the card."""
    patch.setattr(Totals, "take_failures", lambda *_: None)


@bug(26, seed=0, steps=21)
def exhaustion_not_told(patch: pytest.MonkeyPatch) -> None:
    """The core never hears that an SA has used its last sequence number."""
    patch.setattr(Sa, "exhausted", False)


@bug(49, seed=135, steps=214)
def only_templates_are_made_again(patch: pytest.MonkeyPatch) -> None:
    """After the loss of a card rules that block or bypass are not restored."""

    def replace(original: Any, self: Any, entry: Any) -> Any:
        if entry.xp.xfrm_vec:
            yield from original(self, entry)

    wrap(patch, driver_policy.Policies, "_replace", replace)
