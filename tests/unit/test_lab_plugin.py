# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin, used as a user uses it: a test file, fixtures, options."""

import os
import subprocess
import sys

from host_driver.lab.child import environment

TEST = """
import sys

def test_one(xnic):
    (host,) = xnic.hosts
    assert host.ip("xfrm state list").rc == 0
    assert (xnic.settings.target, xnic.settings.seed) == ("sim", 5)

def test_two(xnic_pair):
    assert len(xnic_pair.hosts) == 2
"""


def run(directory, *options):
    """pytest in a directory of its own, with this plugin and no other."""
    (directory / "pytest.ini").write_text("[pytest]\n")  # or one further up would be taken
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "host_driver.pytest_plugin", *options],
        cwd=directory, env={**environment(), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_fixtures_and_options(tmp_path):
    (tmp_path / "test_mine.py").write_text(TEST)
    done = run(tmp_path, "--xnic-seed=5")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    assert "1 failed" in run(tmp_path, "--xnic-seed=6").stdout


def test_an_unknown_target_is_a_usage_error(tmp_path):
    done = run(tmp_path, "--xnic-target=kernel")
    assert done.returncode == 4
    assert "sim" in done.stderr


def test_the_plugin_is_light(tmp_path):
    code = "import sys, host_driver.pytest_plugin; print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment()},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for heavy in ("numpy", "zmq", "numba", "msgspec", "host_driver.lab"):
        assert f"'{heavy}'" not in done.stdout
