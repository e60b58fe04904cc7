# SPDX-License-Identifier: Apache-2.0
"""SAs and policies that a card takes, in three forms: `ip xfrm` text, netlink bytes, a dict.

    sa = draw(sas(card="cx6dx", direction="out"))
    host.ip(sa.text("nic0"))                          # the words
    host.netlink(sa.request(host.nic.ifindex))        # NEWSA, the same SA
    sa.as_dict()                                      # for models and reports, without the key

What a strategy draws keeps the limits of the card that it is given, so a driver which refuses one
has a reason of its own: a full table, an SA that is there already.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from host_driver.conformance import messages, texts
from host_driver.testing.values import (
    TrafficSelector,
    address_pairs,
    families,
    keys,
    ports,
    selectors,
    spis,
)  # fmt: skip
from proto.caps import parse_card
from proto.xfrm import (
    ENCAP_ESPINUDP,
    MODE_TRANSPORT,
    MODE_TUNNEL,
    OFFLOAD_INBOUND,
    OFFLOAD_PACKET,
    POLICY_ALLOW,
    POLICY_BLOCK,
    POLICY_IN,
    POLICY_OUT,
    SA_DIR_IN,
    SA_DIR_OUT,
    STATE_ESN,
    Attr,
    Msg,
)
from proto.xfrm_structs import EncapTmpl, LifetimeCfg, ReplayStateEsn

MODES = {"transport": MODE_TRANSPORT, "tunnel": MODE_TUNNEL}
REQIDS = range(1, 5)  # few, so that policies and SAs meet
LEGACY_WINDOW = 32  # above it the window travels in REPLAY_ESN_VAL (CLI-16)
LIMIT_WORDS = {
    "packet-soft": "soft_packet_limit", "packet-hard": "hard_packet_limit",
    "byte-soft": "soft_byte_limit", "byte-hard": "hard_byte_limit",
    "time-soft": "soft_add_expires_seconds", "time-hard": "hard_add_expires_seconds",
}  # fmt: skip


@dataclass(frozen=True)
class Sa:
    """An ESP SA with AES-GCM. `limits` are pairs like ("packet-hard", 100); `encap` UDP ports.

    `offload` is "packet", "crypto", or None for software; the key shows in no repr.
    """

    spi: int
    src: str
    dst: str
    direction: str
    key: bytes = field(repr=False)
    reqid: int = 1
    mode: str = "transport"
    icv_bits: int = 128
    window: int = 0
    esn: bool = False
    limits: tuple[tuple[str, int], ...] = ()
    encap: tuple[int, int] | None = None
    offload: str | None = "packet"

    def text(self, dev: str = "nic0", verb: str = "add") -> str:
        """`xfrm state add ...`; `verb` may be "update"."""
        more = [f"replay-window {self.window}"]
        more += ["flag esn"] * self.esn
        more += [f"limit {name} {value}" for name, value in self.limits]
        if self.encap:
            more.append(f"encap espinudp {self.encap[0]} {self.encap[1]} {any_of(self.dst)}")
        return texts.state(
            dev if self.offload else None, verb=verb, spi=self.spi, src=self.src, dst=self.dst,
            reqid=self.reqid, mode=self.mode, dir=self.direction, offload=self.offload or "",
            key=self.key, icv=self.icv_bits, more=" ".join(more),
        )  # fmt: skip

    def request(self, ifindex: int = 2, type: int = Msg.NEWSA) -> bytes:
        """NEWSA (or UPDSA) for the same SA; `ifindex` names the device of an offloaded one."""
        plain = not self.esn and self.window <= LEGACY_WINDOW
        info = messages.sa_info(
            self.spi, self.src, self.dst, reqid=self.reqid, mode=MODES[self.mode],
            lft=LifetimeCfg(**{LIMIT_WORDS[name]: value for name, value in self.limits}),
            flags=STATE_ESN if self.esn else 0, replay_window=self.window if plain else 0,
        )  # fmt: skip
        inward = self.direction == "in"
        attributes: dict[int, bytes] = {Attr.ALG_AEAD: messages.aead(self.key, self.icv_bits)}
        if self.encap:
            attributes[Attr.ENCAP] = EncapTmpl(ENCAP_ESPINUDP, *self.encap).pack()
        if self.offload:
            flags = OFFLOAD_PACKET if self.offload == "packet" else 0
            flags |= OFFLOAD_INBOUND if inward else 0
            attributes[Attr.OFFLOAD_DEV] = messages.offload(ifindex, flags)
        if not plain:
            words = -(-self.window // 32)
            attributes[Attr.REPLAY_ESN_VAL] = ReplayStateEsn(
                bmp_len=words, replay_window=self.window
            ).pack()
        attributes[Attr.SA_DIR] = bytes((SA_DIR_IN if inward else SA_DIR_OUT,))
        return messages.new_sa(info, attributes, type)

    def delete_text(self) -> str:
        """`xfrm state delete ...`."""
        return texts.delete(spi=self.spi, src=self.src, dst=self.dst)

    def delete_request(self) -> bytes:
        """DELSA."""
        return messages.request(Msg.DELSA, messages.sa_id(self.spi, self.dst))

    def as_dict(self) -> dict[str, Any]:
        """All fields but the key."""
        values = dataclasses.asdict(self)
        del values["key"]
        return values


def any_of(address: str) -> str:
    """The unspecified address of the same family."""
    return "::" if ":" in address else "0.0.0.0"


@dataclass(frozen=True)
class Policy:
    """A policy: `action` "protect" (one ESP template), "bypass" (allow without one) or "block".

    `ends` are the template's addresses, which tunnel mode needs.
    """

    selector: TrafficSelector
    direction: str
    action: str = "protect"
    reqid: int = 1
    mode: str = "transport"
    priority: int = 0
    ends: tuple[str, str] | None = None
    offload: bool = True

    def text(self, dev: str = "nic0", verb: str = "add") -> str:
        """`xfrm policy add ...`; `verb` may be "update"."""
        words = [f"xfrm policy {verb} {self.selector.words()} dir {self.direction}"]
        words.append("action block" if self.action == "block" else "")
        words.append(f"priority {self.priority}")
        if self.action == "protect":
            where = f"src {self.ends[0]} dst {self.ends[1]} " if self.ends else ""
            words.append(f"tmpl {where}proto esp reqid {self.reqid} mode {self.mode}")
        words.append(f"offload packet dev {dev}" if self.offload else "")
        return " ".join(filter(None, words))

    def request(self, ifindex: int = 2, type: int = Msg.NEWPOLICY) -> bytes:
        """NEWPOLICY (or UPDPOLICY) for the same policy."""
        info = messages.policy_info(
            sel=self.selector.uapi(), dir=POLICY_IN if self.direction == "in" else POLICY_OUT,
            priority=self.priority,
            action=POLICY_BLOCK if self.action == "block" else POLICY_ALLOW,
        )  # fmt: skip
        attributes: dict[int, bytes] = {}
        if self.offload:
            attributes[Attr.OFFLOAD_DEV] = messages.offload(ifindex, OFFLOAD_PACKET)
        templates = []
        if self.action == "protect":
            source, target = self.ends or (any_of(self.selector.src),) * 2
            templates = [messages.template(source, target, reqid=self.reqid, mode=MODES[self.mode])]
        return messages.new_policy(info, attributes, type, templates)

    def delete_text(self) -> str:
        """`xfrm policy delete ...` by selector."""
        return f"xfrm policy delete {self.selector.words()} dir {self.direction}"

    def as_dict(self) -> dict[str, Any]:
        """All fields."""
        return dataclasses.asdict(self)


def limits_of(packets: bool = True, octets: bool = True) -> st.SearchStrategy[Any]:
    """Soft and hard limits in packets and bytes, soft below hard, as pairs for `Sa.limits`."""

    def pairs(unit: str, least: int, most: int) -> st.SearchStrategy[Any]:
        both = st.tuples(st.integers(least, most - 1), st.integers(least + 1, most))
        return both.filter(lambda two: two[0] < two[1]).map(
            lambda two: ((f"{unit}-soft", two[0]), (f"{unit}-hard", two[1]))
        )

    choices: list[st.SearchStrategy[Any]] = [st.just(())]
    if packets:
        choices.append(pairs("packet", 1, 1000))
    if octets:
        choices.append(pairs("byte", 1000, 1 << 20))
    return st.one_of(choices)


@st.composite
def sas(
    draw: st.DrawFn,
    *,
    card: str = "full",
    family: int | None = None,
    direction: str | None = None,
    modes: Sequence[str] = ("transport", "tunnel"),
    offload: Sequence[str | None] = ("packet",),
    limits: bool = True,
) -> Sa:
    """An SA that the card can take (`proto.caps.parse_card`) between two hosts of one network."""
    caps = parse_card(card)
    version = draw(families()) if family is None else family
    src, dst = draw(address_pairs(version))
    way = direction or draw(st.sampled_from(("in", "out")))
    mode = draw(st.sampled_from([one for one in modes if one == "transport" or caps.tunnel]))
    kind = draw(st.sampled_from(tuple(offload)))
    esn = caps.esn and draw(st.booleans())
    window = 0
    if way == "in":
        sizes = caps.replay_windows or (32, 64, 128, min(caps.replay_window_max, 1024))
        window = draw(st.sampled_from(sizes if esn else (0, *sizes)))
    return Sa(
        spi=draw(spis()), src=src, dst=dst, direction=way, key=draw(keys(caps.key_bits)),
        reqid=draw(st.sampled_from(REQIDS)), mode=mode,
        icv_bits=8 * draw(st.sampled_from(caps.icv_bytes)), window=window, esn=esn,
        limits=draw(limits_of()) if limits and kind == "packet" else (),
        encap=draw(st.none() | st.tuples(ports(), ports())) if caps.espinudp else None,
        offload=kind,
    )  # fmt: skip


@st.composite
def policies(
    draw: st.DrawFn,
    *,
    card: str = "full",
    family: int | None = None,
    direction: str | None = None,
    actions: Sequence[str] = ("protect", "bypass", "block"),
    modes: Sequence[str] = ("transport", "tunnel"),
    offload: Sequence[bool] = (True,),
) -> Policy:
    """A policy that the card can keep."""
    caps = parse_card(card)
    version = draw(families()) if family is None else family
    mode = draw(st.sampled_from([one for one in modes if one == "transport" or caps.tunnel]))
    return Policy(
        selector=draw(selectors(version)),
        direction=direction or draw(st.sampled_from(("in", "out"))),
        action=draw(st.sampled_from(tuple(actions))),
        reqid=draw(st.sampled_from(REQIDS)), mode=mode,
        priority=draw(st.integers(0, 9)) if caps.priority else 0,
        ends=draw(address_pairs(version)) if mode == "tunnel" else None,
        offload=draw(st.sampled_from(tuple(offload))),
    )  # fmt: skip


def policy_of(sa: Sa, *, offload: bool | None = None) -> Policy:
    """The policy that sends the traffic between the ends of an SA through it."""
    tail = "/32" if "." in sa.src else "/128"
    return Policy(
        selector=TrafficSelector(sa.src + tail, sa.dst + tail), direction=sa.direction,
        reqid=sa.reqid, mode=sa.mode, ends=(sa.src, sa.dst) if sa.mode == "tunnel" else None,
        offload=sa.offload == "packet" if offload is None else offload,
    )  # fmt: skip
