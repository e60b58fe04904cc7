# SPDX-License-Identifier: Apache-2.0
"""Policies over one packet that let it pass, block it or protect it, and which of them it met."""

import errno
from typing import Any

from host_driver.conformance import messages, packets, texts
from host_driver.conformance.subject import Subject

PACKET = packets.udp(dport=5000)
HOSTS: dict[str, Any] = {}
NETS: dict[str, Any] = {"src": "10.1.0.0/24", "dst": "10.1.0.0/24"}

# Selectors that all cover PACKET, so that only their order decides.
ALL = "", "proto udp", "proto udp dport 5000", "proto udp sport 4000"


def block(which: int, priority: int, **where: Any) -> str:
    """A policy in software that forbids the packet; `which` of the selectors."""
    more = f"{ALL[which]} action block".strip()
    return texts.policy(template=False, priority=priority, more=more, **where)


def allow(which: int, priority: int, **where: Any) -> str:
    """A policy in software that lets the packet pass in clear."""
    return texts.policy(template=False, priority=priority, more=ALL[which], **where)


def protect(host: Subject, which: int, priority: int, reqid: int = 1, **where: Any) -> None:
    """An offloaded policy, and an SA for it."""
    spi = 0x1000 + reqid
    host.ok(texts.state(host.dev, spi=spi, reqid=reqid))
    policy = texts.policy(
        host.dev, priority=priority, reqid=reqid, more=ALL[which],
        ends=("10.1.0.1", "10.1.0.2"), **where,
    )  # fmt: skip
    host.ok(policy)


def chain(host: Subject) -> None:
    """A policy in software of two templates, and their SAs: a tunnel of SPI 0x1000, and around its
    outer packet transport mode, SPI 0x2000."""
    host.ok(texts.state(spi=0x1000, reqid=1, mode="tunnel"))
    host.ok(texts.state(spi=0x2000, reqid=2))
    second = f"tmpl src {messages.SOURCE} dst {messages.DESTINATION} proto esp reqid 2"
    host.ok(f"{texts.policy(mode='tunnel')} {second} mode transport")


def verdict(host: Subject, packet: bytes = PACKET) -> str:
    """What became of a packet: "block", "clear", or the reqid of the SA that took it."""
    before = len(host.calls())
    (error,) = host.send([packet])
    if error:
        assert error == errno.EPERM
        return "block"
    asked = host.calls_of("offload_ok", before)
    return str(asked[0]["reqid"]) if asked else "clear"
