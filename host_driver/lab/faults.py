# SPDX-License-Identifier: Apache-2.0
"""The faults of a lab: each goes to the parties that own its site. The names are a promise."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from host_driver import control
from host_driver.lab.asking import World
from proto import faults
from proto.status import OffloadError


class FaultsHandle:
    """The armed faults of all hosts and of the wire."""

    def __init__(self, world: World, hosts: int, seed: int) -> None:
        self._world = world
        self._hosts = range(hosts)
        self._seed = seed
        self._added = 0
        self._undo: dict[str, list[Callable[[], object]]] = {}

    def add(self, *, host: int | None = None, **fields: Any) -> str:
        """Arm a fault and return its name; `fields` are those of proto.faults.FaultSpec.

        `host` None arms it at every host; on the wire, `host` means frames that its card sent.
        Without `seed` the lab's seed decides. Raises OffloadError(EINVAL) and then arms nothing.
        """
        spec = self._spec(host, fields)
        undo: list[Callable[[], object]] = []
        parties = {faults.SITES[site].party for site in faults.concerned(spec.site, spec.kind)}
        if "host" in parties:
            for number in self._hosts if host is None else (host,):
                self._world.ask(number, control.AddFault(spec))
                undo.append(self._remover(number, spec.name))
        if "wire" in parties:
            with self._world.wire() as wire:
                wire.faults.add(_wire_spec(spec, host))
            undo.append(self._wire_remover(spec.name))
        self._undo[spec.name] = undo
        return spec.name

    def remove(self, name: str) -> None:
        """Disarm one fault. Raises OffloadError(ENOENT)."""
        if name not in self._undo:
            raise OffloadError(errno.ENOENT, f"no fault named {name!r} is armed")
        for undo in self._undo.pop(name):
            undo()

    def reset(self) -> None:
        """Disarm everything."""
        for number in self._hosts:
            self._world.ask(number, control.ResetFaults())
        with self._world.wire() as wire:
            wire.faults.reset()
        self._undo.clear()

    @contextmanager
    def inject(self, *, host: int | None = None, **fields: Any) -> Iterator[str]:
        """A fault for the time of a `with` block; yields its name."""
        name = self.add(host=host, **fields)
        try:
            yield name
        finally:
            if name in self._undo:
                self.remove(name)

    def _spec(self, host: int | None, fields: dict[str, Any]) -> faults.FaultSpec:
        """Every check that a host would make, before the first host is asked."""
        if host is not None and host not in self._hosts:
            raise OffloadError(errno.EINVAL, f"no host {host} in a lab of {len(self._hosts)}")
        self._added += 1
        fields = {"seed": self._seed + self._added, **fields}
        fields.setdefault("name", f"{fields.get('site')}-{fields.get('kind')}-{self._added}")
        try:
            spec = msgspec.convert(fields, faults.FaultSpec)
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
        if spec.name in self._undo:
            raise OffloadError(errno.EINVAL, f"a fault named {spec.name!r} is armed already")
        return spec

    def _remover(self, number: int, name: str) -> Callable[[], object]:
        return lambda: self._world.ask(number, control.RemoveFault(name))

    def _wire_remover(self, name: str) -> Callable[[], object]:
        def undo() -> None:
            with self._world.wire() as wire:
                wire.faults.remove(name)

        return undo


def _wire_spec(spec: faults.FaultSpec, host: int | None) -> faults.FaultSpec:
    """The wire's form: `host` is a fact of each frame, its sender."""
    return spec if host is None else msgspec.structs.replace(spec, match=spec.match | {"src": host})
