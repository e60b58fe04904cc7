# SPDX-License-Identifier: Apache-2.0
"""Cores that break the contract: each exhibit changes one function of the XFRM core.

An exhibit takes pytest's monkeypatch; its docstring says what is wrong then. Names are patched
where they are used, which is what `wherever` looks for. One breaks the driver's half as well: where
the card and the receive queue both compare, a driver class alone cannot be wrong.
"""

import sys

from host_driver.driver import rx_queue
from host_driver.driver import sa as driver_sa
from host_driver.xfrm import (
    acquire,
    bundle,
    chain,
    device,
    encode,
    input,
    lifecycle,
    lifetime,
    sad,
    user_sa,
)
from host_driver.xfrm.net import XfrmNet
from host_driver.xfrm.state import OFFLOAD_PACKET, KmState, XfrmState
from proto.commands import Selector
from proto.status import OffloadError
from proto.xfrm import OFFLOAD_INBOUND, Group
from proto.xfrm_structs import UserOffload


def wherever(monkeypatch, original, replacement):
    """Patch a function in every module of the host that took it by name."""
    name = original.__name__
    for module in [m for key, m in sys.modules.items() if key.startswith("host_driver.xfrm")]:
        if getattr(module, name, None) is original:
            monkeypatch.setattr(module, name, replacement)


def no_delete_of_a_duplicate(monkeypatch):
    """A refused duplicate is freed in the driver, but never deleted there."""
    delete = device.xfrm_dev_state_delete

    def only_listed(net, x):
        if x.timer_ns is not None or x.curlft.use_time or x.km.seq:
            delete(net, x)

    monkeypatch.setattr(user_sa, "xfrm_dev_state_delete", only_listed)


def deletes_twice(monkeypatch):
    """The driver's delete is called once more at the free."""
    free = device.xfrm_dev_state_free

    def again(net, x, *rest):
        device.xfrm_dev_state_delete(net, x)
        return (yield from free(net, x, *rest))

    wherever(monkeypatch, free, again)


def never_frees(monkeypatch):
    """The collector releases the device, but forgets the driver's free."""

    def forget(net, x, *rest):
        device.xfrm_dev_release(x.xso)
        yield from ()

    wherever(monkeypatch, device.xfrm_dev_state_free, forget)


def keeps_keys_until_free(monkeypatch):
    """Key material is still in the SA when the driver's free is called."""
    monkeypatch.setattr(XfrmState, "wipe_keys", lambda self: None)


def policy_is_not_deleted_from_the_device(monkeypatch):
    """A dying policy is freed in the driver without a delete."""
    wherever(monkeypatch, device.xfrm_dev_policy_delete, lambda *arguments: None)


def policy_is_never_freed(monkeypatch):
    """A dying policy is deleted in the driver, but never freed."""
    wherever(monkeypatch, device.xfrm_dev_policy_free, lambda xp: device.xfrm_dev_release(xp.xdo))


def loses_device_references(monkeypatch):
    """A refused add keeps its reference to the device."""
    wherever(monkeypatch, device.xfrm_dev_release, lambda offload: offload.clear())


def limit_is_the_last_that_fits(monkeypatch):
    """A limit of N is taken as reached by packet N + 1."""
    check = lifetime.xfrm_state_check_expire

    def late(net, x):
        lft = x.lft
        kept = lft.hard_packet_limit, lft.soft_packet_limit
        lft.hard_packet_limit = min(kept[0] + 1, (1 << 64) - 1)
        lft.soft_packet_limit = min(kept[1] + 1, (1 << 64) - 1)
        try:
            return check(net, x)
        finally:
            lft.hard_packet_limit, lft.soft_packet_limit = kept

    wherever(monkeypatch, check, late)


def soft_and_hard_together(monkeypatch):
    """One look past both limits reports both."""
    check = lifetime.xfrm_state_check_expire

    def both(net, x):
        result = check(net, x)
        if result and not x.km.dying:
            x.km.dying = True
            net.km_state_expired(x, False)
        return result

    wherever(monkeypatch, check, both)


def soft_again_and_again(monkeypatch):
    """Every look past the soft limit is reported."""
    check = lifetime.xfrm_state_check_expire

    def again(net, x):
        x.km.dying = False
        return check(net, x)

    wherever(monkeypatch, check, again)


def hard_expiry_is_silent(monkeypatch):
    """An SA that expires goes without EXPIRE."""
    tell = XfrmNet.km_state_expired
    monkeypatch.setattr(
        XfrmNet, "km_state_expired", lambda self, x, hard: None if hard else tell(self, x, hard)
    )


def expire_says_soft(monkeypatch):
    """EXPIRE never says hard."""
    build = encode.build_expire
    wherever(monkeypatch, build, lambda net, x, hard, pid: build(net, x, False, pid))


def expired_stays(monkeypatch):
    """An SA past its hard limit is reported, and stays."""

    def stay(net, x):
        x.km.state = KmState.VALID
        net.km_state_expired(x, True)

    monkeypatch.setattr(lifetime, "_expired", stay)


