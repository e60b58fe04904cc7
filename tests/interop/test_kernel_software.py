# SPDX-License-Identifier: Apache-2.0
"""Software ESP against recorded kernels: the same packets leave, and theirs come in as there."""

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from support.core import Core, state_after, words
from support.records import load, records

BYPASS = "xfrm policy add src {src} dst {dst} proto udp dport 4500 dir in priority 0 action allow"
LINK_MTU = 2000  # of the recorded link


def core_of(record: dict, namespace: str) -> Core:
    """One end of the recording."""
    core = Core(mtu=LINK_MTU)
    if record["name"].endswith("-bypass"):  # what IKE daemons set on their socket
        core.add(BYPASS.format(**record["sa"]))
    core.add(*(words(c["argv"]) for c in record["setup"] if c["ns"] == namespace))
    return core


def opened(record: dict, esp_ip: bytes, high: int | None) -> tuple[bytes, bytes]:
    """IV and clear text with its trailer, as `cryptography` opens the packet."""
    sa = record["sa"]
    esp = esp_ip[20 if esp_ip[0] >> 4 == 4 else 40 :]
    if sa["encap_dport"]:
        esp = esp[8:]
    aad = esp[:4] + (b"" if high is None else high.to_bytes(4, "big")) + esp[4:8]
    tag = esp[-sa["icv_bits"] // 8 :]
    key, nonce = bytes.fromhex(sa["key"]), bytes.fromhex(sa["salt"]) + esp[8:16]
    opener = Cipher(algorithms.AES(key), modes.GCM(nonce, tag, len(tag))).decryptor()
    opener.authenticate_additional_data(aad)
    return esp[8:16], opener.update(esp[16 : -len(tag)]) + opener.finalize()


def outer(esp_ip: bytes, encap: bool) -> bytes:
    """Everything in front of the IV, but a UDP checksum, which depends on it."""
    end = (20 if esp_ip[0] >> 4 == 4 else 40) + (8 if encap else 0) + 8
    head = bytearray(esp_ip[:end])
    if encap:
        head[-10:-8] = b""
    return bytes(head)


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
        (ours,) = core.take()
        iv, clear = opened(record, ours, packet["seq_hi"])
        number = (packet["seq_hi"] or 0) << 32 | packet["seq_lo"]
        salts.add(int.from_bytes(iv, "big") ^ number)
        if tfc_lost and record["sa"]["extra"]:
            continue
        theirs = bytes.fromhex(packet["esp_ip"])
        assert len(ours) == len(theirs)
        encap = bool(record["sa"]["encap_dport"])
        assert outer(ours, encap) == outer(theirs, encap)
        assert clear == opened(record, theirs, packet["seq_hi"])[1]
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
