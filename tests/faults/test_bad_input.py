# SPDX-License-Identifier: Apache-2.0
"""Whatever is offered: an errno, a text, and a census as before."""

import random

import pytest

from host_driver.lab import Lab
from proto import netlink
from proto.xfrm import Msg

KEY = "0x0102030405060708090a0b0c0d0e0f1011121314"
SA = (
    "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi {spi} reqid 1 mode transport "
    "aead 'rfc4106(gcm(aes))' {key} {icv} {more} offload packet dev {dev} dir {dir}"
)
GOOD = {"spi": "0x1000", "key": KEY, "icv": "128", "more": "", "dev": "nic0", "dir": "in"}
POLICY = (
    "xfrm policy add src 10.0.0.1 dst 10.0.0.2 dir {dir} {more} "
    "tmpl src 10.0.0.1 dst 10.0.0.2 proto esp reqid 1 mode transport offload packet dev nic0"
)
TO_TUNNEL, TO_BEET = ("mode transport", "mode tunnel"), ("mode transport", "mode beet")
RANDOM_MESSAGES = 10_000


def sa(**change: str) -> str:
    return SA.format(**{**GOOD, **change})


TUNNEL = sa().replace(*TO_TUNNEL)


@pytest.fixture(scope="module")
def cards():
    """One lab a card profile, made when first asked for."""
    labs: dict[str, Lab] = {}

    def lab_with(card: str) -> Lab:
        if card not in labs:
            labs[card] = Lab(target="sim", hosts=1, card=card, seed=5)
            labs[card].start()
        return labs[card]

    yield lab_with
    for lab in labs.values():
        lab.close()


@pytest.mark.parametrize(
    ("card", "command", "says"),
    [
        ("full", sa(key="0x0102"), "cryptographic"),
        ("cx6dx", sa(key="0x" + "11" * 28), "192"),
        ("full", sa(icv="80"), "AEAD algorithm"),
        ("cx6dx", sa(icv="96"), "96"),
        ("cx6dx", sa(more="replay-window 100 flag esn"), "100"),
        ("full:replay_window_max=64", sa(more="replay-window 128"), "128"),
        ("full", sa(dev="nic7"), "nic7"),
        ("full", sa(dev="lo"), ""),
        ("full:tunnel=no", TUNNEL, "mode tunnel is not offered, card takes transport"),
        ("tiny", TUNNEL, "mode tunnel"),
        ("full:tunnel=no", POLICY.format(dir="in", more="").replace(*TO_TUNNEL), "template mode"),
        ("full", sa(dir="out").replace(*TO_TUNNEL).replace("10.0.0.1", "0.0.0.0"), "source"),
        ("full", sa().replace("transport", "beet"), "beet"),
        ("full", sa(key="0x" + "11" * 20).replace("packet", "crypto").replace(*TO_BEET), "beet"),
        ("full", sa(more="if_id 3"), "if_id"),
        ("full", sa(dir="out", more="replay-window 32"), "output SA"),
        ("full:esn=no", sa(more="replay-window 32 flag esn"), "ESN"),
        ("cx6dx", sa(more="encap espinudp 4500 4500 0.0.0.0"), "UDP"),
        ("crypto-only", sa(), "packet offload"),
        ("full", POLICY.format(dir="fwd", more=""), ""),
        ("full", POLICY.format(dir="out", more="mark 7"), "mark"),
        ("full:priority=no", POLICY.format(dir="out", more="priority 9"), "priority"),
        ("crypto-only", POLICY.format(dir="out", more=""), "packet offload"),
    ],
)
def test_a_refusal_names_its_reason_and_leaves_nothing(cards, card, command, says):
    (host,) = cards(card).hosts
    result = host.ip(command)
    assert result.rc != 0
    assert result.stderr.strip()
    assert says.lower() in result.stderr.lower()
    assert KEY[2:] not in result.stderr
    assert not any(host.nic.census().values())
    assert host.ip("xfrm state list").stdout == ""
    assert host.ip("xfrm policy list").stdout == ""


