# SPDX-License-Identifier: Apache-2.0
"""The card's tables as one argument of a kernel.

numba looks at each array of each argument in every call: with two dozen of them that takes longer
than dozens of packets. So a kernel of the packet path is handed one array of words, `Tables.where`,
and makes the tables of it: `t = tables_at(where)`.

With NUMBA_DISABLE_JIT it is handed the tables themselves.
"""

from typing import Any

from nic_model.jit import config, intrinsic, numba, populate_array
from nic_model.tables import Tables, make_tables
from proto.caps import PROFILES


def handed(t: Tables) -> Any:
    """What a kernel that begins with `tables_at` is called with."""
    return t if config.DISABLE_JIT else t.where


@intrinsic
def _tables_at(_typing: Any, where: Any) -> Any:
    like = make_tables(PROFILES["tiny"])  # tables of all cards are of the same types
    kind = numba.typeof(like)

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        words = context.make_array(signature.args[0])(context, builder, args[0]).data

        def word(at: int) -> Any:
            index = context.get_constant(numba.types.intp, at)
            return builder.load(builder.gep(words, [index]))

        at, tables = 0, []
        for name, its_kind in zip(like._fields[:-1], kind.types[:-1], strict=True):
            table = getattr(like, name)
            shape = [word(at + 1 + axis) for axis in range(table.ndim)]
            strides = [context.get_constant(numba.types.intp, table.itemsize)]
            for length in shape[:0:-1]:
                strides.insert(0, builder.mul(strides[0], length))
            array = context.make_array(its_kind)(context, builder)
            data = builder.inttoptr(word(at), array.data.type)
            populate_array(array, data, shape, strides, table.itemsize, None)
            tables.append(array._getvalue())
            at += 1 + table.ndim
        return context.make_tuple(builder, kind, [*tables, args[0]])

    return kind(where), build


def _same(t: Tables) -> Tables:
    return t


tables_at = _same if config.DISABLE_JIT else _tables_at
