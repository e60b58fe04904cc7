# SPDX-License-Identifier: Apache-2.0
"""The life of a card: boots, whose it is, heartbeats, resets. States and edges are in proto.health.

Time moves it (`tick`), messages of the host keep it (`heard`), InitFunction gives it away (`take`),
and whoever manages the card may reset it. What an edge does to objects, queues and port is the
card's (`Chip`).
"""

import random
from collections import deque
from typing import Protocol

import msgspec

from nic_model.checks import Refused
from nic_model.life_faults import LifeFaults
from proto.faults import FaultTable
from proto.frame import Channel, Kind, pack
from proto.health import EDGES, FunctionState, HealthRecord
from proto.limits import BOOT_MS, HEALTH_INTERVAL_MS, HOST_LOST_MS, RESET_MS
from proto.status import HealthSyndrome, Status, Syndrome

NS_PER_MS = 1_000_000
EPOCH_MAX = (1 << 32) - 1  # what the header of a message holds
EPOCHS_KEPT = 1024  # of hosts that are gone, so that none of them comes back

State = FunctionState
Output = list[tuple[Channel, bytes]]


class Chip(Protocol):
    """What the states of the function are about."""

    def empty(self, epoch: int) -> None:
        """Destroy every object, flush every queue, and begin anew for the host of `epoch`; 0 is
        nobody, and then the port is closed."""

    def power_on(self, boot: int) -> None:
        """A new boot: counters at 0, the port begins anew, and the wire hears of it."""

    def indices(self) -> dict[str, int]:
        """How far rings and event queue are (commands.Fence)."""


