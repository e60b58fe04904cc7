# SPDX-License-Identifier: Apache-2.0
"""Mailbox commands and replies: tagged MessagePack arrays. Fields are append-only."""

from enum import IntEnum, unique
from typing import Any

import msgspec

from proto.caps import Caps
from proto.xfrm import MODE_TRANSPORT, XFRM_INF

INFINITE = XFRM_INF  # no packet or byte limit (UAPI-26)
IN, OUT = 1, 2  # xfrm_dev_offload.dir (section 2.1)
ALLOW, BLOCK = 0, 1  # XFRM_POLICY_* (UAPI-23)


class Selector(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A traffic selector (UAPI-32). Addresses are 16 bytes, IPv4 in the first 4."""

    family: int = 0
    saddr: bytes = bytes(16)
    daddr: bytes = bytes(16)
    prefixlen_s: int = 0
    prefixlen_d: int = 0
    proto: int = 0
    sport: int = 0
    sport_mask: int = 0
    dport: int = 0
    dport_mask: int = 0


@unique
class ObjectKind(IntEnum):
    """Kinds of objects, users behind what they use."""

    KEY = 1
    SA = 2
    RULE = 3


class Command(msgspec.Struct, array_like=True, tag=lambda name: name, forbid_unknown_fields=True):
    """Base of all commands; the tag is the class name.

    A field that this version does not know is refused, here and in every other message: passed
    over, it could change what the rest means (F-SEC-04).

    Commands that create carry a `cookie`: 64 bits by which the driver knows the object again, also
    when it never saw the reply (ListObjects). 0: it does not care.
    """


class InitFunction(Command):
    """The host takes the card: everything of an earlier host is destroyed, rings and event queue
    begin anew, and from here on only messages of `epoch` count, which this one carries already.

    -> Reply.values: `boot`, the boot id of the card, `revision` of its commands, and `health`, the
    counter of its health record by now. Refused for 0 and for an epoch that this boot
    has seen before, so a late copy cannot bring back a host that is gone.
    """

    epoch: int


class Reset(Command):
    """A firmware reset: everything is wiped, and another boot follows. OBJECT_BUSY when another
    function of the card does not agree, and then nothing changes.

    In state ERROR from any host, whose `epoch` this one carries: the card is nobody's then.
    """

    epoch: int


class QueryCaps(Command):
    """-> Reply.caps"""


class CreateKey(Command):
    """-> Reply.handle. `key` is the AES key without salt; the card keeps only its schedule."""

    key: bytes
    cookie: int = 0

    def __repr__(self) -> str:
        return f"CreateKey(<{len(self.key) * 8} bits>)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class DestroyKey(Command):
    """Zeroes key and schedule. Refused with OBJECT_BUSY while an SA uses the key."""

    handle: int


class CreateSa(Command, kw_only=True):
    """-> Reply.handle: the SA object with its ASO block; no packet reaches it before a rule does.

    `seq` is the last sequence number used (out) or the highest seen (in), 64 bits with ESN;
    `bitmap` holds 32-bit words, as replay_esn.bmp does. `packets` and `bytes` are limits.
    `encap_sport`/`encap_dport` not 0 wrap ESP in UDP (RFC 3948).

    `mode` is MODE_TRANSPORT or MODE_TUNNEL; a tunnel's outer header goes from `saddr` to `daddr`,
    and the four flags below say how, as the kernel's of these names do. With `crypto` the host
    builds the ESP packet and the card only seals or opens it: no limit, replay check, selector or
    policy counts, and `mode` says nothing.
    """

    key: int
    salt: bytes
    icv_bytes: int
    spi: int
    family: int
    saddr: bytes
    daddr: bytes
    direction: int
    reqid: int
    selector: Selector
    esn: bool = False
    may_wrap: bool = False
    seq: int = 0
    replay_window: int = 0
    bitmap: tuple[int, ...] = ()
    packets: int = INFINITE
    soft_packets: int = INFINITE
    bytes: int = INFINITE
    encap_sport: int = 0
    encap_dport: int = 0
    mode: int = MODE_TRANSPORT
    noecn: bool = False
    decap_dscp: bool = False
    nopmtudisc: bool = False
    dont_encap_dscp: bool = False
    crypto: bool = False
    cookie: int = 0

    def __repr__(self) -> str:
        return f"CreateSa(spi={self.spi:#x}, direction={self.direction}, reqid={self.reqid})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class DestroySa(Command):
    """Refused with OBJECT_BUSY while a rule points to the SA."""

    handle: int


class SetLimits(Command, kw_only=True):
    """New limits of an SA, counted from its creation as in CreateSa; a stop that they lift ends,
    unless it was by StopSa.

    `dying`: the core saw a soft limit pass, so any other usable SA comes first (TX-13).
    """

    handle: int
    packets: int = INFINITE
    soft_packets: int = INFINITE
    bytes: int = INFINITE
    dying: bool = False


class AdvanceEsn(Command):
    """The highest sequence number (64 bits) that the host has seen on an inbound crypto SA with
    ESN; the card takes the high half from around it (REPLAY-08) and never goes back."""

    handle: int
    seq: int


class StopSa(Command):
    """Puts the SA in drop state at once and for good (the driver saw km.state EXPIRED, LIFE-18):
    no later or late command brings it back (INV-24)."""

    handle: int


class QuerySa(Command):
    """-> Reply.sa, the ASO block as read from the card. Never keys."""

    handle: int


class CreateSaRule(Command):
    """-> Reply.handle: steers packets to the SA. EXISTS for a second (daddr, SPI, protocol) in.

    Not for an outbound crypto SA: the descriptor of each packet names it.
    """

    sa: int
    cookie: int = 0


class CreatePolicyRule(Command, kw_only=True):
    """-> Reply.handle: one entry of the policy table. Lower `priority` wins, then the newest.

    `protect` False with ALLOW is a bypass; with `protect`, TX looks for an SA of `reqid`, `mode`
    and, where not zero, `spi`. Its addresses are in transport mode the packet's, in tunnel mode
    those of the template (TX-10), which inbound may be zero for any.
    """

    direction: int
    selector: Selector
    priority: int
    action: int
    protect: bool
    reqid: int = 0
    spi: int = 0
    mode: int = MODE_TRANSPORT
    tmpl_family: int = 0
    tmpl_saddr: bytes = bytes(16)
    tmpl_daddr: bytes = bytes(16)
    cookie: int = 0


class DestroyRule(Command):
    """Takes an SA rule or a policy rule out of the data path."""

    handle: int


class QueryCounters(Command):
    """-> Reply.values: port and drop counters by name."""


class QueryCensus(Command):
    """-> Reply.values: live objects by kind (keys, sas, rules_sa, rules_policy)."""


class ListObjects(Command):
    """-> Reply.objects: live objects of a kind in rows behind `after`, at most LIST_PAGE of them.

    Reply.values: `next`, the row to go on `after`, 0 at the end. With a `cookie` only objects that
    were created with it are listed.
    """

    kind: int
    after: int = 0
    cookie: int = 0


class SetPort(Command, kw_only=True):
    """MTU in bytes of the IP packet on the wire; `mac_filter` takes only frames for our MAC."""

    mtu: int
    mac_filter: bool = False


class Fence(Command):
    """-> Reply.values: producer indices (rx, events, wire) after all that arrived before it.

    `tx` is the index behind the last transmit descriptor that arrived, `queued` of which wait for
    the wire; `tx_done` and `rx_done` are those up to which descriptors are completed and slots free
    again; `tx_state`, `rx_state` a queue.QueueState. So a host finds whatever got lost.
    """


class Teardown(Command):
    """Destroys every object; the host keeps the card."""


class SetQueue(Command):
    """Moves a queue along an edge of queue.EDGES. To RDY, `index` is that of the next descriptor
    (TX). -> Reply.values: `index`, that of the next packet (RX) or descriptor (TX).
    """

    queue: int
    state: int
    index: int = 0


AnyCommand = (
    QueryCaps | CreateKey | DestroyKey | CreateSa | DestroySa | SetLimits | AdvanceEsn | StopSa
    | QuerySa | CreateSaRule | CreatePolicyRule | DestroyRule | QueryCounters | QueryCensus
    | SetPort | Fence | Teardown | SetQueue | InitFunction | ListObjects | Reset
)  # fmt: skip


class SaState(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An ASO block as read: what changes per packet.

    `remaining` and `soft_remaining` count packets down to 0; `hard_arm` and `soft_arm` are one-shot
    and clear when their event was raised; `stopped` means that the SA drops everything. `handle`
    and `generation` say whose it is (F-LIM-11).
    """

    generation: int
    seq: int
    window: tuple[int, ...]
    remaining: int
    soft_remaining: int
    soft_arm: bool
    hard_arm: bool
    stopped: bool
    packets: int
    bytes: int
    replay: int
    replay_window: int
    integrity_failed: int
    trailer: int
    selector: int
    handle: int = 0


class ObjectInfo(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A live object as listed. `uses`: the handle of the key under an SA, of the SA under a rule,
    0 under a policy rule; `spi` of SAs and their rules."""

    handle: int
    generation: int
    cookie: int = 0
    uses: int = 0
    spi: int = 0


class Reply(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Answer to the command with the same token. `status` is a Status, `text` says what and why.

    With a `delivery` (proto.status.Delivery) other than OK the firmware never saw the command.
    """

    token: int
    status: int = 0
    syndrome: int = 0
    text: str = ""
    handle: int = 0
    generation: int = 0
    caps: Caps | None = None
    sa: SaState | None = None
    values: dict[str, int] = {}
    delivery: int = 0
    objects: tuple[ObjectInfo, ...] | None = None


class Request(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What travels to the card: the token of the mailbox slot and the command.

    `token % MAILBOX_SLOTS` is the slot, the rest a running generation, so no token is used twice. A
    card executes a token once: when the token of a slot comes again (doubled, or sent again because
    the reply was lost) it repeats the reply that it gave. One that is older than the slot's last
    was held up on the way; its command is not executed.
    """

    token: int
    command: AnyCommand
