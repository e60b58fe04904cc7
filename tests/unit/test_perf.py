# SPDX-License-Identifier: Apache-2.0
"""What the performance programs compute from what they measured. They run no measurement here."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

PERF = Path(__file__).resolve().parents[2] / "perf"
MACHINE = {"cpu": "one <of> them", "cores": 2}


@pytest.fixture
def perf(monkeypatch):
    monkeypatch.syspath_prepend(PERF)
    return importlib.import_module


def turn(ns: float) -> tuple[float, ...]:
    return (ns, 2 * ns, 500.0, 700.0)


def test_a_host_is_limited_by_its_dearer_side_and_by_the_line(perf) -> None:
    seed_table = perf("seed_table")
    row = seed_table.described("packet", 1420, [turn(568.0)] * 3, [turn(284.0)] * 3)
    assert row["measured_ratio_to_baseline"]["host_tx"]["median"] == 2.0
    assert row["computed"]["limit"] == "host_rx"
    gbit_s = row["computed"]["gbit_s"]
    assert (gbit_s["1"], gbit_s["4"]) == (10.0, 40.0)  # 11 360 bits in 1136 ns
    # 1420 bytes of IP go out as 1456 (ESP: 8 + 8 + 2 + 16 and 2 of padding), with 38 around them.
    assert gbit_s["16"] == gbit_s["32"] == round(100 * 1420 / (1456 + 38), 3)
    assert row["computed"]["card_gbit_s"] == round(11_360 / 700, 3)


def test_both_tables_stand_below_each_other(perf) -> None:
    seed_table = perf("seed_table")
    base = [turn(1000.0)]
    table = {name: seed_table.described(name, 1420, base, base) for name in seed_table.PUBLISHED}
    lines = seed_table.text(table).splitlines()
    assert [line for line in lines if line.startswith("software")] == [
        "software      5.68    11.4    22.7    45.4    90.9      95",
        "software         6    11.9    23.3    45.9    83.8    91.8",
        "software  host_tx 1000 ns (1.00)  host_rx 2000 ns (1.00)  card_tx 500 ns (1.00)"
        "  card_rx 700 ns (1.00)",
    ]


def test_a_report_has_a_section_for_what_was_run(perf) -> None:
    pytest.importorskip("matplotlib")
    report, seed_table = perf("report"), perf("seed_table")
    base = [turn(1000.0)]
    found = {
        "seed_table": {
            "machine": MACHINE, "unit": "ns", "cores": seed_table.CORES,
            "published_gbit_s": seed_table.PUBLISHED,
            "results": {
                name: seed_table.described(name, 1420, base, base) for name in seed_table.PUBLISHED
            },
        },
        "ring": {
            "machine": MACHINE,
            "results": [{"burst": 1, "messages_per_s": 5, "packets_per_s": 5}],
        },
    }  # fmt: skip
    page = report.page(found)
    assert page.count("<svg") == 1
    assert "<h2>ring</h2>" in page
    assert "<h2>esp</h2>" not in page
    assert "one &lt;of&gt; them" in page


def test_events_and_expires_are_joined_by_sa_and_kind(perf) -> None:
    events = perf("events")
    wanted = {(spi, hard) for spi in (1, 2, 3) for hard in (False, True)}
    raised = {
        (1, False): 1_000_000, (1, True): 5_000_000, (2, False): 6_000_000, (2, True): 6_500_000,
        (3, False): 7_000_000,
    }  # fmt: skip
    sent = {(1, False): 1_500_000, (1, True): 7_000_000, (2, True): 9_000_000}
    delays_ms, counts = events.joined(wanted, raised, sent)
    assert delays_ms == [0.5, 2.0, 3.0, 2.5]  # the third: by the EXPIRE of the hard limit
    assert counts == {"limits": 6, "events": 5, "overtaken": 1, "lost": 1}


def test_a_percentile_is_one_of_the_values(perf) -> None:
    percentile = perf("events").percentile
    values = [float(value) for value in range(200, 0, -1)]
    assert (percentile(values, 90), percentile(values, 99)) == (180.0, 198.0)
    assert percentile(values, 100) == 200.0
    assert percentile([7.0], 99) == 7.0


def test_flows_stand_evenly_in_the_bulk(perf) -> None:
    assert perf("events").mixed(b"b", [b"1", b"2", b"3"], 9) == [
        b"1", b"b", b"b", b"2", b"b", b"b", b"3", b"b", b"b",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["measure", "ipsec_mb", "pipeline", "ring"])
def test_a_program_prints_json(name: str) -> None:
    command = [sys.executable, PERF / f"{name}.py"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=PERF.parent)
    assert isinstance(json.loads(done.stdout), dict)


def test_scale_measures_both_ways_at_every_size() -> None:
    command = [sys.executable, PERF / "scale.py", "--sizes", "2", "600", "--rounds", "1"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=PERF.parent)
    results = json.loads(done.stdout)["results"]
    assert results.keys() == {"2", "600"}
    for row in results.values():
        assert row["tx"]["ns_per_packet"]["median"] > 0
        assert row["rx"]["growth"]["median"] > 0
    assert 900 < results["600"]["bytes_per_sa"] < 10_000
