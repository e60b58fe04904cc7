# SPDX-License-Identifier: Apache-2.0
"""A background lab from `up` to `down`, as a user types it, and all that can be in the way."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.utils import PcapNgReader, wrpcap

from proto.limits import SOCKET_PATH_MAX_BYTES

COMMAND = [sys.executable, "-c", "from host_driver.cli.app import main; main()"]
KEY = bytes(range(20))
STATE = (
    "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1000 reqid 1 mode transport "
    f"aead rfc4106(gcm(aes)) 0x{KEY.hex()} 128 offload packet dev nic0 dir"
).split()
POLICY = [
    *"xfrm policy add src 10.0.0.1 dst 10.0.0.2 dir out".split(),
    *"tmpl src 10.0.0.1 dst 10.0.0.2 proto esp reqid 1 mode transport".split(),
    *"offload packet dev nic0".split(),
]
PACKET = IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1000, dport=2000) / b"from the shell"


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie that nobody reaps in a container counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def ends(pidfd: int) -> bool:
    """Whether the process ends within 30 seconds."""
    try:
        return bool(select.select([pidfd], [], [], 30)[0])
    finally:
        os.close(pidfd)


def report(done) -> dict:
    """The JSON of a verb that went well."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_lab_from_up_to_down(xfrmnic, own_run_dir: Path, tmp_path: Path) -> None:
    up = report(xfrmnic("up", "--card", "cx6dx", "--seed", "5", "--json"))
    assert (up["card"], up["seed"], up["dead"]) == ("cx6dx", 5, None)
    assert set(up["processes"]) == {"card0", "card1", "host0", "host1"}
    pids = {up["pid"], *up["processes"].values()}
    assert len(pids) == 5
    assert own_run_dir.stat().st_mode & 0o077 == 0

    assert xfrmnic("ip", *STATE, "out").returncode == 0
    assert xfrmnic("ip", "--host", "1", *STATE, "in").returncode == 0
    assert xfrmnic("ip", "--host", "0", *POLICY).returncode == 0
    again = xfrmnic("ip", "--json", *STATE, "out")
    assert again.returncode == 2
    assert "File exists" in json.loads(again.stdout)["stderr"]
    listed = xfrmnic("ip", "xfrm", "state", "list")
    assert "spi 0x00001000" in listed.stdout
    assert xfrmnic("ip", "xfrm", "dance").returncode == 255
    (tmp_path / "batch").write_text("xfrm state count\nxfrm policy count\n")
    counted = xfrmnic("ip", "-batch", str(tmp_path / "batch"))
    assert counted.stdout == "\t SAD count 1\n\t SPD IN  0 OUT 1 FWD 0\n"

    wrpcap(str(tmp_path / "in.pcap"), [PACKET] * 3, linktype=101)
    sent = report(xfrmnic("send", "--json", str(tmp_path / "in.pcap")))
    assert sent == {"packets": 3, "accepted": 3, "refused": {}}
    assert report(xfrmnic("send", "--hex", bytes(PACKET).hex(), "--json"))["accepted"] == 1
    assert xfrmnic("send", "--hex", "45").returncode == 1
    assert xfrmnic("send", "--host", "7", "--hex", "45").returncode == 2

    status = report(xfrmnic("status", "--json"))
    assert status["hosts"][0]["counters"]["ipsec_tx_pkts"] == 4
    assert status["hosts"][1]["counters"]["ipsec_rx_pkts"] == 4
    assert status["hosts"][0]["census"]["sas"] == 1

    files = report(xfrmnic("capture", "--keys", str(tmp_path / "out.pcapng"), "--json"))
    assert KEY.hex() in Path(files["keys"]).read_text()
    sa = SecurityAssociation(ESP, spi=0x1000, crypt_algo="AES-GCM", crypt_key=KEY)
    with PcapNgReader(files["pcapng"]) as capture:
        packets = list(capture)
    assert len(packets) == files["packets"] == 12
    opened = [bytes(sa.decrypt(packet[IP])) for packet in packets if ESP in packet]
    assert opened == [bytes(PACKET)] * 4

    assert report(xfrmnic("down", "--json")) == {"ended": "default"}
    assert all(gone(pid) for pid in pids)
    assert list(own_run_dir.iterdir()) == []
    assert xfrmnic("status").returncode == 3


