# SPDX-License-Identifier: Apache-2.0
"""Where faults can happen and what they can be: the one table behind checks, help and documents.

A site belongs to one party, which asks its own table of armed faults there. At a message site every
message passes through `FaultTable.apply`, and the kinds of MESSAGE_KINDS are done by the table;
what else a site offers it does itself, told by `FaultTable.fire`.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from proto.faults.values import BEFORE, parse_delivery, parse_status, parse_syndrome

VALUE_MAX = (1 << 63) - 1

Party = Literal["host", "card", "wire"]


class Kind(NamedTuple):
    """What a fault does. `value`: the types that FaultSpec.value may have, none = it takes none.

    A number lies in low..high. A text is one of `examples`, or `parse` reads it (ValueError says
    that it cannot). `needs` names fields without which the kind means nothing.
    """

    what: str
    value: tuple[type[int] | type[str], ...] = ()
    low: int = 0
    high: int = VALUE_MAX
    needs: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    parse: Callable[[object], object] | None = None


class Site(NamedTuple):
    """One place. `facts` are what `match` may name; `lane` the fact that tells streams apart whose
    messages have no order among each other; `messages` whether bytes pass here."""

    party: Party
    what: str
    kinds: Mapping[str, Kind]
    facts: tuple[str, ...] = ()
    messages: bool = False
    lane: str = ""


MESSAGE_KINDS: dict[str, Kind] = {
    "drop": Kind("the message is gone"),
    "duplicate": Kind("it comes again, `value` times (1)", (int,), 1, 64),
    "corrupt": Kind("bit `value` flips (drawn)", (int,)),
    "truncate": Kind("`value` bytes of it are left (0)", (int,)),
    "extend": Kind("`value` drawn bytes follow it (1)", (int,), 1, 512),
    "delay": Kind("held `delay_ms` and a drawn part of `value` ms (0)", (int,), 0, 86_400_000,
                  ("delay_ms",)),
    "reorder": Kind("held until `value` later ones have passed (1), at most `delay_ms` (1000)",
                    (int,), 1, 1024),
    "outage": Kind("it and all that come within `delay_ms` are gone", needs=("delay_ms",)),
    "burst": Kind("it and the next ones are gone, `value` in all", (int,), 1, needs=("value",)),
}  # fmt: skip
FRAGMENT = Kind("it comes in IPv4 fragments of `value` bytes (64), in a drawn order", (int,), 8)
RATE = Kind("the stream gets no more than `value` bytes a second", (int,), 1, needs=("value",))

_STATUS = "STATUS[:SYNDROME[:text]], names or numbers"
_STATUSES = ("INTERNAL_ERROR", "NO_RESOURCES:TABLE_FULL", "OBJECT_BUSY", "77:0xdead:unheard of")
COMMAND_KINDS = {
    "status": Kind(f"it is not executed, its reply says `value`: {_STATUS}", (int, str),
                   needs=("value",), examples=_STATUSES, parse=parse_status),
    "misreport": Kind(f"it is executed, its reply says `value`: {_STATUS}", (int, str),
                      needs=("value",), examples=_STATUSES, parse=parse_status),
    "silent": Kind("it is executed and not answered; `value` before: not executed either", (str,),
                   examples=(BEFORE,)),
    "delay": Kind("its reply comes `delay_ms` late; `value` before: it is executed late", (str,),
                  needs=("delay_ms",), examples=(BEFORE,)),
    "undelivered": Kind("it is not executed, its reply has delivery status `value`", (int, str),
                        needs=("value",), examples=("SIGNATURE", "TOKEN", "INPUT_LENGTH", "77"),
                        parse=parse_delivery),
    "wrong-token": Kind("it is executed, its reply carries a token that was never given"),
    "truncated": Kind("it is executed, its reply ends behind the status"),
    "other-shape": Kind("it is executed, its reply holds what another command's would"),
}  # fmt: skip
NEW_OBJECT_KINDS = {
    "zero-handle": Kind("it is made, its reply has no handle"),
    "alias": Kind("it is made, its reply has the handle of another one"),
    "phantom": Kind("its reply has a handle, but it is not there"),
}
OBJECT_FACTS = ("table", "op")

_FURTHER = 4096  # what an index jumps without a `value`: beyond every ring
RING_KINDS = {
    **MESSAGE_KINDS,
    "index": Kind(f"its index is `value` off ({_FURTHER}), its check is right", (int,), -VALUE_MAX),
    "count": Kind("its count is `value` off (1), its check is right", (int,), -65_535, 65_535),
}
TX_KINDS = {
    "drop": Kind("the engine fails on it: dropped as ENGINE"),
    "error": Kind("it completes with syndrome `value` (2), and the queue stops", (int,), 1, 255),
    "stall": Kind("the queue stands still for `delay_ms`", needs=("delay_ms",)),
    "unwritten": Kind("its slot is read before the host has written it"),
}
SEAL_KINDS = {
    "corrupt-icv": Kind("the last byte flips"),
    "truncate": Kind("the last `value` bytes are missing (1)", (int,), 1),
    "skip-checksum": Kind("the checksum of its IPv4 header is not what it should be"),
}
RX_KINDS = {
    "drop": Kind("the engine fails on it: dropped as ENGINE"),
    "no-buffer": Kind("it finds no receive slot"),
    "verdict-lost": Kind("native ESP is delivered as it came, as if no SA were there for it"),
    "wrong-handle": Kind("its descriptor names another live inbound SA, if there is one"),
    "stale-handle": Kind("its descriptor names an earlier SA of that row"),
    "unknown-handle": Kind("its descriptor names no SA"),
    "short": Kind("its descriptor is `value` bytes short (1)", (int,), 1),
    "long": Kind("its descriptor is `value` bytes long (1)", (int,), 1),
    "outside": Kind("its descriptor points to the next slot"),
    "unwritten": Kind("it is announced, and its slot not written yet"),
}
COUNTER_KINDS = {
    "lost": Kind("nothing is reported"),
    "stale": Kind("what was reported last time is reported again"),
    "torn": Kind("one half is of another moment: packets are 2^32 off"),
    "backwards": Kind("`value` packets fewer than there were (1)", (int,), 1),
    "skew": Kind("failures are newer than packets, by `value` (1)", (int,), 1),
    "foreign": Kind("it is another SA's, if there is one"),
}
EVENT_KINDS = {
    "drop": Kind("it is never written"),
    "duplicate": Kind("it is written again, `value` times (1)", (int,), 1, 64),
    "wrong-id": Kind("it names an object that there is not"),
    "wrong-generation": Kind("it names an earlier object of that handle"),
    "unknown-type": Kind("its type is `value` (99)", (int,), 0, 255),
    "flood": Kind("`value` others are written before it (4096)", (int,), 1, 65_536),
}
INTERRUPT_KINDS = {
    "lost": Kind("it does not come; the entries wait"),
    "duplicate": Kind("it comes twice"),
    "spurious": Kind("one without entries comes before it"),
}
WORK_KINDS = {
    "lost": Kind("there is no memory for it: it is forgotten"),
    "delay": Kind("it begins `delay_ms` late", needs=("delay_ms",)),
}

_SYNDROMES = ("TEMPERATURE", "0x8")
PROCESS_KINDS = {
    "crash": Kind("the firmware ends here; only a restart brings the card back"),
    "hang": Kind("it does nothing for `delay_ms`, and then goes on", needs=("delay_ms",)),
}
HEALTH_KINDS = {
    "freeze": Kind("the health counter stands still"),
    "drift": Kind("until the next one passes `value` percent more time than should", (int,),
                  -90, 10_000, needs=("value",)),
    "syndrome": Kind("the record names a syndrome, not a fatal one", (int, str),
                     examples=_SYNDROMES, parse=parse_syndrome),
    "fatal": Kind("the card stops with a syndrome and asks for a reset", (int, str),
                  examples=_SYNDROMES, parse=parse_syndrome),
}  # fmt: skip
RESET_KINDS = {
    "refuse": Kind("another function of the card does not agree: nothing changes"),
    "slow": Kind("initialising takes `delay_ms` longer", needs=("delay_ms",)),
}

SITES: dict[str, Site] = {
    "mailbox.command": Site(
        "host", "a command on its way to the card", MESSAGE_KINDS, ("opcode",), messages=True
    ),
    "mailbox.reply": Site(
        "host", "a reply on its way to the driver", MESSAGE_KINDS, ("opcode",), messages=True
    ),
    "events": Site(
        "host", "one event on its way to the driver", MESSAGE_KINDS, ("type", "handle"),
        messages=True,
    ),
    "ring.tx": Site("host", "the doorbell of transmit descriptors", RING_KINDS, messages=True),
    "ring.tx_done": Site("host", "completions of transmit descriptors", RING_KINDS, messages=True),
    "ring.rx": Site("host", "received descriptors", RING_KINDS, messages=True),
    "ring.rx_done": Site("host", "receive slots on their way back", RING_KINDS, messages=True),
    "ring.arm": Site("host", "the doorbell that arms the event queue", RING_KINDS, messages=True),
    "ring.counters": Site("host", "counter records of SAs", MESSAGE_KINDS, messages=True),
    "host.clock": Site(
        "host", "the core's clock, read once a moment by each host",
        {"forward": Kind("it goes on by `value` seconds at once, as after a suspend", (int,), 1,
                         10 * 365 * 86_400, needs=("value",))},
    ),
    "host.timer": Site(
        "host", "a timer that is due; timers are command, core, reconcile",
        {
            "late": Kind("it runs `delay_ms` later", needs=("delay_ms",)),
            "coarse": Kind("it runs at the next multiple of `value` ms", (int,), 1, 60_000,
                           needs=("value",)),
        },
        ("timer",),
    ),
    "host.work": Site("host", "work that an event puts off; work is read",
                      WORK_KINDS, ("work", "spi")),
    "card.command": Site("card", "a command in the firmware", COMMAND_KINDS, ("opcode",)),
    "card.table": Site(
        "card", "a row for a new object; tables are keys, sas, rules",
        {"full": Kind("there is none: NO_RESOURCES")}, OBJECT_FACTS,
    ),
    "card.object.create": Site("card", "a new object", NEW_OBJECT_KINDS, OBJECT_FACTS),
    "card.object.destroy": Site(
        "card", "an object that is to go",
        {"undead": Kind("it stays, and the reply says OK")}, OBJECT_FACTS,
    ),
    "host.step": Site(
        "host", "a step of xdo_dev_state_add or xdo_dev_policy_add",
        {"fail": Kind("it fails with errno `value` (ENOMEM)", (int,), 1, 4095)}, ("call", "step"),
    ),
    "mailbox.interrupt": Site(
        "host", "the interrupt of a reply",
        {"lost": Kind("the reply lies there until somebody looks")}, ("opcode",),
    ),
    "card.tx": Site("card", "a transmit descriptor in the card", TX_KINDS,
                    ("bytes", "protect", "handle")),
    "card.seal": Site("card", "a frame that leaves the card", SEAL_KINDS, ("spi", "bytes")),
    "card.rx": Site("card", "a frame that the card receives", RX_KINDS, ("spi", "bytes")),
    "card.counters": Site(
        "card", "totals of an SA; source is record or query", COUNTER_KINDS,
        ("source", "handle", "spi"),
    ),
    "card.events": Site("card", "an event in the card", EVENT_KINDS, ("type", "handle")),
    "card.interrupt": Site("card", "the interrupt of the event queue", INTERRUPT_KINDS),
    "card.process": Site(
        "card", "the firmware, before each message", PROCESS_KINDS, ("channel", "kind")
    ),
    "card.health": Site("card", "each record of its health", HEALTH_KINDS, ("state",)),
    "card.reset": Site(
        "card", "a reset; levels are function, firmware, and boot after it", RESET_KINDS,
        ("level",),
    ),
    "wire": Site(
        "wire", "a frame between the cards", {**MESSAGE_KINDS, "rate": RATE, "fragment": FRAGMENT},
        ("src", "dst", "esp", "spi"), messages=True, lane="dst",
    ),
}  # fmt: skip


def concerned(site: str, kind: str) -> frozenset[str]:
    """The sites that a fault at `site` means: that one, or all below it, where the kind exists."""
    return frozenset(
        name
        for name, offered in SITES.items()
        if (name == site or name.startswith(site + ".")) and kind in offered.kinds
    )


def done_by_table(site: str, kind: str) -> bool:
    """Whether `FaultTable.apply` does this kind there; else the site asks `FaultTable.fire`."""
    return SITES[site].messages and (kind in MESSAGE_KINDS or kind == "rate")
