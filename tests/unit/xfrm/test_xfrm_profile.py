# SPDX-License-Identifier: Apache-2.0
"""Kernel profiles: named sets of switches, chosen by name, and known to nothing else."""

import errno
import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from host_driver.lab import Lab
from host_driver.xfrm.profile import LATEST, V6_2, Profile, profile_by_name
from proto.status import OffloadError

REPO = Path(__file__).resolve().parents[3]
SWITCHES = [one.name for one in fields(Profile) if one.name != "name"]


def test_profiles_are_found_by_name_and_unknown_ones_name_the_known():
    assert profile_by_name("latest") is LATEST
    assert profile_by_name("v6.2") is V6_2
    with pytest.raises(OffloadError, match=r"'6\.2' is unknown, known are latest, v6\.2") as no:
        profile_by_name("6.2")
    assert no.value.errno == errno.EINVAL


def test_a_profile_is_frozen():
    with pytest.raises(FrozenInstanceError):
        LATEST.mtu_guarded = False  # type: ignore[misc]


def test_the_profiles_differ_in_every_switch():
    assert all(getattr(LATEST, name) and not getattr(V6_2, name) for name in SWITCHES)


def test_every_switch_cites_a_rule_where_it_is_defined():
    source = (REPO / "host_driver/xfrm/profile.py").read_text()
    for name in SWITCHES:
        comment = re.search(rf"((?:    # .*\n)+)    {name}: bool\n", source)
        assert comment, name
        assert re.search(r"\b([A-Z]+-\d\d|[Ss]ection \d)", comment[1]), name


def test_every_switch_is_asked_and_versions_are_asked_nowhere():
    paths = (REPO / "host_driver").rglob("*.py")
    sources = {path: path.read_text() for path in paths if path.name != "profile.py"}
    for name in SWITCHES:
        assert any(f"profile.{name}" in text for text in sources.values()), name
    asking = re.compile(r"\b(is|==|!=|in) \(?(LATEST|V6_2)\b|profile\.name (is|==|in)")
    assert [path for path, text in sources.items() if asking.search(text)] == []


@pytest.mark.parametrize("profile", ["latest", "v6.2"])
def test_a_lab_hands_the_profile_to_its_hosts(profile):
    with Lab(profile=profile) as lab:
        assert lab.hosts[0].info()["profile"] == profile
