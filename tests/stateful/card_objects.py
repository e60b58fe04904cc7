# SPDX-License-Identifier: Apache-2.0
"""The card's objects: any order of creating and destroying, against sets of what must exist.

The model knows what refers to what, and what a table holds; which rows and handles the card
chooses is its own business, as long as no handle with its generation is ever used twice.
"""

from typing import Any, NamedTuple

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from proto import commands as c
from proto.frame import Channel, Kind, pack
from proto.status import Status, Syndrome
from proto.xfrm import AF_INET, AF_INET6
from tests.unit.firmware.conftest import EPOCH
from unit.firmware.conftest import Card

KEY_MAX, SA_MAX, RULE_MAX = 3, 4, 6
CARD = (
    f"full:key_max={KEY_MAX},sa_max={SA_MAX},rule_max={RULE_MAX},key_bits=128/256,icv_bytes=12/16"
)

OK = (Status.OK, Syndrome.NONE)
UNKNOWN = (Status.BAD_OBJECT, Syndrome.HANDLE_UNKNOWN)
BUSY = (Status.OBJECT_BUSY, Syndrome.HANDLE_IN_USE)
FULL = (Status.NO_RESOURCES, Syndrome.TABLE_FULL)
EXISTS = (Status.EXISTS, Syndrome.SA_EXISTS)

# What is wrong with an SA, and what the card says to it.
DEFECTS: dict[str, tuple[dict[str, Any], Status, Syndrome]] = {
    "spi": ({"spi": 0}, Status.BAD_PARAMETER, Syndrome.SPI),
    "icv": ({"icv_bytes": 8}, Status.NOT_SUPPORTED, Syndrome.ICV_LENGTH),
    "salt": ({"salt": b"abc"}, Status.BAD_PARAMETER, Syndrome.KEY_LENGTH),
    "family": ({"family": 7}, Status.BAD_PARAMETER, Syndrome.FAMILY),
    "direction": ({"direction": 3}, Status.BAD_PARAMETER, Syndrome.DIRECTION),
    "sequence": ({"seq": 1 << 32}, Status.BAD_PARAMETER, Syndrome.SEQUENCE),
    "window": ({"replay_window": 5000}, Status.BAD_PARAMETER, Syndrome.WINDOW_SIZE),
    "limit": ({"packets": 0}, Status.BAD_PARAMETER, Syndrome.LIMIT),
}


class Sa(NamedTuple):
    """A live SA: the key it uses, what an inbound one is found by, its limit and its rule."""

    key: int
    direction: int
    identity: tuple[int, bytes, int]
    packets: int
    crypto: bool