def device_down_keeps_sas(monkeypatch):
    """A device that goes down keeps its SAs."""
    wherever(monkeypatch, lifecycle.xfrm_dev_state_flush, lambda net, dev: None)
    monkeypatch.setattr(lifecycle, "xfrm_dev_state_flush", lambda net, dev: None)


def device_down_is_announced(monkeypatch):
    """A flush by the device tells the user of every SA."""
    flush = lifecycle.xfrm_dev_state_flush

    def telling(net, dev):
        gone = [x for x in net.sad if x.xso.dev is dev]
        flush(net, dev)
        for x in gone:
            net.multicast(Group.SA, encode.build_delsa(net, x, 0, 0))

    monkeypatch.setattr(lifecycle, "xfrm_dev_state_flush", telling)


def update_takes_the_key(monkeypatch):
    """UPDSA replaces also the key of a living SA."""
    take = lifecycle._take_over

    def too_much(net, old, x):
        take(net, old, x)
        if x.aead and old.aead:
            old.aead.key[:] = x.aead.key

    monkeypatch.setattr(lifecycle, "_take_over", too_much)


def update_keeps_dying(monkeypatch):
    """UPDSA leaves the soft limit as reported."""
    take = lifecycle._take_over

    def still(net, old, x):
        dying = old.km.dying
        take(net, old, x)
        old.km.dying = dying

    monkeypatch.setattr(lifecycle, "_take_over", still)


def reports_the_ipv6_flag(monkeypatch):
    """OFFLOAD_DEV in replies has every flag set."""
    pack = UserOffload.pack

    def flagged(self):
        self.flags |= 1
        return pack(self)

    monkeypatch.setattr(UserOffload, "pack", flagged)


def reports_no_direction(monkeypatch):
    """OFFLOAD_DEV in replies never says inbound."""
    pack = UserOffload.pack

    def outbound(self):
        self.flags &= ~OFFLOAD_INBOUND
        return pack(self)

    monkeypatch.setattr(UserOffload, "pack", outbound)


def dumps_stale_counters(monkeypatch):
    """Messages about an SA do not ask its driver first."""
    monkeypatch.setattr(encode, "xfrm_dev_state_update_stats", lambda *arguments: None)


def priority_rules_packet_policies(monkeypatch):
    """A packet-offload policy is linked by its priority, like any other."""
    monkeypatch.setattr(chain, "OFFLOAD_PACKET", 99)


def software_sas_first(monkeypatch):
    """A packet-offload SA is linked like any other, behind no software one."""
    monkeypatch.setattr(sad, "OFFLOAD_PACKET", 99)


def any_sa_for_a_packet_policy(monkeypatch):
    """A packet policy takes any SA of its reqid, on any device or none."""
    monkeypatch.setattr(acquire, "OFFLOAD_PACKET", 99)


def clear_while_pending(monkeypatch):
    """While no SA is there, packets that a policy protects leave in clear."""
    decide = bundle._by_policies

    def careless(net, flow, policies):
        decision = decide(net, flow, policies)
        return bundle.Decision() if decision.pending else decision

    monkeypatch.setattr(bundle, "_by_policies", careless)


def ignores_offload_ok(monkeypatch):
    """What offload_ok refuses goes to the device all the same."""
    wherever(monkeypatch, device.xfrm_dev_offload_ok, lambda *arguments: True)


def acquires_without_end(monkeypatch):
    """Every packet asks the key managers again."""
    look = acquire._Search.look_at

    def blind(self, x, flow):
        if x.km.state != KmState.ACQ:
            look(self, x, flow)

    monkeypatch.setattr(acquire._Search, "look_at", blind)


def larval_sa_lives_for_ever(monkeypatch):
    """An unanswered acquire never times out."""
    handler = lifetime.xfrm_timer_handler
    wherever(
        monkeypatch, handler, lambda net, x: None if x.km.state == KmState.ACQ else handler(net, x)
    )


def trusts_every_packet(monkeypatch):
    """A device's packet is taken whatever its status says."""
    monkeypatch.setattr(input, "CRYPTO_SUCCESS", 0xFF)


def opens_what_no_selector_covers(monkeypatch):
    """Neither card nor receive queue compares decrypted packets with the SA's selector."""
    monkeypatch.setattr(driver_sa, "selector", lambda sel: Selector())
    monkeypatch.setattr(rx_queue, "opened_by", lambda *arguments: True)


def software_where_packet_fails(monkeypatch):
    """A packet-offload SA that the driver refuses becomes a software one."""
    add = device.xfrm_dev_state_add

    def lenient(net, x, offload, extack):
        try:
            yield from add(net, x, offload, extack)
        except OffloadError:
            assert x.xso.type != OFFLOAD_PACKET

    wherever(monkeypatch, add, lenient)


EXHIBITS = [
    value for value in list(vars().values()) if getattr(value, "__module__", "") == __name__
]
EXHIBITS.remove(wherever)
