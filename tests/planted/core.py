# SPDX-License-Identifier: Apache-2.0
"""Bugs of the XFRM core: software ESP, policies, limits, what users are told."""

from typing import Any

import pytest

from host_driver.xfrm import input, lifetime, output, policy_check, user_sa
from host_driver.xfrm.mib import Mib
from host_driver.xfrm.net import XfrmNet
from host_driver.xfrm.state import OFFLOAD_PACKET
from planted.plant import bug, every, wrap

# --- told ---


@bug(25, seed=0, steps=129)
def soft_limit_told_again(patch: pytest.MonkeyPatch) -> None:
    """Every look tells of a soft limit that is passed."""

    def tell(original: Any, self: XfrmNet, x: Any, hard: bool) -> None:
        original(self, x, hard)
        x.km.dying = x.km.dying and hard

    wrap(patch, XfrmNet, "km_state_expired", tell)


@bug(26, seed=0, steps=21)
def hard_limit_told_twice(patch: pytest.MonkeyPatch) -> None:
    """A hard expiry is multicast twice."""

    def tell(original: Any, self: XfrmNet, x: Any, hard: bool) -> None:
        original(self, x, hard)
        if hard:
            original(self, x, hard)

    wrap(patch, XfrmNet, "km_state_expired", tell)


@bug(24, 39, 26, seed=0, steps=21)
def expired_and_kept(patch: pytest.MonkeyPatch) -> None:
    """An SA that expired is told, and stays in use."""

    def expired(net: XfrmNet, x: Any) -> None:
        net.km_state_expired(x, True)

    patch.setattr(lifetime, "_expired", expired)


@bug(31, seed=0, steps=24)
def drop_not_in_the_mib(patch: pytest.MonkeyPatch) -> None:
    """A packet without an SA vanishes, and XfrmOutNoStates stays."""

    def bump(original: Any, self: Mib, name: str, by: int = 1) -> None:
        if name != "XfrmOutNoStates":
            original(self, name, by)

    wrap(patch, Mib, "bump", bump)


@bug(30, seed=0, steps=126)
def mismatch_not_in_the_mib(patch: pytest.MonkeyPatch) -> None:
    """What a policy refuses inward is not counted."""

    def bump(original: Any, self: Mib, name: str, by: int = 1) -> None:
        if name != "XfrmInTmplMismatch":
            original(self, name, by)

    wrap(patch, Mib, "bump", bump)


# --- software ESP ---


@bug(22, seed=0, steps=140)
def software_limit_off_by_one(patch: pytest.MonkeyPatch) -> None:
    """Software looks at a hard limit one packet late."""

    def check(original: Any, net: Any, x: Any) -> int:
        late = x.xso.type != OFFLOAD_PACKET and x.curlft.packets == x.lft.hard_packet_limit
        return 0 if late else int(original(net, x))

    wrap(patch, output, "xfrm_state_check_expire", check)
    wrap(patch, input, "xfrm_state_check_expire", check)


@bug(10, 11, 13, 35, seed=0, steps=20)
def software_instead_of_the_card(patch: pytest.MonkeyPatch) -> None:
    """Every third packet of packet offload is sealed in software."""
    third = every(3)

    def offload(original: Any, net: Any, skb: Any, states: Any, dev: Any) -> int:
        if third():
            skb.protect = False
            return int(output._protected(net, skb, states, dev))
        return int(original(net, skb, states, dev))

    wrap(patch, output, "_packet_offload", offload)


# --- policies ---


@bug(4, 6, seed=0, steps=126)
def templates_ignored_inward(patch: pytest.MonkeyPatch) -> None:
    """Software lets in what no SA of the policy's template has opened."""
    patch.setattr(policy_check, "_templates_hold", lambda templates, xvec: True)


@bug(25, seed=8, ends=True)
def soft_seconds_not_told(patch: pytest.MonkeyPatch) -> None:
    """The soft limit in seconds passes, and nobody hears of it."""

    def soft(original: Any, *arguments: Any) -> Any:
        return original(*arguments)[0], False

    wrap(patch, lifetime, "_soft_limits", soft)


@bug(25, 26, seed=1, ends=True)
def first_use_not_noted(patch: pytest.MonkeyPatch) -> None:
    """An SA seems never used, so that no limit in seconds of use is reached."""

    def hard(original: Any, net: XfrmNet, x: Any) -> Any:
        x.curlft.use_time = 0
        return original(net, x)

    wrap(patch, lifetime, "_hard_limits", hard)


@bug(28, seed=22, ends=True)
def use_counts_from_the_add(patch: pytest.MonkeyPatch) -> None:
    """The limit in seconds of use ends an SA that nobody has used."""

    def hard(original: Any, net: XfrmNet, x: Any) -> Any:
        x.curlft.use_time = x.curlft.add_time
        return original(net, x)

    wrap(patch, lifetime, "_hard_limits", hard)


@bug(42, seed=0, steps=12)
def deletes_are_not_told(patch: pytest.MonkeyPatch) -> None:
    """Those who listen do not hear that an SA is gone: the message is empty."""
    patch.setattr(user_sa, "build_delsa", lambda *_: b"")
