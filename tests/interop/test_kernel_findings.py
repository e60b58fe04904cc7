# SPDX-License-Identifier: Apache-2.0
"""What Linux 7.3.4 was seen to do, finding by finding, at a host of a lab: requests and replies."""

import re
from collections.abc import Iterator

import pytest

from host_driver.ip import format_notification
from host_driver.lab import Lab
from host_driver.lab.handles import HostHandle
from tests.support.transcripts import udp

KEY = "0x0102030405060708090a0b0c0d0e0f1011121314"
OTHER_KEY = "0x" + "77" * 20
AEAD = f"aead 'rfc4106(gcm(aes))' {KEY} 128"
ENDS = "src 10.1.0.1 dst 10.1.0.2"
ID = f"{ENDS} proto esp spi 0x1000"
EXISTS = (2, "RTNETLINK answers: File exists\n")
NO_PROCESS = (2, "RTNETLINK answers: No such process\n")
NO_ENTRY = (2, "RTNETLINK answers: No such file or directory\n")
INVALID = (2, "RTNETLINK answers: Invalid argument\n")
FINE = (0, "")


@pytest.fixture
def host() -> Iterator[HostHandle]:
    """Without any offload but that of the loopback device, which has none."""
    with Lab(target="sim", hosts=1, driver="tests.support.netdevsim:Veth", seed=7) as lab:
        yield lab.hosts[0]


@pytest.fixture
def nsim() -> Iterator[HostHandle]:
    with Lab(target="sim", hosts=1, driver="tests.support.netdevsim:Netdevsim", seed=7) as lab:
        yield lab.hosts[0]


def says(host: HostHandle, text: str) -> tuple[int, str]:
    result = host.ip(f"ip xfrm {text}")
    return result.rc, result.stderr


def add(host: HostHandle, more: str = "", id: str = ID, key: str = AEAD) -> tuple[int, str]:
    return says(host, f"state add {id} {key} {more}")


def shown(host: HostHandle, text: str) -> str:
    result = host.ip(text)
    assert result.rc == 0, result.stderr
    return result.stdout


# Identity of SAs.


@pytest.mark.parametrize(
    "again",
    [
        ID,
        "src 10.1.0.9 dst 10.1.0.2 proto esp spi 0x1000",
        f"{ID} mode tunnel",
        f"{ID} if_id 7",
        f"{ID} reqid 9",
    ],
)
def test_other_source_mode_or_if_id_is_the_same_sa(host: HostHandle, again: str) -> None:
    assert add(host) == FINE
    assert add(host, id=again) == EXISTS


def test_another_mark_is_another_sa(host: HostHandle) -> None:
    assert add(host, "mark 1 mask 0xff") == FINE
    assert add(host, "mark 2 mask 0xff") == FINE
    assert add(host, "mark 1 mask 0xff") == EXISTS
    assert add(host, "mark 0x101 mask 0xff") == EXISTS  # the bits under the mask count
    assert "mark 0x2/0xff" in shown(host, f"ip xfrm state get {ID} mark 2 mask 0xff")
    assert says(host, f"state get {ID}") == NO_PROCESS
    assert says(host, f"state delete {ID} mark 1 mask 0xff") == FINE
    assert shown(host, "ip xfrm state count") == "\t SAD count 1\n"


def test_spi_0_is_stored_twice_and_found_by_nobody(host: HostHandle) -> None:
    zero = f"{ENDS} proto esp spi 0"
    assert add(host, id=zero) == add(host, id=zero) == FINE
    for verb in ("get", "delete"):
        assert says(host, f"state {verb} {zero}") == NO_PROCESS
    assert shown(host, "ip xfrm state count") == "\t SAD count 2\n"
    assert says(host, "state flush") == FINE
    assert shown(host, "ip xfrm state count") == "\t SAD count 0\n"


@pytest.mark.parametrize("verb", ["get", "delete"])
def test_the_source_address_given_is_ignored(host: HostHandle, verb: str) -> None:
    add(host)
    assert says(host, f"state {verb} src 9.9.9.9 dst 10.1.0.2 proto esp spi 0x1000") == FINE


# Algorithms.


@pytest.mark.parametrize(("icv", "fine"), [(64, 1), (96, 1), (128, 1), (32, 0), (80, 0), (129, 0)])
def test_icv_lengths(host: HostHandle, icv: int, fine: int) -> None:
    found = add(host, key=f"aead 'rfc4106(gcm(aes))' {KEY} {icv}")
    assert found == (FINE if fine else (2, "Error: Requested AEAD algorithm not found.\n"))


