# SPDX-License-Identifier: Apache-2.0
"""Faults: what to break, where, how often. Seeded; probability 0 changes no byte."""

import errno
import random
from collections.abc import Mapping

import msgspec

from proto.status import OffloadError

SITES = (
    "mailbox.command", "mailbox.reply", "events", "ring.tx", "ring.tx_done", "ring.rx",
    "ring.counters", "wire",
)  # fmt: skip
KINDS = ("drop", "duplicate", "corrupt", "truncate")


class FaultSpec(msgspec.Struct, kw_only=True, frozen=True):
    """One fault. A site names itself and all below it (`mailbox` means commands and replies).

    `match` compares facts of the message, as text (`{"opcode": "CREATE_SA"}`; case and underscores
    do not count). `times` bounds the firings, None = always; `skip` lets the first matches pass.
    `value`: the bit that `corrupt` flips (None = drawn), the bytes that `truncate` leaves.
    """

    site: str
    kind: str
    name: str = ""
    match: dict[str, str | int] = {}
    probability: float = 1.0
    times: int | None = None
    skip: int = 0
    value: int | None = None
    seed: int = 0


def concerns(spec: FaultSpec, site: str) -> bool:
    """Whether a fault is meant for this site: its own, or one below it."""
    return site == spec.site or site.startswith(spec.site + ".")


def check(spec: FaultSpec) -> None:
    """Refuse a fault that could never fire. Raises OffloadError(EINVAL)."""
    if not any(concerns(spec, site) for site in SITES):
        raise OffloadError(
            errno.EINVAL, f"fault site {spec.site!r} is unknown, known are {', '.join(SITES)}"
        )
    if spec.kind not in KINDS:
        raise OffloadError(
            errno.EINVAL, f"fault kind {spec.kind!r} is unknown, known are {', '.join(KINDS)}"
        )
    if not 0.0 <= spec.probability <= 1.0:
        raise OffloadError(errno.EINVAL, f"fault probability {spec.probability} is outside 0..1")
    for name, low in (("times", 1), ("skip", 0), ("value", 0)):
        number = getattr(spec, name)
        if number is not None and number < low:
            raise OffloadError(errno.EINVAL, f"fault {name} {number} is below {low}")


def _plain(value: object) -> str:
    return str(value).replace("_", "").lower()


class _Armed:
    """A fault with its own generator and counters, so that one fault never disturbs another."""

    def __init__(self, spec: FaultSpec) -> None:
        self.spec = spec
        self.rng = random.Random(spec.seed)
        self.seen = 0
        self.fired = 0

    def decide(self, site: str, facts: Mapping[str, object]) -> bool:
        spec = self.spec
        if not concerns(spec, site):
            return False
        if any(_plain(facts.get(key)) != _plain(want) for key, want in spec.match.items()):
            return False
        self.seen += 1
        if self.seen <= spec.skip or (spec.times is not None and self.fired >= spec.times):
            return False
        if self.rng.random() >= spec.probability:
            return False
        self.fired += 1
        return True

    def change(self, data: bytes) -> list[bytes]:
        if self.spec.kind == "drop":
            return []
        if self.spec.kind == "duplicate":
            return [data, data]
        if self.spec.kind == "truncate":
            return [data[: self.spec.value or 0]]
        if not data:
            return [data]
        value = self.spec.value
        bit = self.rng.randrange(len(data) * 8) if value is None else value % (len(data) * 8)
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << (bit % 8)
        return [bytes(broken)]


class FaultTable:
    """The armed faults of one party; every message of a site passes through `apply`."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []

    def add(self, spec: FaultSpec) -> str:
        """Arm a fault and return its name. Raises OffloadError(EINVAL), also for a name in use."""
        check(spec)
        name = spec.name or f"{spec.site}-{spec.kind}-{len(self._armed) + 1}"
        if any(armed.spec.name == name for armed in self._armed):
            raise OffloadError(errno.EINVAL, f"a fault named {name!r} is armed already")
        self._armed.append(_Armed(msgspec.structs.replace(spec, name=name)))
        return name

    def remove(self, name: str) -> None:
        """Disarm one fault. Raises OffloadError(ENOENT)."""
        kept = [armed for armed in self._armed if armed.spec.name != name]
        if len(kept) == len(self._armed):
            raise OffloadError(errno.ENOENT, f"no fault named {name!r} is armed")
        self._armed = kept

    def reset(self) -> None:
        """Disarm everything."""
        self._armed = []

    def fired(self) -> dict[str, int]:
        """Firings by fault name."""
        return {armed.spec.name: armed.fired for armed in self._armed}

    def apply(self, site: str, data: bytes, facts: Mapping[str, object]) -> list[bytes]:
        """What becomes of one message: usually itself, possibly nothing, two, or a broken one."""
        results = [data]
        for armed in self._armed:
            if armed.decide(site, facts):
                results = [changed for one in results for changed in armed.change(one)]
        return results
