# SPDX-License-Identifier: Apache-2.0
"""The `ip xfrm` language where the records are silent: words, options, refusals, filters, keys.

The expected texts and bytes were seen from iproute2 6.1 answering the same commands.
"""

import random
import re
import struct
from collections.abc import Sequence

import pytest

from host_driver.ip import Result, format_notification, run
from host_driver.ip.words import IpError, number, prefix
from proto import netlink, xfrm
from proto.xfrm import Attr, Msg
from proto.xfrm_structs import UserSaInfo, XfrmId, XfrmMark

DEVICES = {"lo": 1, "nic0": 2}
ACK = netlink.message(netlink.NLMSG_ERROR, bytes(20), netlink.NLM_F_CAPPED)
DONE = netlink.message(netlink.NLMSG_DONE, bytes(4), netlink.NLM_F_MULTI)
KEY = "0x" + "c0ffee" * 6 + "aabb"
ADD = (
    f"xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1000 aead 'rfc4106(gcm(aes))' {KEY}"
)


class Core:
    """Answers each datagram with `replies`, or with an acknowledgement; keeps what was sent."""

    def __init__(self, *replies: Sequence[bytes]) -> None:
        self._replies = list(replies)
        self.sent: list[netlink.NlMsg] = []

    def transact(self, datagram: bytes) -> list[bytes]:
        self.sent += netlink.messages(datagram)
        return list(self._replies.pop(0)) if self._replies else [ACK]


def sent(text: str) -> netlink.NlMsg:
    """The one request that a command sends; it must succeed."""
    core = Core()
    assert run(text, core.transact, DEVICES) == Result(0, "", "")
    (msg,) = core.sent
    return msg


def attributes(msg: netlink.NlMsg) -> dict[int, bytes]:
    return netlink.attributes(msg.payload, netlink.align(xfrm.MSG_MIN[msg.type])).values


def refusal(text: str | Sequence[str]) -> tuple[int, str]:
    """Exit status and stderr of a command that must not reach the core."""
    core = Core()
    result = run(text, core.transact, DEVICES)
    assert core.sent == [] and result.stdout == ""
    return result.rc, result.stderr


@pytest.mark.parametrize("start", ["ip xfrm state", "ip x s", "xfrm state", "ip -4 xfrm sa"])
def test_beginnings_and_abbreviations(start: str) -> None:
    for verb in ("add", "a", "ad"):
        assert sent(ADD.replace("xfrm state add", f"{start} {verb}") + " 128").type == Msg.NEWSA
    assert sent(f"{start} f").type == Msg.FLUSHSA
    assert sent(f"{start} d dst 1.1.1.1 proto esp").type == Msg.DELSA


@pytest.mark.parametrize(
    ("words", "flags", "sa_dir"),
    [
        ("offload packet dev nic0 dir in", 6, 1),
        ("offload packet dev nic0 dir out", 4, 2),
        ("offload crypto dev nic0 dir in", 2, 1),
        ("offload crypto dev nic0 dir out", 0, 2),
        ("offload dev nic0 dir in", 2, 1),
        ("offload dev nic0 dir out dir in", 2, 1),
    ],
)
def test_offload_forms(words: str, flags: int, sa_dir: int) -> None:
    found = attributes(sent(f"{ADD} 128 {words}"))
    assert found[Attr.OFFLOAD_DEV] == struct.pack("<iB3x", 2, flags)
    assert found[Attr.SA_DIR] == bytes([sa_dir])


def test_policy_offload() -> None:
    found = attributes(sent("xfrm policy add dir in offload packet dev nic0"))
    assert found == {Attr.OFFLOAD_DEV: struct.pack("<iB3x", 2, 4)}


def test_every_attribute_in_order() -> None:
    text = (
        "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1000 mode tunnel if_id 7 "
        "mark 5 mask 3 output-mark 9 mask 0xff replay-seq 4 encap espinudp 4500 4501 1.2.3.4 "
        "aead a 0x01 128 extra-flag dont-encap-dscp offload dev lo dir in flag esn "
        "replay-window 64 ctx foo sel src 1.1.1.1 limit byte-soft 7"
    )
    msg = sent(text)
    assert list(attributes(msg)) == [
        Attr.ENCAP, Attr.ALG_AEAD, Attr.SEC_CTX, Attr.OFFLOAD_DEV, Attr.REPLAY_ESN_VAL,
        Attr.SA_EXTRA_FLAGS, Attr.MARK, Attr.IF_ID, Attr.SET_MARK, Attr.SET_MARK_MASK, Attr.SA_DIR,
    ]  # fmt: skip
    assert attributes(msg)[Attr.SEC_CTX].hex() == "0c00080001010400666f6f00"
    assert attributes(msg)[Attr.ENCAP].hex() == "020011941195000001020304" + "00" * 12


