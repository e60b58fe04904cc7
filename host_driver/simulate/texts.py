# SPDX-License-Identifier: Apache-2.0
"""`ip xfrm` commands for what the ledger has. Commands hold keys; `Step.action` never shows one."""

from host_driver.simulate.ledger import Limits, PolicyAsked, SaAsked, Selector

_LIMIT_WORDS = {
    "soft_packets": "packet-soft", "hard_packets": "packet-hard",
    "soft_bytes": "byte-soft", "hard_bytes": "byte-hard",
    "soft_seconds": "time-soft", "hard_seconds": "time-hard",
    "soft_use_seconds": "time-use-soft", "hard_use_seconds": "time-use-hard",
}  # fmt: skip


def limits(wanted: Limits) -> str:
    """The words of all limits that are set."""
    return " ".join(
        f"limit {word} {getattr(wanted, name)}"
        for name, word in _LIMIT_WORDS.items()
        if getattr(wanted, name) is not None
    )


def selector(wanted: Selector) -> str:
    """A selector's words."""
    words = [f"src {wanted.src} dst {wanted.dst}"]
    if wanted.proto:
        words.append(f"proto {wanted.proto}")
    if wanted.sport:
        words.append(f"sport {wanted.sport}")
    if wanted.dport:
        words.append(f"dport {wanted.dport}")
    return " ".join(words)


def sa_id(sa: SaAsked) -> str:
    """What names an SA in a command."""
    return f"src {sa.src} dst {sa.dst} proto esp spi {sa.spi:#x}"


def state(sa: SaAsked, verb: str, device: str) -> str:
    """`ip xfrm state add` or `update`."""
    words = [
        f"xfrm state {verb} {sa_id(sa)} reqid {sa.reqid} mode {sa.mode}",
        f"aead rfc4106(gcm(aes)) 0x{sa.key.hex()} {8 * sa.icv_bytes}",
        "flag esn" if sa.esn else "",
        "flag af-unspec" if _mixed(sa) and not sa.selector else "",
        _replay(sa),
        limits(sa.limits),
        f"encap espinudp {sa.encap[0]} {sa.encap[1]} {_any(sa.dst)}" if sa.encap else "",
        f"sel {selector(sa.selector)}" if sa.selector else "",
        f"dir {sa.direction}" if sa.offload == "none" else
        f"offload {sa.offload} dev {device} dir {sa.direction}",
    ]  # fmt: skip
    return " ".join(filter(None, words))


def _replay(sa: SaAsked) -> str:
    """The window of an SA in, and where numbers go on; RFC 4303 3.3.3 counts from the next."""
    words = [f"replay-window {sa.window}" if sa.window else ""]
    name = "replay-seq" if sa.direction == "in" else "replay-oseq"
    if sa.sequence:
        words.append(f"{name} {sa.sequence & 0xFFFF_FFFF}")
    if sa.sequence >> 32:
        words.append(f"{name}-hi {sa.sequence >> 32}")
    return " ".join(filter(None, words))


def _mixed(sa: SaAsked) -> bool:
    """Whether a tunnel carries the other family, which its default selector would not match."""
    return sa.inner_family != (6 if ":" in sa.dst else 4)


def _any(address: str) -> str:
    return "::" if ":" in address else "0.0.0.0"


def state_delete(sa: SaAsked) -> str:
    """`ip xfrm state delete`."""
    return f"xfrm state delete {sa_id(sa)}"


def policy(policy: PolicyAsked, verb: str, device: str) -> str:
    """`ip xfrm policy add` or `update`."""
    words = [f"xfrm policy {verb} {selector(policy.selector)} dir {policy.direction}"]
    if policy.verdict == "block":
        words.append("action block")
    words.append(f"priority {policy.priority}")
    if policy.verdict == "protect":
        ends = policy.tunnel or tuple(
            part.partition("/")[0] for part in (policy.selector.src, policy.selector.dst)
        )
        words.append(
            f"tmpl src {ends[0]} dst {ends[1]} proto esp reqid {policy.reqid} mode {policy.mode}"
        )
    if policy.offload:
        words.append(f"offload packet dev {device}")
    return " ".join(words)


def policy_delete(policy: PolicyAsked) -> str:
    """`ip xfrm policy delete`, by selector and direction."""
    return f"xfrm policy delete {selector(policy.selector)} dir {policy.direction}"
