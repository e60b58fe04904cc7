# SPDX-License-Identifier: Apache-2.0
"""Drivers whose card does other than the SA or policy says, where each call looks right.

The docstring of each says what is wrong with it.
"""

import msgspec

from gallery.drivers_data import Rewriting, changing
from host_driver.driver.reference import ReferenceDriver, create_policy_rule
from host_driver.xfrm.state import OFFLOAD_FLAG_ACQ
from proto.commands import (
    ALLOW,
    INFINITE,
    CreateKey,
    CreatePolicyRule,
    CreateSa,
    ObjectKind,
)
from proto.xfrm import AF_INET6

ESN_LOW = 0xFFFF_FFFF


class Selecting(Rewriting):
    """A driver that sends policies with another selector."""

    wrong: dict[str, int]

    def rewrite(self, command):
        if not isinstance(command, CreatePolicyRule):
            return command
        selector = msgspec.structs.replace(command.selector, **self.wrong)
        return msgspec.structs.replace(command, selector=selector)


class AnySource(Selecting):
    """A policy covers every source address."""

    wrong = {"prefixlen_s": 0}


class AnyPort(Selecting):
    """A policy covers every port."""

    wrong = {"sport_mask": 0, "dport_mask": 0}


class BlocksNothing(Rewriting):
    """A policy that blocks lets pass."""

    def rewrite(self, command):
        if not isinstance(command, CreatePolicyRule) or command.action == ALLOW:
            return command
        return msgspec.structs.replace(command, action=ALLOW, protect=False)


class ClearInIpv6(Rewriting):
    """IPv6 leaves in clear."""

    def rewrite(self, command):
        if not isinstance(command, CreatePolicyRule) or command.selector.family != AF_INET6:
            return command
        return msgspec.structs.replace(command, protect=False)


class AnySpi(changing(CreatePolicyRule, spi=0)):
    """The SPI of a template does not count."""


class LongIcv(changing(CreateSa, icv_bytes=16)):
    """Every ICV has 16 bytes, whatever the user and the peer say."""


class NoByteLimit(changing(CreateSa, bytes=INFINITE)):
    """The card is told of packets, and not of bytes."""


class AlwaysWraps(changing(CreateSa, may_wrap=True)):
    """Sequence numbers begin anew behind the last one."""


class KeepsDscp(changing(CreateSa, decap_dscp=False)):
    """Takes the flag DECAP_DSCP and does not do it."""


class WiderWindow(Rewriting):
    """The replay window is one packet wider than the user's."""

    def rewrite(self, command):
        if not isinstance(command, CreateSa) or not command.replay_window:
            return command
        return msgspec.structs.replace(command, replay_window=command.replay_window + 1)


class ForgetsHighHalf(Rewriting):
    """An ESN SA that is moved here begins in the first high half."""

    def rewrite(self, command):
        if not isinstance(command, CreateSa) or not command.esn:
            return command
        return msgspec.structs.replace(command, seq=command.seq & ESN_LOW)


class DeletesAtFree(ReferenceDriver):
    """state_delete does nothing: the card goes on until the free, whenever that comes."""

    def xdo_dev_state_delete(self, dev, x):
        pass


class DeletesAnother(ReferenceDriver):
    """state_delete takes the rule of another SA along."""

    def xdo_dev_state_delete(self, dev, x):
        super().xdo_dev_state_delete(dev, x)
        other = next((sa for sa in self._sas.values() if not sa.deleted), None)
        for one in other.undo if other else ():
            if one.kind is ObjectKind.RULE:
                self._context.mailbox.post(one.destroy())


class DeletesTheNewPolicy(ReferenceDriver):
    """Finds policies by selector: an update takes out the one that it brings."""

    def __init__(self, context):
        super().__init__(context)
        self.handles = {}

    def xdo_dev_policy_add(self, xp, extack):
        result = yield from super().xdo_dev_policy_add(xp, extack)
        if result == 0:
            self.handles.setdefault(xp.selector.pack(), []).append(xp.xdo.offload_handle)
        return result

    def xdo_dev_policy_delete(self, xp):
        handles = self.handles.get(xp.selector.pack())
        xp.xdo.offload_handle = handles.pop() if handles else 0
        super().xdo_dev_policy_delete(xp)


class PolicyTwice(ReferenceDriver):
    """Every policy is made twice on the card, and taken out once."""

    def xdo_dev_policy_add(self, xp, extack):
        result = yield from super().xdo_dev_policy_add(xp, extack)
        if result == 0:
            self._context.mailbox.post(create_policy_rule(xp))
        return result


class KeepsKey(ReferenceDriver):
    """The key stays on the card when the SA goes."""

    def _add(self, x, extack):
        result = yield from super()._add(x, extack)
        if result == 0:
            sa = self._sas[x.xso.offload_handle]
            sa.undo[:] = [one for one in sa.undo if one.kind is not ObjectKind.KEY]
        return result


class KeyForLarval(ReferenceDriver):
    """A larval SA gets a key on the card, and nobody takes it back."""

    def xdo_dev_state_add(self, dev, x, extack):
        if x.xso.flags & OFFLOAD_FLAG_ACQ:
            self._context.mailbox.post(CreateKey(bytearray(16)))
        return super().xdo_dev_state_add(dev, x, extack)


class OneHandle(ReferenceDriver):
    """All SAs and policies have the same handle."""

    def _new_handle(self):
        return 1


class CountsEthernet(ReferenceDriver):
    """Counts the frame's header with each packet."""

    def xdo_dev_state_update_curlft(self, x):
        super().xdo_dev_state_update_curlft(x)
        sa = self._sas.get(x.xso.offload_handle)
        if sa is not None and not sa.crypto:
            x.curlft.bytes = sa.totals.bytes + 14 * sa.totals.packets


class StopsCounting(ReferenceDriver):
    """Totals stand still behind the third packet."""

    def xdo_dev_state_update_curlft(self, x):
        if x.curlft.packets < 3:
            super().xdo_dev_state_update_curlft(x)


class CountsAnother(ReferenceDriver):
    """Every SA shows the totals of the first one."""

    def xdo_dev_state_update_curlft(self, x):
        super().xdo_dev_state_update_curlft(x)
        first = next((sa for sa in self._sas.values() if not sa.deleted and not sa.crypto), None)
        if first is not None:
            x.curlft.packets, x.curlft.bytes = first.totals.packets, first.totals.bytes


class NoSoftEvents(ReferenceDriver):
    """Tells the core of hard limits alone."""

    def __init__(self, context):
        check = context.xfrm_state_check_expire
        context.xfrm_state_check_expire = lambda x: self.check(check, x)
        super().__init__(context)

    def check(self, check, x):
        self.xdo_dev_state_update_curlft(x)
        cur, lft = x.curlft, x.lft
        hard = cur.packets >= lft.hard_packet_limit or cur.bytes >= lft.hard_byte_limit
        return check(x) if hard or not cur.use_time else 0


class HardAtSoft(ReferenceDriver):
    """Ends an SA at its soft limit."""

    def __init__(self, context):
        check = context.xfrm_state_check_expire
        context.xfrm_state_check_expire = lambda x: self.check(check, x)
        super().__init__(context)

    def check(self, check, x):
        result = check(x)
        if not result and x.km.dying:
            self._context.xfrm_state_expire(x)
        return result
