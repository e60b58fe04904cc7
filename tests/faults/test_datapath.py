# SPDX-License-Identifier: Apache-2.0
"""A data path that fails: broken engines, lost verdicts, handles of others. What the host cannot
tell, the peer finds; nothing leaves in clear, and nothing is delivered that was not authentic.
"""

import pytest

from host_driver.lab import Lab
from support.accounts import Accounts
from support.esp import GCM, A, B, datagram, policy, state, template
from support.rows import row

OTHER = "10.1.0.9"  # another peer of B
BOTH_MODES = pytest.mark.parametrize("mode", ["transport", "tunnel"])


def esp_only(way) -> list[bytes]:
    frames = way.frames()
    assert {frame[23] for frame in frames} <= {50}
    return frames


@row("F-DP-06", process=True)
@pytest.mark.parametrize("kind", ["packet", "crypto"])
def test_an_icv_that_the_card_breaks_is_found_by_the_peer(way, target, kind) -> None:
    way = way(target, kind)
    with way.lab.faults.inject("icv-broken-by-the-card", host=0):
        way.send(3)
        assert way.arrived() == []
    drops = way.drops()
    assert drops["XfrmInStateProtoError" if kind == "crypto" else "rx_drop_integrity"] == 3
    sent = way.send(2)
    assert way.arrived() == sent


@row("F-DP-15")
@pytest.mark.parametrize("kind", ["packet", "crypto", "software"])
def test_a_forged_packet_is_not_delivered(way, target, kind) -> None:
    """Whoever opens it, and whichever byte of it was changed; the numbers stay free."""
    way = way(target, kind)
    way.lab.faults.add(site="wire", kind="drop", match={"dst": 1}, times=1)
    (packet,) = way.send(1)
    assert way.arrived() == []
    (frame,) = way.frames()
    for at in range(38, len(frame)):
        forged = bytearray(frame)
        forged[at] ^= 1
        way.inject(bytes(forged))
        assert way.arrived() == []
    way.inject(frame)
    assert way.arrived() == [packet]


@row("F-DP-16", process=True)
@BOTH_MODES
def test_esp_without_a_verdict_is_not_opened_by_others(way, target, mode) -> None:
    """The card has taken these numbers; the host's own window would take them once more."""
    way = way(target, mode=mode)
    sent = way.send(3)
    assert way.arrived() == sent
    frames = way.frames()
    accounts = Accounts(way.b)
    with way.lab.faults.inject("verdict-lost", host=1):
        way.inject(*frames)
        assert way.arrived() == []
    assert accounts.undelivered() == {"driver_rx_drop_not_opened": 3}
    way.inject(*frames)
    assert way.arrived() == []
    assert accounts["rx_drop_replay"] == 3


def test_a_clear_packet_has_no_verdict_to_lose(way) -> None:
    """The IN policy that asks for protection stops it on the card, as ever."""
    way = way("sim")
    packet = way.send(1)
    assert way.arrived() == packet
    clear = way.frames()[0][:14] + packet[0]
    accounts = Accounts(way.b)
    with way.lab.faults.inject("verdict-lost", host=1):
        way.inject(clear)
        assert way.arrived() == []
    assert accounts["rx_drop_clear_text"] == 1


def test_without_a_verdict_crypto_offload_is_software(way) -> None:
    """There the window is the host's own, so it may open what the card did not."""
    way = way("sim", "crypto")
    with way.lab.faults.inject("verdict-lost", host=1):
        sent = way.send(3)
        assert way.arrived() == sent
        way.inject(*way.frames())
        assert way.arrived() == []
    assert way.drops() == {"XfrmInStateSeqError": 3}


def test_the_card_opens_nothing_behind_the_hosts_window(way) -> None:
    """Software has taken these 40: the card still knows number 1, and the host would take it, far
    left of its window, for one of the next cycle."""
    way = way("sim", "crypto", esn=True)
    with way.lab.faults.inject("verdict-lost", host=1):
        sent = way.send(40)
        assert way.arrived() == sent
    way.inject(way.frames()[0])
    assert way.arrived() == []
    assert way.drops() == {"XfrmInStateProtoError": 1}
    sent = way.send(1)
    assert way.arrived() == sent


@row("F-DP-23", process=True)
@pytest.mark.parametrize("kind", ["stale-handle", "unknown-handle"])
@pytest.mark.parametrize("offload", ["packet", "crypto"])
def test_a_handle_that_names_no_live_sa_delivers_nothing(way, target, offload, kind) -> None:
    way = way(target, offload)
    accounts = Accounts(way.b)
    with way.lab.faults.inject("stale-handle", host=1, kind=kind):
        way.send(3)
        assert way.arrived() == []
    assert accounts.undelivered() == {"driver_rx_drop_sadb_miss": 3}
    sent = way.send(1)
    assert way.arrived() == sent


