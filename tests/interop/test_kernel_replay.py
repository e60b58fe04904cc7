# SPDX-License-Identifier: Apache-2.0
"""Anti-replay verdicts are those that a real kernel gave, packet by packet: in packet offload the
card's, in crypto offload the host's, where the card finds the high half of the number."""

import shlex

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from support.records import load, records

PAYLOAD = bytes(UDP(sport=4000, dport=5000) / b"replay")


def frame(record: dict, step: dict) -> bytes:
    """The recorded frame, or for the later steps of a run one sealed by `cryptography`."""
    if "packet" in step:
        return bytes(Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02"))[:12] + (
            b"\x08\x00" + bytes.fromhex(step["packet"])
        )
    key = bytes.fromhex(record["key"])
    seq, spi = step["seq"], record["spi"].to_bytes(4, "big")
    iv = seq.to_bytes(8, "big")
    high = (seq >> 32).to_bytes(4, "big") if record["esn"] else b""
    low = (seq & 0xFFFF_FFFF).to_bytes(4, "big")
    text = PAYLOAD + bytes(-(len(PAYLOAD) + 2) % 4)
    text += bytes([-(len(PAYLOAD) + 2) % 4, 17])
    sealed = bytearray(AESGCM(key[:-4]).encrypt(key[-4:] + iv, text, spi + high + low))
    if step.get("corrupt"):
        sealed[-1] ^= 1
    source = IP(src="10.1.0.1", dst="10.1.0.2", proto=50) / (spi + low + iv + bytes(sealed))
    return bytes(Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02") / source)


def replays_and_corrupt(steps: list[dict]) -> list[bool]:
    """Of each step, whether it has a wrong ICV and yet was counted as a replay."""
    return [
        bool(step.get("corrupt")) and "XfrmInStateSeqError" in step["counters"] for step in steps
    ]


@pytest.mark.parametrize("path", records("replay", "*.json"))
@pytest.mark.parametrize("kind", ["packet", "crypto"])
def test_every_verdict_is_the_kernels(path, kind, host, open_lab):
    record = load(path)
    argv = [*record["sa_argv"][1:], "offload", kind, "dev", "nic0", "dir", "in"]
    assert host.ip(shlex.join(argv)).stderr == ""
    verdicts = []
    for step in record["results"]:
        open_lab.wire.inject(host=0, frames=[frame(record, step)])
        open_lab.settle()
        verdicts.append("accept" if host.receive() else "drop")
    assert verdicts == [step["outcome"] for step in record["results"]]
    failed = dict(record["results"][-1]["sa_stats"])
    if kind == "crypto":  # RX-14: what the device found is looked at before the window
        early = sum(replays_and_corrupt(record["results"]))
        failed["replay"] -= early
        failed["integrity_failed"] += early
    stats = " ".join(host.ip("-s xfrm state").stdout.split())
    assert (
        f"replay-window {failed['replay_window']} replay {failed['replay']} "
        f"failed {failed['integrity_failed']}" in stats
    )
