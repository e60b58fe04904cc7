# SPDX-License-Identifier: Apache-2.0
"""The probe: a host takes its card, and the device with its driver comes up.

    epoch -> INIT_FUNCTION -> QUERY_CAPS -> SET_PORT    `take_card`, again in every recovery
          -> driver -> nic0 up                          once

The lab hears HELLO at the beginning and at the end.

The epoch is drawn anew each time. From INIT_FUNCTION on the card takes messages of this epoch only,
and so does the host, so nothing of an earlier probe reaches this one.
"""

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import msgspec

from host_driver import gso
from host_driver.driver.command import CommandFailed, CommandUnknown
from host_driver.driver.context import DriverContext
from host_driver.netdev import HW_ESP
from host_driver.sleep import Completion, Sleep, wait
from host_driver.trace import TracedOps
from proto.caps import Caps
from proto.commands import InitFunction, QueryCaps
from proto.frame import Kind, pack
from proto.hello import Hello
from proto.limits import COMMAND_REVISION
from proto.status import OffloadError, Syndrome

if TYPE_CHECKING:
    from host_driver.host import Host

PROBE_RETRY_NS = 50_000_000
PROBE_TRIES = 9

T = TypeVar("T")


class WrongRevision(OffloadError):
    """A card that this driver must not use (F-CTL-13)."""


def probe(host: "Host") -> Sleep[None]:
    """Bring the card up. Where none answers the host goes on without, and `driver.recovery` waits
    for one; one that this driver must not use is left alone."""
    _greet(host)
    host.devices.register(host.nic)
    try:
        host.caps = yield from _take_patiently(host)
    except OffloadError as error:
        host.driver_error = str(error) if isinstance(error, WrongRevision) else ""
        host.recovery.probed(error)
    else:
        host.recovery.probed(None)
        load_driver(host, host.caps)
        host.nic.carrier = True
        host.devices.set_up(host.nic, True)
    _greet(host)
    host.ready.complete()


def _take_patiently(host: "Host") -> Sleep[Caps]:
    """As long as somebody is there. Raises OffloadError."""
    for _ in range(PROBE_TRIES):
        try:
            return (yield from take_card(host))
        except WrongRevision:
            raise
        except CommandUnknown:
            if not host.recovery.connected:
                raise
        except OffloadError:
            yield from wait(Completion(host.now_ns() + PROBE_RETRY_NS))
    return (yield from take_card(host))


def _greet(host: "Host") -> None:
    """The host is there; once it has a card, it says which."""
    hello = Hello(party="host", name=host.name, pid=os.getpid(), caps=host.caps)
    host.edge.control(pack(Kind.HELLO, msgspec.msgpack.encode(hello)))


def take_card(host: "Host") -> Sleep[Caps]:
    """Open an epoch and set the port; what the card can do is the answer.

    Raises OffloadError, and then the card is not ours; WrongRevision when it never can be.
    """
    while True:
        epoch = host.new_epoch()
        host.mailbox.begin(epoch)
        try:
            reply = yield from host.mailbox.execute(InitFunction(epoch))
            break
        except CommandFailed as error:
            if error.syndrome != Syndrome.EPOCH:
                raise
    if reply.values["revision"] != COMMAND_REVISION:
        raise WrongRevision(
            errno.EINVAL,
            f"the card speaks revision {reply.values['revision']} of the command interface, "
            f"this driver speaks {COMMAND_REVISION}",
        )
    host.recovery.taken(reply.values["boot"], reply.values["health"])
    reply = yield from _twice(lambda: host.mailbox.execute(QueryCaps()))
    yield from _twice(host.port.begin)
    host.events.arm()
    assert reply.caps is not None, "the mailbox has looked"
    return reply.caps


def _twice(ask: Callable[[], Sleep[T]]) -> Sleep[T]:
    """Once more where the answer gets lost: nothing is changed by asking twice."""
    try:
        return (yield from ask())
    except CommandUnknown:
        return (yield from ask())


def load_driver(host: "Host", caps: Caps) -> None:
    """Make the driver; without one that works, a device without offload remains."""
    nic = host.nic
    try:
        host.driver = host.driver_class(_context(host, caps))
        nic.xfrmdev_ops = TracedOps(host.driver, host.trace, host.counters, host.running)
        host.devices.set_features(nic, {HW_ESP} | (gso.FEATURES if caps.segmentation else set()))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  # whatever a foreign driver does
        host.counters["exceptions"] += 1
        host.driver_error = f"driver {host.driver_name}: {type(error).__name__}: {error}"
        host.driver = nic.xfrmdev_ops = None


def _context(host: "Host", caps: Caps) -> DriverContext:
    return DriverContext(
        dev=host.nic,
        mailbox=host.mailbox,
        sas=host.sas,
        caps=caps,
        now_ns=host.now_ns,
        spawn=host.spawn,
        xfrm_state_check_expire=host.net.xfrm_state_check_expire,
        xfrm_state_expire=host.net.xfrm_state_expire,
        netif_rx=host.netif_rx,
        tx_drained=host.tx.drained,
        xfrm_add_stats=host.net.add_stats,
        counters=host.counters,
        step=lambda call, step: _step(host, call, step),
        faults=host.faults,
    )


def _step(host: "Host", call: str, step: str) -> None:
    """Before a step of an add: raises OffloadError where a fault makes it fail."""
    for fired in host.faults.fire("host.step", {"call": call, "step": step}, host.now_ns()):
        code = fired.value if isinstance(fired.value, int) else errno.ENOMEM
        raise OffloadError(code, f"{call}: step {step} failed (fault {fired.name})")
