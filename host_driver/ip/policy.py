# SPDX-License-Identifier: Apache-2.0
"""`ip xfrm policy add | update | get | delete`: text -> policy payloads (11.3)."""

from collections.abc import Callable

from host_driver.ip import grammar, names
from host_driver.ip.selector import parse_selector
from host_driver.ip.words import IpError, Words, duplicate, invalid
from proto import netlink, xfrm
from proto.xfrm import Attr
from proto.xfrm_structs import (
    UserOffload,
    UserPolicyId,
    UserPolicyInfo,
    UserPolicyType,
    XfrmMark,
    XfrmSelector,
)

_MOST_TEMPLATES = 48  # what the tool has room for; the kernel takes XFRM_MAX_DEPTH


def policy_type_attribute(type: int) -> bytes:
    """POLICY_TYPE."""
    return netlink.attribute(Attr.POLICY_TYPE, UserPolicyType(type).pack())


class PolicyWords:
    """What `add` and `get` have in common; the fields hold what the words said."""

    def __init__(self, words: Words, sel: XfrmSelector) -> None:
        self.words = words
        self.sel = sel
        self.dir = 0
        self.index = 0
        self.seen: set[str] = set()
        self._ptype = b""
        self._ctx = b""
        self._if_id = b""
        self._mark = XfrmMark()
        self.handlers: dict[str, Callable[[], None]] = {
            "dir": self._dir_word,
            "ctx": self._ctx_word,
            "mark": self._mark_word,
            "index": self.index_word,
            "ptype": self._ptype_word,
            "if_id": self._if_id_word,
        }

    def once(self, name: str) -> None:
        """Complain about a second `name`."""
        if name in self.seen:
            raise duplicate(name, name)
        self.seen.add(name)

    def _dir_word(self) -> None:
        self.once("dir")
        self.dir = self.words.choice(names.POLICY_DIR, "DIR value is invalid")

    def _ctx_word(self) -> None:
        self.once("ctx")
        self._ctx = netlink.attribute(Attr.SEC_CTX, grammar.context(self.words))

    def _mark_word(self) -> None:
        self._mark = grammar.mark(self.words)

    def index_word(self) -> None:
        """`index N`."""
        self.index = self.words.number(32, "INDEX value is invalid")

    def _ptype_word(self) -> None:
        self.once("ptype")
        type = self.words.choice(names.PTYPE, "PTYPE value is invalid")
        self._ptype = policy_type_attribute(type)

    def _if_id_word(self) -> None:
        value = self.words.number(32, "IF_ID value is invalid")
        self._if_id = grammar.u32_attribute(Attr.IF_ID, value)

    def selector_words(self) -> None:
        """Read the selector, which then gives the preferred family."""
        self.seen.add("selector")
        parse_selector(self.words, self.sel)
        self.words.family = self.words.family or self.sel.family

    def check_dir(self) -> None:
        """The direction must be there."""
        if "dir" not in self.seen:
            raise IpError(1, "Not enough information: DIR is required.\n")

    def attributes(self, templates: bytes = b"", *, new: bool) -> bytes:
        """The attributes in the tool's order."""
        mark = grammar.mark_attribute(self._mark, new=new)
        return self._ptype + templates + mark + self._ctx + self._if_id


class NewPolicy(PolicyWords):
    """`add` and `update`."""

    def __init__(self, words: Words) -> None:
        self._info = UserPolicyInfo()
        self._info.sel.family = words.family
        super().__init__(words, self._info.sel)
        self._templates: list[bytes] = []
        self._offload = b""
        self.handlers.update(
            {
                "action": self._action,
                "priority": self._priority,
                "flag": self._flag,
                "limit": lambda: grammar.limit(self.words, self._info.lft),
                "tmpl": self._tmpl,
                "offload": self._offload_words,
            }
        )

    def _action(self) -> None:
        self._info.action = self.words.choice(names.ACTION, "ACTION value is invalid\n")

    def _priority(self) -> None:
        self._info.priority = self.words.number(32, "PRIORITY value is invalid")

    def _flag(self) -> None:
        complaint = "FLAG value is invalid"
        self._info.flags = grammar.flags(
            self.words, names.POLICY_FLAG, 8, complaint, self._info.flags
        )

    def _tmpl(self) -> None:
        if len(self._templates) == _MOST_TEMPLATES:
            raise IpError(1, "Too many tmpls: buffer overflow\n")
        self.words.complete()
        self._templates.append(grammar.template(self.words).pack())

    def _offload_words(self) -> None:
        """`packet dev DEV`; the policy's own direction counts, no other mode exists (CLI-32)."""
        words = self.words
        if words.take() != "packet":
            raise invalid("Invalid offload mode", words.last())
        if words.take() != "dev":
            raise invalid("Missing dev keyword", words.last())
        offload = UserOffload(words.device("Invalid device name"), xfrm.OFFLOAD_PACKET)
        self._offload = netlink.attribute(Attr.OFFLOAD_DEV, offload.pack())

    def _other(self, word: str) -> None:
        if "selector" in self.seen:
            raise duplicate("unknown", word)
        self.selector_words()

    def payload(self) -> bytes:
        """The payload of NEWPOLICY or UPDPOLICY. Raises IpError."""
        grammar.each_word(self.words, self.handlers, self._other)
        self.check_dir()
        templates = b""
        if self._templates:
            templates = netlink.attribute(Attr.TMPL, b"".join(self._templates))
        info = self._info
        info.dir, info.index = self.dir, self.index
        info.sel.family = info.sel.family or xfrm.AF_INET
        return info.pack() + self.attributes(templates, new=True) + self._offload


class OldPolicy(PolicyWords):
    """`get` and `delete`: by selector or by index."""

    def __init__(self, words: Words) -> None:
        super().__init__(words, XfrmSelector())

    def index_word(self) -> None:
        """`index N`, once."""
        self.once("index")
        super().index_word()

    def _other(self, word: str) -> None:
        if "selector" in self.seen:
            raise invalid("unknown", word)
        self.selector_words()

    def payload(self) -> bytes:
        """The payload of GETPOLICY or DELPOLICY. Raises IpError."""
        grammar.each_word(self.words, self.handlers, self._other)
        self.check_dir()
        if not self.seen & {"selector", "index"}:
            text = "Not enough information: either SELECTOR or INDEX is required.\n"
            raise IpError(1, text)
        if {"selector", "index"} <= self.seen:
            text = 'Error: either "SELECTOR" is duplicate, or "INDEX" is a garbage.\n'
            raise IpError(255, text)
        self.sel.family = self.sel.family or xfrm.AF_INET
        fixed = UserPolicyId(self.sel, self.index, self.dir).pack()
        return fixed + self.attributes(new=False)
