# SPDX-License-Identifier: Apache-2.0
"""Mailbox commands: objects, references, refusals. A refusal changes nothing but its counter."""

import msgspec
import pytest

from proto import commands as c
from proto.frame import Channel, Kind, pack, unpack
from proto.status import Status, Syndrome
from proto.xfrm import AF_INET, AF_INET6
from tests.unit.firmware.conftest import EPOCH

EMPTY = {"keys": 0, "sas": 0, "rules_sa": 0, "rules_policy": 0}
BAD, NO, FULL = Status.BAD_PARAMETER, Status.NOT_SUPPORTED, Status.NO_RESOURCES
V4_33 = c.Selector(family=AF_INET, prefixlen_s=33)
GRE_KEY = c.Selector(family=AF_INET, proto=47, dport=5, dport_mask=0xFFFF)
MOBILITY_TYPE = c.Selector(family=AF_INET, proto=135, sport_mask=0xFF)
ANY_PORT = c.Selector(family=AF_INET, dport=5, dport_mask=0xFFFF)
V6_129 = c.Selector(family=AF_INET6, prefixlen_d=129)


def refuse(card, command, status, syndrome, *words):
    """The command is refused so, and neither census nor any other counter moves."""
    census, counters = card.census, card.counters
    reply = card.command(command)
    assert (reply.status, reply.syndrome) == (status, syndrome), reply.text
    for word in words:
        assert str(word) in reply.text
    assert reply.handle == 0
    assert card.census == census
    assert card.counters == counters | {"cmd_refused": counters["cmd_refused"] + 1}


def test_caps_are_answered_as_configured(new_card):
    reply = new_card("tiny:counter_bits=8").command(c.QueryCaps())
    assert reply.caps is not None
    assert (reply.caps.name, reply.caps.sa_max, reply.caps.counter_bits) == ("tiny", 4, 8)


def test_census_follows_the_objects(card):
    assert card.census == EMPTY
    key = card.make(c.CreateKey(card.KEY))
    sa = card.make(card.sa(key))
    rule = card.make(c.CreateSaRule(sa))
    policy = card.make(card.policy())
    assert card.census == {"keys": 1, "sas": 1, "rules_sa": 1, "rules_policy": 1}
    for command in (
        c.DestroyRule(policy), c.DestroyRule(rule), c.DestroySa(sa), c.DestroyKey(key),
    ):  # fmt: skip
        card.make(command)
    assert card.census == EMPTY


def test_teardown_destroys_everything(card):
    card.protect(c.OUT)
    card.protect(c.IN)
    card.make(c.Teardown())
    assert card.census == EMPTY
    assert not card.firmware.objects.tables.keys.any()


def test_references_are_strict(card):
    key = card.make(c.CreateKey(card.KEY))
    sa = card.make(card.sa(key))
    rule = card.make(c.CreateSaRule(sa))
    busy = Status.OBJECT_BUSY, Syndrome.HANDLE_IN_USE
    refuse(card, c.DestroyKey(key), *busy, f"{key:#x}", "1 SA")
    refuse(card, c.DestroySa(sa), *busy, f"{sa:#x}", "rule")
    card.make(c.DestroyRule(rule))
    refuse(card, c.DestroyKey(key), *busy)
    card.make(c.DestroySa(sa))
    card.make(c.DestroyKey(key))


def test_a_handle_comes_back_only_with_another_generation(card):
    """INV-41: rows rest before they are used again, and then under another handle."""
    seen = set()
    for _ in range(1000):
        made = card.command(c.CreateKey(card.KEY))
        card.make(c.DestroyKey(made.handle))
        assert (made.handle, made.generation) not in seen
        seen.add((made.handle, made.generation))
    assert len({handle for handle, _ in seen}) == 1000
    assert len({handle & 0xFF_FFFF for handle, _ in seen}) < 100, "memory stays bounded"
    unknown = Status.BAD_OBJECT, Syndrome.HANDLE_UNKNOWN
    refuse(card, c.DestroyKey(made.handle), *unknown, f"{made.handle:#x}")
    refuse(card, card.sa(made.handle), *unknown)


@pytest.mark.parametrize("handle", [0, 1, -1, 1 << 24, (1 << 64) - 1])
@pytest.mark.parametrize(
    "kind",
    [
        c.DestroyKey, c.DestroySa, lambda handle: c.SetLimits(handle=handle), c.StopSa, c.QuerySa,
        c.CreateSaRule, c.DestroyRule,
    ],
)  # fmt: skip
def test_unknown_handles_are_refused(card, kind, handle):
    refuse(card, kind(handle), Status.BAD_OBJECT, Syndrome.HANDLE_UNKNOWN, f"{handle:#x}")