def test_two_labs_and_their_names(xfrmnic) -> None:
    for name in ("blue", "red"):
        report(xfrmnic("up", "--hosts", "1", "--name", name, "--json"))
    for words in (["status"], ["down"], ["ip", "xfrm", "state"], ["send", "--hex", "45"]):
        done = xfrmnic(*words)
        assert done.returncode == 2
        assert "blue, red" in done.stderr
    second = xfrmnic("up", "--name", "red")
    assert second.returncode == 3
    assert "'red' is running already" in second.stderr
    assert report(xfrmnic("status", "--lab", "red", "--json"))["name"] == "red"
    assert xfrmnic("status", "--lab", "green").returncode == 3
    assert xfrmnic("down", "--lab", "blue").returncode == 0
    assert report(xfrmnic("status", "--json"))["name"] == "red"


@pytest.mark.parametrize("victim", ["card0", "host0"])
def test_a_process_that_died_is_named_until_down(xfrmnic, own_run_dir, victim: str) -> None:
    pids = report(xfrmnic("up", "--hosts", "1", "--json"))["processes"]
    os.kill(pids[victim], signal.SIGKILL)
    for words in (["status"], ["ip", "xfrm", "state", "list"], ["send", "--hex", "45"]):
        done = xfrmnic(*words)
        assert done.returncode == 4, done.stderr
        assert victim in done.stderr
        assert "SIGKILL" in done.stderr
    assert json.loads(xfrmnic("status", "--json").stdout)["dead"].startswith(victim)
    assert all(gone(pid) for pid in pids.values())
    assert xfrmnic("down").returncode == 0
    assert list(own_run_dir.iterdir()) == []


def test_the_lab_itself_is_killed(xfrmnic, own_run_dir: Path) -> None:
    up = report(xfrmnic("up", "--hosts", "1", "--json"))
    handles = [os.pidfd_open(pid) for pid in up["processes"].values()]
    os.kill(up["pid"], signal.SIGKILL)
    done = xfrmnic("status")
    assert done.returncode == 3
    assert "no lab is running" in done.stderr
    assert all(ends(handle) for handle in handles), "a process of a killed lab lives on"
    said = xfrmnic("doctor")
    assert "lab-default" in said.stdout
    assert xfrmnic("doctor", "--fix").returncode == 0
    assert list(own_run_dir.iterdir()) == []


def test_a_path_that_is_too_long_for_a_socket(xfrmnic, tmp_path: Path, monkeypatch) -> None:
    long = tmp_path / ("d" * (SOCKET_PATH_MAX_BYTES - len(str(tmp_path))))
    monkeypatch.setenv("XFRMNIC_RUN_DIR", str(long))
    done = xfrmnic("up")
    assert done.returncode == 3
    assert "107" in done.stderr
    assert "XFRMNIC_RUN_DIR" in done.stderr


def test_sigterm_ends_a_lab_cleanly(xfrmnic, own_run_dir: Path) -> None:
    up = report(xfrmnic("up", "--hosts", "1", "--json"))
    handle = os.pidfd_open(up["pid"])
    os.kill(up["pid"], signal.SIGTERM)
    assert ends(handle)
    assert all(gone(pid) for pid in up["processes"].values())
    assert list(own_run_dir.iterdir()) == []


def test_monitor_prints_what_happened(xfrmnic, own_run_dir: Path) -> None:
    report(xfrmnic("up", "--hosts", "1", "--json"))
    assert xfrmnic("ip", *STATE, "out").returncode == 0
    monitor = subprocess.Popen(
        [*COMMAND, "ip", "xfrm", "monitor"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert monitor.stdout is not None
        assert "src 10.0.0.1 dst 10.0.0.2" in monitor.stdout.readline()
        assert xfrmnic("ip", "xfrm", "state", "flush").returncode == 0
        assert any("Flushed state" in line for line in monitor.stdout)
    finally:
        monitor.terminate()
        monitor.communicate()
