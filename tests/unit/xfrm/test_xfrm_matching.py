# SPDX-License-Identifier: Apache-2.0
"""Which SA a policy may use, row by row of section 8.4 (MATCH-01..12)."""

import pytest

from support.core import Core
from support.esp import GCM, datagram, policy, state, template


class Card:
    """A driver that takes everything and notes which SA may go to it."""

    def __init__(self) -> None:
        self.used: list[int] = []

    def xdo_dev_state_add(self, dev, x, extack) -> int:
        return 0

    def xdo_dev_state_delete(self, dev, x) -> None: ...

    def xdo_dev_policy_add(self, xp, extack) -> int:
        return 0

    def xdo_dev_offload_ok(self, skb, x) -> bool:
        self.used.append(x.id.spi)
        return True


def matched(offloaded: bool, *states: str, after=None) -> int:
    """The SPI that a packet's SA has, 0 when an acquire was made, -1 when nothing was."""
    card = Card()
    core = Core(card)
    core.add_nic("nic1", Card())
    device = "offload packet dev nic0 " if offloaded else ""
    core.add(policy("out", device + template(7)))
    for spi, extra in enumerate(states, 1):
        core.add(state(GCM, extra=extra, spi=spi).replace(f"reqid {spi}", "reqid 7"))
        core.net.now_ns += 10**9
    if after is not None:
        after(core)
    core.events.clear()
    assert core.net.output(datagram()) == 0
    if core.moved() == {"XfrmOutNoStates": 1}:
        assert core.sent == []
        return -(not any(message[4] == 0x17 for _, message in core.events))
    (skb,) = core.sent
    if skb.protect:
        assert skb.data == datagram()
        return card.used[-1]
    assert skb.data[9] == 50
    return int.from_bytes(skb.data[20:24], "big")


def packet(dev: str = "nic0", extra: str = "") -> str:
    return f"{extra} offload packet dev {dev} dir out"


def crypto(dev: str = "nic0") -> str:
    return f"offload crypto dev {dev} dir out"


@pytest.mark.parametrize(
    ("offloaded", "states", "spi"),
    [
        pytest.param(True, [packet()], 1, id="MATCH-01"),
        pytest.param(True, [packet("nic1")], 0, id="MATCH-02"),
        pytest.param(True, [crypto()], 0, id="MATCH-03"),
        pytest.param(True, [""], 0, id="MATCH-04"),
        pytest.param(False, [packet()], 0, id="MATCH-05"),
        pytest.param(False, [crypto()], 1, id="MATCH-06"),
        pytest.param(False, [packet(), ""], 2, id="MATCH-07"),
        pytest.param(True, [packet(), packet("nic1")], 1, id="MATCH-08"),
        pytest.param(True, [packet(), ""], 0, id="MATCH-09"),
        pytest.param(True, ["", packet()], 2, id="MATCH-10"),
    ],
)
def test_kinds(offloaded, states, spi):
    assert matched(offloaded, *states) == spi


def test_fresh_before_dying():
    """MATCH-11: although it was added before."""

    def dies(core: Core) -> None:
        core.state(2).km.dying = True

    assert matched(True, packet(), packet(), after=dies) == 1
    assert matched(True, packet(), packet()) == 2  # of two fresh ones the newest (TX-13)


def test_expired():
    """MATCH-12: as pending, but nobody is asked for another."""

    def expires(core: Core) -> None:
        core.net.xfrm_state_expire(core.state(1))

    assert matched(True, packet(), after=expires) == -1
