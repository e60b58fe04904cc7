# SPDX-License-Identifier: Apache-2.0
"""A lab's processes are forked from templates, are children of whoever runs the lab all the same,
and come up without a template where there can be none."""

import errno
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from host_driver.lab import Lab, PeerDied, template
from host_driver.lab.child import environment
from proto.link.fork_server import FLAG, CannotFork

MODULES = {"nic_model", "host_driver"}


def programs() -> dict[int, list[str]]:
    """The processes that we are the parent of, with their command lines."""
    task = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in task.read_text().split()}
    return {int(pid): line.decode().rstrip("\0").split("\0")[1:] for pid, line in lines.items()}


def templates() -> dict[str, int]:
    """Templates of this thread: their process ids, by module."""
    here = (os.getpid(), threading.get_ident())
    return {key[2]: one._process.pid for key, one in template._kept.items() if key[:2] == here}


def end(pid: int) -> None:
    """Kill a template; it is dead when this returns, and nobody has noticed."""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_the_next_lab_is_forked_from_the_same_templates() -> None:
    """And its processes are our children, with a parent that waits for them."""
    with Lab("process") as lab:
        first, kept = lab.pids(), templates()
        assert set(kept) == MODULES
    with Lab("process") as lab:
        assert templates() == kept
        assert set(lab.pids().values()).isdisjoint(first.values())
        children = programs()
        assert set(children) == {*lab.pids().values(), *kept.values()}
        for party, module in (("card0", "nic_model"), ("host0", "host_driver")):
            assert children[lab.pids()[party]][:3] == ["-m", module, "--template"]
    assert set(programs()) == set(kept.values()), "the lab's own are reaped"


def test_what_a_forked_process_is_told_is_its_own() -> None:
    """Arguments, log and exit status are not those of the template or of a sibling."""
    with Lab("process", hosts=2, card="cx6dx") as lab:
        names = [host.info()["caps"]["name"] for host in lab.hosts]
        assert names == ["cx6dx"] * 2
        assert [host.info()["pid"] for host in lab.hosts] == [
            lab.pids()["host0"],
            lab.pids()["host1"],
        ]
        logs = {path.name: path.read_text() for path in lab.run_dir.glob("*.log")}
        assert all(f"{name}: ready" in logs[f"{name}.log"] for name in ("card0", "card1"))
    with (
        pytest.raises(PeerDied, match="exited with status 2"),
        Lab("process", driver="a.b:C"),
    ):
        pass


@pytest.mark.parametrize("module", sorted(MODULES))
def test_without_a_template_a_process_is_started(module) -> None:
    """The template dies between two labs, and again in the middle of one."""
    with Lab("process") as lab:
        lab.settle()
    kept = templates()
    end(kept[module])
    with Lab("process") as lab:
        lab.settle()
        assert templates()[module] != kept[module]
        end(templates()[module])
        (host,) = lab.hosts
        party = host.nic if module == "nic_model" else host
        party.kill()
        party.restart()
        lab.settle()
        assert host.info()["pid"] == lab.pids()["host0"]


def test_where_nothing_can_be_forked_processes_are_started(monkeypatch) -> None:
    """And no template is loaded again for nothing."""

    def refuse(*_) -> int:
        raise CannotFork(errno.EPERM, "refused")

    monkeypatch.setattr(template, "ask", refuse)
    monkeypatch.setattr(template, "_useless", [])
    with Lab("process") as lab:
        children = programs()
        assert all(FLAG not in children[pid] for pid in lab.pids().values())
        before = templates()
        lab.hosts[0].nic.kill()
        lab.hosts[0].nic.restart()
        assert templates() == before
        lab.settle()


def test_an_answer_that_nobody_waited_for_is_nobody_elses(monkeypatch) -> None:
    """Whoever was interrupted while a template answered must not leave its answer to the next."""
    with Lab("process"):
        kept = templates()

    def interrupted(*_) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(template, "ask", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Lab("process").start()
    with Lab("process") as lab:
        assert templates()["nic_model"] != kept["nic_model"]
        lab.settle()


def test_what_somebody_else_has_reaped_has_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE)
    os.waitpid(child.pid, 0)
    forked = template.Forked(child.pid, child.stdin)
    assert (forked.poll(), forked.wait()) == (0, 0)
    child.stdin.close()
    child.returncode = 0


def test_another_environment_has_another_template(monkeypatch) -> None:
    with Lab("process"):
        kept = templates()
    monkeypatch.setenv("XFRMNIC_OF_THIS_TEST", "1")
    with Lab("process"):
        assert not set(templates().values()) & set(kept.values())
    assert not set(programs()) & set(kept.values()), "those that nobody needs have ended"


LAUNCHER = """
import sys
from host_driver.lab import Lab, template
with Lab("process") as lab:
    pass
print(*[one._process.pid for one in template._kept.values()], flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["killed", "ended"])
def test_templates_end_with_their_launcher(end) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
    ) as launcher:  # fmt: skip
        pids = [int(pid) for pid in launcher.stdout.readline().split()]
        watched = [os.pidfd_open(pid) for pid in pids]
        assert len(watched) == 2
        if end == "killed":
            launcher.kill()
    for pidfd in watched:
        assert select.select([pidfd], [], [], 30)[0], "a template outlived its launcher"
        os.close(pidfd)
