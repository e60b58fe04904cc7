# SPDX-License-Identifier: Apache-2.0
"""OPS-10..15: what state_add is given, where it is called, and what follows its answer."""

import errno

import pytest

from host_driver.conformance import messages, packets, texts
from host_driver.conformance.bench import PROBE, Bench
from host_driver.conformance.marks import rule
from host_driver.conformance.probe import REFUSE, REPORT, SLEEP
from host_driver.conformance.subject import Subject
from proto.xfrm import OFFLOAD_PACKET

PACKET = packets.udp()
EXPEDITED = 0xB8  # the DSCP of RFC 3246
OFFLOAD_CRYPTO = 0  # of the flags of OFFLOAD_DEV
CBC = f"enc cbc(aes) 0x{bytes(16).hex()} auth-trunc hmac(sha256) 0x{bytes(32).hex()} 128"


def offer(host: Subject, spi: int = 0x1000, flags: int = OFFLOAD_PACKET, reqid: int = 1) -> int:
    """The errno of NEWSA with an outbound SA for the device."""
    device = host.offload(flags)
    return host.request(messages.new_sa(spi=spi, reqid=reqid, attributes=device)).errno


@rule("OPS-10")
def test_state_add_sees_the_finished_sa(bench: Bench) -> None:
    """Key, mode, limits and window are final, the device is set; the SA is VOID still."""
    host = bench.host(driver=PROBE)
    more = "limit packet-soft 5 limit packet-hard 9 replay-window 64"
    refused = host.ip(texts.state(host.dev, dir="in", mode="tunnel", reqid=REPORT, more=more))
    assert (
        f"spi 0x1000 VOID 20 bytes of key mode 1 dir 1 type 2 on {host.dev} is True "
        "limits 5 9 window 64"
    ) in refused.stderr
    assert host.sa() is None


@rule("OPS-10")
def test_state_add_runs_for_the_user_and_may_sleep(bench: Bench) -> None:
    """Called once in the context of the request, which waits as long as the driver sleeps."""
    host = bench.host(driver=PROBE)
    host.ok(texts.state(host.dev, reqid=SLEEP))
    assert host.order("U") == "A"
    assert (host.calls()[0]["context"], host.errors()) == ("user", [])
    assert host.sa() is not None


@rule("OPS-10")
@pytest.mark.parametrize("dir", ["out", "in"])
def test_a_driver_takes_an_sa_that_is_void(bench: Bench, dir: str) -> None:
    """The driver under test, as it is called: VOID, with keys, direction and device."""
    host = bench.host()
    host.ok(texts.state(host.dev, dir=dir))
    call = host.calls()[0]
    shown = {name: call[name] for name in ("context", "state", "keys", "dir", "type", "dev", "spi")}
    assert shown == {
        "context": "user", "state": "void", "keys": 20, "dir": dir, "type": "packet",
        "dev": host.dev, "spi": "0x1000",
    }  # fmt: skip
    assert (call["result"], host.errors()) == (0, [])


@rule("OPS-11")
def test_a_driver_takes_a_larval_sa_without_sleeping(bench: Bench) -> None:
    """The packet path adds an SA without key and SPI, in atomic context; late kernels mark it."""
    host = bench.host()
    host.ok(texts.policy(host.dev))
    assert host.send([packets.udp()]) == [0]
    call = host.calls()[1]
    shown = [call[name] for name in ("call", "context", "state", "keys", "spi", "dir", "result")]
    assert shown == ["xdo_dev_state_add", "data", "void", 0, "0x0", "out", 0]
    assert call.get("acquire", False) == bench.latest
    assert host.errors() == []
    assert "sas" not in host.census()


