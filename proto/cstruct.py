# SPDX-License-Identifier: Apache-2.0
"""C structures as dataclasses: a field's metadata says how it is packed, one codec serves all.

Each class is compiled once, when it is first used, to one `struct.Struct` for all its members,
those of nested structures included.
"""

import struct
from collections.abc import Iterator
from dataclasses import field, fields
from typing import Any, NamedTuple, Self


def plain(format: str, default: Any) -> Any:
    """A field packed by `format`, pad bytes included (`B3x`)."""
    return field(default=default, metadata={"format": format, "net": False})


def net(format: str) -> Any:
    """An integer in network byte order (`H` or `I`, pad bytes may follow)."""
    return field(default=0, metadata={"format": format, "net": True})


def nested(cls: type["Struct"]) -> Any:
    """Another structure in place."""
    return field(default_factory=cls, metadata={"nested": cls})


class _Member(NamedTuple):
    """A field: a structure (`nested`), or a value that `swap` bytes turn around (0: none)."""

    name: str
    nested: type["Struct"] | None
    swap: int


class _Layout(NamedTuple):
    codec: struct.Struct
    members: tuple[_Member, ...]


_LAYOUTS: dict[type, _Layout] = {}


def _layout(cls: type["Struct"]) -> _Layout:
    if cls not in _LAYOUTS:
        _LAYOUTS[cls] = _compile(cls)
    return _LAYOUTS[cls]


def _compile(cls: Any) -> _Layout:
    formats, members = [], []
    for item in fields(cls):
        inner = item.metadata.get("nested")
        format = _layout(inner).codec.format[1:] if inner else item.metadata["format"]
        swap = struct.calcsize(format[0]) if item.metadata.get("net") else 0
        formats.append(format)
        members.append(_Member(item.name, inner, swap))
    return _Layout(struct.Struct("<" + "".join(formats)), tuple(members))


def _swapped(value: int, size: int) -> int:
    """The number whose bytes stand the other way round; one that does not fit stays as it is."""
    if not 0 <= value < 1 << 8 * size:
        return value
    return int.from_bytes(value.to_bytes(size, "big"), "little")


class Struct:
    """Base: `pack` gives the kernel's bytes, `unpack` reads them from the start of a buffer."""

    @classmethod
    def size(cls) -> int:
        """Bytes of the packed structure."""
        return _layout(cls).codec.size

    def pack(self) -> bytes:
        """The structure as the kernel lays it out; raises struct.error for a value out of range."""
        values: list[Any] = []
        self._flatten(values)
        return _layout(type(self)).codec.pack(*values)

    @classmethod
    def unpack(cls, data: bytes, offset: int = 0) -> Self:
        """Read the structure at `offset`; raises struct.error when `data` is too short."""
        return cls._build(iter(_layout(cls).codec.unpack_from(data, offset)))

    def _flatten(self, values: list[Any]) -> None:
        for name, inner, swap in _layout(type(self)).members:
            value = getattr(self, name)
            if inner is not None:
                value._flatten(values)
            else:
                values.append(_swapped(value, swap) if swap else value)

    @classmethod
    def _build(cls, values: Iterator[Any]) -> Self:
        return cls(
            *(
                inner._build(values)
                if inner is not None
                else _swapped(next(values), swap)
                if swap
                else next(values)
                for _, inner, swap in _layout(cls).members
            )
        )
