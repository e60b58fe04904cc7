# SPDX-License-Identifier: Apache-2.0
"""How inputs are changed: bytes as bytes, and trees (what MessagePack holds) as trees."""

import random
from collections.abc import Callable, Sequence
from typing import Any

NUMBERS = sorted(
    {0, 1, 2, 3, 4, 7, 8, 10, 16, 20, 50, 64, 100, 255, 1000, 4096}
    | {2**n + d for n in (7, 8, 15, 16, 24, 31, 32, 47, 62, 63) for d in (-1, 0, 1)}
    | {-1, -2, -128, -(2**31), -(2**63), 2**64 - 1}
)
INPUT_MAX_BYTES = 4096


def mutate_bytes(
    rng: random.Random, data: bytes, other: bytes = b"", words: Sequence[bytes] = ()
) -> bytes:
    """One to six changes of `data`; `other` is spliced in, `words` are inserted and put over."""
    changed = bytearray(data)
    for _ in range(1 + min(5, int(rng.expovariate(0.7)))):
        rng.choice(_BYTE_CHANGES)(rng, changed, other, words)
    return bytes(changed[:INPUT_MAX_BYTES])


def _span(rng: random.Random, data: bytearray) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + 1 + int(rng.expovariate(0.15)))


def _flip(rng: random.Random, data: bytearray, other: bytes, words: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(rng: random.Random, data: bytearray, other: bytes, words: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))


def _number(rng: random.Random, data: bytearray, other: bytes, words: Sequence[bytes]) -> None:
    """A number of 1, 2, 4 or 8 bytes over what stands there."""
    width = rng.choice((1, 2, 4, 8))
    if len(data) >= width:
        at = rng.randrange(len(data) - width + 1)
        order = rng.choice(("little", "big"))
        old = int.from_bytes(data[at : at + width], order)
        new = rng.choice((rng.choice(NUMBERS), old + 1, old - 1, old * 2))
        data[at : at + width] = (new % (1 << 8 * width)).to_bytes(width, order)


def _delete(rng: random.Random, data: bytearray, other: bytes, words: Sequence[bytes]) -> None:
    start, end = _span(rng, data)
    del data[start:end]


def _double(rng: random.Random, data: bytearray, other: bytes, words: Sequence[bytes]) -> None:
    start, end = _span(rng, data)
    data[end:end] = data[start:end] * rng.choice((1, 1, 2, 40))


def _insert(rng: random.Random, data: bytearray, other: bytes, words: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(1 + int(rng.expovariate(0.3)))


def _cut(rng: random.Random, data: bytearray, other: bytes, words: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _splice(rng: random.Random, data: bytearray, other: bytes, words: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:] = other[rng.randrange(len(other) + 1) :]


def _word(rng: random.Random, data: bytearray, other: bytes, words: Sequence[bytes]) -> None:
    if words:
        word, at = rng.choice(words), rng.randrange(len(data) + 1)
        data[at : at + len(word) * rng.randrange(2)] = word


_BYTE_CHANGES: tuple[Callable[[random.Random, bytearray, bytes, Sequence[bytes]], None], ...] = (
    _flip, _flip, _set, _set, _number, _number, _delete, _double, _insert, _cut, _splice,
    _word, _word,
)  # fmt: skip


def mutate_tree(rng: random.Random, tree: Any, other: Any = None) -> Any:
    """A copy of `tree` (lists, dicts and plain values) with one to four nodes changed; nodes of
    `other` may take their place."""
    for _ in range(1 + min(3, int(rng.expovariate(1.0)))):
        places = list(_places(tree))
        if not places:
            return _leaf(rng, tree)
        donors = [node for _, _, node in _places(other)] or [None]
        path, _, node = rng.choice(places)
        tree = _replace(tree, path, _node(rng, node, donors))
    return tree


Path = tuple[Any, ...]


def _places(tree: Any, path: Path = ()) -> Any:
    """(path, parent, node) of every node below the root."""
    items: Any = ()
    if isinstance(tree, list):
        items = enumerate(tree)
    elif isinstance(tree, dict):
        items = tree.items()
    for key, node in items:
        yield (*path, key), tree, node
        yield from _places(node, (*path, key))


def _replace(tree: Any, path: Path, node: Any) -> Any:
    """`tree` with another node at `path`; what is not on the way is shared."""
    if not path:
        return node
    copy = tree.copy()
    copy[path[0]] = _replace(tree[path[0]], path[1:], node)
    return copy


def _node(rng: random.Random, node: Any, donors: list[Any]) -> Any:
    """Another node in the place of this one."""
    if isinstance(node, list) and rng.random() < 0.6:
        return _items(rng, node, donors)
    if rng.random() < 0.12:
        return rng.choice(donors)
    return _leaf(rng, node)


def _items(rng: random.Random, items: list[Any], donors: list[Any]) -> list[Any]:
    items = list(items)
    at = rng.randrange(len(items) + 1)
    change = rng.randrange(5)
    if change == 0 and items:
        del items[at % len(items)]
    elif change == 1 and items:
        items.insert(at, rng.choice(items))
    elif change == 2:
        items.insert(at, rng.choice(donors))
    elif change == 3:
        del items[at:]
    else:
        rng.shuffle(items)
    return items


def _leaf(rng: random.Random, node: Any) -> Any:
    """A value of the same type most of the time."""
    if rng.random() < 0.1:
        return rng.choice((None, True, rng.choice(NUMBERS), "", "x", b"", b"\0" * 16, [], {}, 1.5))
    if isinstance(node, bool):
        return not node
    if isinstance(node, int):
        return rng.choice((rng.choice(NUMBERS), node + 1, node - 1, node ^ 1 << rng.randrange(32)))
    if isinstance(node, bytes):
        return mutate_bytes(rng, node)
    if isinstance(node, str):
        return mutate_bytes(rng, node.encode()).decode(errors="replace")
    return rng.choice((0, 1, "", b"", [], [node]))