@rule("OPS-11")
def test_sleeping_in_the_packet_path_is_stopped(bench: Bench) -> None:
    """A driver that sleeps in a larval add is at fault; its packet fails, the host goes on."""
    host = bench.host(driver=PROBE)
    host.ok(texts.policy(host.dev, reqid=SLEEP))
    (error,) = host.send([packets.udp()])
    assert error
    assert host.violations() == ["OPS-11"]
    host.ok(texts.state(host.dev, reqid=SLEEP))
    assert host.send([packets.udp()]) == [0]


@rule("OPS-12", profile="latest")
def test_a_migrated_sa_is_offered_like_a_new_one(bench: Bench) -> None:
    """MIGRATE with a device: add of the clone for the user, keys and all; then the old SA goes."""
    host = bench.host()
    host.ok(texts.policy(host.dev))
    host.ok(texts.state(host.dev))
    device = host.offload()
    before = len(host.calls())
    assert host.request(messages.migrate(dst="10.1.0.9", attributes=device)).errno == 0
    assert host.order("U", since=before, numbered=True) == "A1 D2 F2"
    call = host.calls()[before]
    shown = [call[name] for name in ("context", "keys", "spi", "dir", "type", "result")]
    assert shown == ["user", 20, "0x1000", "out", "packet", 0]
    assert (host.refcnt(), host.errors()) == (2, [])
    assert host.sa() is None
    assert host.sa(dst="10.1.0.9") is not None


@rule("OPS-13")
def test_an_accepted_sa_holds_the_device_until_its_free(bench: Bench) -> None:
    """One reference from add to free; one delete, then one free, which the driver takes calmly."""
    host = bench.host()
    host.ok(texts.state(host.dev))
    assert host.refcnt() == 1
    host.ok(texts.delete())
    ends = [call for call in host.calls() if call["call"].endswith(("_delete", "_free"))]
    assert [(call["call"], call["refs"], call["dev"]) for call in ends] == [
        ("xdo_dev_state_delete", 1, host.dev),
        ("xdo_dev_state_free", 1, host.dev),
    ]
    assert (host.refcnt(), host.errors(), host.census()) == (0, [], {})


@rule("OPS-14")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EINVAL, errno.EBUSY])
@pytest.mark.parametrize("flags", [OFFLOAD_PACKET, OFFLOAD_CRYPTO])
def test_a_refusal_ends_the_request_and_holds_nothing(bench: Bench, code: int, flags: int) -> None:
    """The driver's errno, no reference to the device, neither delete nor free."""
    host = bench.host(driver=PROBE)
    assert offer(host, flags=flags, reqid=REFUSE | code) == code
    assert (host.order("U"), host.refcnt()) == ("A", 0)
    assert host.sa() is None


@rule("OPS-14")
@pytest.mark.parametrize("full", ["key_max", "sa_max", "rule_max"])
def test_a_driver_undoes_what_it_had_begun(bench: Bench, full: str) -> None:
    """The card refuses some step of an add: an error that is not EOPNOTSUPP, and nothing of it
    stays on the card; when the SA in the way is gone, there is room again."""
    host = bench.host(card=f"full:{full}=1")
    assert offer(host) == 0
    before = host.census()
    assert offer(host, 0x1001) not in (0, errno.EOPNOTSUPP)
    assert (host.census(), host.refcnt()) == (before, 1)
    assert host.order("U") == "A A"
    host.ok(texts.delete())
    assert host.census() == {}
    assert offer(host, 0x1001) == 0


@rule("OPS-14", "OPS-15")
@pytest.mark.parametrize("what", ["state", "policy"])
def test_a_card_without_packet_offload_is_einval(bench: Bench, what: str) -> None:
    """Type other than crypto where the hardware cannot: EINVAL, never EOPNOTSUPP."""
    host = bench.host(card="crypto-only")
    if what == "state":
        assert offer(host) == errno.EINVAL
    else:
        device = host.offload()
        assert host.request(messages.new_policy(attributes=device)).errno == errno.EINVAL
    assert (host.census(), host.refcnt()) == ({}, 0)
    assert offer(host, flags=OFFLOAD_CRYPTO) == 0


