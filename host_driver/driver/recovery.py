# SPDX-License-Identifier: Apache-2.0
"""What becomes of a device when its card fails, and how it comes back.

    from        to          when
    PROBING     UP          the card is ours, and the driver made
    PROBING     ERROR       no card answers
    PROBING     FAILED      the card speaks another command revision (F-CTL-13)
    UP          ERROR       the card is in error, was reset, restarted, or gone
    UP          RECOVERING  the driver is reloaded
    ERROR       RECOVERING  it shows life, and a recovery may begin (reporter fw_fatal)
    RECOVERING  UP          it was probed anew, and has the policies again
    RECOVERING  ERROR       that failed, or the card is being reset
    ERROR       FAILED      that was one failure too many within the grace period (F-LIF-06)
    FAILED      ERROR       somebody asks for another try, or another card stands there

Prohibited: ERROR -> UP and FAILED -> UP (nobody knows which sequence numbers were used), and every
way on which an SA of before goes on.

In ERROR the device has no carrier: packets are refused and counted, never sent on another way.
Commands end at once with -ENXIO, destroys count as done. The driver hears `firmware_lost`; one that
has no such callback sees its device go down, and the core flushes what was offloaded to it. A dead
card is waited for without doing anything; every question that is asked has a deadline.
"""

import errno
from enum import Enum
from typing import TYPE_CHECKING, Any

from host_driver import gso
from host_driver.driver.probe import WrongRevision, load_driver, take_card
from host_driver.driver.reporter import Health, Reporter
from host_driver.sleep import Sleep, may_sleep
from proto.commands import Reset
from proto.health import FunctionState, HealthRecord
from proto.limits import (
    FATAL_GRACE_MS,
    FATAL_RECOVERIES,
    INIT_TIMEOUT_MS,
    RECOVERY_RETRY_MS,
)
from proto.status import OffloadError

if TYPE_CHECKING:
    from host_driver.host import Host

NOT_YET = (FunctionState.BOOT, FunctionState.RESETTING)


class DeviceState(Enum):
    """Where a device stands; see above."""

    PROBING = "probing"
    UP = "up"
    ERROR = "error"
    RECOVERING = "recovering"
    FAILED = "failed"


_PROBING, _UP, _ERROR, _RECOVERING, _FAILED = DeviceState
EDGES = frozenset(
    {
        (_PROBING, _UP), (_PROBING, _ERROR), (_PROBING, _FAILED), (_UP, _ERROR), (_UP, _RECOVERING),
        (_ERROR, _RECOVERING), (_RECOVERING, _UP), (_RECOVERING, _ERROR),
        (_ERROR, _FAILED), (_FAILED, _ERROR),
    }
)  # fmt: skip


