# SPDX-License-Identifier: Apache-2.0
"""`struct net`'s xfrm: the XFRM core of one host as a plain object.

Requests come in as NETLINK_XFRM bytes, packets through `output` and `input`; the drivers are called
through the devices' `xfrmdev_ops`. Time is `now_ns`, set by the host before each step; sleeping
parts run as tasks of the scheduler.

SAs without packet offload run here: `output` and `input` do ESP in software, or leave the
cryptography of it to a device (crypto offload).
"""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable

from host_driver.netdev import HW_ESP, Devices, NetDevice, Skb
from host_driver.running import Running
from host_driver.sleep import Mutex, Scheduler, Sleep
from host_driver.xfrm import lifecycle, policy_lifecycle
from host_driver.xfrm.aevent import xfrm_replay_timer_handler
from host_driver.xfrm.answers import Answers
from host_driver.xfrm.bundle import FlowCache
from host_driver.xfrm.device import xfrm_dev_state_update_stats
from host_driver.xfrm.encode import build_expire
from host_driver.xfrm.hold import PolicyQueue, xfrm_policy_queue_process
from host_driver.xfrm.input import xfrm_input
from host_driver.xfrm.lifetime import (
    xfrm_policy_timer,
    xfrm_state_check_expire,
    xfrm_state_expire,
    xfrm_timer_handler,
)
from host_driver.xfrm.mib import AFTER_ACQUIRE_ERROR, Mib
from host_driver.xfrm.output import xfrm_output
from host_driver.xfrm.policy import XfrmPolicy
from host_driver.xfrm.profile import LATEST, Profile
from host_driver.xfrm.reassembly import Reassembly
from host_driver.xfrm.sad import Sad
from host_driver.xfrm.snmp import Snmp
from host_driver.xfrm.spd import Spd
from host_driver.xfrm.state import ReplayTimer, XfrmState
from host_driver.xfrm.user import netlink_rcv
from proto.clock import NS
from proto.xfrm import (
    AF_INET,
    AF_INET6,
    IPPROTO_ESP,
    POLICY_FWD,
    POLICY_IN,
    POLICY_OUT,
    USERPOLICY_ACCEPT,
    Group,
)
from proto.xfrm_structs import LifetimeCur

ACQ_EXPIRES_S = 30  # CONST-01
LARVAL_DROP = 1  # CONST-02
AEVENT_ETIME_100MS = 10  # CONST-03
AEVENT_RSEQTH_PACKETS = 2  # CONST-04
VOID_TIMERS = 64  # so few may stay on the heap until they are due

# An SA, a policy, an SA's replay events, and the packets that wait for a policy's SAs.
TimerOwner = XfrmState | XfrmPolicy | ReplayTimer | PolicyQueue


