# SPDX-License-Identifier: Apache-2.0
"""ESP that a real kernel made, both ways and by whoever does the work: the card in packet offload,
host and card together in crypto offload, the host's software through the card.

Inward the kernel's clear packet is delivered; outward its clear packet becomes what the kernel made
of it, but for the IV and what depends on it.
"""

import shlex

import pytest

from support.recorded_esp import BYPASS, EspPacket
from support.records import load, records

RECORDS = [*records("esp", "*transport*.json"), *records("esp", "*tunnel*.json")]
KINDS = ["packet", "crypto", "software"]
MTU = 2000  # that of the recorded link was beyond 1500
# With the module esp4_offload that kernel's software forgets TFC padding, too.
FORGETS_TFC = "tfcpad-offload-module-"


def command(record: dict, namespace: str, noun: str, kind: str, *less: str) -> str:
    """The recording's own `ip xfrm state` or `policy add`, with offload if `kind` says so; options
    in `less` (a word and its value) are left out of an offloaded SA, which cannot have them."""
    who = (namespace, noun)
    (argv,) = (c["argv"][1:] for c in record["setup"] if (c["ns"], c["argv"][2]) == who)
    if kind == "software" or (kind, noun) == ("crypto", "policy"):
        return shlex.join(argv)
    for option in filter(argv.count, less):
        del argv[argv.index(option) : argv.index(option) + 2]
    direction = ["dir", {"ca": "out", "cb": "in"}[namespace]] if noun == "state" else []
    return shlex.join([*argv, "offload", kind, "dev", "nic0", *direction])


def sent(record: dict) -> list[dict]:
    return [packet for packet in record["packets"] if packet.get("frame")]


@pytest.mark.parametrize("path", RECORDS)
@pytest.mark.parametrize("kind", [*KINDS, "packet without policy"])
def test_each_recorded_frame_is_delivered_as_the_kernels_packet(path, kind, host, open_lab):
    record = load(path)
    kind, _, no_policy = kind.partition(" ")
    state = command(record, "cb", "state", kind, "tfcpad", "extra-flag")
    assert host.ip(state).stderr == ""
    if kind == "software" and record["name"].endswith("bypass"):
        assert host.ip(BYPASS.format(**record["sa"])).rc == 0
    if not no_policy:
        assert host.ip(command(record, "cb", "policy", kind)).stderr == ""
    packets, counted, card = sent(record), host.mib(), host.nic.counters()
    open_lab.wire.inject(host=0, frames=[bytes.fromhex(p["frame"]) for p in packets])
    open_lab.settle()

    # Where that kernel's software met a policy, so does ours (UDP 4500). What a card has opened
    # comes with its SA, and that satisfies the policy.
    errors = record["receiver_errors"] if kind == "software" else {}
    moved = {name: count - counted[name] for name, count in host.mib().items()}
    assert {name: count for name, count in moved.items() if count} == errors
    received = [p.hex() for p in host.receive()]
    assert received == ([] if errors else [p["plaintext_ip"] for p in packets])
    opened = host.nic.counters()["ipsec_rx_pkts"] - card["ipsec_rx_pkts"]
    assert opened == (0 if kind == "software" else len(packets))
    if not record["receiver_errors"]:
        after = record["receiver_sa_after"]
        listed = host.ip("-s xfrm state").stdout
        assert f"{after['cur_bytes']}(bytes), {after['cur_packets']}(packets)" in listed


@pytest.mark.parametrize("path", RECORDS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_clear_packet_leaves_as_the_kernel_sent_it(path, kind, host, open_lab):
    record = load(path)
    sa = record["sa"]
    if "tfcpad" in sa["extra"] and (kind != "software" or FORGETS_TFC in record["name"]):
        pytest.skip("a device takes no SA with TFC padding, and that kernel forgot it")
    packets = sent(record)
    if not packets:
        pytest.skip("that kernel could not send it either")
    # An SA that is offloaded outward has a direction, and with it no replay window.
    assert host.ip(command(record, "ca", "state", kind, "replay-window")).stderr == ""
    assert host.ip(command(record, "ca", "policy", kind)).stderr == ""
    host.set_link(mtu=MTU)
    before, card = len(open_lab.wire.frames()), host.nic.counters()
    clear = [bytes.fromhex(p["plaintext_ip"]) for p in packets]
    assert host.send(clear) == [0] * len(clear)
    open_lab.settle()
    frames = open_lab.wire.frames()[before:]
    assert len(frames) == len(packets)
    for packet, frame in zip(packets, frames, strict=True):
        ours, theirs = EspPacket(frame.data[14:]), EspPacket(bytes.fromhex(packet["frame"])[14:])
        high = packet["seq_hi"] if sa["esn"] else None
        assert ours.before_iv == theirs.before_iv
        assert (ours.udp[6:] == bytes(2)) == (theirs.udp[6:] == bytes(2))
        assert len(ours.packet) == len(theirs.packet)
        assert ours.open(sa, high) == theirs.open(sa, high)
    sealed = host.nic.counters()["ipsec_tx_pkts"] - card["ipsec_tx_pkts"]
    assert sealed == (0 if kind == "software" else len(packets))
