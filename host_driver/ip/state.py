# SPDX-License-Identifier: Apache-2.0
"""`ip xfrm state add | update | allocspi`: text -> NEWSA, UPDSA and ALLOCSPI payloads (11.2).

Attributes that a keyword yields at once (algorithms, encap, coa, ctx) stand in the order of the
text, all others in the order that the tool has: offload, replay, extra flags, mark, if_id,
output mark, TFC padding, direction.
"""

import struct
from collections.abc import Callable

from host_driver.ip import grammar, names
from host_driver.ip.algorithms import Algorithms
from host_driver.ip.selector import parse_selector
from host_driver.ip.words import IpError, Words, address, duplicate, invalid, prefix
from proto import netlink, xfrm
from proto.xfrm import Attr
from proto.xfrm_structs import (
    EncapTmpl,
    LifetimeCfg,
    ReplayState,
    ReplayStateEsn,
    UserOffload,
    UserSaInfo,
    UserSpiInfo,
    XfrmMark,
)

# Keywords that stand inside an ID, an OFFLOAD or a MARK.
_INNER = frozenset({"src", "dst", "proto", "spi", "dev", "packet", "crypto", "mask"})
# A keyword of a younger tool: unknown here, and no secret.
_YOUNGER = frozenset({"pcpu-num"})
_ESN_WINDOW_MAX = 4096
_PLAIN_WINDOW_MAX = 32  # bits of xfrm_replay_state.bitmap
_SPI_MIN, _SPI_MAX = 0x100, 0x0FFF_FFFF


class StateWords:
    """Reads the words of one SA; `info` and the fields below hold what they said."""

    def __init__(self, words: Words) -> None:
        self.words = words
        self.info = UserSaInfo(family=words.family)
        self.mark = XfrmMark()
        self.dir = 0
        self.id_given = False
        self._handlers: dict[str, Callable[[], None]] = {
            "mode": self._mode,
            "mark": self._mark,
            "reqid": self._reqid,
            "seq": self._seq,
            "dir": self._dir,
        }

    def _check_id(self) -> None:
        if not self.id_given:
            raise IpError(1, "Not enough information: ID is required\n")

    def _mode(self) -> None:
        self.info.mode = grammar.mode(self.words)

    def _mark(self) -> None:
        self.mark = grammar.mark(self.words)

    def _reqid(self) -> None:
        self.info.reqid = grammar.reqid(self.words)

    def _seq(self) -> None:
        seq = self.words.number(32, "SEQ value is invalid")
        self.info.seq = int.from_bytes(seq.to_bytes(4, "big"), "little")  # in network order

    def _dir(self) -> None:
        self.dir = self.words.choice(names.SA_DIR, 'DIR value is not "in" or "out"')

    def _other(self, word: str) -> None:
        """Anything else must begin the ID, once."""
        if self.id_given:
            raise invalid("unknown", word)
        self.id_given = True
        found = grammar.parse_id(self.words)
        self.info.id, self.info.saddr = found.id, found.saddr
        self.info.family = found.family or self.info.family
        self.words.family = self.words.family or self.info.family

    def dir_attribute(self) -> bytes:
        """SA_DIR, when a direction was given and the kernel knows such a thing (CLI-15)."""
        if not self.dir or not self.words.sa_dir_known:
            return b""
        return netlink.attribute(Attr.SA_DIR, bytes([self.dir]))