class Recovery:
    """The state of one device. `boot` is the boot of the card that was taken last."""

    def __init__(self, host: "Host") -> None:
        self.state = DeviceState.PROBING
        self.fatal = Reporter("fw_fatal", FATAL_GRACE_MS, RECOVERY_RETRY_MS, FATAL_RECOVERIES)
        self.boot = 0
        self._tried = 0  # the boot that the last recovery tried to take
        self._host = host
        self._seen = 0  # the health counter when the card was taken, or lost
        self._sign: HealthRecord | None = None  # of life, since the card was lost
        self._initialising_ns: int | None = None
        self._gone = False  # the card that was taken last
        self.connected = False  # somebody is at the other end
        self._unplugged = False  # since the last recovery
        self._took_down = False

    def move(self, state: DeviceState) -> None:
        """Go along an edge."""
        assert (self.state, state) in EDGES, f"{self.state.value} -> {state.value}"
        self.state = state

    @property
    def up(self) -> bool:
        """Whether the card is ours and works."""
        return self.state is DeviceState.UP

    @property
    def settled(self) -> bool:
        """Whether nothing goes on here: up, given up, or waiting for a card that is dead."""
        waits = self.state is DeviceState.ERROR and self._sign is None
        return self.state in (DeviceState.UP, DeviceState.FAILED) or waits

    @property
    def expects(self) -> bool:
        """Whether the next heartbeat may begin something: somebody is there, and unknown."""
        return self.connected and (self._unplugged or self.state is DeviceState.ERROR)

    # --- signs ---

    def probed(self, error: OffloadError | None) -> None:
        """The first probe is over: the card is ours, there is none, or it must not be used."""
        if error is None:
            self.move(DeviceState.UP)
            return
        host = self._host
        host.mailbox.fail_all(OffloadError(errno.ENXIO, f"{host.nic.name}: {error.text}"))
        self.fatal.report(error.text, host.now_ns(), host.dump(), blame=False)
        self._took_down = True
        self.move(DeviceState.FAILED if isinstance(error, WrongRevision) else DeviceState.ERROR)
        if self.state is DeviceState.FAILED:
            self.fatal.give_up()

    def taken(self, boot: int, counter: int) -> None:
        """InitFunction was answered; records up to `counter` of this boot are from before."""
        self.boot, self._seen = boot, counter

    def saw(self, record: HealthRecord, now_ns: int) -> None:
        """A health record: is the card still what was taken?"""
        if record.boot == self.boot and (self._gone or record.counter <= self._seen):
            return
        if self.state is DeviceState.UP:
            self._host.nic.carrier = record.link
            self._judge(record, now_ns)
        elif (
            self.state is DeviceState.FAILED
            and self._unplugged
            and record.boot not in (self.boot, self._tried)
        ):
            self.retry(now_ns)
        if self.state in (DeviceState.ERROR, DeviceState.RECOVERING):
            self._sign = record
        if record.state not in NOT_YET:
            self._initialising_ns = None
        elif self._initialising_ns is None:
            self._initialising_ns = now_ns

    def _judge(self, record: HealthRecord, now_ns: int) -> None:
        if record.rfr or record.state == FunctionState.ERROR:
            text = f"fatal health syndrome {record.syndrome:#x}, ext {record.ext_synd:#x}"
            self.fail(text, now_ns)
        elif record.boot != self.boot:
            self.fail(f"the card was restarted, its boot id is {record.boot:#x}", now_ns, False)
        elif (record.state, record.epoch) != (FunctionState.ACTIVE, self._host.epoch):
            state = FunctionState(record.state).name
            self.fail(f"the function was reset and is {state}", now_ns, False)

    def closed(self, now_ns: int) -> None:
        """The other end of the bus has gone (sensor: the channel is closed)."""
        self._gone = self._unplugged = True
        self.connected = False
        self._sign = None
        if self.state is DeviceState.UP:
            self.fail("the channel to the card is closed", now_ns, False)

    def opened(self) -> None:
        """Somebody is there again."""
        self._gone = False
        self.connected = True

    # --- error ---

    def fail(self, text: str, now_ns: int, blame: bool = True) -> None:
        """The card cannot be trusted any more. `blame`: by its own fault, so that it counts if the
        last recovery is not long ago."""
        if self.state is not DeviceState.UP:
            return
        host = self._host
        self.move(DeviceState.ERROR)
        self.fatal.report(text, now_ns, host.dump(), blame=blame)
        host.counters["device_errors"] += 1
        self._seen = host.health.record.counter if host.health.record else self._seen
        self._sign = None
        self._abandon(text)
        if self.fatal.state is Health.FAILED:
            self.move(DeviceState.FAILED)

    def _abandon(self, text: str) -> None:
        """Everything that is under way ends now, and nothing new begins."""
        host = self._host
        host.nic.carrier = False
        host.mailbox.fail_all(OffloadError(errno.ENXIO, f"{host.nic.name}: {text}"))
        host.new_epoch()
        host.tx.purge()
        if hasattr(host.driver, "firmware_lost"):
            host.driver_hook("firmware_lost")
        elif host.nic.up:
            self._took_down = True
            host.devices.set_up(host.nic, False)

    # --- and back ---

    def tick(self, now_ns: int) -> None:
        """Begin a recovery where one is due, and give up waiting where the card takes too long."""
        if self.state is not DeviceState.ERROR:
            return
        if self._late(now_ns):
            self._initialising_ns = now_ns
            self.move(DeviceState.RECOVERING)
            self.fatal.begin()
            self._failed(f"the card initialises for over {INIT_TIMEOUT_MS // 1000} s", now_ns)
        elif self._ready() and self.fatal.due(now_ns):
            self.move(DeviceState.RECOVERING)
            self.fatal.begin()
            self._host.spawn(self._recover())

    def deadline_ns(self) -> int | None:
        """When `tick` has something to do."""
        if self.state is not DeviceState.ERROR:
            return None
        if self._initialising_ns is not None:
            return self._initialising_ns + INIT_TIMEOUT_MS * 1_000_000
        return self.fatal.next_ns if self._ready() else None

    def _ready(self) -> bool:
        return self._sign is not None and self._sign.state not in NOT_YET

    def _late(self, now_ns: int) -> bool:
        since_ns = self._initialising_ns
        return since_ns is not None and now_ns - since_ns >= INIT_TIMEOUT_MS * 1_000_000

    def _recover(self) -> Sleep[None]:
        host, sign = self._host, self._sign
        self._sign = None
        self._tried = sign.boot if sign is not None else 0
        try:
            if sign is not None and sign.state == FunctionState.ERROR:
                yield from self._ask_reset()
                self._wait_on()
                return
            caps = yield from take_card(host)
            yield from self._bring_back(caps)
        except OffloadError as error:
            host.mailbox.fail_all(OffloadError(errno.ENXIO, f"{host.nic.name}: {error.text}"))
            self._failed(error.text, host.now_ns())
            return
        self._came_up()

    def _came_up(self) -> None:
        host = self._host
        self.move(DeviceState.UP)
        if self.fatal.state is Health.RECOVERING:
            self.fatal.succeeded(host.now_ns())
            host.counters["device_recoveries"] += 1
        host.nic.carrier = host.health.record is None or host.health.record.link
        if self._took_down:
            host.devices.set_up(host.nic, True)
        self._unplugged = self._took_down = False
        if host.health.record is not None:
            self.saw(host.health.record, host.now_ns())

    def _ask_reset(self) -> Sleep[None]:
        """A card in error is reset by whoever asks first. Raises OffloadError."""
        host = self._host
        epoch = host.new_epoch()
        host.mailbox.begin(epoch)
        yield from host.mailbox.execute(Reset(epoch))

    def _wait_on(self) -> None:
        """The reset runs; the card will say when it is ready."""
        host = self._host
        host.mailbox.fail_all(OffloadError(errno.ENXIO, f"{host.nic.name}: the card is reset"))
        self.move(DeviceState.ERROR)
        self.fatal.again(host.now_ns())

    def _bring_back(self, caps: Any) -> Sleep[None]:
        """The driver hears what the card can do now (F-CTL-20) and gives it what it may have."""
        host = self._host
        host.caps = caps
        host.health.begin()
        if host.driver is None:
            load_driver(host, caps)
        if not caps.segmentation:
            host.devices.set_features(host.nic, host.nic.features - gso.FEATURES)
            host.tx.drop_large()
        hook = getattr(host.driver, "recovered", None)
        if hook is not None:
            yield from host.guarded(may_sleep(hook(caps)))

    def _failed(self, text: str, now_ns: int) -> None:
        self.fatal.failed(text, now_ns)
        self._host.counters["device_recovery_failures"] += 1
        self.move(DeviceState.ERROR)
        if self.fatal.state is Health.FAILED:
            self.move(DeviceState.FAILED)

    def retry(self, now_ns: int) -> None:
        """By hand, or because another card stands there: what has failed so far is forgotten."""
        if self.state is DeviceState.FAILED:
            self.move(DeviceState.ERROR)
            self.fatal.revive(now_ns)
            self._sign = None if self._gone else self._host.health.record

    # --- reload ---

    def reload(self) -> Sleep[None]:
        """Unload the driver, probe, make it anew; also a way out of FAILED.

        Raises OffloadError(EBUSY) while anything is offloaded or under way, and then nothing has
        changed; else whatever the card says.
        """
        host = self._host
        self._require_reload()
        self.retry(host.now_ns())
        if self.state is DeviceState.UP:
            self._abandon("the driver is reloaded")
        else:
            self.fatal.begin()
        self.move(DeviceState.RECOVERING)
        try:
            caps = yield from take_card(host)
        except OffloadError as error:
            if self.fatal.state is Health.HEALTHY:
                self.fatal.report(error.text, host.now_ns(), host.dump(), blame=False)
                self.fatal.begin()
            host.mailbox.fail_all(OffloadError(errno.ENXIO, f"{host.nic.name}: {error.text}"))
            self._failed(error.text, host.now_ns())
            raise
        host.caps = caps
        host.health.begin()
        load_driver(host, caps)
        self._came_up()

    def _require_reload(self) -> None:
        host, nic = self._host, self._host.nic
        if self.state in (DeviceState.PROBING, DeviceState.RECOVERING):
            raise OffloadError(errno.EBUSY, f"{nic.name} cannot be reloaded, it is being probed")
        sas = sum(x.xso.dev is nic for x in host.net.sad)
        policies = sum(xp.xdo.dev is nic for xp in host.net.spd)
        if sas or policies:
            raise OffloadError(
                errno.EBUSY,
                f"{nic.name} cannot be reloaded, {sas} SAs and {policies} policies are offloaded "
                "to it: delete them first",
            )
