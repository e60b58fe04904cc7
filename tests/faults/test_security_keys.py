# SPDX-License-Identifier: Apache-2.0
"""Keys: nothing that can be asked, written or read shows one, and after its end none is left."""

import json
from pathlib import Path

import numpy as np
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from host_driver.lab import Lab
from proto.status import OffloadError
from support.inside import party
from support.memory import count_in_memory
from support.rows import row

# FIPS-197 appendix A.1: the key and its first and last derived round key.
NEEDLES = [
    bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c"),
    bytes.fromhex("a0fafe1788542cb123a339392a6c7605"),
    bytes.fromhex("d014f9a8c9ee2589e13f0cc8b6630ca6"),
]
SALT = bytes.fromhex("5ea1b2c9")
KEY = (NEEDLES[0] + SALT).hex()
ADD = (
    "xfrm state {verb} src 10.0.0.1 dst 10.0.0.2 proto esp spi {spi} reqid 1 mode transport "
    f"aead 'rfc4106(gcm(aes))' 0x{KEY} {{icv}} {{more}} offload packet dev nic0 dir {{dir}}"
)
GOOD = {"verb": "add", "spi": "0x1000", "icv": "128", "more": "", "dir": "out"}
CLEAR = bytes(Ether() / IP(src="10.9.9.9", dst="10.9.9.8") / UDP() / bytes(1400))


def add(**change: str) -> str:
    return ADD.format(**{**GOOD, **change})


def everything(lab: Lab) -> str:
    """What a lab says of itself and has written, but for the dumps of privileged netlink users, who
    get keys as they do from the kernel."""
    (host,) = lab.hosts
    said = [
        host.trace(), host.nic.counters(), host.nic.census(), host.nic.audit(), host.info(),
        host.mib(), host.devices(), lab.faults.list(), lab.faults.log(), lab.wire.counters(),
        host.ip("xfrm state list nokeys").stdout, host.ip("-s xfrm state list nokeys").stdout,
        host.ip("xfrm policy list").stdout, repr(lab), repr(lab.settings), repr(lab.hosts),
    ]  # fmt: skip
    for name in ("health", "reporters"):
        if hasattr(host.nic, name):
            said.append(getattr(host.nic, name)())
    text = json.dumps(said, default=repr)
    for path in sorted(lab.run_dir.rglob("*.log")) if lab.run_dir else ():
        text += path.read_text(errors="replace")
    return text.lower()


def shows(text: str) -> list[str]:
    """Parts of the key in any spelling."""
    parts = [*NEEDLES, NEEDLES[0][:8], NEEDLES[0][8:], SALT + b""]
    spelled = [part.hex() for part in parts if len(part) >= 8]
    spelled += [repr(part)[2:-1].lower() for part in parts] + [str(list(NEEDLES[0]))[1:-1]]
    return [one for one in spelled if one in text]


@row("F-SEC-05", process=True)
def test_nothing_that_can_be_asked_or_read_shows_a_key(target) -> None:
    with Lab(target=target, hosts=1, card="full:sa_max=3", seed=3) as lab:
        (host,) = lab.hosts
        assert host.ip(add()).rc == 0
        complaints = [
            host.ip(add(**change)).stderr
            for change in (
                {}, {"icv": "80"}, {"spi": "0"}, {"more": "replay-window 99999"},
                {"verb": "update", "spi": "0x99"}, {"more": "flag esn"}, {"dir": "sideways"},
            )
        ]  # fmt: skip
        assert all(complaints)
        complaints += [host.ip(add(spi=str(spi))).stderr for spi in range(2000, 2006)]  # full
        with lab.faults.inject(site="card.command", kind="status", value="INTERNAL_ERROR"):
            complaints.append(host.ip(add(spi="0x3000")).stderr)
        for fault in ({"kind": "drop"}, {"kind": "corrupt", "value": 3000}, {"kind": "truncate"}):
            with lab.faults.inject(site="mailbox.command", times=2, **fault):
                complaints.append(host.ip(add(spi="0x3001")).stderr)
        host.send([bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP() / b"x")])
        with pytest.raises(OffloadError) as refusal:
            host.sysctl("net.core.xfrm_" + KEY[:4], 1)
        lab.settle()
        assert shows(everything(lab) + "".join(complaints).lower() + str(refusal.value)) == []
        for pid in lab.pids().values():  # and no crash dump is written
            limits = Path(f"/proc/{pid}/limits").read_text()
            (line,) = (one for one in limits.splitlines() if one.startswith("Max core file size"))
            assert line.split()[4:6] == ["0", "0"]
            command_line = Path(f"/proc/{pid}/cmdline").read_bytes()
            assert KEY.encode() not in command_line


def held_by_card(lab: Lab) -> int:
    """How often a needle stands in the tables and the DMA memory of a simulated card."""
    card = party(lab, "card0")
    tables = [table for table in card.objects.tables if isinstance(table, np.ndarray)]
    memory = [card.queues.tx._dma.memory]
    return sum(array.tobytes().count(needle) for array in tables + memory for needle in NEEDLES)


@row("F-SEC-06", process=True)
def test_after_its_end_a_key_is_nowhere(target) -> None:
    with Lab(target=target, hosts=1, card="full", seed=3) as lab:
        (host,) = lab.hosts
        assert host.ip(add()).rc == 0
        lab.settle()
        if target == "sim":
            assert held_by_card(lab) >= len(NEEDLES)
        else:
            found = count_in_memory(lab.pids()["card0"], NEEDLES)
            assert all(found.values()), "the schedule of a live key is found"

        assert host.ip("xfrm state delete dst 10.0.0.2 proto esp spi 0x1000").rc == 0
        host.notifications()  # NEWSA and DELSA carry the key, as the kernel's do (UAPI-64)
        lab.wire.inject(host=0, frames=[CLEAR] * 4)  # what ZeroMQ keeps is written over
        lab.settle()
        assert len(host.receive()) == 4
        if target == "sim":
            assert held_by_card(lab) == 0
        for name, pid in lab.pids().items():
            assert not any(count_in_memory(pid, NEEDLES).values()), name
