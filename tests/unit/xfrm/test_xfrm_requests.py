# SPDX-License-Identifier: Apache-2.0
"""Requests against sleeping, failing and broken drivers, and against any bytes at all."""

import json
import random
import struct
from pathlib import Path
from typing import Any

from host_driver.sleep import Completion, wait
from proto.netlink import message, messages

VECTORS = Path(__file__).parents[2] / "vectors" / "netlink"
ALLOCSPI = 0x16


def test_key_lives_once_and_is_wiped(world: Any, pktsim: Any, requests: Any) -> None:
    world.add_sa()
    key = world.state(0x1000).aead.key
    assert bytes(key) == bytes(range(1, 21)) and "bytearray" not in repr(world.state(0x1000))
    seen = []
    pktsim.xdo_dev_state_free = lambda dev, x: seen.append((x.aead, bytes(key)))
    world.netlink(message(0x1C, b"\0", 5))
    assert seen == [(None, b"")]


def test_requests_wait_for_each_other(world: Any, pktsim: Any, requests: Any) -> None:
    """UAPI-07: the second request starts when the first one's driver has answered."""
    gate, answers = Completion(), []

    def slow(dev: Any, x: Any, extack: Any) -> Any:
        yield from wait(gate)
        return 0

    def ask(request: bytes) -> Any:
        replies = yield from world.net.netlink(request)
        answers.append([*replies][-1][16:20])

    pktsim.xdo_dev_state_add = slow
    for request in (requests[0](1), requests[0](1, flags=None)):
        world.sched.spawn(ask(request))
    world.sched.run(0)
    assert answers == [] and len(world.net.sad) == 0
    gate.complete()
    world.sched.run(0)
    assert [struct.unpack("<i", answer)[0] for answer in answers] == [0, -17]


def test_device_down_while_free_sleeps(world: Any, pktsim: Any) -> None:
    gate = Completion()

    def slow(dev: Any, x: Any) -> Any:
        yield from wait(gate)

    world.add_sa(1)
    world.add_sa(2)
    world.add_policy()
    pktsim.xdo_dev_state_free = slow
    world.take()
    world.devices.set_up(world.nic, False)
    world.sched.run(0)
    assert len(world.net.sad) == len(world.net.spd) == 0  # gone at once, the references not yet
    assert world.nic.refcnt == 2 and world.take() == []  # NDEV-04
    gate.complete()
    world.sched.run(0)
    assert world.nic.refcnt == 0


def test_driver_that_sleeps_under_a_lock(world: Any, pktsim: Any) -> None:
    def sleeping(dev: Any, x: Any) -> Any:
        yield Completion()

    world.add_sa()
    pktsim.xdo_dev_state_delete = sleeping
    world.netlink(message(0x1C, b"\0", 5))
    rules = {entry["call"]: entry.get("rule") for entry in world.trace.entries()}
    assert rules["xdo_dev_state_delete"] == "OPS-16"
    assert world.nic.refcnt == 0


def test_update_of_a_valid_sa(world: Any, pktsim: Any, requests: Any) -> None:
    """TRACE-08, TRACE-09: the temporary object is added, deleted, reported and freed."""
    world.add_sa()
    pktsim.log.clear()
    assert world.errno(requests[0](type=0x1A, hard_packet_limit=7)) == 0
    calls = [line.split()[0] for line in pktsim.log]
    assert calls == ["state_add", "state_delete", "update_stats", "state_free"]
    assert world.state(0x1000).lft.hard_packet_limit == 7 and world.nic.refcnt == 1
    pktsim.log.clear()
    assert world.errno(requests[0](2, type=0x1A)) == 3
    assert [line.split()[0] for line in pktsim.log] == ["state_add", "state_delete", "state_free"]


def test_dumps_and_malformed_attributes(world: Any) -> None:
    """UAPI-04: a dump of SAs parses its attributes, a dump of policies does not look at them."""
    world.add_policy()
    short = b"\x05\0\x15\0\x01\0\0\0"  # MARK with one byte of eight
    for type, error, types in ((0x12, -34, [3]), (0x15, 0, [0x13, 3])):
        answers = [one for data in world.netlink(message(type, short, 0x301)) for one in
                   messages(data)]  # fmt: skip
        assert [one.type for one in answers] == types
        assert struct.unpack_from("<i", answers[-1].payload)[0] == error