class CardObjects(RuleBasedStateMachine):
    """One firmware, fed with mailbox commands."""

    keys, sas, rules = Bundle("keys"), Bundle("sas"), Bundle("rules")

    def __init__(self) -> None:
        super().__init__()
        self.card = Card(CARD)
        self.live_keys: set[int] = set()
        self.live_sas: dict[int, Sa] = {}
        self.live_rules: dict[int, int] = {}  # SA handle, or 0 for a policy
        self.given: set[tuple[str, int, int]] = set()
        self.refused = 0
        self.doubled = False

    @initialize(target=keys)
    def first_key(self) -> MultipleResults[int] | int:
        return self.create_key(128)

    # --- what is asked, and what must be answered ---

    def ask(self, command: c.Command, expected: tuple[Status, Syndrome]) -> c.Reply:
        reply = self.card.command(command)
        assert (reply.status, reply.syndrome) == expected, reply
        assert bool(reply.text) == (expected != OK)
        if self.doubled:
            assert self.card.command(command, reply.token) == reply
            self.doubled = False
        self.refused += expected != OK
        return reply

    def created(self, kind: str, reply: c.Reply) -> int:
        """A handle with its generation that was never given before, and is no live one's."""
        name = (kind, reply.handle, reply.generation)
        assert reply.handle and name not in self.given
        live = {"key": self.live_keys, "sa": self.live_sas, "rule": self.live_rules}[kind]
        assert reply.handle not in live
        self.given.add(name)
        return reply.handle

    def rule_of(self, sa: int) -> int | None:
        return next((rule for rule, owner in self.live_rules.items() if owner == sa), None)

    # --- keys ---

    @rule(target=keys, bits=st.sampled_from((128, 256, 192, 0, 136)))
    def create_key(self, bits: int) -> MultipleResults[int] | int:
        command = c.CreateKey(bytes(range(bits // 8)))
        if bits not in (128, 256):
            self.ask(command, (Status.NOT_SUPPORTED, Syndrome.KEY_LENGTH))
            return multiple()
        if len(self.live_keys) == KEY_MAX:
            self.ask(command, FULL)
            return multiple()
        handle = self.created("key", self.ask(command, OK))
        self.live_keys.add(handle)
        return handle

    @rule(key=keys)
    def destroy_key(self, key: int) -> None:
        users = [sa for sa in self.live_sas.values() if sa.key == key]
        if key not in self.live_keys:
            self.ask(c.DestroyKey(key), UNKNOWN)
        elif users:
            self.ask(c.DestroyKey(key), BUSY)
        else:
            self.ask(c.DestroyKey(key), OK)
            self.live_keys.remove(key)

    # --- SAs ---

    @rule(
        target=sas, key=keys, direction=st.sampled_from((c.IN, c.OUT)),
        family=st.sampled_from((AF_INET, AF_INET6)), spi=st.sampled_from((0x100, 0x200)),
        packets=st.sampled_from((1, 5, 300, c.INFINITE)), crypto=st.booleans(),
        defect=st.none() | st.sampled_from(sorted(DEFECTS)),
    )  # fmt: skip
    def create_sa(
        self, key: int, direction: int, family: int, spi: int, packets: int, crypto: bool,
        defect: str | None,
    ) -> MultipleResults[int] | int:  # fmt: skip
        packets = c.INFINITE if crypto else packets
        command = self.card.sa(
            key, direction, family, spi=spi, packets=packets, crypto=crypto, soft_packets=c.INFINITE
        )
        if defect is not None and not (crypto and defect == "limit"):
            change, status, syndrome = DEFECTS[defect]
            self.ask(msgspec.structs.replace(command, **change), (status, syndrome))
            return multiple()
        if key not in self.live_keys:
            self.ask(command, UNKNOWN)
            return multiple()
        if len(self.live_sas) == SA_MAX:
            self.ask(command, FULL)
            return multiple()
        handle = self.created("sa", self.ask(command, OK))
        identity = (family, command.daddr, spi)
        self.live_sas[handle] = Sa(key, direction, identity, packets, crypto)
        return handle

    @rule(sa=sas)
    def destroy_sa(self, sa: int) -> None:
        if sa not in self.live_sas:
            self.ask(c.DestroySa(sa), UNKNOWN)
        elif self.rule_of(sa) is not None:
            self.ask(c.DestroySa(sa), BUSY)
        else:
            self.ask(c.DestroySa(sa), OK)
            del self.live_sas[sa]

    @rule(sa=sas, packets=st.integers(1, 400))
    def set_limits(self, sa: int, packets: int) -> None:
        command = c.SetLimits(handle=sa, packets=packets)
        known = self.live_sas.get(sa)
        if known is None:
            self.ask(command, UNKNOWN)
        elif known.crypto:
            self.ask(command, (Status.BAD_PARAMETER, Syndrome.LIMIT))
        else:
            self.ask(command, OK)
            self.live_sas[sa] = known._replace(packets=packets)

    @rule(sa=sas)
    def query_sa(self, sa: int) -> None:
        known = self.live_sas.get(sa)
        state = self.ask(c.QuerySa(sa), UNKNOWN if known is None else OK).sa
        if known is None:
            assert state is None
            return
        assert state is not None
        assert (state.packets, state.bytes, state.seq) == (0, 0, 0)
        assert state.stopped is False
        if known.packets != c.INFINITE:
            assert state.remaining == known.packets

    # --- rules ---

    @rule(target=rules, sa=sas)
    def create_sa_rule(self, sa: int) -> MultipleResults[int] | int:
        known = self.live_sas.get(sa)
        expected = OK
        if known is None:
            expected = UNKNOWN
        elif self.rule_of(sa) is not None:
            expected = EXISTS
        elif known.crypto and known.direction == c.OUT:
            expected = (Status.BAD_PARAMETER, Syndrome.DIRECTION)
        elif len(self.live_rules) == RULE_MAX:
            expected = FULL
        elif known.direction == c.IN and self.steered(known.identity):
            expected = EXISTS
        reply = self.ask(c.CreateSaRule(sa), expected)
        if expected != OK:
            return multiple()
        handle = self.created("rule", reply)
        self.live_rules[handle] = sa
        return handle

    def steered(self, identity: tuple[int, bytes, int]) -> bool:
        """Whether an inbound SA of this destination, SPI and family has a rule."""
        inbound = (self.live_sas[sa] for sa in self.live_rules.values() if sa)
        return any(sa.direction == c.IN and sa.identity == identity for sa in inbound)

    @rule(target=rules, prefix=st.sampled_from((0, 24, 33)), priority=st.integers(0, 3))
    def create_policy_rule(self, prefix: int, priority: int) -> MultipleResults[int] | int:
        selector = c.Selector(family=AF_INET, prefixlen_d=prefix)
        command = self.card.policy(selector=selector, priority=priority)
        if prefix > 32:
            self.ask(command, (Status.BAD_PARAMETER, Syndrome.SELECTOR))
            return multiple()
        if len(self.live_rules) == RULE_MAX:
            self.ask(command, FULL)
            return multiple()
        handle = self.created("rule", self.ask(command, OK))
        self.live_rules[handle] = 0
        return handle

    @rule(handle=rules)
    def destroy_rule(self, handle: int) -> None:
        self.ask(c.DestroyRule(handle), OK if handle in self.live_rules else UNKNOWN)
        self.live_rules.pop(handle, None)

    # --- everything, again, and nonsense ---

    @rule()
    def teardown_all(self) -> None:
        self.ask(c.Teardown(), OK)
        self.live_keys.clear()
        self.live_sas.clear()
        self.live_rules.clear()

    @rule()
    def take_all_back(self) -> None:
        """Users before what they use; nothing is left (INV-39)."""
        for handle in list(self.live_rules):
            self.destroy_rule(handle)
        for handle in list(self.live_sas):
            self.destroy_sa(handle)
        for handle in list(self.live_keys):
            self.destroy_key(handle)

    @rule()
    def the_next_comes_twice(self) -> None:
        """A doubled command is answered as before and executed once (F-CTL-01)."""
        self.doubled = True

    @rule(body=st.binary(max_size=40))
    def nonsense(self, body: bytes) -> None:
        """Bytes that are no command change nothing and are refused."""
        self.card.step((Channel.MAILBOX, pack(Kind.COMMAND, b"\xc1" + body, epoch=EPOCH)))
        self.refused += 1

    # --- what holds at every moment ---

    @invariant()
    def census_is_the_models(self) -> None:
        policies = sum(1 for owner in self.live_rules.values() if not owner)
        assert self.card.census == {
            "keys": len(self.live_keys), "sas": len(self.live_sas),
            "rules_sa": len(self.live_rules) - policies, "rules_policy": policies,
        }  # fmt: skip

    @invariant()
    def every_refusal_is_counted(self) -> None:
        assert self.card.counters["cmd_refused"] == self.refused

    @invariant()
    def only_live_keys_are_in_memory(self) -> None:
        rows = self.card.firmware.objects.tables.keys
        assert int(rows.any(axis=1).sum()) == len(self.live_keys)