@pytest.mark.parametrize("octets", [16, 19, 21, 24, 32, 40])
def test_key_lengths(host: HostHandle, octets: int) -> None:
    refused = (2, "Error: Kernel was unable to initialize cryptographic operations.\n")
    key = "0x" + "01" * octets
    assert add(host, key=f"aead 'rfc4106(gcm(aes))' {key} 128") == refused


# Replay windows.


def test_a_window_of_32_is_a_field_and_33_an_attribute(host: HostHandle) -> None:
    add(host, "replay-window 32")
    add(host, "replay-window 33", id=f"{ENDS} proto esp spi 0x1001")
    newer, older = shown(host, "ip xfrm state").split("src 10.1.0.1 dst ")[1:]
    assert "replay-window 32 \n" in older
    assert "anti-replay context: seq 0x0, oseq 0x0, bitmap 0x00000000\n" in older
    assert "replay-window 0 \n" in newer and "anti-replay esn context:\n" in newer
    assert "\t replay_window 33, bitmap-length 2\n\t 00000000 00000000 \n" in newer


@pytest.mark.parametrize(
    ("more", "answer"),
    [
        ("flag esn", (255, "Error: esn flag set without replay-window.\n")),
        ("flag esn dir out", FINE),
        (
            "replay-window 4097",
            (255, "Error: replay-window (4097) > XFRMA_REPLAY_ESN_MAX (4096).\n"),
        ),
        ("replay-window 4096", FINE),
        ("dir out replay-window 32", (2, "Error: Replay window should be 0 for output SA.\n")),
        (
            "offload dev nic0 dir out replay-window 32",
            (2, "Error: Replay window should be 0 for output SA.\n"),
        ),
        (
            "dir out flag decap-dscp",
            (2, "Error: Flag DECAP_DSCP should not be set for output SA.\n"),
        ),
        ("dir out flag icmp", (2, "Error: Flag ICMP should not be set for output SA.\n")),
        ("dir in flag nopmtudisc", (2, "Error: Flag NOPMTUDISC should not be set for input SA.\n")),
        (
            "dir in extra-flag dont-encap-dscp",
            (2, "Error: Flag DONT_ENCAP_DSCP should not be set for input SA.\n"),
        ),
    ],
)
def test_windows_and_directions(host: HostHandle, more: str, answer: tuple[int, str]) -> None:
    assert add(host, more) == answer


# Updates.


def test_an_update_takes_limits_over_and_nothing_else(host: HostHandle) -> None:
    add(host, "replay-window 32 reqid 1")
    other = f"aead 'rfc4106(gcm(aes))' {OTHER_KEY} 96 mode tunnel replay-window 8 reqid 2"
    assert says(host, f"state update {ID} {other} sel dst 9.9.9.9 limit packet-hard 9") == FINE
    text = shown(host, "ip -s xfrm state")
    assert f"{KEY} (160 bits) 128\n" in text and "mode transport\n" in text
    assert "reqid 1(0x00000001)" in text and "replay-window 32 " in text
    assert "sel src 0.0.0.0/0 dst 0.0.0.0/0 uid 0\n" in text
    assert "limit: soft (INF)(packets), hard 9(packets)\n" in text


def test_an_update_of_nothing_and_of_another_direction(host: HostHandle) -> None:
    assert says(host, f"state update {ID} {AEAD}") == NO_PROCESS
    assert add(host, "dir out") == FINE
    assert says(host, f"state update {ID} {AEAD}") == NO_PROCESS
    assert says(host, f"state update {ID} {AEAD} dir out") == FINE


def test_an_update_of_an_offloaded_sa_needs_its_direction(nsim: HostHandle) -> None:
    assert add(nsim, "offload dev nic0 dir out") == FINE
    assert says(nsim, f"state update {ID} {AEAD} limit packet-soft 5") == NO_PROCESS
    assert says(nsim, f"state update {ID} {AEAD} dir out limit packet-soft 5") == FINE
    text = shown(nsim, "ip -s xfrm state")
    assert "crypto offload parameters: dev nic0 dir out mode crypto\n" in text
    assert "limit: soft 5(packets)" in text


def test_a_larval_sa_is_completed_by_update_and_in_the_way_of_add(host: HostHandle) -> None:
    spi = f"state allocspi {ENDS} proto esp reqid 1 min 0x1000 max 0x1000"
    assert says(host, spi) == FINE
    assert add(host, "reqid 1") == EXISTS
    assert says(host, f"state update {ID} {AEAD} reqid 1") == FINE
    assert shown(host, "ip xfrm state count") == "\t SAD count 1\n"