def test_any_bytes(make_world: Any, pktsim: Any) -> None:
    """10 000 damaged requests: an errno or silence, and a refusal leaves nothing behind."""
    rng = random.Random(20)
    cases = json.loads((VECTORS / "raw" / "cases.json").read_text())
    good = [bytes.fromhex(step["request"]) for case in cases for step in case["steps"]]
    world = make_world(pktsim)
    for round in range(10_000):
        request = bytearray(rng.choice(good))
        if round % 5 == 0:
            request = bytearray(rng.randbytes(rng.randrange(400)))
            if len(request) >= 16:
                request[:8] = struct.pack("<IHH", len(request), rng.randrange(0x2C), 5)
        elif round % 5 == 1:
            del request[rng.randrange(len(request)) :]
            if len(request) >= 4 and rng.random() < 0.8:
                request[:4] = len(request).to_bytes(4, "little")
        else:
            for _ in range(rng.randrange(1, 6)):
                request[rng.randrange(16, len(request)) if len(request) > 16 else 0] = (
                    rng.randrange(256)
                )
        before = (len(world.net.sad), len(world.net.spd), world.nic.refcnt)
        for reply in world.netlink(bytes(request)):
            answer = next(iter(messages(reply)))
            failed = answer.type == 2 and answer.payload[:4] != bytes(4)
            if failed and answer.payload[8:10] != bytes((ALLOCSPI, 0)):
                assert (len(world.net.sad), len(world.net.spd), world.nic.refcnt) == before
        if round % 500 == 499:
            world.advance(1)
            world.netlink(message(0x1C, b"\0", 5))
            for type in (0, 1):
                world.netlink(message(0x1D, b"\x0a\0\x10\0" + bytes((type,)) + bytes(7), 5))
            assert (len(world.net.sad), len(world.net.spd), world.nic.refcnt) == (0, 0, 0)


def test_attributes_of_other_messages(world: Any) -> None:
    """Linux 6.18: NEWSPDINFO has types of its own and skips what is none of them; of a flag, that
    it is nested is seen before that it has a value."""
    thresholds = b"\6\0\3\0\x18\x20\0\0"
    for type in (33, 35):
        other = struct.pack("<HHI", 8, type, 3)
        assert world.errno(message(0x24, bytes(4) + thresholds + other, 5)) == 0
    nested = struct.pack("<HHI", 8, 0x8000 | 38, 1)
    assert world.errno(message(0x1D, nested, 5)) == 22
    assert world.errno(message(0x1D, struct.pack("<HHI", 8, 38, 1), 5)) == 34


def test_larval_sa_takes_four_bytes_of_an_ipv4_address(world: Any, requests: Any) -> None:
    """Linux 6.18: what stands behind them in the request is not kept."""
    wanted = bytearray(requests[0](flags=None)[16:][:224]) + struct.pack("<II", 9, 9)
    wanted[56 + 8] = wanted[80 + 8] = 7  # in the destination and in the source
    wanted[72:76] = bytes(4)
    reply = next(messages(world.netlink(message(ALLOCSPI, bytes(wanted), 1))[0]))
    assert reply.type == 0x10
    assert reply.payload[60:72] == reply.payload[84:92] + bytes(4) == bytes(12)


def test_states_are_found_by_four_bytes_of_an_ipv4_address(world: Any) -> None:
    """Linux 6.18: what stands behind them in the request does not count."""
    world.add_sa()
    id = bytes((10, 1, 0, 2)) + bytes(3) + b"\7" + bytes(8) + b"\0\0\x10\0\2\0\x32\0"
    assert next(messages(world.netlink(message(0x12, id, 1))[0])).type == 0x10
    assert world.errno(message(0x11, id, 5)) == 0
    assert len(world.net.sad) == 0
