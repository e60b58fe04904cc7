# SPDX-License-Identifier: Apache-2.0
"""CLI-01..21: the grammar of `ip xfrm state`, as the bytes that it stands for (iproute2 6.15)."""

import struct
from pathlib import Path

import pytest

from host_driver.conformance import layouts, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.language import AEAD, SA, accepted, refused, said
from host_driver.conformance.marks import rule
from host_driver.conformance.messages import KEY, address
from proto.xfrm import XFRM_INF, Attr, Msg

ADD = f"xfrm state add {SA} mode transport {AEAD}"


def text_of(name: bytes) -> str:
    """An algorithm's name without padding."""
    return name.rstrip(b"\0").decode()


@rule("CLI-01")
@pytest.mark.parametrize(
    "words", ["xfrm state", "x s", "-s x s", "-o xfrm state list", "-d x st", "-stats x state",
              "-4 x s", "-6 x s", "-f inet x s"],
)  # fmt: skip
def test_objects_and_verbs_may_be_abbreviated(bench: Bench, words: str) -> None:
    """Any prefix of `state`; options before `xfrm`; all of them dump the SAs."""
    result = said(bench, words)
    assert [request.name for request in result.requests] == ["GETSA"]


@rule("CLI-01")
@pytest.mark.parametrize("words", ["xfrm policy", "x p", "-s x pol li"])
def test_policies_are_an_object_of_their_own(bench: Bench, words: str) -> None:
    """`p` is policy."""
    result = said(bench, words)
    assert [request.name for request in result.requests] == ["GETPOLICY"]


@rule("CLI-01")
def test_options_change_what_is_printed(bench: Bench) -> None:
    """-s adds statistics, -o puts an object on one line."""
    host = bench.host()
    host.ok("xfrm policy add src 10.1.0.1 dst 10.1.0.2 dir out")
    plain, stats = host.ok("xfrm policy"), host.ok("-s xfrm policy")
    assert "lifetime current:" in stats and "lifetime current:" not in plain
    assert host.ok("-o xfrm policy") == plain.rstrip("\n").replace("\n", "\\") + "\\\n"


@rule("CLI-01")
def test_a_batch_is_a_file_of_commands(bench: Bench, tmp_path: Path) -> None:
    """Line by line, without `ip`, under the options of the whole; comments and blank lines count
    for nothing."""
    host = bench.host()
    batch = tmp_path / "commands"
    batch.write_text(
        "# two of them\n\nxfrm policy add src 10.1.0.1 dst 10.1.0.2 dir out # the first\n"
        "xfrm policy add src 10.1.0.1 \\\n dst 10.1.0.2 dir in\nxfrm policy count\n"
    )
    assert host.ok(f"-batch {batch}") == "\t SPD IN  1 OUT 1 FWD 0\n"


@rule("CLI-02")
def test_without_a_verb_objects_are_listed(bench: Bench) -> None:
    """Success is exit 0."""
    host = bench.host()
    host.ok("xfrm policy add src 10.1.0.1 dst 10.1.0.2 dir out")
    assert host.ok("xfrm policy") == host.ok("xfrm policy list") != ""


@rule("CLI-02")
@pytest.mark.parametrize("words", ["xfrm state bogus", "xfrm policy bogus", "xfrm bogus", "xfrm"])
def test_an_unknown_verb_is_a_mistake_of_the_user(bench: Bench, words: str) -> None:
    """Exit 255 and a text on stderr; nothing is sent."""
    refused(bench, words, 255)


@rule("CLI-02")
@pytest.mark.parametrize("words", ["mode bogus", "dir fwd", "bogus", "src 300.0.0.1", "spi x"])
def test_a_wrong_argument_is_a_mistake_of_the_user(bench: Bench, words: str) -> None:
    """Exit 255 or 1."""
    refused(bench, f"xfrm state add {SA} {AEAD} {words}", 255, 1)


@rule("CLI-02")
def test_what_the_kernel_refuses_ends_with_2(bench: Bench) -> None:
    """The errno's text, or the kernel's own where it gave one."""
    host = bench.host()
    host.ok("xfrm policy add src 10.1.0.1 dst 10.1.0.2 dir out")
    twice = host.ip("xfrm policy add src 10.1.0.1 dst 10.1.0.2 dir out")
    assert (twice.rc, twice.stderr) == (2, "RTNETLINK answers: File exists\n")
    wrong = host.ip("xfrm policy add src 10.1.0.3 dst 10.1.0.2 dir out index 8")
    assert (wrong.rc, wrong.stderr) == (2, "Error: Policy index doesn't match direction.\n")


