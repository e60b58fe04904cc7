# SPDX-License-Identifier: Apache-2.0
"""What a fuzzer asks of a target, and what every target asks of what it fuzzes.

    reset      a fresh state, the same each time
    run        one input; raises nothing but `Finding`, and tells what happened
    check      a valid request still works, and what is held is what was accepted

An input is bytes. A target whose inputs have structure keeps them as MessagePack trees.
"""

import random
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from fuzz.mutate import INPUT_MAX_BYTES, mutate_bytes, mutate_tree


class Finding(AssertionError):
    """What a target saw that must not be; any other exception is a finding as well."""


@dataclass(slots=True)
class Outcome:
    """What came of one input: messages (or files, lines) offered and refused, and whatever tells
    one behaviour from another: statuses, drop reasons, texts without their numbers."""

    offered: int = 1
    refused: int = 0
    features: set[Hashable] = field(default_factory=set)


class Target(Protocol):
    """One reader of input."""

    name: str
    files: tuple[str, ...]  # whose lines count as coverage

    def seeds(self) -> list[bytes]:
        """Valid inputs of every sort."""

    def mutate(self, rng: random.Random, data: bytes, other: bytes) -> bytes:
        """Another input, by changing `data`; parts of `other` may be used."""

    def reset(self) -> None:
        """A fresh state, the same each time."""

    def run(self, data: bytes) -> Outcome:
        """Feed one input. Raises Finding."""

    def check(self) -> None:
        """After some inputs: all is well. Raises Finding."""


def require(fact: object, what: str) -> None:
    """Raise Finding where something is not as it must be."""
    if not fact:
        raise Finding(what)


def plain(text: str) -> str:
    """A text without its numbers and quotations, so that one complaint is one feature."""
    return re.sub(r"0x[0-9a-f]+|\d+|'[^']*'|\"[^\"]*\"", "#", text)[:120]


class Trees:
    """Base of targets whose inputs are MessagePack trees; anything else is run as `["raw", ...]`
    by the target's own rules, or is an empty tree."""

    words: Sequence[bytes] = ()

    def mutate(self, rng: random.Random, data: bytes, other: bytes) -> bytes:
        """Mostly as a tree."""
        if rng.random() < 0.05:
            return mutate_bytes(rng, data, other, self.words)
        tree = mutate_tree(rng, tree_of(data), tree_of(other))
        try:
            encoded = msgspec.msgpack.encode(tree)
        except (OverflowError, ValueError, RecursionError):
            return data
        return encoded if len(encoded) <= INPUT_MAX_BYTES else data


def tree_of(data: bytes) -> Any:
    """The tree, or an empty one."""
    try:
        return msgspec.msgpack.decode(data, strict=True)
    except (ValueError, RecursionError, TypeError):
        return []


def encode(tree: Any) -> bytes:
    """The input of a tree."""
    return msgspec.msgpack.encode(tree)
