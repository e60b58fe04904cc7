# SPDX-License-Identifier: Apache-2.0
"""The host as a plain object: messages in, messages out; no clock, no socket, no global randomness.

step:  messages -> their rooms;  timers;  then tasks and transmit queue in turn until nothing moves

The host composes core (`xfrm`), devices, driver and rings; it decides nothing itself. How it takes
its card is in `driver.probe`.
"""

import errno
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from host_driver.driver.edge import Edge, Output
from host_driver.driver.event_queue import EventQueue
from host_driver.driver.health import CardHealth, dump_of
from host_driver.driver.load import load_driver
from host_driver.driver.mailbox import Mailbox
from host_driver.driver.port import Port
from host_driver.driver.probe import probe
from host_driver.driver.queue_health import QueueHealth
from host_driver.driver.records import Records
from host_driver.driver.recovery import Recovery
from host_driver.driver.rx_flows import RxFlows
from host_driver.driver.rx_queue import RxQueue
from host_driver.driver.sa import SaTable
from host_driver.driver.tx_queue import TxQueue
from host_driver.inbox import ClearSide, Notifications, PacketSocket
from host_driver.intake import Intake
from host_driver.netdev import Devices, NetDevice, Skb
from host_driver.queries import Queries
from host_driver.running import Running
from host_driver.sleep import Completion, Scheduler, Sleep, completions_of
from host_driver.timers import Timers
from host_driver.trace import Trace
from host_driver.xfrm.flow_table import FlowTable
from host_driver.xfrm.net import XfrmNet
from host_driver.xfrm.profile import LATEST, profile_by_name
from proto.caps import Caps
from proto.faults import FaultTable
from proto.frame import Channel
from proto.limits import RECONCILE_INTERVAL_MS
from proto.link.dma import Dma
from proto.status import OffloadError

TICK_NS = RECONCILE_INTERVAL_MS * 1_000_000