@rule("CLI-03")
@pytest.mark.parametrize("spi", ["4096", "0x1000", "010000"])
def test_numbers_may_be_decimal_hex_or_octal(bench: Bench, spi: str) -> None:
    """SPI 0x1000 in each of them."""
    sent = accepted(bench, f"xfrm state delete src 10.1.0.1 dst 10.1.0.2 proto esp spi {spi}")
    assert sent.fixed.spi == b"\0\0\x10\0"


@rule("CLI-03")
def test_addresses_are_ipv4_or_ipv6_and_not_both(bench: Bench) -> None:
    """16 bytes, an IPv4 address in the first 4; family 2 or 10; an SPI has 32 bits."""
    sent = accepted(bench, "xfrm state delete src fd00::1 dst fd00::2 proto esp spi 1").fixed
    assert (sent.daddr, sent.family) == (address("fd00::2"), 10)
    refused(bench, f"xfrm state add src 10.0.0.1 dst fd00::1 proto esp spi 1 {AEAD}", 255, 1)
    last = accepted(bench, "xfrm state delete dst 10.1.0.2 proto esp spi 0xffffffff").fixed
    assert (last.spi, last.family) == (b"\xff" * 4, 2)
    refused(bench, "xfrm state delete dst 10.1.0.2 proto esp spi 0x100000000", 255, 1)


@rule("CLI-10")
@pytest.mark.parametrize(("name", "number"), [("esp", 50), ("ah", 51), ("comp", 108),
                                              ("route2", 43), ("hao", 60)])  # fmt: skip
def test_an_id_may_stand_in_any_order(bench: Bench, name: str, number: int) -> None:
    """Addresses, protocol and SPI, whichever comes first."""
    spi = "" if name in ("route2", "hao") else "spi 7"
    parts = [f"proto {name}", "dst 10.1.0.2", "src 10.1.0.1", spi]
    for words in (parts, parts[::-1]):
        sent = accepted(bench, f"xfrm state delete {' '.join(words)}")
        found = sent.fixed
        assert (found.daddr, found.proto) == (address("10.1.0.2"), number)
        assert found.spi == (b"\0\0\0\7" if spi else bytes(4))
        assert sent.attributes[Attr.SRCADDR] == address("10.1.0.1")


@rule("CLI-11")
@pytest.mark.parametrize(
    ("written", "key"), [("0x00ff", b"\0\xff"), ("0x123", b"\x01\x23"), ("secret", b"secret"),
                         ("''", b"")],
)  # fmt: skip
def test_key_material_is_hex_or_characters(bench: Bench, written: str, key: bytes) -> None:
    """An odd digit gets a 0 in front; the length counts bits."""
    value = accepted(bench, f"xfrm state add {SA} enc cbc(aes) {written}").attributes[
        Attr.ALG_CRYPT
    ]
    found = layouts.ALGO.read(value)
    assert (text_of(found.name), found.key_len) == ("cbc(aes)", 8 * len(key))
    assert value[layouts.ALGO.size :] == key


@rule("CLI-11")
def test_each_kind_of_algorithm_has_an_attribute(bench: Bench) -> None:
    """enc, auth, auth-trunc with its length, aead with the length of its ICV, comp."""
    classic = f"xfrm state add {SA} enc cbc(aes) 0x{'11' * 16} auth"
    auth = accepted(bench, f"{classic} hmac(sha1) 0x{'22' * 20}").attributes
    assert {Attr.ALG_CRYPT, Attr.ALG_AUTH} <= set(auth)
    cut = accepted(bench, f"{classic}-trunc hmac(sha256) 0x{'22' * 32} 128").attributes
    found = layouts.ALGO_AUTH.read(cut[Attr.ALG_AUTH_TRUNC])
    assert (text_of(found.name), found.key_len, found.trunc_len) == ("hmac(sha256)", 256, 128)
    value = accepted(bench, ADD).attributes[Attr.ALG_AEAD]
    found = layouts.ALGO_AEAD.read(value)
    assert (text_of(found.name), found.key_len, found.icv_len) == ("rfc4106(gcm(aes))", 160, 128)
    assert value[layouts.ALGO_AEAD.size :] == KEY
    comp = "xfrm state add src 10.1.0.1 dst 10.1.0.2 proto comp spi 7 comp deflate"
    found = layouts.ALGO.read(accepted(bench, comp).attributes[Attr.ALG_COMP])
    assert (text_of(found.name), found.key_len) == ("deflate", 0)


@rule("CLI-11")
def test_a_kind_of_algorithm_is_given_once(bench: Bench) -> None:
    """A second one is refused."""
    assert "duplicate" in refused(bench, f"{ADD} {AEAD}", 255)


@rule("CLI-12")
@pytest.mark.parametrize("mode", list(enumerate(("transport", "tunnel", "ro", "in_trigger",
                                                 "beet"))))  # fmt: skip
