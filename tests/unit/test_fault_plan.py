# SPDX-License-Identifier: Apache-2.0
"""Plan files: what they may say, what is refused and where, and how a lab follows one."""

import contextlib
import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_driver.faults import catalogue
from host_driver.faults.plan import PLAN_MAX_BYTES, PlannedFault, load_plan, parse_plan
from host_driver.lab import Lab
from proto.status import OffloadError

GOOD = """
[[fault]]
site = "wire"
kind = "drop"
probability = 0.01
match = { esp = 1, spi = "0x1000" }

[[fault]]
name = "mute"
host = 0
at_s = 10
until_s = 12.5
site = "card.command"
kind = "silent"
"""


def test_a_plan_is_read() -> None:
    first, second = parse_plan(GOOD)
    assert (first.fault, first.host, first.at_s, first.until_s) == (None, None, 0, None)
    assert first.fields == {
        "site": "wire", "kind": "drop", "probability": 0.01, "match": {"esp": 1, "spi": "0x1000"},
    }  # fmt: skip
    assert (second.host, second.at_s, second.until_s) == (0, 10, 12.5)
    assert second.fields == {"name": "mute", "site": "card.command", "kind": "silent"}
    assert parse_plan("") == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("fault = 3", "write .*fault"),
        ("[fault]\nsite='wire'", "write .*fault"),
        ("fault = [1, 2]", "write .*fault"),
        ("seed = 3", "'seed' is unknown"),
        ("[[fault]]\nsite = x\n", "line 2"),
        ("\n[[fault]]\nsite='wire'\nkind='melt'", "line 2: fault kind 'melt'"),
        ("[[fault]]\nsite='wire'\nkind='drop'\n\n[[ fault ]]\ncolour=1", "line 5: .*colour"),
        ("[[fault]]\nsite='wire'\nkind='drop'\nat_s='now'", "line 1: .*at_s"),
        ("[[fault]]\nsite='wire'\nkind='drop'\nat_s=nan", "at_s nan"),
        ("[[fault]]\nsite='wire'\nkind='drop'\nuntil_s=inf", "until_s inf"),
        ("[[fault]]\nsite='wire'\nkind='drop'\nat_s=-1", "at_s -1"),
        ("[[fault]]\nsite='wire'\nkind='drop'\nat_s=5\nuntil_s=5", "not after"),
        ("[[fault]]\nsite='wire'\nkind='drop'\nhost='a'", "host"),
        ("[[fault]]\nsite='wire'\nkind='drop'\nhost=true", "host"),
        ("[[fault]]\nsite='wire'\nkind='drop'\ntimes=1979-05-27", "times"),
        ("[[fault]]\nsite='wire'\nkind='drop'\nmatch={spi=[1]}", "match"),
        ("[[fault]]\nsite='wire'\nkind='drop'\nmatch={spi=99999999999999999999}", "64 bits"),
        ("[[fault]]\nfault='no-such-fault'", "no fault is named"),
        ("[[fault]]\nkind='drop'", "site"),
        ("[[fault]]\n" * 257, "256 at most"),
        ("a = " + "[" * 5000, "no TOML"),
        ("a = 1" + "0" * 5000, "no TOML"),
    ],
)
def test_a_bad_plan_is_refused_with_its_place(text, says) -> None:
    with pytest.raises(OffloadError, match=says) as caught:
        parse_plan(text)
    assert caught.value.errno == errno.EINVAL