class Host:
    """One host with one card behind it: devices lo and nic0.

    `mac` and `peer_mac` are 6 bytes; `driver` is "package.module:Class" or None. `iv_rng` draws
    what makes IVs, and epochs; without it `seed` does, which is for simulated hosts only. With
    `clock_ns` notifications tell the time within a step, else that of the step. Raises
    OffloadError(EINVAL) for a driver or kernel profile that is not there.
    """

    def __init__(
        self,
        name: str,
        mac: bytes,
        peer_mac: bytes,
        dma: Dma,
        seed: int,
        driver: str | None = None,
        profile: str = LATEST.name,
        iv_rng: random.Random | None = None,
        clock_ns: Callable[[], int] | None = None,
    ) -> None:
        self.name = name
        self.driver_name = driver or "reference"
        self.driver_error = ""
        self.driver_class = load_driver(driver)
        self.driver: Any = None
        self.caps: Caps | None = None
        self.epoch = 0
        self._epochs = iv_rng or random.Random(f"epochs {seed}")
        self._rng = random.Random(f"health {seed}")
        self._now_ns = 0
        self.clock_ahead_ns = 0  # of the core, whose timers run in seconds and minutes
        self._tick_ns = 0

        self.counters: Counter[str] = Counter()
        self.faults = FaultTable()
        self._timers = Timers(self.faults)
        self.trace = Trace()
        self.received = PacketSocket(self.counters)
        self.notifications = Notifications(self.counters, clock_ns or self.now_ns)
        self.clear_side = ClearSide()
        self.running = Running()
        self.sched = Scheduler()
        self.devices = Devices()
        self.net = XfrmNet(
            self.devices, self.sched, random.Random(seed), self.notifications.multicast,
            self.notifications.listening, profile_by_name(profile), self.running, iv_rng,
            self.counters,
        )  # fmt: skip
        self.devices.on_event = self.net.netdev_event

        self.ready = Completion()
        self._space = Completion()
        self._pulses: list[Completion] = []
        self.queries = Queries(self)
        self.intake = Intake(self)
        self._make_device(dma, mac, peer_mac)
        self.spawn(probe(self))

    def _make_device(self, dma: Dma, mac: bytes, peer_mac: bytes) -> None:
        """nic0 with its queues, and the bus behind it; lo beside it."""
        self.edge = Edge(self.faults, self.counters)
        self.mailbox = Mailbox(self.edge.command, self.counters, self.running.might_sleep)
        self.sas = SaTable()
        self.events = EventQueue(self.edge.doorbell, self.counters)
        self.records = Records(self.intake.count_sas, self.intake.read_everything, self.counters)
        self.tx = TxQueue(dma, mac, peer_mac, self.sas, self.edge.ring, self.counters)
        self._add_loopback()
        self.nic = NetDevice("nic0", mac, start_xmit=self._xmit, queue_space=self.tx.space)
        self.port = Port(self)
        self.flow_table = FlowTable(self.net, self.nic)
        self.rx = RxQueue(
            dma, self.nic, self.sas, self.edge.ring, self.netif_rx, self.counters,
            lambda packet: self.driver_hook("unenforced", packet),
            RxFlows(
                self.net, self.nic, self.sas, self.received, self._all_enforced,
                lambda: self.clear_side.on,
            ),
        )  # fmt: skip
        self.queue_health = QueueHealth(
            self.tx, self.rx, self.events, self.records, self.mailbox, self.spawn, self.counters
        )

        self.recovery = Recovery(self)
        self.health = CardHealth(
            self._rng, self.counters, self.events, self.queue_health, self.recovery
        )
        self.nic.carrier = False

    def step(self, now_ns: int, inputs: Sequence[tuple[Channel, bytes]]) -> Output:
        """Take messages, give messages. Never raises for bad input: that is counted."""
        self._now_ns = self.mailbox.now_ns = self.edge.now_ns = now_ns
        self.clock_ahead_ns += self._timers.slept_ns(now_ns)
        self.net.now_ns = now_ns + self.clock_ahead_ns
        for channel, raw in inputs:
            self.intake.take(channel, raw)
        self.edge.release()
        if self._timers.may_run("command", self.mailbox.deadline_ns(), now_ns):
            self.mailbox.expire(now_ns)
        self.run_core_timers()
        self._tick()

        self._run()
        self._pulses, pulses = [], self._pulses
        for pulse in pulses:
            pulse.complete()
        self._run()
        return self.edge.take()

    def run_core_timers(self) -> None:
        """Those that are due: a hard limit's is due as soon as it was found."""
        if self._timers.may_run("core", self._timer_ns(), self._now_ns):
            self.net.run_timers()

    def deadline_ns(self) -> int | None:
        """When a timer, a timeout, the reconcile tick or a heartbeat is due."""
        urgent_ns, poll_ns = self.urgent_ns(), self.health.deadline_ns()
        return poll_ns if urgent_ns is None else min(urgent_ns, poll_ns)

    def urgent_ns(self) -> int | None:
        """The same without heartbeats."""
        deadlines = [
            self.sched.deadline_ns(),
            self._timers.deadline_ns("command", self.mailbox.deadline_ns()),
            self._timers.deadline_ns("core", self._timer_ns()),
            self.queue_health.deadline_ns(),
            self._reconcile_ns(),
            self.faults.deadline_ns(),
            self.recovery.deadline_ns(),
        ]
        return min((ns for ns in deadlines if ns is not None), default=None)

    def _timer_ns(self) -> int | None:
        due_ns = self.net.next_timer_ns()
        return None if due_ns is None else due_ns - self.clock_ahead_ns

    @property
    def at_ease(self) -> bool:
        """Whether time may skip the heartbeats of host and card (`skip`), up to `urgent_ns`."""
        device = self.recovery
        settled = self.queue_health.settled if device.up else not device.expects
        return self.ready.done and device.settled and settled and not self.faults.armed

    def skip(self, by_ns: int) -> None:
        """Time in which only heartbeats would have passed, and have not."""
        self.health.skip(by_ns)

    def now_ns(self) -> int:
        """The time of the present step."""
        return self._now_ns

    def spawn(self, task: Sleep[Any]) -> None:
        """Start a task that must not end the host, whatever it raises."""
        self.sched.spawn(self.guarded(task))

    def new_epoch(self) -> int:
        """Open an epoch: rings begin anew, and what still comes of the last one is stale."""
        last = self.epoch
        while self.epoch in (0, last):
            self.epoch = self._epochs.getrandbits(32)
        self.queue_health.restart(self.epoch)
        return self.epoch

    def dump(self) -> dict[str, int | str]:
        """What a reporter keeps of this moment; no key is in it."""
        state: dict[str, int | str] = {"device_state": self.recovery.state.value}
        state |= {"tx_index": self.tx.index, "rx_index": self.rx.index, "epoch": self.epoch}
        return state | {f"card_{name}": it for name, it in dump_of(self.health.record).items()}

    def space(self) -> Completion:
        """Completes when the transmit queue has moved."""
        return self._space

    def pulse(self, deadline_ns: int | None = None) -> Completion:
        """Completes at the end of this step, or of the next if this is its end; or at a time."""
        self._pulses.append(Completion(deadline_ns))
        return self._pulses[-1]

    # Packets.

    def _add_loopback(self) -> None:
        def loop(skb: Skb) -> int:
            self.netif_rx(Skb(skb.data, in_dev=lo))
            return 0

        lo = self.devices.register(NetDevice("lo", mtu=65_536, start_xmit=loop))
        self.devices.set_up(lo, True)

    def _xmit(self, skb: Skb) -> int:
        if not self.nic.carrier:
            self.counters["tx_no_carrier"] += 1
            return errno.ENETDOWN
        error = self.tx.enqueue(skb)
        if not error:
            self.clear_side.record(self._now_ns, "out", skb.data)
        return error

    def netif_rx(self, skb: Skb) -> None:
        """A packet for the stack."""
        self.clear_side.record(self._now_ns, "in", skb.data)
        packet = self.net.input(skb)
        if packet is not None:
            self.received.put(packet)

    def _all_enforced(self) -> bool:
        """Whether the driver has nothing to say about single packets in clear."""
        return not hasattr(self.driver, "unenforced") or self.driver_hook("all_enforced")

    # Time and tasks.

    def _run(self) -> None:
        """Tasks, then the transmit queue, until neither moves."""
        self.sched.run(self._now_ns)
        while self.tx.flush(self._now_ns):
            self._space, moved = Completion(), self._space
            moved.complete()
            self.sched.run(self._now_ns)

    def _reconcile_ns(self) -> int | None:
        if self._needs_reconcile():
            return self._timers.deadline_ns("reconcile", self._tick_ns)
        later: list[int] = []
        self.driver_hook("reconcile_at", later.append)
        return next((ns for ns in later if isinstance(ns, int) and ns > self._now_ns), None)

    def _tick(self) -> None:
        self.health.tick(self._now_ns)
        self.recovery.tick(self._now_ns)
        self.queue_health.tick(self._now_ns)
        if not self._needs_reconcile():
            self._tick_ns = self._now_ns + TICK_NS
        elif self._timers.may_run("reconcile", self._tick_ns, self._now_ns):
            self._tick_ns = self._now_ns + TICK_NS
            self.port.retry()
            if self.driver_hook("needs_reconcile"):
                self.driver_hook("reconcile")

    def _needs_reconcile(self) -> bool:
        return self.port.behind or self.driver_hook("needs_reconcile")

    def driver_hook(self, name: str, *arguments: Any) -> bool:
        """Call an optional method of the driver: whether it said yes. What it raises is counted."""
        try:
            hook = getattr(self.driver, name, None)
            return hook is not None and bool(hook(*arguments))
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001  # a foreign driver must not end the host
            self.counters["exceptions"] += 1
            return False

    def guarded(self, task: Sleep[Any]) -> Sleep[None]:
        """A task that must not end the host: what it raises is counted."""
        try:
            yield from completions_of(task)
        except OffloadError:
            self.counters["task_errors"] += 1
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException:  # noqa: BLE001  # a foreign driver must not end the host
            self.counters["exceptions"] += 1