def test_modes_have_names(bench: Bench, mode: tuple[int, str]) -> None:
    """In the order of their numbers."""
    number, name = mode
    sent = accepted(bench, f"xfrm policy add dir out tmpl proto esp mode {name}")
    assert layouts.USER_TMPL.read(sent.attributes[Attr.TMPL]).mode == number


@rule("CLI-12")
def test_flags_have_names_or_are_a_hex_byte(bench: Bench) -> None:
    """One bit each, any number of them."""
    names = "noecn decap-dscp nopmtudisc wildrecv icmp af-unspec align4 esn".split()
    for bit, name in enumerate(names):
        window = "replay-window 32" if name == "esn" else ""
        assert accepted(bench, f"{ADD} flag {name} {window}").fixed.flags == 1 << bit
    assert accepted(bench, f"{ADD} flag noecn icmp").fixed.flags == 0x11
    assert accepted(bench, f"{ADD} flag 0x42").fixed.flags == 0x42
    for bit, name in enumerate(("dont-encap-dscp", "oseq-may-wrap")):
        extra = accepted(bench, f"{ADD} extra-flag {name}").attributes[Attr.SA_EXTRA_FLAGS]
        assert extra == struct.pack("<I", 1 << bit)


@rule("CLI-13")
def test_limits_have_names(bench: Bench) -> None:
    """Eight of them; what is not given is no limit."""
    assert vars(accepted(bench, ADD).fixed.lft) == {
        "soft_byte": XFRM_INF, "hard_byte": XFRM_INF, "soft_packet": XFRM_INF,
        "hard_packet": XFRM_INF, "soft_add": 0, "hard_add": 0, "soft_use": 0, "hard_use": 0,
    }  # fmt: skip
    words = "time-soft time-hard time-use-soft time-use-hard byte-soft byte-hard packet-soft"
    limits = [f"limit {word} {number}" for number, word in enumerate(words.split(), 1)]
    found = accepted(bench, f"{ADD} {' '.join(limits)} limit packet-hard 8").fixed.lft
    assert vars(found) == {
        "soft_add": 1, "hard_add": 2, "soft_use": 3, "hard_use": 4, "soft_byte": 5,
        "hard_byte": 6, "soft_packet": 7, "hard_packet": 8,
    }  # fmt: skip


@rule("CLI-14", "CLI-21")
@pytest.mark.parametrize(
    ("words", "flags"),
    [("packet dev nic7 dir out", 4), ("packet dev nic7 dir in", 6), ("crypto dev nic7 dir out", 0),
     ("crypto dev nic7 dir in", 2), ("dev nic7 dir out", 0), ("dev nic7 dir in", 2)],
)  # fmt: skip
def test_offload_names_mode_device_and_direction(bench: Bench, words: str, flags: int) -> None:
    """Without a mode it is crypto; INBOUND is 2, PACKET is 4."""
    found = accepted(bench, f"{ADD} offload {words}").attributes[Attr.OFFLOAD_DEV]
    assert vars(layouts.USER_OFFLOAD.read(found)) == {"ifindex": 7, "flags": flags}


@rule("CLI-14")
@pytest.mark.parametrize(
    "words", ["packet dev nosuch dir out", "packet dev nic0 dir fwd", "packet dev nic0",
              "packet dir out dev nic0", "full dev nic0 dir out", "packet nic0 dir out"],
)  # fmt: skip
def test_offload_is_refused_in_any_other_form(bench: Bench, words: str) -> None:
    """Unknown devices and directions, parts that are missing or in another order."""
    refused(bench, f"{ADD} offload {words}", 255)


@rule("CLI-15")
@pytest.mark.parametrize(
    ("words", "inbound"), [("offload packet dev nic0 dir in", True), ("dir in", None),
                           ("dir in offload packet dev nic0 dir out", False),
                           ("offload packet dev nic0 dir out dir in", True)],
)  # fmt: skip
def test_the_last_direction_is_that_of_sa_and_offload(
    bench: Bench, words: str, inbound: bool | None
) -> None:
    """One variable for both; it is sent as SA_DIR, too, to a kernel that knows it."""
    attributes = accepted(bench, f"{ADD} {words}").attributes
    if inbound is not None:
        flags = layouts.USER_OFFLOAD.read(attributes[Attr.OFFLOAD_DEV]).flags
        assert flags == (6 if inbound else 4)
    direction = b"\2" if inbound is False else b"\1"
    assert attributes.get(Attr.SA_DIR) == (direction if bench.latest else None)


