# SPDX-License-Identifier: Apache-2.0
"""Commands: one method each, found by its type, that returns its reply or raises Refused with
nothing changed.
"""

import random
from collections.abc import Callable
from typing import Any

import msgspec

from nic_model import checks
from nic_model.events import EventQueue
from nic_model.handles import Handle
from nic_model.life import Life
from nic_model.mailbox import LoadKey
from nic_model.objects import Objects
from nic_model.queues import Queues
from proto import commands as c
from proto.caps import Caps

# What a card answers although its function is not ACTIVE.
ALWAYS_ALLOWED = frozenset((c.InitFunction, c.Reset, c.QueryCaps, c.QueryCounters, c.QueryCensus))


class Commands:
    """The commands of one card. `rng` draws the IV masks; `flush` hands over what the queues hold,
    `counters` are all counters of the card.
    """

    def __init__(
        self,
        caps: Caps,
        life: Life,
        objects: Objects,
        queues: Queues,
        events: EventQueue,
        rng: random.Random,
        flush: Callable[[], None],
        counters: Callable[[], dict[str, int]],
    ) -> None:
        self._caps = caps
        self._life = life
        self._objects = objects
        self._queues = queues
        self._events = events
        self._rng = rng
        self._flush = flush
        self._counters = counters
        self._methods: dict[type, Callable[[int, Any], c.Reply]] = {
            c.InitFunction: self._init_function,
            c.Reset: self._reset,
            c.QueryCaps: self._query_caps,
            LoadKey: self._create_key,
            c.DestroyKey: self._destroy_key,
            c.CreateSa: self._create_sa,
            c.DestroySa: self._destroy_sa,
            c.SetLimits: self._set_limits,
            c.AdvanceEsn: self._advance_esn,
            c.StopSa: self._stop_sa,
            c.QuerySa: self._query_sa,
            c.CreateSaRule: self._create_sa_rule,
            c.CreatePolicyRule: self._create_policy_rule,
            c.DestroyRule: self._destroy_rule,
            c.QueryCounters: self._query_counters,
            c.QueryCensus: self._query_census,
            c.ListObjects: self._list_objects,
            c.SetPort: self._set_port,
            c.Fence: self._fence,
            c.Teardown: self._teardown,
            c.SetQueue: self._set_queue,
        }

    def execute(self, token: int, command: Any) -> c.Reply:
        """Run one. Raises Refused, also for what the state of the function forbids."""
        if type(command) not in ALWAYS_ALLOWED:
            self._life.require_active()
        return self._methods[type(command)](token, command)

    def indices(self) -> dict[str, int]:
        """How far rings and event queue are, as Fence answers it."""
        return self._queues.indices() | {"events": self._events.index}

    @staticmethod
    def _created(token: int, new: Handle) -> c.Reply:
        return c.Reply(token, handle=new.handle, generation=new.generation)

    def _init_function(self, token: int, command: c.InitFunction) -> c.Reply:
        self._life.take(command.epoch)
        values = {
            "boot": self._life.boot,
            "health": self._life.counter,
            "revision": self._caps.revision,
        }
        return c.Reply(token, values=values)

    def _reset(self, token: int, _: c.Reset) -> c.Reply:
        self._life.require_agreement("firmware")
        self._life.reset_firmware()
        return c.Reply(token)

    def _query_caps(self, token: int, _: c.QueryCaps) -> c.Reply:
        return c.Reply(token, caps=self._caps)

    def _create_key(self, token: int, command: LoadKey) -> c.Reply:
        checks.check_key(len(command.key) * 8, self._caps)
        checks.check_cookie(command.cookie)
        return self._created(token, self._objects.create_key(command.key, command.cookie))

    def _destroy_key(self, token: int, command: c.DestroyKey) -> c.Reply:
        self._objects.destroy_key(command.handle)
        return c.Reply(token)

    def _create_sa(self, token: int, command: c.CreateSa) -> c.Reply:
        checks.check_sa(command, self._caps)
        if command.direction == c.OUT:  # REPLAY-10: no window there, whatever was given
            command = msgspec.structs.replace(command, replay_window=0, bitmap=())
        self._objects.require_sa(command.key)
        iv_mask = self._rng.getrandbits(64)
        return self._created(token, self._objects.create_sa(command, iv_mask))

    def _destroy_sa(self, token: int, command: c.DestroySa) -> c.Reply:
        self._objects.destroy_sa(command.handle)
        return c.Reply(token)

    def _set_limits(self, token: int, command: c.SetLimits) -> c.Reply:
        checks.check_limits(f"SA handle {command.handle:#x}", command)
        self._objects.set_limits(command)
        return c.Reply(token)

    def _advance_esn(self, token: int, command: c.AdvanceEsn) -> c.Reply:
        checks.check_sequence(f"SA handle {command.handle:#x}", command.seq, esn=True)
        self._objects.advance_esn(command)
        return c.Reply(token)

    def _stop_sa(self, token: int, command: c.StopSa) -> c.Reply:
        self._objects.stop_sa(command.handle)
        return c.Reply(token)

    def _query_sa(self, token: int, command: c.QuerySa) -> c.Reply:
        state = self._objects.query_sa(command.handle)
        return c.Reply(token, sa=self._queues.reported(command.handle, state))

    def _create_sa_rule(self, token: int, command: c.CreateSaRule) -> c.Reply:
        checks.check_cookie(command.cookie)
        return self._created(token, self._objects.create_sa_rule(command.sa, command.cookie))

    def _create_policy_rule(self, token: int, command: c.CreatePolicyRule) -> c.Reply:
        checks.check_policy(command, self._caps)
        return self._created(token, self._objects.create_policy_rule(command))

    def _destroy_rule(self, token: int, command: c.DestroyRule) -> c.Reply:
        self._objects.destroy_rule(command.handle)
        return c.Reply(token)

    def _query_counters(self, token: int, _: c.QueryCounters) -> c.Reply:
        return c.Reply(token, values=self._counters())

    def _query_census(self, token: int, _: c.QueryCensus) -> c.Reply:
        return c.Reply(token, values=self._objects.census())

    def _list_objects(self, token: int, command: c.ListObjects) -> c.Reply:
        checks.check_list(command)
        objects, following = self._objects.list(command)
        return c.Reply(token, values={"next": following}, objects=objects)

    def _set_port(self, token: int, command: c.SetPort) -> c.Reply:
        checks.check_port(command, self._queues.port.mac)
        self._queues.port.mtu, self._queues.port.mac_filter = command.mtu, command.mac_filter
        return c.Reply(token)

    def _fence(self, token: int, _: c.Fence) -> c.Reply:
        self._flush()
        return c.Reply(token, values=self.indices())

    def _teardown(self, token: int, _: c.Teardown) -> c.Reply:
        self._objects.teardown()
        return c.Reply(token)

    def _set_queue(self, token: int, command: c.SetQueue) -> c.Reply:
        self._flush()
        index = self._queues.set_state(command.queue, command.state, command.index)
        return c.Reply(token, values={"index": index})
