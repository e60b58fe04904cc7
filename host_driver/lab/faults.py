# SPDX-License-Identifier: Apache-2.0
"""The faults of a lab: each goes to the parties that own its site. The names are a promise."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from host_driver.faults.catalogue import find
from host_driver.lab.asking import World
from proto import faults
from proto.faults import FaultSpec
from proto.faults.sites import VALUE_MAX
from proto.management import (
    AddFault,
    FaultLog,
    FaultRequest,
    ListFaults,
    RemoveFault,
    ResetFaults,
    about_faults,
)
from proto.status import OffloadError

Entries = list[dict[str, Any]]
Log = list[faults.Firing]  # before a method takes the name `list`

WIRE = "wire"
SEEDS_PER_FAULT = 16  # parties of a lab, at most


class FaultsHandle:
    """The armed faults of all hosts, of all cards and of the wire."""

    def __init__(self, world: World, hosts: int, seed: int) -> None:
        self._world = world
        self._hosts = range(hosts)
        self._parties = [
            *(f"host{number}" for number in self._hosts),
            *(f"card{number}" for number in self._hosts),
            WIRE,
        ]
        self._seed = seed
        self._added = 0
        self._armed: dict[str, list[tuple[str, str]]] = {}  # name -> party, name there

    def add(self, fault: str | None = None, *, host: int | None = None, **fields: Any) -> str:
        """Arm a fault and return its name.

        `fault`: its name in the catalogue, whose fields `fields` override; else they are those of
        proto.faults.FaultSpec. `host` None arms it at every host or card; on the wire, `host` means
        frames that its card sent. Without `seed` the lab's seed decides. Raises
        OffloadError(EINVAL, ENOENT, ENOSPC) and then arms nothing.
        """
        if host is not None and host not in self._hosts:
            raise OffloadError(errno.EINVAL, f"no host {host} in a lab of {len(self._hosts)}")
        self._added += 1
        specs = self._specs(fault, fields)
        name = specs[0].name
        if name in self._armed:
            raise OffloadError(errno.EINVAL, f"a fault named {name!r} is armed already")
        self._armed[name] = []
        try:
            for spec in specs:
                self._arm(name, spec, host, seeded="seed" in fields)
        except BaseException:
            self.remove(name)
            raise
        return name

    def remove(self, name: str) -> None:
        """Disarm one fault; what it held back goes on. Raises OffloadError(ENOENT)."""
        if name not in self._armed:
            raise OffloadError(errno.ENOENT, f"no fault named {name!r} is armed")
        for party, there in self._armed.pop(name):
            with _missing_is_fine():  # the party began anew meanwhile, and its table is empty
                self._ask(party, RemoveFault(there))

    def reset(self) -> None:
        """Disarm everything; what was held back goes on."""
        self._armed.clear()
        for party in self._parties:
            self._ask(party, ResetFaults())

    @contextmanager
    def inject(
        self, fault: str | None = None, *, host: int | None = None, **fields: Any
    ) -> Iterator[str]:
        """A fault for the time of a `with` block; yields its name. Arguments are those of `add`."""
        name = self.add(fault, host=host, **fields)
        try:
            yield name
        finally:
            if name in self._armed:
                self.remove(name)

    def list(self) -> Entries:
        """What is armed, party by party: party, fired (how often), and the fields of FaultSpec that
        say something."""
        return [
            {"party": party, "fired": fired, **_fields(msgspec.convert(spec, FaultSpec))}
            for party in self._parties
            for spec, fired in msgspec.to_builtins(self._ask(party, ListFaults()))
        ]

    def log(self) -> Entries:
        """Every firing of all parties in order of time: id ("card0:3"), party, time_ns, name, site,
        kind, facts. What was disarmed since is in it, too."""
        entries = []
        for party in self._parties:
            for firing in self._log_of(party):
                entry = {"party": party, **msgspec.structs.asdict(firing)}
                entries.append(entry | {"id": f"{party}:{firing.id}"})
        return sorted(entries, key=lambda entry: entry["time_ns"])

    def _log_of(self, party: str) -> Iterator[faults.Firing]:
        """All pages of one party."""
        after = 0
        while page := msgspec.to_builtins(self._ask(party, FaultLog(after))):
            for firing in msgspec.convert(page, Log):
                after = firing.id
                yield firing

    def _specs(self, fault: str | None, fields: dict[str, Any]) -> tuple[FaultSpec, ...]:
        """Every check that a party would make, before the first is asked."""
        injected = [{}] if fault is None else find(fault).inject
        name = fields.get("name") or fault
        specs: tuple[FaultSpec, ...] = ()
        for number, row in enumerate(injected):
            merged = {**row, **fields}
            first = name or f"{merged.get('site')}-{merged.get('kind')}-{self._added}"
            merged["name"] = first if number == 0 else f"{first}/{number + 1}"
            specs += (make_spec(merged),)
        return specs

    def _arm(self, name: str, spec: FaultSpec, host: int | None, *, seeded: bool) -> None:
        kinds = {faults.SITES[site].party for site in faults.concerned(spec.site, spec.kind)}
        numbers = self._hosts if host is None else (host,)
        parties = [f"{kind}{number}" for kind in ("host", "card") for number in numbers
                   if kind in kinds]  # fmt: skip
        if WIRE in kinds:
            parties.append(WIRE)
        for party in parties:
            there = spec
            if not seeded:
                drawn = (self._seed << 32) + self._added * SEEDS_PER_FAULT
                drawn += self._parties.index(party)
                there = msgspec.structs.replace(there, seed=drawn & VALUE_MAX)
            if party == WIRE and host is not None:  # a fact of each frame: its sender
                there = msgspec.structs.replace(there, match=there.match | {"src": host})
            self._ask(party, AddFault(there))
            self._armed[name].append((party, spec.name))

    def _ask(self, party: str, request: FaultRequest) -> Any:
        if party == WIRE:
            with self._world.wire() as wire:
                return about_faults(wire.faults, request)
        number = int(party[4:])
        if party.startswith("card"):
            return self._world.ask_card(number, request)
        return self._world.ask(number, request).value


def make_spec(fields: dict[str, Any]) -> FaultSpec:
    """The fault of these fields, checked. Raises OffloadError(EINVAL) saying which one is wrong."""
    try:
        spec = msgspec.convert(fields, FaultSpec)
    except msgspec.ValidationError as error:
        raise OffloadError(errno.EINVAL, f"fault: {error}") from None
    unknown = fields.keys() - set(spec.__struct_fields__)
    if unknown:
        raise OffloadError(
            errno.EINVAL,
            f"fault fields {sorted(unknown)} are unknown, "
            f"known are {', '.join(spec.__struct_fields__)} and host",
        )
    faults.check(spec)
    return spec


def _fields(spec: FaultSpec) -> dict[str, Any]:
    """Those that are not as they are without anybody saying so."""
    defaults = FaultSpec(site="", kind="")
    fields: dict[str, Any] = msgspec.structs.asdict(spec)
    return {name: value for name, value in fields.items() if value != getattr(defaults, name)}


@contextmanager
def _missing_is_fine() -> Iterator[None]:
    try:
        yield
    except OffloadError as error:
        if error.errno != errno.ENOENT:
            raise
