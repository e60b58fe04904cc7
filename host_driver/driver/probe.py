# SPDX-License-Identifier: Apache-2.0
"""The probe: a host takes its card, and the device with its driver comes up.

    epoch -> INIT_FUNCTION -> QUERY_CAPS -> SET_PORT -> driver -> nic0 up -> HELLO to the lab

The epoch is drawn anew each time. From INIT_FUNCTION on the card takes messages of this epoch only,
and so does the host, so nothing of an earlier probe reaches this one.
"""

import errno
import os
from typing import TYPE_CHECKING

import msgspec

from host_driver.driver.context import DriverContext
from host_driver.netdev import HW_ESP
from host_driver.sleep import Sleep, wait
from host_driver.trace import TracedOps
from proto.caps import Caps
from proto.commands import InitFunction, QueryCaps, SetPort
from proto.frame import Kind, pack
from proto.hello import Hello
from proto.limits import MTU_DEFAULT
from proto.status import OffloadError, Syndrome

if TYPE_CHECKING:
    from host_driver.host import Host


def probe(host: "Host") -> Sleep[None]:
    """Bring the card up, however long it takes to answer."""
    host.caps = yield from take_card(host)
    host.devices.register(host.nic)
    _load_driver(host, host.caps)
    host.devices.set_up(host.nic, True)
    hello = Hello(party="host", name=host.name, pid=os.getpid(), caps=host.caps)
    host.edge.control(pack(Kind.HELLO, msgspec.msgpack.encode(hello)))
    host.ready.complete()


def take_card(host: "Host") -> Sleep[Caps]:
    """Open an epoch and set the port; what the card can do is the answer."""
    syndrome: int = Syndrome.EPOCH
    while syndrome == Syndrome.EPOCH:
        reply = yield from wait(host.mailbox.post(InitFunction(host.new_epoch())))
        syndrome = reply.syndrome
    reply = yield from wait(host.mailbox.post(QueryCaps()))
    yield from wait(host.mailbox.post(SetPort(mtu=MTU_DEFAULT)))
    host.events.arm()
    return reply.caps or Caps(name="unknown", packet=False)


def _load_driver(host: "Host", caps: Caps) -> None:
    """Make the driver; without one that works, a device without offload remains."""
    nic = host.nic
    try:
        host.driver = host.driver_class(_context(host, caps))
        nic.xfrmdev_ops = TracedOps(host.driver, host.trace, host.counters, host.running)
        host.devices.set_features(nic, {HW_ESP})
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
