# SPDX-License-Identifier: Apache-2.0
"""Bugs of what users ask for, and of what they are told of it."""

import struct
from collections.abc import Callable
from typing import Any

import pytest

from host_driver.driver import policy as driver_policy
from host_driver.netdev import NetDevice
from host_driver.xfrm import acquire, encode, esp, lifecycle, net, user_policy, user_sa
from host_driver.xfrm.net import XfrmNet
from host_driver.xfrm.state import KmState, XfrmState
from planted.plant import bug, every, wrap
from proto.xfrm import POLICY_OUT, Msg

TYPE = struct.Struct("<4xH")  # of a netlink message, behind its length


def silent(patch: pytest.MonkeyPatch, *types: int) -> None:
    """Nobody hears of messages of these types."""

    def begin(original: Any, self: XfrmNet, *arguments: Any, **named: Any) -> None:
        original(self, *arguments, **named)
        multicast: Callable[[int, bytes], bool] = self.multicast

        def some(group: int, message: bytes) -> bool:
            return TYPE.unpack_from(message)[0] in types or multicast(group, message)

        self.multicast = some

    wrap(patch, XfrmNet, "__init__", begin)


# --- told ---


@bug(26, seed=0, steps=21)
def hard_limit_told_as_soft(patch: pytest.MonkeyPatch) -> None:
    """An expiry never says that it is a hard one."""

    def build(original: Any, own: Any, x: XfrmState, hard: bool, pid: int) -> Any:
        return original(own, x, False, pid)

    wrap(patch, net, "build_expire", build)


@bug(26, seed=0, steps=21)
def expiry_of_another_spi(patch: pytest.MonkeyPatch) -> None:
    """An expiry names an SA that nobody has."""

    def build(original: Any, own: Any, x: XfrmState, hard: bool, pid: int) -> Any:
        x.id.spi ^= 1
        message = original(own, x, hard, pid)
        x.id.spi ^= 1
        return message

    wrap(patch, net, "build_expire", build)


@bug(28, 33, seed=0, steps=43)
def expiry_before_it_is_counted(patch: pytest.MonkeyPatch) -> None:
    """An expiry tells of no packets."""

    def build(original: Any, own: Any, x: XfrmState, hard: bool, pid: int) -> Any:
        packets, x.curlft.packets = x.curlft.packets, 0
        with pytest.MonkeyPatch.context() as asked:
            asked.setattr(encode, "xfrm_dev_state_update_stats", lambda *_: None)
            message = original(own, x, hard, pid)
        x.curlft.packets = packets
        return message

    wrap(patch, net, "build_expire", build)


@bug(42, seed=0, steps=22)
def updates_are_not_told(patch: pytest.MonkeyPatch) -> None:
    """Other limits of an SA are taken, and nobody hears of them."""
    silent(patch, Msg.UPDSA)


@bug(42, seed=0, steps=134)
def flushes_are_not_told(patch: pytest.MonkeyPatch) -> None:
    """All SAs or policies are gone, and nobody hears of it."""
    silent(patch, Msg.FLUSHSA, Msg.FLUSHPOLICY)


# --- taken back ---


@bug(49, seed=0, steps=23)
def deletes_take_the_oldest_along(patch: pytest.MonkeyPatch) -> None:
    """Every second delete of a policy takes the oldest of the card's policies, too."""
    second = every(2)

    def delete(original: Any, self: driver_policy.Policies, handle: int) -> None:
        original(self, handle)
        if second() and self._entries:
            original(self, next(iter(self._entries)))

    wrap(patch, driver_policy.Policies, "delete", delete)


@bug(40, seed=0, steps=137)
def flushes_leave_software_alone(patch: pytest.MonkeyPatch) -> None:
    """A flush takes the SAs of devices only."""

    def flush(own: XfrmNet, proto: int) -> bool:
        gone = [x for x in own.sad if x.xso.dev is not None]
        for x in gone:
            lifecycle.xfrm_state_delete(own, x)
        return bool(gone)

    patch.setattr(user_sa, "xfrm_state_flush", flush)


@bug(39, seed=0, steps=169)
def flushes_leave_what_comes_in(patch: pytest.MonkeyPatch) -> None:
    """A flush takes policies outward only."""

    def flush(own: XfrmNet, type: int) -> bool:
        gone = [xp for xp in own.spd if xp.dir == POLICY_OUT]
        for xp in gone:
            own.xfrm_policy_delete(xp)
        return bool(gone)

    patch.setattr(user_policy, "xfrm_policy_flush", flush)


@bug(39, seed=1, steps=20)
def links_go_down_without_a_flush(patch: pytest.MonkeyPatch) -> None:
    """A device that goes down keeps SAs and policies."""

    def event(self: XfrmNet, dev: NetDevice, event: str) -> None:
        pass

    patch.setattr(XfrmNet, "netdev_event", event)


# --- software ---


@bug(14, seed=0, steps=140)
def software_pads_with_zeros(patch: pytest.MonkeyPatch) -> None:
    """The padding of software ESP is 0, 0, 0, ..."""

    def lay_out(original: Any, *arguments: Any) -> bytes:
        clear = bytearray(original(*arguments))
        pad = clear[-2]
        clear[len(clear) - 2 - pad : -2] = bytes(pad)
        return bytes(clear)

    wrap(patch, esp, "_clear_text", lay_out)


@bug(45, seed=0, steps=205)
def software_goes_on_with_the_oldest(patch: pytest.MonkeyPatch) -> None:
    """After a rekey software goes on with the old SA."""

    def look_at(original: Any, self: Any, x: XfrmState, flow: Any) -> None:
        before = self.best
        original(self, x, flow)
        usable = x.km.state == KmState.VALID and acquire.selector_allows(x.sel, flow)
        older = before is not None and x.curlft.add_time <= before.curlft.add_time
        if before is not None and usable:
            self.best = x if older else before

    wrap(patch, acquire._Search, "look_at", look_at)