@pytest.mark.parametrize(
    ("text", "rc", "stderr"),
    [
        ("", 255, "Usage: ip [ OPTIONS ] xfrm"),
        ("link show", 1, 'Object "link" is unknown, try "ip help".\n'),
        ("ip -zz xfrm state", 255, 'Option "-zz" is unknown, try "ip -help".\n'),
        ("ip -n x xfrm state", 255, 'Cannot open network namespace "x": No such file or dir'),
        ("ip -V", 255, 'Option "-V" is not supported here.\n'),
        ("ip -0 xfrm state list src 1.1.1.1", 1, 'Error: "1.1.1.1" may be inet prefix, but it is'),
        ("ip -M xfrm state list src 1.1.1.1", 1, "Error: mpls prefix is expected rather than"),
        ("ip -f bogus xfrm state", 255, 'Error: argument "bogus" is wrong: invalid protocol'),
        ("xfrm monitor bogus", 255, 'Argument "bogus" is unknown, try "ip xfrm monitor help".\n'),
        ("xfrm state add 'src", 255, "Error: the command line does not parse: No closing"),
        ("xfrm state add src 10.1 dst fd00::1 proto esp", 255, 'Error: argument "esp" is wrong: '),
        ("ip -6 xfrm state add src 10.1", 1, "Error: inet6 prefix is expected rather than"),
        ("xfrm state add proto comp spi 1", 1, 'ALGO-TYPE value "comp" is required with'),
        ("xfrm state add proto comp spi 0x10000 comp x", 1, "SPI value is too large with XFRM-PR"),
        ("xfrm policy add dir out tmpl spi 65536 proto comp", 1, "SPI value is too large with XF"),
        (f"{ADD} 128 pcpu-num 0", 255, 'Error: argument "pcpu-num" is wrong: unknown'),
        ("xfrm state add proto route2 mode tunnel", 1, "MODE value is invalid with XFRM-PROTO"),
        ("xfrm state add proto esp enc x y limit z", 255, 'Error: argument "z" is wrong: LIMIT'),
        ("xfrm state add proto esp offload dev nic7", 255, 'Error: argument "nic7" is wrong: Inv'),
        ("xfrm state add proto esp offload nic0", 255, 'Error: argument "nic0" is wrong: Missing'),
        ("xfrm state add proto esp offload dev lo dir", 255, "Command line is not complete."),
        ("xfrm state allocspi proto esp min 7 max 5", 1, 'value after "min" is larger than value'),
        (
            "xfrm policy add src 1.1.1.1 dir out dst 1.1.1.2",
            255,
            'Error: duplicate "unknown": "dst"',
        ),
        ("xfrm policy add proto tcp type 8 dir out", 1, '"type" and "code" are invalid with PROTO'),
        ("xfrm policy get dir in src 1.1.1.1 index 8", 255, 'Error: either "SELECTOR" is dupl'),
        ("xfrm policy get dir in", 1, "Not enough information: either SELECTOR or INDEX is req"),
    ],
)
def test_refusals(text: str, rc: int, stderr: str) -> None:
    found = refusal(text)
    assert found[0] == rc and found[1].startswith(stderr)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("0", 0), ("010", 8), ("0x10", 16), ("-0", 0), (" 7", 7), ("+6", 6), ("08", None),
        ("-18446744073709551615", 1), ("4294967295", 4294967295), ("4294967296", None),
        ("-1", None), ("0x", None), ("", None), ("7 ", None), ("1_0", None), ("\u0661", None),
        ("9" * 9999, None), ("7\n", None),
    ],
)  # fmt: skip
def test_numbers(word: str, value: int | None) -> None:
    assert number(word, 32) == value


@pytest.mark.parametrize(
    ("word", "family", "data", "bits"),
    [
        ("10.0.0.1", 2, "0a000001", 32),
        ("10.1", 2, "0a010000", 32),
        ("10.0.0.0/8", 2, "0a000000", 8),
        ("10.0.0.0/255.255.0.0", 2, "0a000000", 16),
        ("fd00::1", 10, "fd000000000000000000000000000001", 128),
        ("::ffff:1.2.3.4/96", 10, "00000000000000000000ffff01020304", 96),
    ],
)
def test_prefixes(word: str, family: int, data: str, bits: int) -> None:
    assert prefix(word, 0) == (family, bytes.fromhex(data).ljust(16, b"\0"), bits)


