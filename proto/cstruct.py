# SPDX-License-Identifier: Apache-2.0
"""C structures as dataclasses: a field's metadata says how it is packed, one codec serves all."""

import struct
from dataclasses import field, fields
from typing import Any, Self, TypeGuard


def plain(format: str, default: Any) -> Any:
    """A field packed by `format`, pad bytes included (`B3x`)."""
    return field(default=default, metadata={"codec": struct.Struct("<" + format), "net": False})


def net(format: str) -> Any:
    """An integer in network byte order (`H` or `I`, pad bytes may follow)."""
    return field(default=0, metadata={"codec": struct.Struct(">" + format), "net": True})


def nested(cls: type["Struct"]) -> Any:
    """Another structure in place."""
    return field(default_factory=cls, metadata={"codec": cls})


def _is_nested(codec: Any) -> TypeGuard[type["Struct"]]:
    return isinstance(codec, type)


class Struct:
    """Base: `pack` gives the kernel's bytes, `unpack` reads them from the start of a buffer."""

    @classmethod
    def size(cls) -> int:
        """Bytes of the packed structure."""
        total = 0
        for item in fields(cls):  # type: ignore[arg-type]
            codec = item.metadata["codec"]
            total += codec.size() if _is_nested(codec) else codec.size
        return total

    def pack(self) -> bytes:
        """The structure as the kernel lays it out; raises struct.error for a value out of range."""
        parts = []
        for item in fields(self):  # type: ignore[arg-type]
            codec, value = item.metadata["codec"], getattr(self, item.name)
            parts.append(value.pack() if _is_nested(codec) else codec.pack(value))
        return b"".join(parts)

    @classmethod
    def unpack(cls, data: bytes, offset: int = 0) -> Self:
        """Read the structure at `offset`; raises struct.error when `data` is too short."""
        values = []
        for item in fields(cls):  # type: ignore[arg-type]
            codec = item.metadata["codec"]
            if _is_nested(codec):
                values.append(codec.unpack(data, offset))
                offset += codec.size()
            else:
                values.append(codec.unpack_from(data, offset)[0])
                offset += codec.size
        return cls(*values)