def test_an_exhausted_range_leaves_a_larval_sa(host: HostHandle) -> None:
    spi = f"state allocspi {ENDS} proto esp reqid {{}} min 0x500 max 0x500"
    none = (2, "Error: No SPI available in the requested range.\n")
    assert [says(host, spi.format(reqid)) for reqid in (3, 4, 3)] == [FINE, none, none]
    assert shown(host, "ip xfrm state count") == "\t SAD count 3\n"


# Limits.


def test_odd_limits_are_taken(host: HostHandle) -> None:
    limits = "limit packet-soft 9 limit packet-hard 5 limit byte-hard 0 limit byte-soft -1"
    assert add(host, limits) == FINE
    text = shown(host, "ip -s xfrm state")
    assert "limit: soft (INF)(bytes), hard 0(bytes)\n" in text
    assert "limit: soft 9(packets), hard 5(packets)\n" in text


def test_a_packet_limit_of_0_ends_the_sa_with_its_first_packet() -> None:
    driver = "tests.support.netdevsim:Veth"
    with Lab(target="sim", hosts=2, driver=driver, seed=7) as lab:
        a = lab.hosts[0]
        assert add(a, "limit packet-hard 0") == FINE
        assert "hard 0(packets)" in shown(a, "ip -s xfrm state")
        says(a, f"policy add {ENDS} dir out tmpl proto esp mode transport")
        assert a.send([udp("10.1.0.1", "10.1.0.2", 1, 2, 8)]) != [0]
        lab.settle()
        assert a.mib()["XfrmOutStateExpired"] == 1
        assert shown(a, "ip xfrm state") == ""


# Policies.


def test_priority_is_no_part_of_a_policys_identity(host: HostHandle) -> None:
    assert says(host, f"policy add {ENDS} dir out priority 1") == FINE
    assert says(host, f"policy add {ENDS} dir out priority 2") == EXISTS
    for more in ("mark 1", "if_id 1", "ptype sub"):
        assert says(host, f"policy add {ENDS} dir out {more}") == FINE
    assert says(host, f"policy add {ENDS} dir in priority 1") == FINE
    assert says(host, f"policy update {ENDS} dir out priority 2") == FINE
    assert "priority 2 " in shown(host, f"ip xfrm policy get {ENDS} dir out")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("policy delete dst 9.9.9.9 dir out", NO_ENTRY),
        ("policy get dir out index 9", NO_ENTRY),
        ("policy get dst 9.9.9.9 dir fwd", NO_ENTRY),
        (
            "policy add dst 9.9.9.9 dir out index 8",
            (2, "Error: Policy index doesn't match direction.\n"),
        ),
        ("policy add dst 9.9.9.9 dir out index 9", FINE),
        (
            "policy add dst 9.9.9.9 dir out tmpl src 1.1.1.1 dst 2.2.2.2 proto esp mode tunnel "
            "level use",
            (2, "Error: Mode in optional template not allowed in outbound policy.\n"),
        ),
        (
            "policy add dst 9.9.9.9 dir in tmpl src 1.1.1.1 dst 2.2.2.2 proto esp mode tunnel "
            "level use",
            FINE,
        ),
        (
            "policy add dst 9.9.9.9 dir out" + " tmpl proto esp" * 7,
            (2, "Error: Template count must be <= XFRM_MAX_DEPTH (6).\n"),
        ),
        ("policy add dst 9.9.9.9 dir out" + " tmpl proto esp" * 6, FINE),
        (
            "policy add dst 9.9.9.9 dir out offload packet dev lo",
            (2, "Error: Policy offload is not supported.\n"),
        ),
        (
            "policy add dst 9.9.9.9 dir out offload crypto dev lo",
            (255, 'Error: argument "crypto" is wrong: Invalid offload mode\n'),
        ),
        (
            "policy set hthresh4 33 32",
            (255, 'Error: argument "33" is wrong: hthresh4 LBITS value is invalid\n'),
        ),
        ("policy set hthresh4 8 24 hthresh6 64 64", FINE),
    ],
)
def test_policy_requests(host: HostHandle, text: str, answer: tuple[int, str]) -> None:
    assert says(host, text) == answer


def test_thresholds_are_told(host: HostHandle) -> None:
    says(host, "policy set hthresh4 8 24")
    text = shown(host, "ip -s -s xfrm policy count")
    assert text == (
        "\t SPD IN  0 OUT 0 FWD 0 (Sock: IN 0 OUT 0 FWD 0)\n"
        "\t SPD buckets: count 7 Max 1048576\n"
        "\t SPD IPv4 thresholds: local 8 remote 24\n"
        "\t SPD IPv6 thresholds: local 128 remote 128\n"
    )