class XfrmNet:
    """The core. `multicast` delivers a message to a group and returns how many listen to it.

    `listening` tells without a message whether a group has listeners (TX-16); by default it has.
    `profile` says which kernel it is; `running` what it does at this moment (section 0.5). `iv_rng`
    draws what IVs must not have in common with another core that has the key: `rng`, if not given.
    `counters` gets what no kernel counts: requests that were refused or skipped.
    """

    def __init__(
        self,
        devices: Devices,
        sched: Scheduler,
        rng: random.Random,
        multicast: Callable[[Group, bytes], int],
        listening: Callable[[Group], bool] = lambda group: True,
        profile: Profile = LATEST,
        running: Running | None = None,
        iv_rng: random.Random | None = None,
        counters: Counter[str] | None = None,
    ) -> None:
        self.profile = profile
        self.counters = Counter() if counters is None else counters
        self.running = running or Running()
        self.devices = devices
        self.sched = sched
        self.rng = rng
        self.iv_rng = iv_rng or rng
        self.multicast = multicast
        self.listening = listening
        self.now_ns = 0
        # The sysctls net.core.xfrm_*.
        self.acq_expires = ACQ_EXPIRES_S
        self.larval_drop = LARVAL_DROP
        self.aevent_etime = AEVENT_ETIME_100MS
        self.aevent_rseqth = AEVENT_RSEQTH_PACKETS
        self.mib = Mib()
        self.sad = Sad()
        self.spd = Spd()
        self.flows = FlowCache()
        self.snmp = Snmp()
        self.reassembly = Reassembly(self.snmp)
        self.cfg_mutex = Mutex(sched)
        self.policy_default = dict.fromkeys((POLICY_IN, POLICY_OUT, POLICY_FWD), USERPOLICY_ACCEPT)
        self.policy_default_generation = 0
        # Protocols and families with an offload handler (module esp4_offload, esp6_offload).
        self.type_offload = {(IPPROTO_ESP, AF_INET), (IPPROTO_ESP, AF_INET6)}
        self.gc_list: list[XfrmState] = []
        # Deleted offloaded SAs whose driver has not been told to free them (DEL-08).
        self.dev_gc_list: dict[XfrmState, None] = {}
        self.gc_running = False
        self._acqseq = 0
        self._ip_id = 0
        self._timers: list[tuple[int, int, TimerOwner]] = []
        self._order = itertools.count()
        self._void = 0  # shots on the heap that will not fire, at most

    def seconds(self) -> int:
        """Wall-clock seconds, as add_time and use_time count them."""
        return self.now_ns // NS

    # Requests and packets.

    def netlink(self, request: bytes, privileged: bool = True) -> Sleep[Answers]:
        """One datagram of a user; returns the reply messages, acks and errors included."""
        return netlink_rcv(self, request, privileged)

    def output(self, packet: bytes, mark: int = 0, may_hold: bool = True, gso_size: int = 0) -> int:
        """The stack sends an IP packet, or with `gso_size` a large one, to be cut on its way (see
        `Skb`). 0, or a negative errno; ACQ-20 counts as accepted."""
        with self.running.within("data"):
            return xfrm_output(self, packet, mark, may_hold, gso_size)

    def input(self, skb: Skb) -> bytes | None:
        """A device hands a packet up. The IP packet to deliver, or None when it was dropped."""
        with self.running.within("data"):
            return xfrm_input(self, skb)

    def netdev_event(self, dev: NetDevice, event: str) -> None:
        """Flush a device on "down" and "unregister", without a word to users (NDEV-01..04)."""
        always = event == "unregister" and self.profile.unregister_flushes_always
        if always or (event in ("down", "unregister") and HW_ESP in dev.features):
            with self.running.within("netdev"):
                lifecycle.xfrm_dev_state_flush(self, dev)
                policy_lifecycle.xfrm_dev_policy_flush(self, dev)

    def statistics(self) -> dict[str, int]:
        """What /proc/net/xfrm_stat shows; drivers are asked for theirs first (MIB-01)."""
        if self.profile.update_at_mib_read:
            with self.running.within("walk"):
                for x in self.sad:
                    xfrm_dev_state_update_stats(self, x)
        values = self.mib.values()
        if not self.profile.mib_after_acquire_error:
            values = {name: values[name] for name in values if name not in AFTER_ACQUIRE_ERROR}
        return values

    def snmp_statistics(self) -> dict[str, int]:
        """Of /proc/net/snmp and snmp6 what says where packets ended below XFRM."""
        self.reassembly.expire(self.now_ns)
        return self.snmp.values()

    def add_stats(self, name: str, count: int) -> None:
        """XFRM_ADD_STATS for drivers: what hardware dropped, in kernels where it shows (MIB-02).
        Raises KeyError for a name that the kernel does not have."""
        if self.profile.update_at_mib_read:
            self.mib.bump(name, count)

    # What drivers and the other modules of the core call.

    def xfrm_state_check_expire(self, x: XfrmState) -> int:
        """Compare an SA's totals with its limits: 0, or -EINVAL when it expired (LIFE-10..18).

        For drivers: takes x->lock, so not from a callback that runs under it (TRAP-42).
        """
        self.running.takes_lock("xfrm_state_check_expire")
        with self.running.within("lock"):
            return xfrm_state_check_expire(self, x)

    def xfrm_state_expire(self, x: XfrmState) -> None:
        """Expire an SA hard, whatever its limits: its device can send no more (REPLAY-05)."""
        self.running.takes_lock("xfrm_state_expire")
        xfrm_state_expire(self, x)

    def xfrm_state_put(self, x: XfrmState) -> None:
        """Give a reference of an SA back."""
        lifecycle.xfrm_state_put(self, x)

    def xfrm_state_delete(self, x: XfrmState) -> bool:
        """Take an SA out of SAD and data path; False when that was done before."""
        return lifecycle.xfrm_state_delete(self, x)

    def xfrm_policy_delete(self, xp: XfrmPolicy) -> bool:
        """Take a policy out of SPD and data path; False when that was done before."""
        return policy_lifecycle.xfrm_policy_delete(self, xp)

    def new_state(self) -> XfrmState:
        """A fresh state: VOID, no limits, one reference (OBJ-11)."""
        return XfrmState(curlft=LifetimeCur(add_time=self.seconds()))

    def next_acqseq(self) -> int:
        """The sequence number of an ACQUIRE; never 0 (UAPI-65)."""
        self._acqseq = self._acqseq % 0xFFFF_FFFF + 1
        return self._acqseq

    def next_ip_id(self) -> int:
        """The identification of a packet that may be cut into pieces."""
        self._ip_id = (self._ip_id + 1) & 0xFFFF
        return self._ip_id

    def km_state_expired(self, x: XfrmState, hard: bool) -> None:
        """Tell key managers that an SA has reached a limit."""
        self.multicast(Group.EXPIRE, build_expire(self, x, hard, 0))

    # Timers: an object has at most one shot; an older one on the heap is void.

    def arm(self, owner: TimerOwner, due_ns: int) -> None:
        """Let the owner's timer fire at `due_ns`, instead of any earlier plan."""
        self.disarm(owner)
        owner.timer_ns = due_ns
        heapq.heappush(self._timers, (due_ns, next(self._order), owner))

    def disarm(self, owner: TimerOwner) -> None:
        """The owner's timer does not fire any more.

        What is void goes when it is due, or with all others where it is most of the heap: it holds
        its owner, and the limit of a dead SA may be days away.
        """
        self._void += owner.timer_ns is not None
        owner.timer_ns = None
        if self._void > VOID_TIMERS and 2 * self._void > len(self._timers):
            self._timers = [shot for shot in self._timers if shot[2].timer_ns == shot[0]]
            heapq.heapify(self._timers)
            self._void = 0

    def run_timers(self) -> None:
        """Fire what is due, also what firing makes due at once."""
        while True:
            due_ns = self.next_timer_ns()
            if due_ns is None or due_ns > self.now_ns:
                return
            owner = heapq.heappop(self._timers)[2]
            owner.timer_ns = None
            with self.running.within("timer"):
                if isinstance(owner, XfrmState):
                    xfrm_timer_handler(self, owner)
                elif isinstance(owner, ReplayTimer):
                    xfrm_replay_timer_handler(self, owner)
                elif isinstance(owner, PolicyQueue):
                    xfrm_policy_queue_process(self, owner)
                else:
                    xfrm_policy_timer(self, owner)

    def next_timer_ns(self) -> int | None:
        """When the next timer is due, or None."""
        while self._timers and self._timers[0][2].timer_ns != self._timers[0][0]:
            heapq.heappop(self._timers)
            self._void = max(0, self._void - 1)
        return self._timers[0][0] if self._timers else None