class Life:
    """`boot` and `epoch` are what messages of the wire and of the host must carry to count."""

    def __init__(self, chip: Chip, rng: random.Random, faults: FaultTable) -> None:
        self.state = State.BOOT
        self.boot = rng.getrandbits(32) or 1
        self.epoch = 0
        self.counter = 0
        self.syndrome, self.ext_synd, self.rfr = HealthSyndrome.NONE, 0, False
        self.link = True
        self.counters = dict.fromkeys(("boots", "function_resets", "host_lost", "fatal_errors"), 0)
        self._chip = chip
        self._rng = rng
        self._faults = LifeFaults(faults)
        self._epochs: deque[int] = deque(maxlen=EPOCHS_KEPT)
        self._now_ns = 0
        self._until_ns = 0  # of BOOT and RESETTING
        self._heard_ns = 0
        self._record_ns = 0  # when the next one is due
        self._records: Output = []
        self._started = False
        self._ailing = HealthSyndrome.NONE  # becomes fatal with the next step

    # --- time ---

    def tick(self, now_ns: int) -> None:
        """Do what is due."""
        self._now_ns = now_ns
        if not self._started:
            self._started = True
            self._record_ns = now_ns + HEALTH_INTERVAL_MS * NS_PER_MS
            self._power_on(0)
        if self._ailing:
            self.fatal(self._ailing)
            self._ailing = HealthSyndrome.NONE
        if self.state is State.RESETTING and now_ns >= self._until_ns:
            self._power_on(BOOT_MS + self._faults.slow_boot_ms(now_ns))
        if self.state is State.BOOT and now_ns >= self._until_ns:
            self._move(State.IDLE)
        lost_ns = self._heard_ns + HOST_LOST_MS * NS_PER_MS
        if self.state is State.ACTIVE and now_ns >= lost_ns:
            self.counters["host_lost"] += 1
            self.reset_function()
        if now_ns >= self._record_ns:
            self._beat()

    def deadline_ns(self) -> int:
        """When `tick` has something to do."""
        if not self._started or self._ailing:
            return 0
        return min(self._record_ns, self._urgent_ns())

    def _urgent_ns(self) -> int:
        if self.state in (State.BOOT, State.RESETTING):
            return self._until_ns
        if self.state is State.ACTIVE:
            return self._heard_ns + HOST_LOST_MS * NS_PER_MS
        return self._record_ns

    @property
    def at_ease(self) -> bool:
        """Whether nothing but heartbeats will happen here, however long nothing comes."""
        return self._started and self.state in (State.IDLE, State.ACTIVE, State.ERROR)

    def skip(self, by_ns: int) -> None:
        """Time in which only heartbeats would have passed, there and back, and have not."""
        self._record_ns += by_ns
        self._heard_ns += by_ns

    def heard(self) -> None:
        """A word of the host whose card it is."""
        self._heard_ns = self._now_ns

    # --- the heartbeat ---

    def _beat(self) -> None:
        change = self._faults.health(self._now_ns, self.state)
        interval_ns = HEALTH_INTERVAL_MS * NS_PER_MS * (100 + change.drift_percent) // 100
        self._record_ns = self._now_ns + interval_ns
        if change.fatal is not None:
            self.fatal(change.fatal)
        elif change.syndrome is not None:
            self.syndrome = change.syndrome
        if not change.frozen:
            self._say()

    def _say(self) -> None:
        self.counter += 1
        record = msgspec.msgpack.encode(self.record())
        self._records.append((Channel.EVENTS, pack(Kind.HEALTH, record)))

    def record(self) -> HealthRecord:
        """How the card is now."""
        return HealthRecord(
            self.boot, self.counter, self.state, self.epoch,
            self.syndrome, self.ext_synd, self.rfr, self.link, self._chip.indices(),
        )  # fmt: skip

    def records(self) -> Output:
        """Messages since the last call."""
        records, self._records = self._records, []
        return records

    def set_link(self, up: bool) -> None:
        """The carrier of the port has come or gone; nothing else changes (F-LIF-14)."""
        if up != self.link:
            self.link = up
            self._say()

    # --- edges ---

    def _move(self, state: State) -> None:
        assert (self.state, state) in EDGES, f"{self.state.name} -> {state.name}"
        self.state = state
        if self._started:
            self._say()

    def take(self, epoch: int) -> None:
        """InitFunction: the card is that host's, and empty. Raises Refused with nothing changed."""
        self.require_active(State.IDLE, State.ACTIVE)
        if not 0 < epoch <= EPOCH_MAX or epoch in self._epochs:
            raise Refused(
                Status.BAD_PARAMETER,
                Syndrome.EPOCH,
                f"epoch {epoch:#x} cannot be taken, it is no u32 above 0 or was used in this boot",
            )
        self._chip.empty(epoch)
        self.epoch = epoch
        self._epochs.append(epoch)
        self.heard()
        self._move(State.ACTIVE)

    def require_active(self, *states: State) -> None:
        """Raises Refused unless the function is in one of `states`, by default in ACTIVE."""
        if self.state in (states or (State.ACTIVE,)):
            return
        if self.state in (State.BOOT, State.RESETTING):
            raise Refused(
                Status.NOT_READY, Syndrome.INITIALIZING, f"the card initialises ({self.state.name})"
            )
        raise Refused(
            Status.BAD_SYSTEM_STATE,
            Syndrome.FUNCTION_STATE,
            f"the function is in {self.state.name}, health syndrome {self.syndrome:#x}",
        )

    def reset_function(self) -> None:
        """All objects of the host are gone, and the card is nobody's (F-LIF-11)."""
        if self.state is State.ACTIVE:
            self.counters["function_resets"] += 1
            self._lose_host()
            self._move(State.IDLE)

    def fatal(self, syndrome: HealthSyndrome) -> None:
        """Nothing goes on without a reset."""
        if self.state in (State.IDLE, State.ACTIVE):
            self.counters["fatal_errors"] += 1
            self.syndrome, self.rfr = syndrome, True
            self._chip.empty(0)
            self._move(State.ERROR)

    def overran(self) -> None:
        """The event queue of this card must not be full."""
        self._ailing = HealthSyndrome.EVENT_QUEUE_OVERRUN

    def require_agreement(self, level: str) -> None:
        """Before a reset that others feel, too. Raises Refused when one of them does not agree
        (F-CTL-21)."""
        if self._faults.refuses(level, self._now_ns):
            raise Refused(
                Status.OBJECT_BUSY,
                Syndrome.RESET_REFUSED,
                f"another function does not agree to a {level} reset, nothing has changed",
            )

    def reset_firmware(self) -> None:
        """Everything is wiped now; another boot follows."""
        if self.state is not State.RESETTING:
            self._lose_host()
            self._until_ns = self._now_ns + RESET_MS * NS_PER_MS
            self._move(State.RESETTING)

    def _lose_host(self) -> None:
        self._chip.empty(0)
        self.epoch = 0

    def _power_on(self, boot_ms: int) -> None:
        if self.state is State.RESETTING:
            last = self.boot
            while self.boot in (0, last):
                self.boot = self._rng.getrandbits(32)
            self.counter = 0
            self.syndrome, self.ext_synd, self.rfr = HealthSyndrome.NONE, 0, False
            self._move(State.BOOT)
        self.counters["boots"] += 1
        self._until_ns = self._now_ns + boot_ms * NS_PER_MS
        self._chip.power_on(self.boot)