def test_a_default_block_stops_sends_without_a_counter(host: HostHandle) -> None:
    assert says(host, "policy setdefault out block") == FINE
    assert shown(host, "ip xfrm policy getdefault") == (
        "Default policies:\n in:  accept\n fwd: accept\n out: block\n"
    )
    before = host.mib()
    assert host.send([udp("10.1.0.1", "10.1.0.2", 1, 2, 8)]) == [1]
    assert host.mib() == before


# Notifications.


def heard(host: HostHandle) -> str:
    return "".join(format_notification(raw, {"lo": 1, "nic0": 2}) for raw in host.notifications())


def test_an_empty_flush_says_nothing(host: HostHandle) -> None:
    says(host, "state flush")
    says(host, "policy flush")
    assert heard(host) == ""
    add(host)
    heard(host)
    says(host, "state flush")
    says(host, "state flush")
    assert heard(host) == "Flushed state proto 0\n"


def test_events_of_a_state(host: HostHandle) -> None:
    add(host)
    says(host, f"state update {ID} {AEAD}")
    says(host, f"state delete {ID}")
    first = re.findall("^.*src 10.1.0.1 dst 10.1.0.2$", heard(host), re.MULTILINE)
    assert first == [f"{word}{ENDS}" for word in ("", "Updated ", "Deleted ")]
    says(host, "policy add dst 9.9.9.9 dir out")
    says(host, "policy update dst 9.9.9.9 dir out priority 7")
    says(host, "policy delete dst 9.9.9.9 dir out")
    says(host, "policy setdefault in block")
    text = heard(host)
    assert text.startswith("src 0.0.0.0/0 dst 9.9.9.9/32 \n")
    assert "Updated src 0.0.0.0/0" in text and "Deleted src 0.0.0.0/0" in text
    assert text.endswith("Default policies:\n in:  block\n fwd: accept\n out: accept\n")


# Offload forms.


@pytest.mark.parametrize("dev", ["lo", "nic0"])
@pytest.mark.parametrize("form", ["offload", "offload crypto"])
def test_crypto_offload_without_support_is_software(host: HostHandle, dev: str, form: str) -> None:
    assert add(host, f"{form} dev {dev} dir out") == FINE
    assert "offload" not in shown(host, "ip xfrm state")


@pytest.mark.parametrize("dev", ["lo", "nic0"])
def test_packet_offload_without_support_is_refused(host: HostHandle, dev: str) -> None:
    assert add(host, f"offload packet dev {dev} dir in") == INVALID
    assert shown(host, "ip xfrm state") == ""


@pytest.mark.parametrize(
    ("more", "key", "text"),
    [
        (
            "flag esn replay-window 64 offload dev nic0 dir in",
            AEAD,
            "Device doesn't support offload with ESN",
        ),
        ("offload packet dev nic0 dir out", AEAD, "netdevsim: Unsupported ipsec offload type"),
        (
            "offload dev nic0 dir out",
            f"aead 'rfc4106(gcm(aes))' {KEY} 96",
            "netdevsim: Failed to get key data for SA table",
        ),
        ("offload dev nic0 dir in if_id 1", AEAD, "XFRM if_id is not supported in RX path"),
        ("mode tunnel tfcpad 100 offload dev nic0 dir out", AEAD, "TFC padding can't be offloaded"),
    ],
)
def test_what_netdevsim_and_the_core_refuse(
    nsim: HostHandle, more: str, key: str, text: str
) -> None:
    assert add(nsim, more, key=key) == (2, f"Error: {text}.\n")


def test_ah_is_not_offloaded(nsim: HostHandle) -> None:
    key = "auth 'hmac(sha256)' 0x" + "33" * 32
    ah = f"{ENDS} proto ah spi 6 offload dev nic0 dir out"
    assert add(nsim, id=ah, key=key) == (2, "Error: Type doesn't support offload.\n")


def test_a_device_that_goes_down_takes_its_sas_silently(nsim: HostHandle) -> None:
    add(nsim, "offload dev nic0 dir out")
    add(nsim, id=f"{ENDS} proto esp spi 0x1001")
    heard(nsim)
    nsim.set_link(up=False)
    assert "0x00001001" in shown(nsim, "ip xfrm state")
    assert "0x00001000" not in shown(nsim, "ip xfrm state")
    nsim.set_link(up=True)
    assert heard(nsim) == "" and shown(nsim, "ip xfrm state count") == "\t SAD count 1\n"


def test_with_the_feature_off_a_device_keeps_its_sas(nsim: HostHandle) -> None:
    nsim.set_link(esp_hw_offload=False)
    assert add(nsim, "offload dev nic0 dir out") == FINE
    nsim.set_link(up=False)
    assert "dev nic0 dir out mode crypto" in shown(nsim, "ip xfrm state")
    assert add(nsim, "offload dev nic0 dir out", id=f"{ENDS} proto esp spi 0x1001") == FINE
