# SPDX-License-Identifier: Apache-2.0
"""The faults of a lab: each goes to the parties that own its site. The names are a promise."""

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from host_driver.faults.plan import PlannedFault, check_planned, load_plan, specs_of
from host_driver.lab.asking import World
from host_driver.lab.fault_plan import PlanRunner
from host_driver.lab.life import PartyState
from proto import faults
from proto.faults import FaultSpec
from proto.faults.sites import VALUE_MAX
from proto.management import (
    LOG_PAGE,
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
Parties = list[str]

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
        self._plan = PlanRunner(self.add, self.remove)

    def add(self, fault: str | None = None, *, host: int | None = None, **fields: Any) -> str:
        """Arm a fault and return its name.

        `fault`: its name in the catalogue, whose fields `fields` override; else they are those of
        proto.faults.FaultSpec. `host` None arms it at every host or card; on the wire, `host` means
        frames that its card sent. Without `seed` the lab's seed decides. Raises
        OffloadError(EINVAL, ENOENT, ENOSPC, EHOSTDOWN) and then arms nothing. A party that begins
        another life has no faults armed.
        """
        self._check_host(host)
        self._added += 1
        specs = specs_of(fault, fields, f"-{self._added}")
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
        self._plan.removed(name)
        for party, there in self._armed.pop(name):
            self._take_back(party, RemoveFault(there))

    def reset(self) -> None:
        """Disarm everything and forget all plans; what was held back goes on."""
        self._armed.clear()
        self._plan.clear()
        for party in self._parties:
            self._take_back(party, ResetFaults())

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

    def follow(self, plan: Path | str | Sequence[PlannedFault]) -> None:
        """Arm and disarm faults as a plan says (`host_driver.faults.plan`): a file, or its entries.

        Time counts from now, as the lab lives through it (`advance`, `settle`). Raises
        OffloadError(EINVAL, ENOENT), and then nothing of the plan happens; OSError for the file.
        """
        planned = load_plan(Path(plan)) if isinstance(plan, Path | str) else [*plan]
        for one in planned:
            check_planned(one)
            self._check_host(one.host)
        self._plan.begin(planned, self._world.now_ns())

    def planned(self) -> Entries:
        """What the plans have in store, and what became of the rest: state ("waiting", "armed",
        "over", "failed"), name, host, in_s (seconds until something happens to it), error."""
        return self._plan.entries(self._world.now_ns())

    def next_ns(self) -> int | None:
        """The next moment of a plan."""
        return self._plan.next_ns()

    def catch_up(self) -> None:
        """Do what the plans say for the time that has come."""
        self._plan.follow(self._world.now_ns())

    def list(self) -> Entries:
        """What is armed, party by party: party, fired (how often), and the fields of FaultSpec that
        say something."""
        return [
            {"party": party, "fired": fired, **_fields(msgspec.convert(spec, FaultSpec))}
            for party in self._living()
            for spec, fired in msgspec.to_builtins(self._ask(party, ListFaults()))
        ]

    def log(self, after: Mapping[str, int] = MappingProxyType({})) -> Entries:
        """Every firing of all parties in order of time: id ("card0:3"), party, time_ns, name, site,
        kind, facts. What was disarmed since is in it, too. `after` skips a party's first ones."""
        entries = []
        for party in self._living():
            for firing in self._log_of(party, after.get(party, 0)):
                entry = {"party": party, **msgspec.structs.asdict(firing)}
                entries.append(entry | {"id": f"{party}:{firing.id}"})
        return sorted(entries, key=lambda entry: entry["time_ns"])

    def _log_of(self, party: str, after: int) -> Iterator[faults.Firing]:
        """All pages of one party; what fires while they are read ends them, too."""
        while True:
            page = msgspec.convert(msgspec.to_builtins(self._ask(party, FaultLog(after))), Log)
            yield from page
            if len(page) < LOG_PAGE:
                return
            after = page[-1].id

    def _check_host(self, host: int | None) -> None:
        if host is not None and host not in self._hosts:
            raise OffloadError(errno.EINVAL, f"no host {host} in a lab of {len(self._hosts)}")

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

    def _take_back(self, party: str, request: FaultRequest) -> None:
        """A dead party has no faults, and one that has begun another life neither; one that is
        stopped hears of it first of all when it goes on."""
        if party != WIRE and self._world.state(party) is PartyState.STOPPED:
            self._world.tell(party, request)
            return
        with _missing_is_fine():
            self._ask(party, request)

    def _living(self) -> Parties:
        """Parties that can be asked; a dead or stopped one has nothing to tell."""
        return [
            party
            for party in self._parties
            if party == WIRE or self._world.state(party) is PartyState.RUNNING
        ]

    def _ask(self, party: str, request: FaultRequest) -> Any:
        if party == WIRE:
            with self._world.wire() as wire:
                return about_faults(wire.faults, request)
        number = int(party[4:])
        if party.startswith("card"):
            return self._world.ask_card(number, request)
        return self._world.ask(number, request).value


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
        if error.errno not in (errno.ENOENT, errno.EHOSTDOWN):
            raise
