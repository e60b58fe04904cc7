# SPDX-License-Identifier: Apache-2.0
"""Every shape of add that reaches the driver, with the steps that it takes there; and what of a
host must be as before when one has failed."""

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from host_driver.ip import run
from host_driver.lab import Lab
from proto import netlink

ENDS, OUTER = "src 10.1.0.1 dst 10.1.0.2", "src 192.0.2.1 dst 192.0.2.2"
GCM = "aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128"
STATE_STEPS = ("check", "key", "sa", "bind", "rule", "insert")
POLICY_STEPS = ("check", "rule", "insert")
KEY, SA, RULE, POLICY_RULE = "CREATE_KEY", "CREATE_SA", "CREATE_SA_RULE", "CREATE_POLICY_RULE"


class Add(NamedTuple):
    """One request; `steps` are those of the driver, `opcodes` the commands to the card."""

    text: str
    steps: tuple[str, ...]
    opcodes: tuple[str, ...]


def _state(dir: str, more: str = "", mode: str = "transport", ends: str = ENDS, kind="packet"):
    text = (
        f"xfrm state add {ends} proto esp spi 0x1000 reqid 1 mode {mode} {GCM} {more} "
        f"offload {kind} dev nic0 dir {dir}"
    )
    steered = (kind, dir) != ("crypto", "out")
    return Add(text, STATE_STEPS, (KEY, SA, RULE) if steered else (KEY, SA))


def _policy(dir: str, more: str) -> Add:
    text = f"xfrm policy add {ENDS} dir {dir} {more} offload packet dev nic0"
    return Add(text, POLICY_STEPS, (POLICY_RULE,))


ADDS: dict[str, Add] = {
    "packet-out": _state("out"),
    "packet-in": _state("in", "replay-window 64"),
    "crypto-out": _state("out", kind="crypto"),
    "crypto-in": _state("in", "replay-window 32", kind="crypto"),
    "tunnel-out": _state("out", mode="tunnel", ends=OUTER),
    "tunnel-in": _state("in", "replay-window 32 flag af-unspec", mode="tunnel", ends=OUTER),
    "esn-out": _state("out", "flag esn"),
    "esn-in": _state("in", "flag esn replay-window 4096"),
    "limits": _state("out", "limit packet-soft 5 limit packet-hard 9 limit byte-hard 4000"),
    "protect-out": _policy("out", f"tmpl {ENDS} proto esp reqid 1 mode transport"),
    "protect-in": _policy("in", f"tmpl {ENDS} proto esp reqid 1 mode transport"),
    "tunnel-policy": _policy("out", f"tmpl {OUTER} proto esp reqid 1 mode tunnel"),
    "block": _policy("out", "action block"),
    "bypass": _policy("in", "priority 5"),
}


def attempt(host: Any, text: str) -> tuple[int, str]:
    """Run one `ip` command -> its errno (0: accepted) and what it says."""
    errnos: list[int] = []

    def transact(request: bytes) -> list[bytes]:
        replies = list(host.netlink(request))
        for raw in replies:
            for message in netlink.messages(raw):
                if message.type == netlink.NLMSG_ERROR:
                    errnos.append(-struct.unpack_from("<i", message.payload)[0])
        return replies

    result = run(text, transact, {"nic0": host.nic.ifindex}, True)
    assert len(errnos) == 1, result
    return errnos[0], result.stderr


def everything(host: Any) -> dict[str, Any]:
    """What a failed add must leave as it was: the core's tables, the card's objects, what the
    driver believes of them, and the references to the device."""
    report = host.nic.audit()
    return {
        "states": host.ip("xfrm state list").stdout,
        "policies": host.ip("xfrm policy list").stdout,
        "census": host.nic.census(),
        "report": report,
        "refs": {dev["name"]: dev["refcnt"] for dev in host.devices()},
    }


def labs(seed: int, hosts: int = 1, card: str = "full") -> Callable[..., Any]:
    """A fixture that gives the lab of a target, made when first asked for."""

    @pytest.fixture(scope="module")
    def lab():
        made: dict[str, Lab] = {}

        def of(target: str) -> Lab:
            if target not in made:
                made[target] = Lab(target=target, hosts=hosts, card=card, seed=seed)
                made[target].start()
            return made[target]

        yield of
        for one in made.values():
            one.close()

    return lab


def clear_host(lab: Any) -> None:
    """Nothing armed, nothing installed, nothing unread, counters counted from here."""
    lab.faults.reset()
    for host in lab.hosts:
        take_away(host)
        lab.settle()
        assert empty(host)
        host.notifications()
        host.receive()
        host.counted_before = host.nic.counters()
        host.frames_before = len(lab.wire.frames())


def counted(host: Any, *names: str) -> tuple[int, ...]:
    """How far the driver's counters have moved since `clear_host`."""
    now, before = host.nic.counters(), host.counted_before
    names = tuple(f"driver_{name}" for name in names)
    return tuple(now.get(name, 0) - before.get(name, 0) for name in names)


def empty(host: Any) -> bool:
    """Whether card and driver agree that there is nothing."""
    report = host.nic.audit()
    return not any(host.nic.census().values()) and not any(report.values())


def other(text: str, number: int) -> str:
    """The same add for other ends and another SPI."""
    spi = f"spi {0x2000 + number:#x}"
    return text.replace("10.1.0.2", f"10.2.{number >> 8}.{number & 255}").replace("spi 0x1000", spi)


def take_away(host: Any) -> None:
    """Remove all SAs and policies."""
    for what in ("state", "policy"):
        assert host.ip(f"xfrm {what} flush").rc == 0
