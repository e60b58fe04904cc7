# SPDX-License-Identifier: Apache-2.0
"""Drivers that program their card wrongly, or misread it: packets and counters show it.

The docstring of each says what is wrong with it.
"""

import errno

import msgspec

from host_driver.driver.reference import ReferenceDriver
from host_driver.driver.totals import Reading
from proto.commands import (
    INFINITE,
    CreatePolicyRule,
    CreateSa,
    CreateSaRule,
)
from proto.status import OffloadError


class Rewriting(ReferenceDriver):
    """A driver whose commands pass through `rewrite` on their way to the mailbox."""

    def __init__(self, context):
        super().__init__(context)
        self.context = context
        execute = context.mailbox.execute
        context.mailbox.execute = lambda command: execute(self.rewrite(command))

    def rewrite(self, command):
        return command


def changing(kind, **fields):
    """A driver that sends every command of this kind with other values."""

    class Changing(Rewriting):
        def rewrite(self, command):
            if not isinstance(command, kind):
                return command
            return msgspec.structs.replace(command, **fields)

    return Changing


class BypassForProtect(changing(CreatePolicyRule, protect=False)):
    """Protect policies become bypass entries: packets leave in clear."""


class NoHardLimit(changing(CreateSa, packets=INFINITE, bytes=INFINITE)):
    """The card is told of no hard limit, so it goes on behind it."""


class NoReplayWindow(changing(CreateSa, replay_window=0)):
    """The card is told of no window: duplicates pass."""


class NoEsn(changing(CreateSa, esn=False)):
    """The card leaves the high half out of the ICV."""


class OnePriority(changing(CreatePolicyRule, priority=0)):
    """All policies get the same priority: the newest wins."""


class OneReqid(Rewriting):
    """SA and policy meet whatever their reqid is."""

    def rewrite(self, command):
        if isinstance(command, CreateSa | CreatePolicyRule):
            return msgspec.structs.replace(command, reqid=1)
        return command


class StartsAtOne(changing(CreateSa, seq=0)):
    """The sequence number that the user gave is forgotten: numbers are used again."""


class LeavesKeyBehind(ReferenceDriver):
    """A refused add leaves the objects that it had made on the card."""

    def __init__(self, context):
        super().__init__(context)
        self._objects.unwind = lambda undo, error, gone=None: iter(())


class AcceptsEverything(ReferenceDriver):
    """What the card refuses is called a success all the same."""

    def xdo_dev_state_add(self, dev, x, extack):
        result = super().xdo_dev_state_add(dev, x, extack)
        return result if isinstance(result, int) else self.swallowed(result)

    def swallowed(self, adding):
        yield from adding
        return 0


class SwallowsErrno(ReferenceDriver):
    """Whatever the card says, the user reads EINVAL."""

    def xdo_dev_state_add(self, dev, x, extack):
        result = super().xdo_dev_state_add(dev, x, extack)
        return result if isinstance(result, int) else self.flattened(result)

    def flattened(self, adding):
        result = yield from adding
        return -errno.EINVAL if result else 0


class Deaf(ReferenceDriver):
    """Hears no event, no counter and no tick: limits never reach the core."""

    def handle_events(self, events):
        pass

    def handle_counters(self, records):
        for record in records.tolist():
            sa = self._events._find(record[0], record[1])
            if sa is not None:
                sa.totals.take(Reading(*record[2:5]))

    def needs_reconcile(self):
        return False


class CountsBackwards(ReferenceDriver):
    """Totals shrink whenever they are read."""

    def xdo_dev_state_update_curlft(self, x):
        before = x.curlft.packets, x.curlft.bytes
        super().xdo_dev_state_update_curlft(x)
        if before[0]:
            x.curlft.packets, x.curlft.bytes = before[0] - 1, max(0, before[1] - 1)


class AddsInsteadOfSetting(ReferenceDriver):
    """Adds the card's totals to what the core has, instead of setting them."""

    def xdo_dev_state_update_curlft(self, x):
        packets, octets = x.curlft.packets, x.curlft.bytes
        x.curlft.packets = x.curlft.bytes = 0
        super().xdo_dev_state_update_curlft(x)
        x.curlft.packets += packets
        x.curlft.bytes += octets


class NoCounters(ReferenceDriver):
    """Leaves curlft alone."""

    def xdo_dev_state_update_curlft(self, x):
        pass


class SwapsCounters(ReferenceDriver):
    """Writes bytes where packets belong."""

    def xdo_dev_state_update_curlft(self, x):
        super().xdo_dev_state_update_curlft(x)
        x.curlft.packets, x.curlft.bytes = x.curlft.bytes, x.curlft.packets


class NoFailureCounts(ReferenceDriver):
    """Keeps replay and integrity failures to itself."""

    def xdo_dev_state_update_curlft(self, x):
        stats = x.stats.replay_window, x.stats.replay, x.stats.integrity_failed
        super().xdo_dev_state_update_curlft(x)
        x.stats.replay_window, x.stats.replay, x.stats.integrity_failed = stats


class OldestSa(Rewriting):
    """After a rekey packets still go to the old SA: the new one gets no rule."""

    def rewrite(self, command):
        if isinstance(command, CreateSaRule) and len(self._sas) >= 1:
            raise OffloadError(errno.EIO, "kept the old SA")
        return command
