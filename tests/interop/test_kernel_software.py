# SPDX-License-Identifier: Apache-2.0
"""Software ESP against recorded kernels: the same packets leave, and theirs come in as there."""

import pytest

from support.core import Core, state_after, words
from support.recorded_esp import BYPASS, EspPacket
from support.records import load, records

LINK_MTU = 2000  # of the recorded link


def core_of(record: dict, namespace: str) -> Core:
    """One end of the recording."""
    core = Core(mtu=LINK_MTU)
    if record["name"].endswith("-bypass"):  # what IKE daemons set on their socket
        core.add(BYPASS.format(**record["sa"]))
    core.add(*(words(c["argv"]) for c in record["setup"] if c["ns"] == namespace))
    return core


@pytest.mark.parametrize("path", records("esp"))
def test_our_packets_are_those_of_the_kernel(path):
    record = load(path)
    core = core_of(record, "ca")
    # TFC padding goes when esp4_offload is loaded; here it is applied as without that module.
    tfc_lost = record["name"].endswith(("tfcpad-offload-module-loaded", "module-unloaded"))
    salts = set()
    for packet in record["packets"]:
        error = core.net.output(bytes.fromhex(packet["plaintext_ip"]))
        assert -error == (packet["send_errno"] or 0)
        if error:
            continue
        ours, theirs = map(EspPacket, (*core.take(), bytes.fromhex(packet["esp_ip"])))
        clear = ours.open(record["sa"], packet["seq_hi"])
        number = (packet["seq_hi"] or 0) << 32 | packet["seq_lo"]
        salts.add(int.from_bytes(ours.iv, "big") ^ number)
        if tfc_lost and record["sa"]["extra"]:
            continue
        assert len(ours.packet) == len(theirs.packet)
        assert ours.before_iv == theirs.before_iv
        assert clear == theirs.open(record["sa"], packet["seq_hi"])
    assert len(salts) <= 1  # one random value for the whole SA
    if not (tfc_lost and record["sa"]["extra"]):
        assert state_after(core.state(record["sa"]["spi"])) == record["sender_sa_after"]
    assert core.moved() == record["sender_errors"]


@pytest.mark.parametrize("path", records("esp"))
def test_their_packets_come_in(path):
    record = load(path)
    core = core_of(record, "cb")
    for packet in record["packets"]:
        if packet["send_errno"]:
            continue
        clear = None if record["receiver_errors"] else bytes.fromhex(packet["plaintext_ip"])
        assert core.receive(bytes.fromhex(packet["esp_ip"])) == clear
    assert core.moved() == record["receiver_errors"]
    assert state_after(core.state(record["sa"]["spi"])) == record["receiver_sa_after"]
