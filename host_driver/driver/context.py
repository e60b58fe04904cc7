# SPDX-License-Identifier: Apache-2.0
"""What a driver class gets from the host, and what it may offer beside the xdo_* callbacks.

    class MyDriver:
        def __init__(self, context: DriverContext) -> None: ...
        def xdo_dev_state_add(self, dev, x, extack): ...        # host_driver.ops
        def handle_events(self, events): ...                    # optional, see `EventSink`

A driver that binds its SAs in `context.sas` gets received packets handed to the right SA for free.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from host_driver.netdev import NetDevice, Skb
from host_driver.sleep import Completion, Sleep
from proto.caps import Caps
from proto.events import Event
from proto.faults import FaultTable

if TYPE_CHECKING:
    from host_driver.driver.mailbox import Mailbox
    from host_driver.driver.sa import SaTable
    from host_driver.xfrm.state import XfrmState


@dataclass(slots=True)
class DriverContext:
    """The host's services. All times are nanoseconds since the Unix epoch.

    `xfrm_state_check_expire(x)` takes the SA's lock itself and returns 0 or -EINVAL (LIFE-10..18);
    `xfrm_state_expire(x)` is for an SA whose sequence numbers are used up (REPLAY-05);
    `netif_rx(skb)` hands a packet to the stack; `tx_drained()` completes when the card is done with
    all packets that the device has accepted until then; `spawn(task)` starts a sleeping function,
    also from where sleeping is not allowed. `xfrm_add_stats(name, count)` counts in
    /proc/net/xfrm_stat what the card dropped (MIB-02); `counters` shows up in the host's counters
    as `driver_*`. `step(call, step)` comes before each step of an add, so that a fault can make it
    fail: it raises OffloadError then; `faults` are those armed at this host.
    """

    dev: NetDevice
    mailbox: "Mailbox"
    sas: "SaTable"
    caps: Caps
    now_ns: Callable[[], int]
    spawn: Callable[[Sleep[Any]], None]
    xfrm_state_check_expire: Callable[["XfrmState"], int]
    xfrm_state_expire: Callable[["XfrmState"], None]
    netif_rx: Callable[[Skb], None]
    tx_drained: Callable[[], Completion]
    xfrm_add_stats: Callable[[str, int], None]
    counters: Counter[str] = field(default_factory=Counter)
    step: Callable[[str, str], None] = lambda call, step: None
    faults: FaultTable = field(default_factory=FaultTable)


class EventSink(Protocol):
    """What a driver may offer beside its callbacks; a method that is missing is not called."""

    def handle_events(self, events: list[Event]) -> None:
        """Events of the card. They are hints: lost, doubled or late ones are normal."""

    def handle_counters(self, records: npt.NDArray[np.void]) -> None:
        """SA_COUNTERS records: running totals of SAs that changed."""

    def reconcile(self) -> None:
        """Called every RECONCILE_INTERVAL_MS while `needs_reconcile()`: find what no event told."""

    def needs_reconcile(self) -> bool:
        """Whether the next reconcile has anything to look at."""

    def reconcile_at(self, tell: Callable[[int], None]) -> None:
        """Tell the moment at which it will have, if that is known already."""

    def audit(self) -> Sleep[dict[str, int]]:
        """Compare the card with what should be there, and make it so; -> what was found."""

    def unenforced(self, packet: bytes) -> bool:
        """Whether a received packet without an SA is one of an IN policy that the card does not
        have: then it is dropped. Asked about each one, unless `all_enforced`."""

    def all_enforced(self) -> bool:
        """Whether `unenforced` would say no to every packet."""

    def firmware_lost(self) -> None:
        """The card was emptied, or will be: nothing of what it had can be trusted any more."""

    def recovered(self, caps: Caps) -> Sleep[None]:
        """The card is back, empty, and can do what `caps` says."""