@rule("OPS-15")
@pytest.mark.parametrize(
    ("card", "offered"),
    [
        ("tunnel=0", {"mode": "tunnel"}),
        ("", {"mode": "beet"}),
        ("esn=0", {"dir": "in", "more": "replay-window 64 flag esn"}),
        ("key_bits=128", {"key": bytes(36)}),
        ("icv_bytes=16", {"icv": 64}),
        ("replay_window_max=64", {"dir": "in", "more": "replay-window 128"}),
        ("replay_windows=32/64", {"dir": "in", "more": "replay-window 48"}),
        ("espinudp=0", {"more": "encap espinudp 4500 4500 0.0.0.0"}),
        ("", {"more": "mark 5 mask 0xff"}),
        ("", {"more": "if_id 7"}),
        ("", {"more": "sel src 10.1.0.1 dst 10.1.0.2 proto gre key 9"}),
    ],
    ids=lambda value: ",".join(map(str, value.values())) if isinstance(value, dict) else value,
)
def test_a_driver_refuses_what_its_card_cannot(
    bench: Bench, card: str, offered: dict[str, str]
) -> None:
    """The core checks no algorithm, mode, window or selector for the hardware: it asks the driver,
    who must say no, and leave nothing behind."""
    host = bench.host(card=f"full:{card}")
    command = texts.state(host.dev, **offered)  # type: ignore[arg-type]
    refused = host.ip(command)
    assert refused.rc == 2, command
    assert "Operation not supported" not in refused.stderr
    if "encap" not in command or bench.latest:  # which v6.2 refuses by itself (STATE-17)
        assert host.order() == "A"
    assert (host.census(), host.refcnt(), host.errors()) == ({}, 0, [])


@rule("OPS-15")
@pytest.mark.parametrize("bits", [64, 96, 128])
def test_a_driver_that_takes_an_icv_keeps_to_it(bench: Bench, bits: int) -> None:
    """An SA of this ICV opens packets that have it, and no others, or it is refused."""
    host = bench.host()
    if host.ip(texts.state(host.dev, dir="in", icv=bits)).rc:
        pytest.skip(f"the driver under test takes no ICV of {bits} bits")
    host.ok(texts.policy(host.dev, dir="in"))
    for seq, octets in enumerate((8, 12, 16), 1):
        bench.arrive(packets.Esp(icv_bytes=octets).seal(PACKET, seq))
        assert host.receive() == [PACKET] * (8 * octets == bits)


@rule("OPS-15")
@pytest.mark.parametrize("flag", ["", "flag decap-dscp"])
def test_a_driver_that_takes_a_tunnel_s_flags_keeps_to_them(bench: Bench, flag: str) -> None:
    """DECAP_DSCP: the packet gets the DSCP of the outer header, which it does not get without."""
    host = bench.host()
    if host.ip(texts.state(host.dev, dir="in", mode="tunnel", more=flag)).rc:
        pytest.skip(f"the driver under test takes no tunnel {flag}")
    host.ok(texts.policy(host.dev, dir="in", mode="tunnel"))
    outer = packets.ip(b"", packets.ESP, tos=EXPEDITED)
    bench.arrive(packets.Esp().seal(PACKET, 1, outer))
    (inner,) = host.receive()
    assert inner[1] == (EXPEDITED if flag else 0)
    assert inner[20:] == PACKET[20:]


@rule("OPS-15")
def test_a_driver_refuses_an_algorithm_its_card_has_not(bench: Bench) -> None:
    """AES-CBC with HMAC on a card for AES-GCM."""
    host = bench.host()
    id = texts.ESP_ID.format(src=messages.SOURCE, dst=messages.DESTINATION, spi=0x1000)
    offer = f"offload packet dev {host.dev} dir out"
    assert host.ip(f"xfrm state add {id} reqid 1 mode transport {CBC} {offer}").rc == 2
    assert (host.order(), host.census(), host.refcnt()) == ("A", {}, 0)