@row("F-DP-24")
@pytest.mark.parametrize("offload", ["packet", "crypto"])
def test_a_packet_of_one_peer_is_not_taken_for_anothers(way, target, offload) -> None:
    """Two live SAs, and the card names the wrong one."""
    way = way(target, offload)
    device = f"replay-window 32 offload {offload} dev nic0 dir in"
    way.ip(way.b, state(GCM, "transport", device, (OTHER, B), 0x2000))
    accounts = Accounts(way.b)
    with way.lab.faults.inject("wrong-handle", host=1):
        way.send(3)
        assert way.arrived() == []
    assert accounts.undelivered() == {"driver_rx_drop_provenance": 3}
    sent = way.send(1)
    assert way.arrived() == sent


def test_selectors_tell_tunnels_apart(way) -> None:
    """F-DP-24 where the addresses are inside."""
    way = way("sim", mode="tunnel")
    other = "replay-window 32 sel src 10.9.0.0/16 dst 10.8.0.0/16 offload packet dev nic0 dir in"
    way.ip(way.b, state(GCM, "tunnel", other, (A, B), 0x2000))
    accounts = Accounts(way.b)
    with way.lab.faults.inject("wrong-handle", host=1):
        way.send(2)
        assert way.arrived() == []
    assert accounts.undelivered() == {"driver_rx_drop_provenance": 2}


@row("F-DP-27")
def test_an_empty_buffer_pool_is_counted_and_fills_again(way, target) -> None:
    way = way(target)
    accounts = Accounts(way.b)
    way.lab.faults.add("no-receive-slot", host=1)
    sent = way.send(8)
    assert way.arrived() == sent[5:]
    assert accounts.undelivered() == {"rx_drop_no_buffer": 5}


@pytest.mark.parametrize(
    ("site", "kind", "host", "end"),
    [
        ("card.tx", "drop", 0, "tx_drop_engine"),
        ("card.rx", "drop", 1, "rx_drop_engine"),
        ("card.seal", "truncate", 0, "rx_drop_malformed"),
        ("card.seal", "skip-checksum", 0, "rx_drop_malformed"),
    ],
)
@pytest.mark.parametrize("offload", ["packet", "crypto"])
def test_what_an_engine_fails_on_is_counted_once(way, site, kind, host, end, offload) -> None:
    way = way("sim", offload)
    accounts = Accounts(way.lab.hosts[host if "drop" in kind else 1])
    with way.lab.faults.inject(site=site, kind=kind, host=host):
        way.send(4)
        assert way.arrived() == []
    ends = accounts.unsent() if end.startswith("tx") else accounts.undelivered()
    assert ends == {end: 4}
    sent = way.send(2)
    assert way.arrived() == sent
    assert len(esp_only(way)) == (2 if site == "card.tx" else 6)


def test_a_fault_of_the_data_path_may_name_an_sa(way) -> None:
    way = way("sim")
    way.ip(way.b, policy("in", template(0x2000), ends=(OTHER, B)))
    with way.lab.faults.inject(site="card.rx", kind="drop", match={"spi": "0x2000"}, host=1):
        sent = way.send(2)
        assert way.arrived() == sent


def test_an_idle_fault_of_the_data_path_changes_no_byte() -> None:
    """One packet after another, or all of them at once: the same frames."""
    seen = []
    for sites in ((), ("card.tx", "card.rx"), ("card.seal", "card.counters", "card.events")):
        with Lab(target="sim", hosts=2, card="full", seed=4) as lab:
            a, b = lab.hosts
            for host, dir in ((a, "out"), (b, "in")):
                extra = f"offload packet dev nic0 dir {dir}"
                assert host.ip(state(GCM, "transport", extra)).rc == 0
                assert host.ip(policy(dir, "offload packet dev nic0 " + template())).rc == 0
            for site in sites:
                kind = {"card.tx": "drop", "card.rx": "drop", "card.seal": "corrupt-icv",
                        "card.counters": "torn", "card.events": "drop"}[site]  # fmt: skip
                lab.faults.add(site=site, kind=kind, probability=0.0)
            a.send([datagram(40 + number) for number in range(300)])
            lab.settle()
            b.receive()
            seen.append(
                ([(f.data, f.time, f.src) for f in lab.wire.frames()], a.nic.counters(), b.mib())
            )
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0][0]) == 300
