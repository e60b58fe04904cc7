# SPDX-License-Identifier: Apache-2.0
"""One host as a case sees it: what was since the case began, in the contract's own shorthand.

A state_add   D state_delete   F state_free   U update_curlft   K offload_ok   E advance_esn
pA policy_add   pD policy_delete   pF policy_free         `(l)` behind A, D, F: a larval SA
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from host_driver.conformance import messages
from host_driver.conformance.messages import Note, Reply
from host_driver.conformance.target import RawHost
from host_driver.ip import Result, format_notification
from proto.xfrm import OFFLOAD_PACKET, Attr, Msg
from proto.xfrm_structs import UserSaInfo

LETTERS = {
    "xdo_dev_state_add": "A",
    "xdo_dev_state_delete": "D",
    "xdo_dev_state_free": "F",
    "xdo_dev_state_update_curlft": "U",
    "xdo_dev_offload_ok": "K",
    "xdo_dev_state_advance_esn": "E",
    "xdo_dev_policy_add": "pA",
    "xdo_dev_policy_delete": "pD",
    "xdo_dev_policy_free": "pF",
}

SECOND = "nic1"


class Subject:
    """`raw` is a host of a lab, or of the running kernel; `settle` returns when nothing moves;
    `needs_crypto` skips the case where crypto offload is not to be had."""

    def __init__(
        self,
        raw: RawHost,
        settle: Callable[[], None],
        wait: Callable[[float], None],
        needs_crypto: Callable[[], None],
    ) -> None:
        self.raw = raw
        self.dev: str = raw.nic.name
        self.ifindex: int = raw.nic.ifindex
        self.mac: bytes = raw.nic.mac
        self.settle = settle
        self.wait = wait
        self._needs_crypto = needs_crypto
        self._calls_before = 0
        self._mib_before: dict[str, int] = {}
        self._counters_before: dict[str, int] = {}

    def begin(self) -> None:
        """Forget everything that was before this case."""
        self.raw.notifications()
        self.raw.receive()
        with contextlib.suppress(pytest.skip.Exception):  # a target that does not show them
            self._calls_before = len(self.raw.trace())
        self._mib_before = self.raw.mib()
        self._counters_before = self.raw.nic.counters()

    @contextlib.contextmanager
    def restless(self) -> Iterator[None]:
        """Meanwhile nothing waits until all is at rest, as something sleeps until it is woken."""
        settle, self.settle = self.settle, lambda: None
        try:
            yield
        finally:
            self.settle = settle

    # --- requests ---

    def ip(self, text: str) -> Result:
        """An `ip` command; `xfrm ...`. What it refuses is a result, too."""
        return self.raw.ip(text)

    def ok(self, text: str) -> str:
        """An `ip` command that must succeed; its output."""
        if "offload crypto" in text:
            self._needs_crypto()
        result = self.raw.ip(text)
        assert result.rc == 0, f"`ip {text}` ended with {result.rc}: {result.stderr}"
        return result.stdout

    def request(self, datagram: bytes, *, privileged: bool = True) -> Reply:
        """A raw request (`messages`); errno, text and messages of the answer."""
        return messages.reply(self.raw.netlink(datagram, privileged))

    def answer(self, datagram: bytes) -> bytes:
        """The bytes of its answer, message behind message."""
        return b"".join(self.raw.netlink(datagram))

    def together(self, datagrams: list[bytes]) -> list[Reply]:
        """Requests of several requesters, sent at one moment in this order."""
        return [messages.reply(answer) for answer in self.raw.netlink_together(datagrams)]

    def listen(self, *groups: int, room: int | None = None) -> None:
        """Be a member of these multicast groups only, with a buffer of so many messages; a case
        begins as a member of all, with a large one."""
        self.raw.listen(*groups, room=room)

    def sysctl(self, name: str, value: int) -> None:
        """`sysctl -w net.core.xfrm_NAME=VALUE`."""
        self.raw.sysctl(f"net.core.xfrm_{name}", value)

    def notes(self) -> list[Note]:
        """Multicast messages since the last call, once nothing moves."""
        self.settle()
        return messages.notes(self.raw.notifications())

    def monitor(self, *, stats: bool = False) -> str:
        """What `ip xfrm monitor` prints for them, in their place."""
        self.settle()
        devices = {dev["name"]: dev["ifindex"] for dev in self.raw.devices()}
        told = self.raw.notifications()
        return "".join(format_notification(one, devices, stats=stats) for one in told)

    def expired(self) -> list[str]:
        """Of these messages the expiries alone: `["soft 0x1000", "hard 0x1000", "soft policy"]`."""
        return messages.expiries(self.notes())

    def offload(self, flags: int = OFFLOAD_PACKET) -> dict[Attr, bytes]:
        """OFFLOAD_DEV of a request: the device under test, and IPV6 1, INBOUND 2, PACKET 4."""
        return {Attr.OFFLOAD_DEV: messages.offload(self.ifindex, flags)}

    def sa(self, spi: int = 0x1000, dst: str = messages.DESTINATION) -> UserSaInfo | None:
        """An ESP SA as GETSA shows it; None when it is not there."""
        found = self.request(messages.request(Msg.GETSA, messages.sa_id(spi, dst))).notes
        return UserSaInfo.unpack(found[0].fixed) if found else None

    def states(self) -> list[Note]:
        """All SAs, the newest first."""
        return self.request(messages.dump(Msg.GETSA)).notes

    def spis(self) -> list[int]:
        """Their SPIs in this order; 0 for one that has none yet."""
        return [UserSaInfo.unpack(note.fixed).id.spi for note in self.states()]

    def policies(self) -> list[Note]:
        """All policies, the newest first."""
        return self.request(messages.dump(Msg.GETPOLICY)).notes

    def note_names(self) -> list[str]:
        """Their types alone: `["NEWSA", "EXPIRE"]`."""
        return [note.name for note in self.notes()]

    # --- the driver ---

    def calls(self) -> list[dict[str, Any]]:
        """The driver's calls since the case began (`host_driver.trace`), once nothing moves."""
        self.settle()
        return self.calls_by_now()

    def calls_by_now(self) -> list[dict[str, Any]]:
        """The same, while things may still move."""
        return self.raw.trace()[self._calls_before :]

    def calls_of(self, name: str, since: int = 0) -> list[dict[str, Any]]:
        """Of these calls those of one callback, named without its `xdo_dev_`."""
        return [call for call in self.calls()[since:] if call["call"] == f"xdo_dev_{name}"]

    def order(self, *without: str, since: int = 0, numbered: bool = False) -> str:
        """The calls in shorthand, as "A D F"; `without` leaves letters out, as "U", and `since`
        that many calls; `numbered` tells objects apart: "A1 A2 D2"."""
        shown, numbers = [], dict[int, int]()
        for call in self.calls()[since:]:
            letter = LETTERS[call["call"]]
            number = numbers.setdefault(call["object"], len(numbers) + 1)
            if letter not in without:
                larval = letter in ("A", "D", "F") and call.get("acquire")
                shown.append(letter + (str(number) if numbered else "") + ("(l)" if larval else ""))
        return " ".join(shown)

    def violations(self) -> list[str]:
        """Rules that the driver broke in a call, as the host's fence saw it."""
        return [call["rule"] for call in self.calls() if "rule" in call]

    def errors(self) -> list[str]:
        """What the fence stopped or caught in a call, whether a rule names it or not."""
        return [call["error"] for call in self.calls() if "error" in call]

    # --- packets ---

    def send(self, packets: Sequence[bytes]) -> list[int]:
        """The stack sends IP packets; an errno each, once nothing moves."""
        errnos = self.raw.send(packets)
        self.settle()
        return errnos

    def receive(self) -> list[bytes]:
        """IP packets delivered to the stack, once nothing moves."""
        self.settle()
        return self.raw.receive()

    def mib(self) -> dict[str, int]:
        """The counters of /proc/net/xfrm_stat that moved since the case began, and by how much."""
        return _moved(self._mib_before, self.raw.mib())

    def counters(self) -> dict[str, int]:
        """The counters of card and driver that moved since the case began."""
        self.settle()
        return _moved(self._counters_before, self.raw.nic.counters())

    def census(self) -> dict[str, int]:
        """Live objects on the card that are there, by kind."""
        self.settle()
        return {kind: count for kind, count in self.raw.nic.census().items() if count}

    # --- the device ---

    def link(self, **change: Any) -> None:
        """`ip link set` and `ethtool -K` on the device: up, mtu, esp_hw_offload, unregister."""
        self.raw.set_link(self.dev, **change)
        self.settle()

    def second_device(self) -> str:
        """The name of another device of the same driver, made for this case; packets that go out
        of it end there."""
        self.raw.add_device(SECOND)
        return SECOND

    def refcnt(self, dev: str | None = None) -> int:
        """References to the device that SAs and policies hold (INV-04)."""
        self.settle()
        wanted = dev or self.dev
        return next(int(each["refcnt"]) for each in self.raw.devices() if each["name"] == wanted)


def _moved(before: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    return {name: n - before.get(name, 0) for name, n in now.items() if n != before.get(name, 0)}
