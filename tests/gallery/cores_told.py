# SPDX-License-Identifier: Apache-2.0
"""Cores that are late, that tell the user something else, or nothing, or that leave things behind.

Exhibits as in `gallery.cores`.
"""

from gallery.cores import wherever
from host_driver.xfrm import acquire, bundle, device, encode, input, lifecycle, lifetime, user
from host_driver.xfrm.mib import Mib
from host_driver.xfrm.net import XfrmNet
from host_driver.xfrm.replay import xfrm_replay_advance
from host_driver.xfrm.state import KmState, XfrmState
from proto.netlink import NLMSGHDR
from proto.status import OffloadError
from proto.xfrm import POLICY_TYPE_MAIN, POLICY_TYPE_SUB, Group, Msg

SECOND_NS = 1_000_000_000


def multicasting(monkeypatch, change):
    """What the core multicasts becomes what `change(group, message)` yields."""
    make = XfrmNet.__init__

    def changed(self, *arguments, **more):
        make(self, *arguments, **more)
        multicast = self.multicast
        self.multicast = lambda group, message: max(
            (multicast(*one) for one in change(group, message)), default=0
        )

    monkeypatch.setattr(XfrmNet, "__init__", changed)


def type_of(message):
    return NLMSGHDR.unpack_from(message)[1]


def delsa_is_told_twice(monkeypatch):
    """Each DELSA is multicast twice."""
    multicasting(monkeypatch, lambda *one: [one] * (1 + (type_of(one[1]) == Msg.DELSA)))


def acquire_is_told_twice(monkeypatch):
    """Each ACQUIRE is multicast twice."""
    multicasting(monkeypatch, lambda *one: [one] * (1 + (type_of(one[1]) == Msg.ACQUIRE)))


def flush_of_policies_is_not_told(monkeypatch):
    """FLUSHPOLICY is not multicast."""
    multicasting(monkeypatch, lambda *one: [one] * (type_of(one[1]) != Msg.FLUSHPOLICY))


def policies_go_to_the_group_of_sas(monkeypatch):
    """Messages about policies reach those who listen to SAs."""
    multicasting(
        monkeypatch, lambda to, one: [(Group.SA if to == Group.POLICY else to, one)]
    )  # fmt: skip


def expire_has_the_key(monkeypatch):
    """EXPIRE carries the algorithms."""
    build = encode.build_expire

    def telling(net, x, hard, pid):
        told = build(net, x, hard, pid) + encode._algorithms(x)
        return len(told).to_bytes(4, "little") + told[4:]

    wherever(monkeypatch, build, telling)


def polexpire_forgets_the_device(monkeypatch):
    """POLEXPIRE of a policy that expired hard does not name its device."""
    build = lifetime.build_polexpire

    def bare(xp, hard, pid):
        dev = xp.xdo.dev
        if hard:
            xp.xdo.dev = None
        try:
            return build(xp, hard, pid)
        finally:
            xp.xdo.dev = dev

    monkeypatch.setattr(lifetime, "build_polexpire", bare)


def duplicate_is_invalid(monkeypatch):
    """An SA that is there already is EINVAL."""
    add = lifecycle.xfrm_state_add

    def invalid(net, x):
        try:
            add(net, x)
        except OffloadError as error:
            raise OffloadError(22, error.text) from None

    wherever(monkeypatch, add, invalid)


def larval_sa_lives_a_second_longer(monkeypatch):
    """acq_expires is one second more than it says."""
    arm = XfrmNet.arm

    def late(self, owner, due_ns):
        larval = isinstance(owner, XfrmState) and owner.km.state == KmState.ACQ
        arm(self, owner, due_ns + larval * SECOND_NS)

    monkeypatch.setattr(XfrmNet, "arm", late)


def soft_time_is_a_second_late(monkeypatch):
    """A soft limit since the add is told one second after."""
    look = lifetime._soft_limits

    def late(net, x, following):
        kept = x.lft.soft_add_expires_seconds
        x.lft.soft_add_expires_seconds += bool(kept)
        try:
            return look(net, x, following)
        finally:
            x.lft.soft_add_expires_seconds = kept

    monkeypatch.setattr(lifetime, "_soft_limits", late)


def update_forgets_totals(monkeypatch):
    """UPDSA begins to count anew."""
    take = lifecycle._take_over

    def anew(net, old, x):
        take(net, old, x)
        old.curlft.packets = old.curlft.bytes = 0

    monkeypatch.setattr(lifecycle, "_take_over", anew)


def flush_takes_policies_of_every_type(monkeypatch):
    """FLUSHPOLICY of main policies takes sub policies as well."""
    flush = lifecycle.xfrm_policy_flush
    wherever(
        monkeypatch, flush,
        lambda net, type: flush(net, POLICY_TYPE_MAIN) | flush(net, POLICY_TYPE_SUB),
    )  # fmt: skip


def refused_placeholder_holds_its_device(monkeypatch):
    """A driver that refuses a larval SA is never given its reference back."""
    add = acquire.xfrm_dev_state_add_larval

    def holding(net, x, record):
        error = add(net, x, record)
        if error:
            record.dev.hold()
        return error

    monkeypatch.setattr(acquire, "xfrm_dev_state_add_larval", holding)


def placeholder_that_nobody_wanted_is_left(monkeypatch):
    """After an ACQUIRE that nobody took the driver keeps the larval SA."""
    monkeypatch.setattr(acquire, "_forget_larval", lambda net, x: net.dev_gc_list.pop(x, None))


def freed_policy_holds_its_device(monkeypatch):
    """The free of a policy keeps the reference to the device."""

    def holding(xp):
        device._call(xp.xdo.dev, "xdo_dev_policy_free", xp)
        xp.xdo.dev = None

    wherever(monkeypatch, device.xfrm_dev_policy_free, holding)


def window_moves_before_the_icv(monkeypatch):
    """A number counts as received before its packet was found authentic."""
    open = input._open

    def trusting(x, esp, seq, done):
        xfrm_replay_advance(x, seq)
        return open(x, esp, seq, done)

    monkeypatch.setattr(input, "_open", trusting)


def decisions_outlive_policies(monkeypatch):
    """What was decided for a flow holds although policies have changed."""

    def stale(self, flow, generation):
        cached = self._flows.get(flow)
        return cached.decision if cached and cached.generation[1:] == generation[1:] else None

    monkeypatch.setattr(bundle.FlowCache, "get", stale)


def refused_packets_are_not_counted(monkeypatch):
    """XfrmOutError stands still."""
    bump = Mib.bump
    monkeypatch.setattr(
        Mib, "bump", lambda self, name, *count: name == "XfrmOutError" or bump(self, name, *count)
    )


def requests_run_side_by_side(monkeypatch):
    """A request does not wait for one whose driver sleeps."""

    class NoMutex:
        def lock(self):
            yield from ()

        def unlock(self):
            pass

    make = XfrmNet.__init__

    def without(self, *arguments, **more):
        make(self, *arguments, **more)
        self.cfg_mutex = NoMutex()

    monkeypatch.setattr(XfrmNet, "__init__", without)


def anybody_may_ask(monkeypatch):
    """CAP_NET_ADMIN is not needed."""
    admit = user._admit
    monkeypatch.setattr(user, "_admit", lambda net, type, privileged: admit(net, type, True))


HELPERS = (multicasting, type_of)
EXHIBITS = [
    value
    for value in list(vars().values())
    if getattr(value, "__module__", "") == __name__ and value not in HELPERS
]
