# SPDX-License-Identifier: Apache-2.0
"""`xfrmnic fault` against a background lab of real processes, as a user types it."""

import json
from pathlib import Path

KEY = bytes(range(20)).hex()
STATE = (
    "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1000 reqid 1 mode transport "
    f"aead rfc4106(gcm(aes)) 0x{KEY} 128 offload packet dev nic0 dir out"
).split()
PACKET = "4500001c000000004011000a0a0000010a000002" + "00" * 8
PLAN = """
[[fault]]
name = "lossy"
host = 0
site = "wire"
kind = "drop"
until_s = 3600

[[fault]]
name = "later"
at_s = 3600
site = "events"
kind = "drop"
"""


def report(done) -> dict:
    """The JSON of a verb that went well."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_lab_is_broken_and_mended(xfrmnic, tmp_path: Path) -> None:
    report(xfrmnic("up", "--card", "tiny", "--json"))
    broken = report(xfrmnic(
        "fault", "add", "--site", "card.command", "--kind", "status", "--match", "opcode=CREATE_SA",
        "--value", "NO_RESOURCES:0x1234:no room today", "--times", "1", "--host", "0", "--json",
    ))  # fmt: skip
    refused = xfrmnic("ip", *STATE)
    assert refused.returncode == 2
    assert "no room today (syndrome 0x1234)" in refused.stderr
    assert xfrmnic("ip", *STATE).returncode == 0
    (armed,) = report(xfrmnic("fault", "list", "--json"))["armed"]
    assert (armed["name"], armed["party"], armed["fired"]) == (broken["name"], "card0", 1)
    (entry,) = report(xfrmnic("fault", "log", "--json"))["log"]
    assert (entry["id"], entry["facts"]) == ("card0:1", {"opcode": "CreateSa"})
    assert "card0:1" in xfrmnic("fault", "log").stdout
    assert xfrmnic("fault", "rm", broken["name"]).returncode == 0
    assert xfrmnic("fault", "rm", broken["name"]).returncode == 3

    (tmp_path / "plan.toml").write_text(PLAN)
    assert report(xfrmnic("fault", "add", "--plan", str(tmp_path / "plan.toml"), "--json")) == {
        "planned": 2
    }
    assert xfrmnic("send", "--hex", PACKET).returncode == 0
    text = xfrmnic("fault", "list").stdout
    assert "wire   lossy  1" in text
    assert "plan: later waiting" in text
    assert report(xfrmnic("status", "--json"))["hosts"][1]["counters"].get("rx_packets", 0) == 0
    assert xfrmnic("fault", "add", "--site", "wire", "--kind", "melt").returncode == 2
    assert xfrmnic("fault", "add", "no-such-fault").returncode == 3

    assert xfrmnic("fault", "reset").stdout == "nothing is armed\n"
    assert report(xfrmnic("fault", "list", "--json")) == {"armed": [], "planned": []}
    assert xfrmnic("send", "--hex", PACKET).returncode == 0
    assert report(xfrmnic("status", "--json"))["hosts"][1]["counters"]["rx_packets"] == 1
