# SPDX-License-Identifier: Apache-2.0
"""The lab as real processes: who they are, what they carry, and that nothing survives a death."""

import errno
import os
import select
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP

from host_driver.lab import Lab, PeerDied
from host_driver.lab.child import environment
from host_driver.lab.rundir import VARIABLE, abandoned
from proto.status import OffloadError

# Far below any deadline of the product: a death must be noticed, not waited out.
AT_ONCE_S = 5.0

KEY = "0x" + bytes(range(20)).hex()
PACKETS = [
    bytes(IP(src="10.0.0.1", dst="10.0.0.2", id=n) / UDP(sport=1, dport=2) / (b"x" * n))
    for n in range(0, 1400, 7)
]


def protect(lab: Lab) -> None:
    """Host 0 to host 1, one SA and one policy on each side."""
    ends = "src 10.0.0.1 dst 10.0.0.2"
    for host, way in zip(lab.hosts, ("out", "in"), strict=True):
        for command in (
            f"xfrm state add {ends} proto esp spi 0x1000 reqid 1 mode transport "
            f"aead 'rfc4106(gcm(aes))' {KEY} 128 offload packet dev nic0 dir {way}",
            f"xfrm policy add {ends} dir {way} offload packet dev nic0 "
            f"tmpl {ends} proto esp reqid 1 mode transport",
        ):
            assert host.ip(command).stderr == ""


def assert_gone(pids: dict[str, int], run_dir: Path) -> None:
    """Every process is reaped and the run directory with sockets and DMA files is removed."""
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not run_dir.exists()


@pytest.mark.parametrize("link", ["ipc", "tcp"])
def test_cards_and_hosts_are_processes_of_their_own_and_carry_traffic(link):
    with Lab("process", hosts=2, link=link, seed=3) as lab:
        pids, run_dir = lab.pids(), lab.run_dir
        assert sorted(pids) == ["card0", "card1", "host0", "host1"]
        assert len({*pids.values(), os.getpid()}) == 5
        assert [host.info()["pid"] for host in lab.hosts] == [pids["host0"], pids["host1"]]
        assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700
        assert list(run_dir.glob("dma*")) == [] if link == "tcp" else list(run_dir.glob("dma0"))
        for secret in run_dir.glob("*.secret"):
            assert stat.S_IMODE(secret.stat().st_mode) == 0o600

        protect(lab)
        a, b = lab.hosts
        assert a.send(PACKETS) == [0] * len(PACKETS)
        lab.settle()
        assert b.receive() == PACKETS
        assert len(lab.wire.frames()) == len(PACKETS)
    assert_gone(pids, run_dir)


def test_two_labs_of_one_seed_and_one_key_share_no_iv():
    """RFC 4106 3.1: (key, IV) never twice; the seed is for what may repeat."""
    ivs = []
    for _ in range(2):
        with Lab("process", hosts=2, seed=3) as lab:
            protect(lab)
            lab.hosts[0].send(PACKETS[:20])
            lab.settle()
            ivs += [frame.data[42:50] for frame in lab.wire.frames()]
    assert len(ivs) == len(set(ivs)) == 40


@pytest.mark.parametrize("name", ["card0", "card1", "host0", "host1"])
def test_a_killed_process_is_named_and_nothing_is_left(name):
    with Lab("process", hosts=2) as lab:
        pids, run_dir = lab.pids(), lab.run_dir
        os.kill(pids[name], signal.SIGKILL)
        os.waitid(os.P_PID, pids[name], os.WEXITED | os.WNOWAIT)  # a signal takes a moment to kill
        started = time.monotonic()
        with pytest.raises(PeerDied) as death:
            lab.settle()
        assert time.monotonic() - started < AT_ONCE_S
        assert death.value.text.startswith(f"{name} (pid {pids[name]}) was killed by SIGKILL")
        assert_gone(pids, run_dir)
        with pytest.raises(PeerDied, match=name):
            lab.hosts[0].mib()


def test_a_death_ends_a_wait_that_has_begun():
    with Lab("process") as lab:
        killer = threading.Timer(0.2, os.kill, (lab.pids()["card0"], signal.SIGKILL))
        killer.start()
        started = time.monotonic()
        with pytest.raises(PeerDied, match="card0"):
            lab.advance(60)
        assert time.monotonic() - started < AT_ONCE_S
        killer.join()


def test_a_process_that_does_not_start_says_why():
    with pytest.raises(PeerDied) as death, Lab("process", driver="no.such:Driver"):
        pass
    assert "host0 (pid" in death.value.text
    assert "no.such" in death.value.text


def test_a_run_directory_of_ones_own_is_made_used_and_removed(run_root):
    path = run_root / "mine"
    with Lab("process", run_dir=path) as lab:
        assert lab.run_dir == path
        with pytest.raises(OffloadError) as refusal, Lab("process", run_dir=path):
            pass
        assert refusal.value.errno == errno.EEXIST
        lab.settle()
    assert not path.exists()


def test_a_lab_that_is_closed_says_so_and_closes_twice():
    lab = Lab("process")
    lab.start()
    lab.close()
    lab.close()
    with pytest.raises(OffloadError, match="closed"):
        lab.settle()


LAUNCHER = """
import sys
from host_driver.lab import Lab
with Lab("process", hosts=2) as lab:
    print(lab.run_dir, *lab.pids().values(), flush=True)
    sys.stdin.read()
"""


def test_children_die_with_a_launcher_that_is_killed(run_root):
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**environment(), VARIABLE: str(run_root)},
    )  # fmt: skip
    run_dir, *pids = launcher.stdout.readline().split()
    watched = [os.pidfd_open(int(pid)) for pid in pids]
    launcher.kill()
    launcher.communicate()
    deadline = time.monotonic() + AT_ONCE_S
    for pidfd in watched:
        readable, _, _ = select.select([pidfd], [], [], deadline - time.monotonic())
        assert readable, "a child outlived its launcher"
        os.close(pidfd)
    assert abandoned(run_root, remove=True) == [Path(run_dir)]
    assert not Path(run_dir).exists()
