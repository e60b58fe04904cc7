# SPDX-License-Identifier: Apache-2.0
"""The demo is a test of its own; here it is run, read, and interrupted."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from scapy.utils import PcapNgReader

COMMAND = [sys.executable, "-c", "from host_driver.cli.app import main; main()"]


def test_every_expectation_holds(xfrmnic, own_run_dir: Path, tmp_path: Path) -> None:
    done = xfrmnic("demo", "--json", "--keys", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["ok"]
    assert len(result["expectations"]) > 30
    assert all(claim["ok"] for claim in result["expectations"])
    assert list(own_run_dir.iterdir()) == []

    keys = Path(result["files"]["keys"])
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    lines = keys.read_text().splitlines()
    assert len(lines) == 6
    for line in lines:
        key = line.split(",")[5].strip('"').removeprefix("0x")
        assert len(key) == 40
        assert key not in done.stdout + done.stderr
    with PcapNgReader(result["files"]["pcapng"]) as capture:
        assert sum(1 for _ in capture) > 2 * 2682


def story(text: str) -> list[str]:
    """Its words without what differs from run to run: pids, paths, seconds and ESP bytes."""
    changing = r"process \d+|[\d.]+ s\b|: /\S+|^ +[0-9a-f]{4} [0-9a-f]{2} .*"
    return re.sub(changing, "", text, flags=re.MULTILINE).split()


def test_the_readme_shows_what_the_demo_prints(xfrmnic, tmp_path: Path) -> None:
    """Packets and counters are the recording's; the card draws its own IVs."""
    done = xfrmnic("demo", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "[FAILED]" not in done.stdout
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    shown = next(block for block in readme.split("```")[1::2] if "expectations held" in block)
    assert story(shown) == story(done.stdout)


@pytest.mark.parametrize("victim", ["card0", "card1", "host0", "host1"])
def test_killing_a_process_is_exit_4_and_leaves_nothing(
    victim: str, own_run_dir: Path, tmp_path: Path
) -> None:
    demo = subprocess.Popen(
        [*COMMAND, "demo", "--out", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert demo.stdout is not None
        pids: dict[str, int] = {}
        for line in demo.stdout:
            pids |= {name: int(pid) for name, pid in re.findall(r"(\w+\d) is process (\d+)", line)}
            if pids:
                break
        assert len(set(pids.values())) == 4
        os.kill(pids[victim], signal.SIGKILL)
        out, err = demo.communicate(timeout=100)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == 4, out + err
    assert victim in err
    assert "SIGKILL" in err
    assert "[FAILED]" not in out
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids.values())
    assert list(own_run_dir.iterdir()) == []


def test_a_folder_that_cannot_be_made(xfrmnic, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = xfrmnic("demo", "--out", str(tmp_path / "file" / "x"))
    assert done.returncode in (2, 3)
    assert "file" in done.stderr
