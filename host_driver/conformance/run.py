# SPDX-License-Identifier: Apache-2.0
"""A whole run of the suite: from arguments to a Report, with pytest underneath."""

import contextlib
import errno
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.resources import as_file
from pathlib import Path

import pytest

from host_driver.conformance.catalogue import select
from host_driver.conformance.kernel import check_environment
from host_driver.conformance.report import CaseResult, Report, gather
from host_driver.conformance.suite import CASES, Suite
from host_driver.conformance.target import TARGETS, Options
from host_driver.driver.load import load_driver
from host_driver.lab.settings import Settings
from host_driver.lab.warm import warm_kernels
from proto import VERSION
from proto.status import OffloadError

QUIET = ("-p", "no:terminal", "-p", "no:cacheprovider", "-p", "no:warnings", "-p", "no:logging")


def run(
    options: Options,
    rules: Iterable[str] = (),
    *,
    collect_only: bool = False,
    junit: Path | None = None,
    on_case: Callable[[CaseResult], None] = lambda case: None,
) -> Report:
    """Run the cases of these rules (none: all) and gather what they came to.

    `collect_only`: run nothing, tell which rules have cases. `junit`: also write JUnit XML there.
    `on_case` hears of every case as it ends. Raises OffloadError(EINVAL) for arguments that are
    not offered, and with ENOTRECOVERABLE where the suite itself is broken.
    """
    _check(options)
    wanted = select(rules)
    suite = Suite(options, wanted, on_case)
    with as_file(CASES) as folder:
        arguments = [
            *_files(folder, wanted), "-c", os.devnull, "--rootdir", str(folder),
            "--import-mode=importlib", "--strict-markers", "-o", "verbosity_assertions=2", *QUIET,
        ]  # fmt: skip
        arguments += ["--collect-only"] if collect_only else []
        arguments += [f"--junitxml={junit}"] if junit else []
        if not collect_only and options.target != "kernel":
            warm_kernels()  # no case shall wait for the compiler
        with _alone():
            status = pytest.main(arguments, plugins=[suite])
    fine = (
        pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED
    )  # fmt: skip
    if status not in fine:
        raise OffloadError(errno.ENOTRECOVERABLE, f"pytest ended with status {int(status)}")
    return gather(_about(options), wanted, suite.results)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """What else is installed or set for pytest shall not change what a run does."""
    ours: dict[str, str | None] = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": None}
    before = {name: os.environ.get(name) for name in ours}
    _set(ours)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def _files(folder: Path, wanted: list[str]) -> list[str]:
    """The case files that name a wanted rule: a run of few rules need not read all the others."""
    named = re.compile(r"\b(" + "|".join(wanted) + r")\b")
    paths = sorted(folder.glob("test_*.py"))
    return [str(path) for path in paths if named.search(path.read_text("utf-8"))]


def _check(options: Options) -> None:
    """Refuse what no case could run with, before the first one does."""
    if options.target not in TARGETS:
        known = ", ".join(TARGETS)
        raise OffloadError(errno.EINVAL, f"target {options.target!r} is unknown, known are {known}")
    Settings(profile=options.profile, driver=options.driver, card=options.card, seed=options.seed)
    load_driver(options.driver)
    if options.target == "kernel":
        check_environment(options.dev)


def _about(options: Options) -> dict[str, str | int | None]:
    return {
        "target": options.target,
        "profile": options.profile,
        "driver": options.driver or "reference",
        "card": options.card,
        "seed": options.seed,
        "dev": options.dev,
        "version": VERSION,
        "kernel": platform.release(),
    }