class AllocSpi(StateWords):
    """`allocspi`: an ID without SPI, and the range to choose from."""

    def __init__(self, words: Words) -> None:
        super().__init__(words)
        self.info.lft = LifetimeCfg(0, 0, 0, 0)  # no limits are offered here, not even infinite
        self._range: dict[str, int] = {}
        self._handlers["min"] = lambda: self._bound("min")
        self._handlers["max"] = lambda: self._bound("max")

    def _other(self, word: str) -> None:
        super()._other(word)
        if self.info.id.spi:
            raise IpError(1, '"spi" is invalid\n')

    def _bound(self, name: str) -> None:
        if name in self._range:
            raise duplicate(name, name)
        self._range[name] = self.words.number(32, f'value after "{name}" is invalid')

    def payload(self) -> bytes:
        """The payload of ALLOCSPI. Raises IpError."""
        grammar.each_word(self.words, self._handlers, self._other)
        self._check_id()
        if len(self._range) == 1:
            lacking = "max" if "min" in self._range else "min"
            raise IpError(1, f'"{lacking}" is missing\n')
        most = grammar.CPI_MAX if self.info.id.proto == xfrm.IPPROTO_COMP else _SPI_MAX
        low, high = self._range.get("min", _SPI_MIN), self._range.get("max", most)
        if low > high:
            raise IpError(1, 'value after "min" is larger than value after "max"\n')
        self.info.family = self.info.family or xfrm.AF_INET
        fixed = UserSpiInfo(self.info, low, high).pack()
        return fixed + grammar.mark_attribute(self.mark, new=False) + self.dir_attribute()