@pytest.mark.parametrize("word", ["300.0.0.1", "1.2.3.4.5", "10.0.0.1/33", "fe80::1%lo", "", "/8"])
def test_wrong_prefixes(word: str) -> None:
    with pytest.raises(IpError, match="any valid prefix is expected"):
        prefix(word, 0)


def test_marks_are_sent_when_they_can_match() -> None:
    for mark, there in (("7 mask 3", True), ("7 mask 8", False), ("5", True)):
        found = attributes(sent(f"xfrm state delete dst 1.1.1.1 proto esp spi 1 mark {mark}"))
        assert (Attr.MARK in found) is there
    assert attributes(sent(f"{ADD} 128 mark 7 mask 8"))[Attr.MARK] == XfrmMark(7, 8).pack()


def state(spi: int, reqid: int) -> bytes:
    info = UserSaInfo(id=XfrmId(bytes(16), spi, xfrm.IPPROTO_ESP), reqid=reqid, family=xfrm.AF_INET)
    return netlink.message(Msg.NEWSA, info.pack(), netlink.NLM_F_MULTI)


def test_deleteall_goes_on_until_nothing_matches() -> None:
    core = Core([state(1, 7), state(2, 8), state(3, 7), DONE], [], [state(2, 8), DONE])
    assert run("xfrm state deleteall reqid 7", core.transact, DEVICES) == Result(0, "", "")
    deleted = [msg.payload[16:20].hex() for msg in core.sent if msg.type == Msg.DELSA]
    assert deleted == ["00000001", "00000003"]
    assert [msg.type for msg in core.sent].count(Msg.GETSA) == 2


def test_deleteall_ends_when_nothing_goes_away() -> None:
    core = Core([state(1, 7), DONE], [], [state(1, 7), DONE])
    result = run("xfrm state deleteall", core.transact, DEVICES)
    assert (result.rc, result.stderr) == (1, "Delete-all terminated\n")


def refused(errno: int, text: bytes = b"") -> bytes:
    request = netlink.NLMSGHDR.pack(16, Msg.NEWSA, 5, 1, 0)
    tlv = netlink.attribute(netlink.NLMSGERR_ATTR_MSG, text + b"\0") if text else b""
    flags = netlink.NLM_F_ACK_TLVS if text else 0
    return netlink.message(netlink.NLMSG_ERROR, struct.pack("<i", -errno) + request + tlv, flags)


@pytest.mark.parametrize(
    ("reply", "rc", "stderr"),
    [
        (refused(17), 2, "RTNETLINK answers: File exists\n"),
        (refused(22, b"No space"), 2, "Error: No space.\n"),
        (refused(22, b"No space."), 2, "Error: No space.\n"),
        (refused(0, b"leftover"), 0, "Warning: leftover.\n"),
        (netlink.message(netlink.NLMSG_ERROR, b""), 255, "Error: the reply does not parse"),
        (b"\1" * 20, 255, "Error: the reply does not parse"),
    ],
)
def test_what_the_core_answers(reply: bytes, rc: int, stderr: str) -> None:
    result = run(f"{ADD} 128", Core([reply]).transact, DEVICES)
    assert result.rc == rc and result.stderr.startswith(stderr)


def test_a_refused_dump() -> None:
    expected = "RTNETLINK answers: Operation not permitted\nDump terminated\n"
    assert run("xfrm state", Core([refused(1)]).transact, DEVICES) == Result(1, "", expected)


VOCABULARY = re.findall(
    r"\S+",
    """
ip xfrm state policy monitor add update allocspi delete get deleteall list flush count set
setdefault getdefault help src dst proto spi reqid mode mark mask seq replay-window replay-seq
flag extra-flag sel limit encap coa ctx offload packet crypto dev nic0 lo dir in out fwd tmpl
level use priority index ptype main sub action allow block if_id tfcpad output-mark aead enc
auth auth-trunc comp esp ah tcp udp icmp gre key type code sport dport esn espinudp byte-soft
min max nokeys nosock hthresh4 -s -o -4 -6 -d -j -f inet tunnel transport beet any none all
10.0.0.1 10.0.0.0/8 fd00::1 0 1 -1 0x10 0xzz 18446744073709551616 4500 128 0x0011223344 x
""",
)


