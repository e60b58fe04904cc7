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


@pytest.mark.parametrize(("profile", "directions"), [("latest", 2), ("v6.2", 0)])
def test_the_language_sends_a_direction_only_to_a_kernel_that_knows_one(profile, directions):
    """CLI-15."""
    add = (
        "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x100{n} reqid 1 {dir} "
        "aead rfc4106(gcm(aes)) 0x0102030405060708090a0b0c0d0e0f1011121314 128 "
        "offload packet dev nic0 dir {dir_word}"
    )
    with Lab(profile=profile) as lab:
        host = lab.hosts[0]
        for n, word in enumerate(("in", "out")):
            assert host.ip(add.format(n=n, dir=f"dir {word}", dir_word=word)).rc == 0
        shown = host.ip("xfrm state").stdout
        assert shown.count("\tdir ") == directions
        assert shown.count("offload parameters: dev nic0 dir") == 2