def test_files_that_are_no_plan(tmp_path) -> None:
    path = tmp_path / "plan.toml"
    path.write_bytes(b"#" * (PLAN_MAX_BYTES + 1))
    with pytest.raises(OffloadError, match=r"plan\.toml: over"):
        load_plan(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(OffloadError, match="byte 0 is no UTF-8"):
        load_plan(path)
    with pytest.raises(FileNotFoundError):
        load_plan(tmp_path / "none")
    path.write_text(GOOD)
    assert len(load_plan(path)) == 2


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_a_plan_or_refused(text) -> None:
    for candidate in (text, f"[[fault]]\n{text}", f"[[fault]]\nsite='wire'\nkind='drop'\n{text}"):
        with contextlib.suppress(OffloadError):
            assert all(isinstance(one, PlannedFault) for one in parse_plan(candidate))


@pytest.fixture(scope="module")
def running():
    with Lab(target="sim", hosts=2, card="tiny", seed=5) as lab:
        yield lab


@pytest.fixture
def lab(running):
    yield running
    running.faults.reset()


def states(lab) -> list[str]:
    return [entry["state"] for entry in lab.faults.planned()]


def armed(lab) -> list[str]:
    return sorted({entry["name"] for entry in lab.faults.list()})


def test_a_lab_follows_a_plan_as_its_time_goes_by(lab, tmp_path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(GOOD)
    lab.faults.follow(path)
    assert states(lab) == ["armed", "waiting"]
    assert lab.faults.planned()[1]["in_s"] == 10
    lab.advance(9.999)
    assert "mute" not in armed(lab)
    lab.advance(0.001)
    assert "mute" in armed(lab)
    assert [e["party"] for e in lab.faults.list() if e["name"] == "mute"] == ["card0"]
    lab.advance(60)
    assert states(lab) == ["armed", "over"]
    assert "mute" not in armed(lab)
    lab.faults.reset()
    assert states(lab) == armed(lab) == []


def test_one_advance_lives_through_every_moment_of_a_plan(lab) -> None:
    before = len(lab.faults.log())
    lab.faults.follow([
        PlannedFault(at_s=1, until_s=3, fields={"site": "mailbox", "kind": "drop", "name": "x"}),
        PlannedFault(at_s=2, fields={"site": "wire", "kind": "drop", "name": "y"}),
    ])  # fmt: skip
    lab.advance(10)
    assert states(lab) == ["over", "armed"]
    assert armed(lab) == ["y"]
    assert len(lab.faults.log()) == before


def test_a_plan_of_which_one_part_is_wrong_does_nothing(lab) -> None:
    good = PlannedFault(fields={"site": "wire", "kind": "drop"})
    for bad in (PlannedFault(fields={"site": "moon", "kind": "drop"}),
                PlannedFault(host=2, fields={"site": "wire", "kind": "drop"})):  # fmt: skip
        with pytest.raises(OffloadError):
            lab.faults.follow([good, bad])
        assert states(lab) == armed(lab) == []


def test_what_cannot_be_armed_in_the_end_says_why(lab) -> None:
    fields = {"site": "wire", "kind": "drop", "name": "twin"}
    lab.faults.follow([PlannedFault(fields=fields), PlannedFault(at_s=1, fields=fields)])
    lab.advance(1)
    assert states(lab) == ["armed", "failed"]
    assert "armed already" in lab.faults.planned()[1]["error"]


def test_what_somebody_else_disarms_is_over(lab) -> None:
    fields = {"site": "wire", "kind": "drop", "name": "short"}
    lab.faults.follow([PlannedFault(until_s=5, fields=fields)])
    lab.faults.remove("short")
    assert states(lab) == ["over"]
    lab.advance(10)
    assert armed(lab) == []


def test_a_plan_may_use_the_catalogue(lab, monkeypatch) -> None:
    row = catalogue.Row(
        id="F-X-01", area="x", where="", trigger="", correct="", never="", fault="lossy",
        inject=[{"site": "wire", "kind": "drop", "probability": 0.5}],
    )  # fmt: skip
    monkeypatch.setattr(catalogue, "catalogue", lambda: {"F-X-01": row})
    lab.faults.follow(parse_plan("[[fault]]\nfault='lossy'\nprobability=0.25\nhost=1"))
    (entry,) = lab.faults.list()
    assert (entry["name"], entry["probability"], entry["match"]) == ("lossy", 0.25, {"src": 1})