class NewState(StateWords):
    """`add` and `update`."""

    def __init__(self, words: Words) -> None:
        super().__init__(words)
        self._attributes = b""
        self._algorithms = Algorithms(words)
        self._numbers: dict[str, int] = {}
        self._extra_flags = 0
        self._output_mark = XfrmMark()
        self._offload: UserOffload | None = None
        self._seen: set[str] = set()
        self._handlers.update(
            {
                "flag": self._flag,
                "extra-flag": self._extra_flag,
                "sel": self._sel,
                "limit": lambda: grammar.limit(self.words, self.info.lft),
                "encap": self._encap,
                "coa": self._coa,
                "ctx": self._ctx,
                "offload": self._offload_words,
                "output-mark": self._output_mark_words,
            }
        )
        for name in ("window", "seq", "oseq", "seq-hi", "oseq-hi"):
            self._handlers[f"replay-{name}"] = self._number(f"replay-{name}")
        self._handlers["if_id"] = self._number("if_id")
        self._handlers["tfcpad"] = self._number("tfcpad")
        for kind in ("aead", "enc", "auth", "auth-trunc", "comp"):
            self._handlers[kind] = self._algorithm

    def _number(self, name: str) -> Callable[[], None]:
        def read() -> None:
            self._numbers[name] = self.words.number(32, f'value after "{name}" is invalid')

        return read

    def _algorithm(self) -> None:
        kind = self.words.last()
        self.words.hide_all_but(self._handlers.keys() | _INNER | _YOUNGER)
        self._attributes += self._algorithms.attribute(kind)

    def _flag(self) -> None:
        complaint = "FLAG value is invalid"
        self.info.flags = grammar.flags(self.words, names.STATE_FLAG, 8, complaint, self.info.flags)

    def _extra_flag(self) -> None:
        complaint = '"EXTRA-FLAG" is invalid'
        self._extra_flags = grammar.flags(
            self.words, names.EXTRA_FLAG, 32, complaint, self._extra_flags
        )

    def _sel(self) -> None:
        self.words.complete()
        self.words.family = 0
        parse_selector(self.words, self.info.sel)
        self.words.family = self.info.sel.family

    def _encap(self) -> None:
        words = self.words
        kind = words.choice(names.ENCAP, "ENCAP-TYPE value is invalid")
        sport = words.number(16, 'SPORT value after "encap" is invalid')
        dport = words.number(16, 'DPORT value after "encap" is invalid')
        encap = EncapTmpl(kind, sport, dport, address(words.take()))
        self._attributes += netlink.attribute(Attr.ENCAP, encap.pack())

    def _once(self, name: str) -> None:
        if name in self._seen:
            raise duplicate(name, name)
        self._seen.add(name)

    def _coa(self) -> None:
        self._once("coa")
        coa = prefix(self.words.take(), self.words.family)
        if coa.family == 0:
            text = 'value after "coa" has an unrecognized address family'
            raise invalid(text, self.words.last())
        self._attributes += netlink.attribute(Attr.COADDR, coa.data)

    def _ctx(self) -> None:
        self._once("ctx")
        self._attributes += netlink.attribute(Attr.SEC_CTX, grammar.context(self.words))

    def _offload_words(self) -> None:
        """`[ crypto | packet ] dev DEV dir DIR`; without a mode it is crypto (CLI-14, CLI-21)."""
        words = self.words
        packet = words.take_if("packet")
        if not packet:
            words.take_if("crypto")
        if words.take() != "dev":
            raise invalid("Missing dev keyword", words.last())
        ifindex = words.device("Invalid device name")
        if words.take() != "dir":
            raise invalid("Missing DIR keyword", words.last())
        self._dir()
        self._offload = UserOffload(ifindex, xfrm.OFFLOAD_PACKET if packet else 0)

    def _output_mark_words(self) -> None:
        self._output_mark.v = self.words.number(32, 'value after "output-mark" is invalid')
        if self.words.take_if("mask"):
            self._output_mark.m = self.words.number(32, "mask value is invalid\n")

    def payload(self) -> bytes:
        """The payload of NEWSA or UPDSA. Raises IpError."""
        grammar.each_word(self.words, self._handlers, self._other)
        self._check_replay()
        self._check_id()
        self._algorithms.check(self.info, "coa" in self._seen)
        tail = [
            self._offload_attribute(),
            self._replay_attribute(),
            _if_set(Attr.SA_EXTRA_FLAGS, self._extra_flags),
            grammar.mark_attribute(self.mark, new=True),
            self._if_id_attribute(),
            _if_set(Attr.SET_MARK, self._output_mark.v),
            _if_set(Attr.SET_MARK_MASK, self._output_mark.m),
            _if_set(Attr.TFCPAD, self._numbers.get("tfcpad", 0)),
            self.dir_attribute(),
        ]
        self.info.family = self.info.family or xfrm.AF_INET
        return self.info.pack() + self._attributes + b"".join(tail)

    def _check_replay(self) -> None:
        """CLI-16: ESN needs a window, except for output; a window has a largest size."""
        window = self._numbers.get("replay-window", 0)
        if self.info.flags & xfrm.STATE_ESN and not window and self.dir != xfrm.SA_DIR_OUT:
            raise IpError(255, "Error: esn flag set without replay-window.\n")
        if window > _ESN_WINDOW_MAX:
            limit = f"XFRMA_REPLAY_ESN_MAX ({_ESN_WINDOW_MAX})"
            raise IpError(255, f"Error: replay-window ({window}) > {limit}.\n")

    def _offload_attribute(self) -> bytes:
        if self._offload is None:
            return b""
        if self.dir == xfrm.SA_DIR_IN:  # CLI-15: the direction given last
            self._offload.flags |= xfrm.OFFLOAD_INBOUND
        return netlink.attribute(Attr.OFFLOAD_DEV, self._offload.pack())

    def _replay_attribute(self) -> bytes:
        """CLI-16: large windows and ESN go into REPLAY_ESN_VAL, whose bitmap is not sent."""
        window = self._numbers.get("replay-window", 0)
        oseq, seq = self._numbers.get("replay-oseq", 0), self._numbers.get("replay-seq", 0)
        if self.info.flags & xfrm.STATE_ESN or window > _PLAIN_WINDOW_MAX:
            oseq_hi = self._numbers.get("replay-oseq-hi", 0)
            seq_hi = self._numbers.get("replay-seq-hi", 0)
            esn = ReplayStateEsn((window + 31) // 32, oseq, seq, oseq_hi, seq_hi, window)
            return netlink.attribute(Attr.REPLAY_ESN_VAL, esn.pack())
        self.info.replay_window = window
        if not (oseq or seq):
            return b""
        return netlink.attribute(Attr.REPLAY_VAL, ReplayState(oseq, seq).pack())

    def _if_id_attribute(self) -> bytes:
        if "if_id" not in self._numbers:
            return b""
        return grammar.u32_attribute(Attr.IF_ID, self._numbers["if_id"])


def _if_set(type: Attr, value: int) -> bytes:
    return netlink.attribute(type, struct.pack("<I", value)) if value else b""
