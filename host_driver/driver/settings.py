# SPDX-License-Identifier: Apache-2.0
"""What the card is told of an SA that it has: new limits, and how far an ESN has come.

One command at a time for each SA (F-TAB-05), and the newest value only: what changed while one was
under way follows in the next. A setting that the card did not take is out of step: the driver does
not believe its own table, and tells it again at every tick (F-TAB-04, F-CTL-16).

An inbound crypto SA whose card could not be told of a new high half for half a cycle of numbers
might open packets with the wrong one: it expires instead.
"""

from host_driver.driver.command import failure
from host_driver.driver.context import DriverContext
from host_driver.driver.sa import Sa
from host_driver.sleep import Sleep, wait
from proto.commands import IN, AdvanceEsn, AnyCommand

HALF_CYCLE = 1 << 31


class Settings:
    """The settings of all SAs of one card; as long as it is falsy, all of them are in step."""

    def __init__(self, context: DriverContext) -> None:
        self._context = context
        self._behind: dict[Sa, None] = {}

    def __len__(self) -> int:
        return len(self._behind)

    def tell(self, sa: Sa) -> None:
        """Something may have changed. Never sleeps."""
        if not sa.telling and (command := self._next(sa)) is not None:
            sa.telling = True
            self._context.spawn(self._tell(sa, command))

    def retry(self) -> None:
        """The tick: tell again what was not taken, and give up what is too far behind."""
        for sa in list(self._behind):
            if sa.deleted:
                del self._behind[sa]
            elif sa.crypto and _beyond(sa) >= HALF_CYCLE:
                del self._behind[sa]
                self._context.counters["esn_given_up"] += 1
                self._context.xfrm_state_expire(sa.x)
            else:
                self.tell(sa)

    def _next(self, sa: Sa) -> AnyCommand | None:
        """The command that brings the card up to date."""
        if sa.deleted:
            return None
        if not sa.crypto:
            return self._context.sas.new_limits(sa)
        if sa.x.xso.dir != IN or sa.x.replay_esn is None or _highest(sa) >> 32 == sa.told >> 32:
            return None
        return AdvanceEsn(sa.handle, _highest(sa))

    def _tell(self, sa: Sa, command: AnyCommand | None) -> Sleep[None]:
        while command is not None:
            reply = yield from wait(self._context.mailbox.post(command))
            if not sa.deleted and failure(command, reply):
                self._context.counters["settings_errors"] += 1
                sa.limits = None
                self._behind[sa] = None
                break
            self._behind.pop(sa, None)
            if isinstance(command, AdvanceEsn):
                sa.told = command.seq
            command = self._next(sa)
        sa.telling = False


def _beyond(sa: Sa) -> int:
    """How many numbers have been seen since the high half is another than the card was told."""
    return _highest(sa) - ((sa.told >> 32) + 1 << 32)


def _highest(sa: Sa) -> int:
    """The highest number that the host has seen of an inbound SA with ESN."""
    assert sa.x.replay_esn is not None
    fixed = sa.x.replay_esn.fixed
    return fixed.seq_hi << 32 | fixed.seq