@pytest.mark.parametrize(
    ("kind", "size", "what"), [("key", 4, "key"), ("sa", 4, "SA"), ("policy", 12, "rule")]
)
def test_a_full_table_says_its_size_and_the_way_out(new_card, kind, size, what):
    card = new_card("tiny")
    key = 0 if kind == "key" else card.make(c.CreateKey(card.KEY))
    command = {"key": c.CreateKey(card.KEY), "sa": card.sa(key), "policy": card.policy()}[kind]
    handles = [card.make(command) for _ in range(size)]
    text = f"{what} table is full at {size}, delete one or use a larger card"
    refuse(card, command, FULL, Syndrome.TABLE_FULL, text)
    card.make({"key": c.DestroyKey, "sa": c.DestroySa, "policy": c.DestroyRule}[kind](handles[1]))
    card.make(command)


def test_sa_rules_and_policy_rules_share_one_table(new_card):
    card = new_card("tiny:rule_max=1")
    sa = card.make(card.sa(card.make(c.CreateKey(card.KEY)), c.IN))
    policy = card.make(card.policy())
    refuse(card, c.CreateSaRule(sa), FULL, Syndrome.TABLE_FULL, "rule table is full at 1")
    card.make(c.DestroyRule(policy))
    card.make(c.CreateSaRule(sa))
    refuse(card, card.policy(), FULL, Syndrome.TABLE_FULL)


def test_second_inbound_rule_for_destination_spi_protocol_exists(card, family):
    key = card.make(c.CreateKey(card.KEY))
    first, second, other = (
        card.make(card.sa(key, c.IN, family, spi=spi)) for spi in (0x1000, 0x1000, 0x1001)
    )
    rule = card.make(c.CreateSaRule(first))
    exists = Status.EXISTS, Syndrome.SA_EXISTS
    refuse(card, c.CreateSaRule(first), *exists)
    refuse(card, c.CreateSaRule(second), *exists, "0x1000")
    card.make(c.CreateSaRule(other))
    card.make(c.DestroyRule(rule))
    card.make(c.CreateSaRule(second))


def test_two_outbound_sas_may_be_alike(card):
    key = card.make(c.CreateKey(card.KEY))
    for _ in range(2):
        card.make(c.CreateSaRule(card.make(card.sa(key))))
    assert card.census["rules_sa"] == 2


