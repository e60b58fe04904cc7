# SPDX-License-Identifier: Apache-2.0
"""A running lab and somebody who has no business there: nothing is got, nothing is changed, and the
log of whoever was asked says who it was."""

import os
import tempfile
from pathlib import Path

import msgspec
import pytest

from host_driver.lab import Lab
from proto import commands as c
from proto.frame import Kind, pack
from proto.limits import DMA_BYTES
from support import stranger

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
KEY = "2b7e151628aed2a6abf7158809cf4f3c5ea1b2c9"
ADD = (
    "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1000 reqid 1 mode transport "
    f"aead 'rfc4106(gcm(aes))' 0x{KEY} 128 offload packet dev nic0 dir out"
)
# What a thief would send: first what shows most, then what destroys most.
WANTED = [
    pack(Kind.COMMAND, msgspec.msgpack.encode(c.Request(33, command)))
    for command in (c.QueryCensus(), c.QuerySa(1), c.Teardown())
]


@pytest.fixture
def lab():
    with (
        tempfile.TemporaryDirectory(prefix="xn-") as directory,
        Lab(target="process", hosts=1, card="full", seed=3, run_dir=f"{directory}/lab") as running,
    ):
        assert running.hosts[0].ip(ADD).rc == 0
        yield running


def untouched(lab: Lab) -> bool:
    """The host still has its card, and the card its SA."""
    (host,) = lab.hosts
    return host.nic.census()["sas"] == 1 and "spi 0x00001000" in host.ip("xfrm state list").stdout


@ROOT
def test_another_user_cannot_even_look(lab):
    paths = sorted(str(path) for path in lab.run_dir.rglob("*"))
    assert any("dma0" in path for path in paths)
    assert set(stranger.read(paths, stranger.NOBODY)) == {"Permission denied"}
    for path in (path for path in paths if Path(path).is_socket()):
        assert stranger.talk(f"ipc://{path}", WANTED[0], stranger.NOBODY) == []
    assert untouched(lab)


@ROOT
def test_another_user_gets_nothing_where_files_were_opened_to_all(lab):
    """Somebody ran chmod -R: sockets ask the kernel who comes, and tell the log."""
    for directory in (lab.run_dir.parent, lab.run_dir):
        directory.chmod(0o755)
    sockets = [path for path in lab.run_dir.iterdir() if path.is_socket()]
    assert {"card0.mailbox", "card0.events", "card0.rings", "control0", "wire0"} <= {
        path.name for path in sockets
    }
    for path in sockets:
        path.chmod(0o666)
    for path in sockets:
        assert stranger.talk(f"ipc://{path}", WANTED[0], stranger.NOBODY) == [], path
    dma = str(lab.run_dir / "dma0")
    assert stranger.read([dma], stranger.NOBODY) == ["Permission denied"]
    assert untouched(lab)
    log = (lab.run_dir / "card0.log").read_text()
    assert "card0.mailbox: user 65534, process" in log
    assert lab.hosts[0].nic.counters()["peers_refused"] >= 3


def test_a_second_driver_is_refused_by_a_card_that_has_one(lab):
    for name in ("mailbox", "events", "rings"):
        for message in WANTED:
            address = f"ipc://{lab.run_dir}/card0.{name}"
            assert stranger.talk(address, message, os.getuid()) == []
    assert untouched(lab)
    assert "comes second" in (lab.run_dir / "card0.log").read_text()


def test_the_wrong_key_and_no_key_on_tcp():
    with Lab(target="process", hosts=1, card="full", seed=3, link="tcp") as lab:
        (host,) = lab.hosts
        assert host.ip(ADD).rc == 0
        # Where it listens is no secret: a stranger reads it where everybody can, in /proc.
        ports = _listening(lab.pids()["card0"])
        assert len(ports) == 3
        card = str(lab.run_dir / "card0.public")
        for port in ports:
            for server in ("", card, str(lab.run_dir / "host0.public")):
                got = stranger.talk(f"tcp://127.0.0.1:{port}", WANTED[0], os.getuid(), "", server)
                assert got == []
        assert untouched(lab)
        log = (lab.run_dir / "card0.log").read_text()
        assert "127.0.0.1 has another key than our peer" in log
        assert "failed the handshake: no key, or no ZMTP" in log
        assert KEY not in log
        assert host.nic.counters()["peers_refused"] >= 9


def _listening(pid: int) -> list[int]:
    """TCP ports on which a process listens."""
    inodes = {
        target[8:-1]
        for fd in Path(f"/proc/{pid}/fd").iterdir()
        if (target := str(fd.readlink())).startswith("socket:")
    }
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [row for row in rows if row[3] == "0A" and row[9] in inodes]
    return [int(row[1].rpartition(":")[2], 16) for row in listening]


def test_files_of_a_lab_are_for_its_owner_only(lab):
    for path in (lab.run_dir, *lab.run_dir.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
        assert path.stat().st_uid == os.getuid()
    assert (lab.run_dir / "dma0").stat().st_size == DMA_BYTES