BEGINNINGS = (
    "",
    "xfrm",
    "xfrm state add proto esp enc x 0x11",
    "xfrm state update",
    "xfrm state list",
    "xfrm policy add dir out",
    "xfrm policy deleteall",
)


def test_random_commands_never_raise() -> None:
    rng = random.Random(20)
    statuses = set()
    for _ in range(5000):
        reply = rng.choice(([ACK], [DONE], [refused(17)]))
        words = rng.choice(BEGINNINGS).split() + rng.choices(VOCABULARY, k=rng.randrange(12))
        if rng.random() < 0.2:
            noise = "".join(chr(rng.choice((0, 9, 34, 39, 92, 255, 0xD800))) for _ in range(5))
            words.append(noise)
        result = run(words, Core(reply, [DONE]).transact, DEVICES)
        assert result.rc in (0, 1, 2, 255)
        assert result.stderr or result.rc == 0, words
        assert run(" ".join(words), Core(reply, [DONE]).transact, DEVICES).rc in (0, 1, 2, 255)
        statuses.add(result.rc)
    assert statuses == {0, 1, 2, 255}


def test_random_replies_never_raise() -> None:
    rng = random.Random(21)
    commands = ("state", "policy", "state count", "policy count", "policy getdefault")
    for _ in range(1500):
        type = rng.choice((Msg.NEWSA, Msg.NEWPOLICY, netlink.NLMSG_ERROR, Msg.NEWSPDINFO, 0x77))
        reply = netlink.message(type, rng.randbytes(rng.randrange(300)), rng.randrange(0x400))
        reply = reply[: rng.choice((len(reply), rng.randrange(len(reply))))]
        text = f"ip -s xfrm {rng.choice(commands)}"
        assert run(text, Core([reply, DONE]).transact, DEVICES).rc in (0, 1, 2, 255)


def test_random_notifications_never_raise() -> None:
    rng = random.Random(22)
    for _ in range(1500):
        payload = rng.randbytes(rng.choice((0, 1, 24, 180, 240, 300, 400)))
        data = netlink.message(rng.randrange(0x30), payload)
        data = data[: rng.choice((len(data), rng.randrange(len(data) + 1)))]
        assert isinstance(format_notification(data, DEVICES, stats=rng.random() < 0.5), str)


@pytest.mark.parametrize(
    ("type", "payload", "text"),
    [
        (Msg.FLUSHSA, "32000000", "Flushed state proto esp\n"),
        (Msg.FLUSHSA, "00000000", "Flushed state proto 0\n"),
        (Msg.FLUSHPOLICY, "", "Flushed policy \n"),
        (0x29, "00", "Unknown message: 00000017 0x00000029 0x00000000\n"),
        (Msg.NEWSA, "00", "Malformed message: type 0x10 with 1 bytes\n"),
    ],
)
def test_notifications(type: int, payload: str, text: str) -> None:
    assert format_notification(netlink.message(type, bytes.fromhex(payload))) == text


def test_help_of_policies() -> None:
    """As iproute2 6.15 prints it, brackets included."""
    assert " [ TMPL-LIST ]\n\t[ offload packet dev DEV] } ]\n" in refusal("xfrm policy help")[1]


def test_a_key_of_no_bytes_is_hidden_too() -> None:
    """iproute2 6.15 does so for compression, which has no key."""
    algorithm = netlink.attribute(Attr.ALG_COMP, b"deflate".ljust(64, b"\0") + bytes(4))
    state = netlink.message(Msg.NEWSA, UserSaInfo(family=xfrm.AF_INET).pack() + algorithm)
    assert "\tcomp deflate \n" in format_notification(state)
    assert "\tcomp deflate <<Keys hidden>>\n" in format_notification(state, nokeys=True)


def test_keys_can_be_hidden_in_notifications() -> None:
    algorithm = b"a".ljust(64, b"\0") + struct.pack("<II", 8 * len(KEY), 128) + KEY.encode()
    info = UserSaInfo(family=xfrm.AF_INET).pack()
    message = netlink.message(Msg.NEWSA, info + netlink.attribute(Attr.ALG_AEAD, algorithm))
    assert re.search(r"\taead a 0x[0-9a-f]+ 128\n", format_notification(message))
    assert "\taead a <<Keys hidden>> 128\n" in format_notification(message, nokeys=True)