@rule("CLI-16")
def test_a_small_window_stands_in_its_field(bench: Bench) -> None:
    """Up to 32 without ESN: the field, and REPLAY_VAL where a sequence number was given."""
    plain = accepted(bench, f"{ADD} replay-window 32")
    assert plain.fixed.replay_window == 32
    assert not {Attr.REPLAY_VAL, Attr.REPLAY_ESN_VAL} & set(plain.attributes)
    numbered = accepted(bench, f"{ADD} replay-window 8 replay-seq 5 replay-oseq 6")
    assert numbered.fixed.replay_window == 8
    found = layouts.REPLAY_STATE.read(numbered.attributes[Attr.REPLAY_VAL])
    assert vars(found) == {"oseq": 6, "seq": 5, "bitmap": 0}


@rule("CLI-16")
@pytest.mark.parametrize(("words", "window", "bmp_len"), [("replay-window 33", 33, 2),
                         ("replay-window 4096", 4096, 128), ("flag esn replay-window 32", 32, 1),
                         ("flag esn dir out", 0, 0)])  # fmt: skip
def test_a_large_window_or_esn_has_an_attribute(
    bench: Bench, words: str, window: int, bmp_len: int
) -> None:
    """24 bytes that count the bitmap's words without sending them; the field is 0."""
    sent = accepted(bench, f"{ADD} {words}")
    value = sent.attributes[Attr.REPLAY_ESN_VAL]
    found = layouts.REPLAY_STATE_ESN.read(value)
    assert (len(value), found.bmp_len, found.replay_window) == (24, bmp_len, window)
    assert sent.fixed.replay_window == 0


@rule("CLI-16")
@pytest.mark.parametrize("words", ["flag esn", "flag esn dir in", "replay-window 4097"])
def test_windows_that_cannot_be_are_refused(bench: Bench, words: str) -> None:
    """ESN without a window, except for output; more than 4096 packets."""
    refused(bench, f"{ADD} {words}", 255)


@rule("CLI-17")
def test_a_mark_without_mask_is_compared_whole(bench: Bench) -> None:
    """ffffffff for `mark`, no mask attribute for `output-mark`."""
    sent = accepted(bench, f"{ADD} mark 5 output-mark 6").attributes
    assert sent[Attr.MARK] == struct.pack("<II", 5, 0xFFFF_FFFF)
    assert sent[Attr.SET_MARK] == struct.pack("<I", 6)
    assert Attr.SET_MARK_MASK not in sent
    sent = accepted(bench, f"{ADD} mark 5 mask 7 output-mark 6 mask 0xff").attributes
    assert sent[Attr.MARK] == struct.pack("<II", 5, 7)
    assert sent[Attr.SET_MARK_MASK] == struct.pack("<I", 0xFF)


@rule("CLI-18")
@pytest.mark.parametrize(("name", "number"), [("espinudp-nonike", 1), ("espinudp", 2),
                                              ("espintcp", 7)])  # fmt: skip
def test_encapsulations_have_names(bench: Bench, name: str, number: int) -> None:
    """Type, two ports in network order, an address."""
    value = accepted(bench, f"{ADD} encap {name} 4500 4501 10.9.9.9").attributes[Attr.ENCAP]
    found = layouts.ENCAP_TMPL.read(value)
    assert (found.encap_type, found.sport, found.dport) == (number, b"\x11\x94", b"\x11\x95")
    assert found.oa == address("10.9.9.9")
    refused(bench, f"{ADD} encap espinip 4500 4501 0.0.0.0", 255)


@rule("CLI-19")
@pytest.mark.parametrize(
    "words", ["add proto esp mode transport", f"add src 10.1.0.1 dst 10.1.0.2 proto ah {AEAD}",
              f"add {SA} mode transport", f"add {SA} auth hmac(sha1) 0x11", "add",
              f"add {SA} mode ro {AEAD}", f"add {SA} comp deflate"],
)  # fmt: skip
def test_what_cannot_be_complete_is_not_sent(bench: Bench, words: str) -> None:
    """Algorithms that the protocol needs or does not take, modes of other protocols, no ID."""
    refused(bench, f"xfrm state {words}", 1)


@rule("CLI-20")
def test_list_and_deleteall_take_all_or_what_a_filter_says(bench: Bench) -> None:
    """deleteall dumps, and deletes each match by itself: no flush."""
    host = bench.host(driver=PROBE)
    for spi, reqid in ((0x1000, 1), (0x1001, 2), (0x1002, 2)):
        host.ok(texts.state(host.dev, spi=spi, reqid=reqid))
    assert host.ok("xfrm state list").count("spi 0x") == 3
    assert host.ok("xfrm state list reqid 2").count("spi 0x") == 2
    host.notes()
    host.ok("xfrm state deleteall reqid 2")
    assert host.note_names() == ["DELSA", "DELSA"]
    assert [note.type for note in host.states()] == [Msg.NEWSA]
    host.ok("xfrm state deleteall")
    assert host.note_names() == ["DELSA"]
    assert host.states() == []
