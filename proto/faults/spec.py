# SPDX-License-Identifier: Apache-2.0
"""FaultSpec: one fault as users write it, and what is refused."""

import errno
from collections.abc import Mapping
from typing import Any

import msgspec

from proto.faults.sites import SITES, VALUE_MAX, Kind, concerned
from proto.status import OffloadError

U64 = (1 << 64) - 1
TEXT_MAX = 80  # characters of names and matched facts

# Fields that count, and the least of each.
_LOW = {"times": 1, "skip": 0, "interval": 1, "space": 0, "fail_nth": 1, "delay_ms": 0, "seed": 0}


class FaultSpec(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One fault. A site names itself and all below it (`mailbox` means commands and replies).

    `match` compares facts of the message, as text (`{"opcode": "CREATE_SA"}`; case, underscores and
    the base of numbers do not count). `times` bounds the firings, None = always; `skip` lets the
    first matches pass, `space` so many bytes of them; `interval` n: every n-th match; `fail_nth` n:
    the n-th match and no other. `delay_ms` and `value` are what the kind says they are
    (`proto.fault_sites`).
    """

    site: str
    kind: str
    name: str = ""
    match: dict[str, str | int] = {}
    probability: float = 1.0
    times: int | None = None
    skip: int = 0
    interval: int = 1
    space: int = 0
    fail_nth: int | None = None
    delay_ms: int = 0
    value: int | str | None = None
    seed: int = 0


def from_fields(fields: Mapping[str, Any]) -> FaultSpec:
    """The fault of these fields, checked. Raises OffloadError(EINVAL) naming the wrong one."""
    known = FaultSpec.__struct_fields__
    if unknown := sorted(str(name) for name in fields if name not in known):
        raise _bad(f"fault fields {unknown} are unknown, known are {', '.join(known)}")
    try:
        spec = msgspec.convert(dict(fields), FaultSpec)
    except msgspec.ValidationError as error:
        raise _bad(f"fault: {error}") from None
    check(spec)
    return spec


def check(spec: FaultSpec) -> None:
    """Refuse a fault that could never fire, or that its kind cannot do. OffloadError(EINVAL)."""
    sites = concerned(spec.site, spec.kind)
    if not sites:
        raise _bad(_why_nowhere(spec))
    if not 0.0 <= spec.probability <= 1.0:
        raise _bad(f"fault probability {spec.probability} is outside 0..1")
    for name, low in _LOW.items():
        number = getattr(spec, name)
        if number is not None and not low <= number <= VALUE_MAX:
            raise _bad(f"fault {name} {number} is outside {low}..{VALUE_MAX}")
    if spec.fail_nth is not None and (spec.skip, spec.interval, spec.times) != (0, 1, None):
        raise _bad("fault fail_nth says all, it goes with no times, skip or interval")
    offered = {fact for site in sites for fact in SITES[site].facts}
    if strange := sorted(spec.match.keys() - offered):
        known = ", ".join(sorted(offered)) or "none"
        raise _bad(f"fault site {spec.site!r} has no facts {strange} to match, known are {known}")
    for want in spec.match.values():
        if isinstance(want, int) and not 0 <= want <= U64:
            raise _bad(f"fault match of a number outside 0..{U64:#x}, facts are 64 bits at most")
    for text in (spec.name, *(str(want) for want in spec.match.values())):
        if len(text) > TEXT_MAX or not text.isprintable():
            raise _bad(f"fault text {text[:TEXT_MAX]!r} is not printable or over {TEXT_MAX} long")
    for site in sites:
        _check_kind(spec, SITES[site].kinds[spec.kind])


def _why_nowhere(spec: FaultSpec) -> str:
    below = [name for name in SITES if name == spec.site or name.startswith(spec.site + ".")]
    if not below:
        return f"fault site {spec.site!r} is unknown, known are {', '.join(SITES)}"
    kinds = ", ".join(sorted({kind for name in below for kind in SITES[name].kinds}))
    return f"fault kind {spec.kind!r} is unknown at {spec.site}, known are {kinds}"


def _check_kind(spec: FaultSpec, kind: Kind) -> None:
    for name in kind.needs:
        if getattr(spec, name) in (None, "") or (name, spec.delay_ms) == ("delay_ms", 0):
            raise _bad(f"fault kind {spec.kind!r} needs {name}: {kind.what}")
    value = spec.value
    if value is None:
        return
    if not isinstance(value, kind.value):
        types = " or ".join(type_.__name__ for type_ in kind.value)
        wanted = f"a value of type {types}" if kind.value else "no value"
        raise _bad(f"fault kind {spec.kind!r} takes {wanted}, not {value!r}: {kind.what}")
    if isinstance(value, int) and not kind.low <= value <= kind.high:
        raise _bad(f"fault value {value} of {spec.kind!r} is outside {kind.low}..{kind.high}")
    if isinstance(value, str) and len(value) > TEXT_MAX:
        raise _bad(f"fault value of {len(value)} characters, the limit is {TEXT_MAX}")
    if kind.parse is not None:
        try:
            kind.parse(value)
        except ValueError as error:
            raise _bad(f"fault value {value!r} of {spec.kind!r}: {error}") from None
    elif kind.examples and value not in kind.examples:
        raise _bad(f"fault value {value!r} of {spec.kind!r} is none of {', '.join(kind.examples)}")


def _bad(text: str) -> OffloadError:
    return OffloadError(errno.EINVAL, text)


def plain(value: object) -> str:
    """How facts are compared: `CREATE_SA` is `CreateSa`, and "0x1000" is 4096."""
    text = str(int(value) if isinstance(value, int) else value).replace("_", "").lower()
    if text.startswith("0x"):
        try:
            return str(int(text, 16))
        except ValueError:
            return text
    return text
