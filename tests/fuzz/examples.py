# SPDX-License-Identifier: Apache-2.0
"""A message of every kind of a union, so that a new kind is fuzzed without anybody thinking of it.

What the values mean is not known here; targets have seeds of their own that are meaningful.
"""

from typing import Any, get_args

import msgspec
from msgspec import inspect


def examples(union: Any) -> list[Any]:
    """A tree for each struct of a tagged union, with all its fields."""
    return [example(kind) for kind in get_args(union)]


def example(kind: type[msgspec.Struct]) -> Any:
    """A tree for one struct."""
    return _struct(inspect.type_info(kind))


def _struct(info: Any) -> Any:
    values = {field.encode_name: _value(field) for field in info.fields}
    if info.array_like:
        return [*([info.tag] if info.tag is not None else []), *values.values()]
    return {**({info.tag_field: info.tag} if info.tag is not None else {}), **values}


def _value(field: inspect.Field) -> Any:
    if field.default is not inspect.NODEFAULT:
        return msgspec.to_builtins(field.default, builtin_types=(bytes,))
    if field.default_factory is not inspect.NODEFAULT:
        return msgspec.to_builtins(field.default_factory(), builtin_types=(bytes,))
    return _of(field.type)


def _of(type: Any) -> Any:
    match type:
        case inspect.StructType():
            return _struct(type)
        case inspect.UnionType():
            return _of(type.types[0])
        case inspect.IntType():
            return 1
        case inspect.FloatType():
            return 1.5
        case inspect.BoolType():
            return True
        case inspect.StrType():
            return "x"
        case inspect.BytesType():
            return bytes(16)
        case inspect.DictType():
            return {}
        case inspect.NoneType():
            return None
        case _:
            return []