def test_missing_dir_is_refused_by_the_language(cards):
    (host,) = cards("full").hosts
    result = host.ip(sa().removesuffix(" dir in"))
    assert result.rc != 0
    assert "not complete" in result.stderr
    assert not any(host.nic.census().values())


def test_inbound_flag_on_a_policy_is_einval(cards):
    """POL-02: a policy's flags are exactly PACKET. No `ip` sends another form, so bytes do."""
    (host,) = cards("full").hosts
    sent = []
    host_netlink = host.netlink
    host.netlink = lambda request: sent.append(request) or host_netlink(request)
    try:
        assert host.ip(POLICY.format(dir="in", more="")).rc == 0
    finally:
        del host.netlink
    (request,) = (r for r in sent if next(netlink.messages(r)).type == Msg.NEWPOLICY)
    assert host.ip("xfrm policy flush").rc == 0
    for flags in (0, 1, 2, 4 | 1, 4 | 2, 8):
        changed = request[:-4] + bytes([flags, 0, 0, 0])
        (answer,) = host.netlink(changed)
        assert int.from_bytes(answer[16:20], "little", signed=True) == -22, flags
    assert not any(host.nic.census().values())


def test_a_duplicate_is_eexist_after_add_delete_free(cards):
    """TRACE-03; the SA that was there stays and keeps working."""
    (host,) = cards("full").hosts
    assert host.ip(sa()).rc == 0
    before = host.nic.census()
    seen = len(host.trace())
    result = host.ip(sa())
    assert (result.rc, result.stderr) == (2, "RTNETLINK answers: File exists\n")
    calls = [entry["call"] for entry in host.trace()[seen:]]
    assert calls == ["xdo_dev_state_add", "xdo_dev_state_delete", "xdo_dev_state_free"]
    assert host.nic.census() == before
    assert host.ip("xfrm state flush").rc == 0


def test_a_full_table_is_enospc(cards):
    (host,) = cards("tiny").hosts
    for spi in range(0x100, 0x104):
        assert host.ip(sa(spi=hex(spi))).rc == 0
    before = host.nic.census()
    result = host.ip(sa(spi="0x200"))
    assert result.rc == 2
    assert "4" in result.stderr
    assert host.nic.census() == before
    assert host.ip("xfrm state flush").rc == 0
    assert not any(host.nic.census().values())


def test_random_and_damaged_netlink(cards):
    (host,) = cards("full").hosts
    rng = random.Random(1)
    good = [
        netlink.message(type, rng.randbytes(length), flags=5, seq=1)
        for type, length in ((Msg.GETSA, 24), (Msg.DELSA, 24), (Msg.GETPOLICY, 64))
    ]
    for number in range(RANDOM_MESSAGES):
        data = bytearray(rng.choice(good) if number % 2 else rng.randbytes(rng.randrange(300)))
        if number % 2:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            del data[rng.randrange(16, len(data) + 1) :]
        for answer in host.netlink(bytes(data)):
            assert int.from_bytes(answer[:4], "little") == len(answer)
    assert not any(host.nic.census().values())
    assert host.ip(sa()).rc == 0
    assert host.ip("xfrm state flush").rc == 0


def test_random_frames_at_the_wire(cards):
    lab = cards("full")
    (host,) = lab.hosts
    assert host.ip(sa()).rc == 0
    rng = random.Random(2)
    head = bytes(12) + b"\x08\x00" + bytes.fromhex("4500")
    frames = [
        (head if number % 2 else b"") + rng.randbytes(rng.randrange(14, 200))
        for number in range(RANDOM_MESSAGES)
    ]
    before = host.nic.counters()
    for start in range(0, len(frames), 500):
        lab.wire.inject(host=0, frames=frames[start : start + 500])
        lab.settle()
        host.receive()
    after = host.nic.counters()
    dropped = sum(after[n] - before[n] for n in after if n.startswith("rx_drop_"))
    assert after["rx_packets"] - before["rx_packets"] == RANDOM_MESSAGES
    assert after["rx_delivered"] - before["rx_delivered"] + dropped == RANDOM_MESSAGES
    assert host.ip("xfrm state flush").rc == 0
    assert not any(host.nic.census().values())
