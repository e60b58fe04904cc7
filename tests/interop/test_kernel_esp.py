# SPDX-License-Identifier: Apache-2.0
"""ESP that a real kernel made arrives at the wire; the card delivers that kernel's clear packet."""

import shlex

import pytest

from support.records import load, records


def inbound(record: dict) -> str:
    """The receiver's own `ip xfrm state add` of the recording, made an offloaded one."""
    argv = record["setup"][1]["argv"][1:]
    return shlex.join([*argv, "offload", "packet", "dev", "nic0", "dir", "in"])


def policy(record: dict) -> str:
    (argv,) = (c["argv"][1:] for c in record["setup"] if "policy" in c["argv"] and c["ns"] == "cb")
    return shlex.join([*argv, "offload", "packet", "dev", "nic0"])


@pytest.mark.parametrize("path", records("esp", "*transport*.json"))
@pytest.mark.parametrize("with_policy", [True, False], ids=["policy", "no-policy"])
def test_each_recorded_frame_is_delivered_as_the_kernels_packet(path, with_policy, host, open_lab):
    record = load(path)
    assert host.ip(inbound(record)).stderr == ""
    if with_policy:
        assert host.ip(policy(record)).stderr == ""
    packets = [p for p in record["packets"] if p.get("frame")]
    open_lab.wire.inject(host=0, frames=[bytes.fromhex(p["frame"]) for p in packets])
    open_lab.settle()
    assert [p.hex() for p in host.receive()] == [p["plaintext_ip"] for p in packets]

    if record["receiver_errors"]:
        return  # that kernel's software stack met a policy that the card does not ask (UDP 4500)
    listed = host.ip("-s xfrm state").stdout
    after = record["receiver_sa_after"]
    assert f"{after['cur_bytes']}(bytes), {after['cur_packets']}(packets)" in listed
