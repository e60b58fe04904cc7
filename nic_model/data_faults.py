# SPDX-License-Identifier: Apache-2.0
"""Faults of the data path, around the kernels: sites card.tx, card.seal, card.rx.

    descriptor -> card.tx -> sealed -> card.seal -> wire
    wire -> card.rx: before it is opened (Arrival), and in what its descriptor says (describe)

What they do is what broken hardware might do that is still closed: nothing here sends in clear what
must be protected, or uses a sequence number twice.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nic_model.asking import Asking, number
from nic_model.tables import Tables, handle_of
from proto.commands import IN
from proto.faults import Fired
from proto.layouts import TxFlag
from proto.limits import BUFFER_BYTES, ETHERNET_BYTES
from proto.queue import CompletionError
from proto.wire import esp_spi

SITE_TX, SITE_SEAL, SITE_RX = "card.tx", "card.seal", "card.rx"

Bytes = npt.NDArray[np.uint8]

_CHECKSUM_AT = ETHERNET_BYTES + 10
_LAST_GENERATION = (1 << 32) - 1


class Departure(NamedTuple):
    """What happens to a descriptor: `syndrome` 0 is no error completion."""

    dropped: bool = False
    syndrome: int = 0
    stall: Fired | None = None
    unwritten: bool = False


def judge_descriptor(asking: Asking, descriptor: np.void) -> Departure:
    """Ask card.tx."""
    departure = Departure()
    facts = {
        "bytes": int(descriptor["length"]),
        "protect": int(bool(descriptor["flags"] & TxFlag.PROTECT)),
        "handle": 0 if descriptor["flags"] & TxFlag.SEGMENT else int(descriptor["handle"]),
    }
    for fired in asking.fire(SITE_TX, **facts):
        if fired.kind == "drop":
            departure = departure._replace(dropped=True)
        elif fired.kind == "error":
            syndrome = number(fired, CompletionError.LOCAL_QUEUE_OPERATION)
            departure = departure._replace(syndrome=syndrome)
        elif fired.kind == "unwritten":
            departure = departure._replace(unwritten=True)
        else:
            departure = departure._replace(stall=fired)
    return departure


def alter_sealed(asking: Asking, sealed: bytes) -> bytes:
    """Ask card.seal for a frame that is about to leave; -> what leaves."""
    frame, length = np.frombuffer(bytearray(sealed), np.uint8), len(sealed)
    spi = esp_spi(sealed)
    for fired in asking.fire(SITE_SEAL, spi=spi, bytes=length):
        if fired.kind == "truncate":
            length = max(ETHERNET_BYTES, length - number(fired, 1))
        elif fired.kind == "corrupt-icv" and spi is not None:
            frame[length - 1] ^= 1
        elif fired.kind == "skip-checksum" and frame[12:14].tobytes() == b"\x08\x00":
            frame[_CHECKSUM_AT : _CHECKSUM_AT + 2] ^= 0xFF
    return frame[:length].tobytes()


class Arrival(NamedTuple):
    """What happens to a frame from the wire; `described` changes its descriptor afterwards."""

    dropped: bool = False
    no_buffer: bool = False
    raw: bool = False
    described: tuple[Fired, ...] = ()


def judge_frame(asking: Asking, frame: Bytes) -> Arrival:
    """Ask card.rx."""
    arrival = Arrival()
    spi = esp_spi(frame.tobytes())
    for fired in asking.fire(SITE_RX, spi=spi, bytes=len(frame)):
        match fired.kind:
            case "drop":
                arrival = arrival._replace(dropped=True)
            case "no-buffer":
                arrival = arrival._replace(no_buffer=True)
            case "verdict-lost":
                arrival = arrival._replace(raw=spi is not None)  # IN policies need no verdict
            case _:
                arrival = arrival._replace(described=(*arrival.described, fired))
    return arrival


def describe(t: Tables, descriptor: np.void, fired: Fired) -> None:
    """Let a receive descriptor say something else."""
    match fired.kind:
        case "short":
            descriptor["length"] = max(0, int(descriptor["length"]) - number(fired, 1))
        case "long":
            descriptor["length"] = min(0xFFFF, int(descriptor["length"]) + number(fired, 1))
        case "outside":
            descriptor["offset"] += BUFFER_BYTES
        case "stale-handle" if descriptor["handle"]:
            generation = (int(descriptor["generation"]) - 1) & _LAST_GENERATION
            descriptor["generation"] = generation
        case "unknown-handle" if descriptor["handle"]:
            descriptor["handle"] ^= 0x5555
        case "wrong-handle" if descriptor["handle"]:
            _name_another(t, descriptor, fired)


def _name_another(t: Tables, descriptor: np.void, fired: Fired) -> None:
    row = int(descriptor["handle"]) & 0xFF_FFFF
    others = [
        int(other) for other in live_sas(t) if t.sa[other]["direction"] == IN and other != row
    ]
    if others:
        other = fired.rng.choice(others)
        generation = int(t.sa[other]["generation"])
        descriptor["handle"] = handle_of(other, generation)
        descriptor["generation"] = generation


def live_sas(t: Tables) -> npt.NDArray[np.int64]:
    """Rows of all SAs."""
    return np.flatnonzero(t.sa["generation"])