@pytest.mark.parametrize("bits", [0, 8, 120, 136, 160, 264, 4096])
def test_key_lengths_that_aes_does_not_have(card, bits):
    key = bytes([0xA5]) * (bits // 8)
    refuse(card, c.CreateKey(key), NO, Syndrome.KEY_LENGTH, f"{bits} bits", "128, 192, 256")


def test_key_lengths_follow_the_profile(new_card):
    card = new_card("cx6dx")
    refuse(card, c.CreateKey(bytes(24)), NO, Syndrome.KEY_LENGTH, "192 bits", "cx6dx", "128, 256")
    card.make(c.CreateKey(bytes(16)))
    card = new_card("full:key_bits=128")
    refuse(card, c.CreateKey(bytes(20)), NO, Syndrome.KEY_LENGTH, "160 bits")


@pytest.mark.parametrize(
    ("direction", "fields", "status", "syndrome", "word"),
    [
        (c.OUT, {"spi": 0}, BAD, Syndrome.SPI, "0x0"),
        (c.OUT, {"spi": -1}, BAD, Syndrome.SPI, "-0x1"),
        (c.OUT, {"spi": 1 << 32}, BAD, Syndrome.SPI, "0x100000000"),
        (c.OUT, {"family": 0}, BAD, Syndrome.FAMILY, "family 0"),
        (c.OUT, {"family": 7}, BAD, Syndrome.FAMILY, "family 7"),
        (c.OUT, {"saddr": b"\1\2\3\4"}, BAD, Syndrome.FAMILY, "4 bytes"),
        (c.OUT, {"daddr": bytes(17)}, BAD, Syndrome.FAMILY, "17 bytes"),
        (0, {}, BAD, Syndrome.DIRECTION, "direction 0"),
        (3, {}, BAD, Syndrome.DIRECTION, "direction 3"),
        (c.OUT, {"reqid": -1}, BAD, Syndrome.FIELD, "reqid -1"),
        (c.OUT, {"reqid": 1 << 32}, BAD, Syndrome.FIELD, "reqid 4294967296"),
        (c.OUT, {"salt": b""}, BAD, Syndrome.KEY_LENGTH, "0 bytes"),
        (c.OUT, {"salt": b"12345"}, BAD, Syndrome.KEY_LENGTH, "5 bytes"),
        (c.OUT, {"icv_bytes": 10}, NO, Syndrome.ICV_LENGTH, "10 bytes"),
        (c.OUT, {"icv_bytes": 0}, NO, Syndrome.ICV_LENGTH, "8, 12, 16"),
        (c.OUT, {"seq": 1 << 32}, BAD, Syndrome.SEQUENCE, "4294967296"),
        (c.OUT, {"seq": -1}, BAD, Syndrome.SEQUENCE, "without ESN"),
        (c.IN, {"seq": -1, "esn": True}, BAD, Syndrome.SEQUENCE, "with ESN"),
        (c.IN, {"replay_window": -1}, BAD, Syndrome.WINDOW_SIZE, "-1"),
        (c.IN, {"replay_window": 4097}, BAD, Syndrome.WINDOW_SIZE, "4096"),
        (c.IN, {"replay_window": 0, "esn": True}, BAD, Syndrome.WINDOW_SIZE, "ESN"),
        (c.IN, {"replay_window": 65, "bitmap": (0, 0)}, BAD, Syndrome.WINDOW_SIZE, "2 bitmap"),
        (c.IN, {"bitmap": (1 << 32,)}, BAD, Syndrome.WINDOW_SIZE, "32 bits"),
        (c.IN, {"bitmap": (-1,)}, BAD, Syndrome.WINDOW_SIZE, "32 bits"),
        (c.IN, {"bitmap": (0,) * 129}, BAD, Syndrome.WINDOW_SIZE, "129"),
        (c.OUT, {"packets": 0}, BAD, Syndrome.LIMIT, "packets limit 0"),
        (c.OUT, {"soft_packets": 0}, BAD, Syndrome.LIMIT, "soft_packets limit 0"),
        (c.IN, {"bytes": 0}, BAD, Syndrome.LIMIT, "bytes limit 0"),
        (c.IN, {"bytes": -1}, BAD, Syndrome.LIMIT, "bytes limit -1"),
        (c.OUT, {"encap_sport": 4500}, BAD, Syndrome.ENCAP_UNSUPPORTED, "4500, 0"),
        (c.OUT, {"encap_sport": 1, "encap_dport": 65536}, BAD, Syndrome.ENCAP_UNSUPPORTED, "65536"),
        (c.OUT, {"selector": V4_33}, BAD, Syndrome.SELECTOR, "prefixlen_s 33"),
        (c.OUT, {"selector": V6_129}, BAD, Syndrome.SELECTOR, "family 10"),
        (c.OUT, {"selector": c.Selector(prefixlen_s=1)}, BAD, Syndrome.SELECTOR, "0..0"),
        (c.OUT, {"selector": c.Selector(saddr=b"")}, BAD, Syndrome.FAMILY, "0 bytes"),
        (c.OUT, {"selector": c.Selector(proto=256)}, BAD, Syndrome.SELECTOR, "proto 256"),
        (c.OUT, {"selector": c.Selector(sport=-1)}, BAD, Syndrome.SELECTOR, "sport -1"),
        (c.OUT, {"selector": c.Selector(dport_mask=65536)}, BAD, Syndrome.SELECTOR, "dport_mask"),
        (c.IN, {"selector": GRE_KEY}, BAD, Syndrome.SELECTOR, "ports of protocol 47"),
        (c.OUT, {"selector": MOBILITY_TYPE}, BAD, Syndrome.SELECTOR, "ports of protocol 135"),
    ],
)
def test_sa_that_no_card_takes(card, direction, fields, status, syndrome, word):
    key = card.make(c.CreateKey(card.KEY))
    refuse(card, card.sa(key, direction, **fields), status, syndrome, word, "SA spi")


@pytest.mark.parametrize(
    ("profile", "direction", "fields", "syndrome", "words"),
    [
        ("crypto-only", c.OUT, {}, Syndrome.PACKET_UNSUPPORTED, ("crypto-only", "packet")),
        ("cx6dx", c.OUT, {"icv_bytes": 12}, Syndrome.ICV_LENGTH, ("12 bytes", "cx6dx", "16")),
        ("cx6dx", c.IN, {"replay_window": 33}, Syndrome.WINDOW_SIZE, ("33", "32, 64, 128, 256")),
        ("cx6dx", c.IN, {"replay_window": 512}, Syndrome.WINDOW_SIZE, ("512",)),
        ("full:replay_window_max=64", c.IN, {"replay_window": 65}, Syndrome.WINDOW_SIZE, ("65",)),
        ("full:esn=no", c.IN, {"esn": True}, Syndrome.ESN_UNSUPPORTED, ("ESN", "full")),
        (
            "cx6dx", c.OUT, {"encap_sport": 4500, "encap_dport": 4500},
            Syndrome.ENCAP_UNSUPPORTED, ("cx6dx", "UDP"),
        ),
    ],
)  # fmt: skip
def test_sa_that_this_profile_does_not_take(new_card, profile, direction, fields, syndrome, words):
    card = new_card(profile)
    key = card.make(c.CreateKey(card.KEY))
    refuse(card, card.sa(key, direction, **fields), NO, syndrome, *words)


@pytest.mark.parametrize(
    ("profile", "direction", "fields"),
    [
        ("cx6dx", c.IN, {"replay_window": 0}),
        ("cx6dx", c.OUT, {"replay_window": 33, "bitmap": (1, 2)}),  # REPLAY-10: ignored
        ("full", c.IN, {"replay_window": 33, "bitmap": (1, 2, 3)}),
        ("full", c.IN, {"replay_window": 4096, "esn": True, "seq": (1 << 64) - 1}),
        ("full", c.OUT, {"seq": (1 << 32) - 1}),
        ("full", c.OUT, {"packets": 10, "soft_packets": 20}),
        ("full", c.OUT, {"packets": 1, "soft_packets": 1, "bytes": 1}),
        ("full", c.OUT, {"encap_sport": 4500, "encap_dport": 65535}),
        ("full", c.OUT, {"spi": 1, "icv_bytes": 8, "reqid": (1 << 32) - 1}),
        ("full", c.OUT, {"spi": (1 << 32) - 1, "icv_bytes": 12}),
    ],
)
def test_sa_at_the_edge_is_taken(new_card, profile, direction, fields):
    card = new_card(profile)
    card.make(card.sa(card.make(c.CreateKey(card.KEY)), direction, **fields))
    assert card.census["sas"] == 1


def test_query_sa_reads_what_was_created(card):
    key = card.make(c.CreateKey(card.KEY))
    created = card.command(
        card.sa(key, c.IN, replay_window=40, bitmap=(5, 6), seq=77, packets=1000, soft_packets=600)
    )
    state = card.command(c.QuerySa(created.handle)).sa
    assert state is not None
    assert state.generation == created.generation
    assert (state.seq, state.window) == (77, (5, 6))
    assert (state.remaining, state.soft_remaining) == (1000, 600)
    assert (state.soft_arm, state.hard_arm, state.stopped) == (True, True, False)
    assert (state.packets, state.bytes, state.replay, state.integrity_failed) == (0, 0, 0, 0)
    card.make(c.StopSa(created.handle))
    stopped = card.command(c.QuerySa(created.handle)).sa
    assert stopped is not None
    assert stopped.stopped


@pytest.mark.parametrize("name", ["packets", "soft_packets", "bytes"])
@pytest.mark.parametrize("value", [0, -1])
def test_limits_that_are_none_are_refused_and_the_old_ones_stay(card, name, value):
    handle = card.make(card.sa(card.make(c.CreateKey(card.KEY)), packets=1000))
    command = c.SetLimits(handle=handle, **{name: value})
    refuse(card, command, BAD, Syndrome.LIMIT, name, str(value))
    assert card.command(c.QuerySa(handle)).sa.remaining == 1000


def test_no_new_limits_lift_a_stop_by_order(card):
    """INV-24: a late SetLimits must not bring an expired SA back."""
    handle = card.make(card.sa(card.make(c.CreateKey(card.KEY)), packets=1000))
    card.make(c.StopSa(handle))
    card.make(c.SetLimits(handle=handle, packets=500, soft_packets=200))
    state = card.command(c.QuerySa(handle)).sa
    assert (state.remaining, state.soft_remaining, state.stopped) == (500, 200, True)


@pytest.mark.parametrize(
    ("fields", "syndrome", "word"),
    [
        ({"direction": 0}, Syndrome.DIRECTION, "direction 0"),
        ({"selector": c.Selector()}, Syndrome.SELECTOR, "family 0"),
        ({"selector": V4_33}, Syndrome.SELECTOR, "0..32"),
        ({"selector": V6_129}, Syndrome.SELECTOR, "0..128"),
        ({"selector": c.Selector(family=AF_INET, daddr=bytes(4))}, Syndrome.FAMILY, "4 bytes"),
        ({"priority": 1 << 32}, Syndrome.FIELD, "priority 4294967296"),
        ({"action": 2}, Syndrome.FIELD, "action 2"),
        ({"reqid": 1 << 32}, Syndrome.FIELD, "reqid"),
        ({"spi": -1}, Syndrome.FIELD, "spi -1"),
        ({"selector": GRE_KEY}, Syndrome.SELECTOR, "ports of protocol 47"),
        ({"selector": MOBILITY_TYPE}, Syndrome.SELECTOR, "ports of protocol 135"),
        ({"selector": ANY_PORT}, Syndrome.SELECTOR, "ports of protocol any"),
    ],
)
def test_policy_that_no_card_takes(card, fields, syndrome, word):
    refuse(card, card.policy(**fields), BAD, syndrome, word, "policy rule")


def test_policy_that_this_profile_does_not_take(new_card):
    flat = new_card("full:priority=no")
    refuse(flat, flat.policy(priority=1), NO, Syndrome.PRIORITY_UNSUPPORTED, "priority 1")
    flat.make(flat.policy())
    crypto = new_card("crypto-only")
    refuse(crypto, crypto.policy(), NO, Syndrome.PACKET_UNSUPPORTED, "crypto-only")


@pytest.mark.parametrize("mtu", [0, 575, 9001, -1])
def test_port_mtu_has_bounds(card, mtu):
    refuse(card, c.SetPort(mtu=mtu), BAD, Syndrome.PORT_SETTING, mtu, "576..9000")
    assert card.firmware.port.mtu == 1500


def test_mac_filter_needs_a_mac(new_card):
    card = new_card()
    refuse(card, c.SetPort(mtu=1500, mac_filter=True), BAD, Syndrome.PORT_SETTING, "MAC")
    new_card(mac=b"\2\0\0\0\0\1").make(c.SetPort(mtu=9000, mac_filter=True))


def test_unknown_opcode_and_wrong_fields_are_told_apart(card):
    def ask(*request):
        raw = pack(Kind.COMMAND, msgspec.msgpack.encode(request), epoch=EPOCH)
        ((_, answer),) = card.firmware.step(0, [(Channel.MAILBOX, raw)])
        return msgspec.msgpack.decode(unpack(answer).body, type=c.Reply)

    unknown = ask(5, ["FormatDisk", 1])
    assert (unknown.token, unknown.status) == (5, Status.BAD_OPCODE)
    assert (unknown.syndrome, "FormatDisk" in unknown.text) == (Syndrome.UNKNOWN_OPCODE, True)
    wrong = ask(6, ["DestroyKey", "one"])
    assert (wrong.token, wrong.status, wrong.syndrome) == (
        6,
        Status.BAD_MESSAGE,
        Syndrome.MALFORMED,
    )
    assert ask("seven", ["QueryCaps"]).token == 0


def test_key_leaves_message_and_tables(card):
    key = bytes(range(200, 232))
    body = msgspec.msgpack.encode(c.Request(1, c.CreateKey(key)))
    message = bytearray(pack(Kind.COMMAND, body, epoch=EPOCH))
    ((_, raw),) = card.firmware.step(0, [(Channel.MAILBOX, message)])
    handle = msgspec.msgpack.decode(unpack(raw).body, type=c.Reply).handle
    assert not any(message)
    rows = card.firmware.objects.tables.keys
    assert key in rows.tobytes()  # FIPS-197: the schedule begins with the key
    card.make(c.DestroyKey(handle))
    assert not rows.any()


def test_key_of_a_refused_command_is_wiped_too(card):
    key = bytes(range(200, 220))
    message = bytearray(
        pack(Kind.COMMAND, msgspec.msgpack.encode(c.Request(1, c.CreateKey(key))), epoch=EPOCH)
    )
    ((_, raw),) = card.firmware.step(0, [(Channel.MAILBOX, message)])
    assert not any(message)
    assert key not in raw


def test_a_token_is_executed_once(card):
    """A request that comes again (doubled, or its reply was lost) gets the same reply again."""
    first = card.command(c.CreateKey(card.KEY), token=33)
    assert card.command(c.CreateKey(card.KEY), token=33) == first
    assert card.census == EMPTY | {"keys": 1}
    refused = card.command(c.DestroyKey(99), token=65)  # the same slot, the next generation
    assert card.command(c.DestroyKey(99), token=65) == refused
    assert card.counters["cmd_refused"] == 1
    assert card.command(c.CreateKey(card.KEY), token=97).handle != first.handle
