# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin of the suite: which cases run, what they get, what they came to."""

import errno
import importlib.resources
import inspect
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from host_driver.conformance.bench import Bench
from host_driver.conformance.catalogue import catalogue
from host_driver.conformance.kernel import release
from host_driver.conformance.patience import CaseHangs, Patience
from host_driver.conformance.pool import Pool
from host_driver.conformance.report import FAILED, PASSED, SKIPPED, TESTED, CaseResult
from host_driver.conformance.target import Options
from proto.status import OffloadError

CASES = importlib.resources.files("host_driver.conformance") / "cases"


class Suite:
    """One run. `results` has the cases in the order in which they ended.

    `wanted` are rule ids; `on_case` hears of every result. A case that names an unknown rule, or
    none, is a defect of the suite and ends the run.
    """

    def __init__(
        self, options: Options, wanted: list[str], on_case: Callable[[CaseResult], None]
    ) -> None:
        self.results: list[CaseResult] = []
        self._options = options
        self._wanted = set(wanted)
        self._on_case = on_case
        self._pool = Pool(options)
        self._benches: dict[str, Bench] = {}
        self._patience = Patience()

    # --- collection ---

    def pytest_configure(self, config: pytest.Config) -> None:
        """Make the mark known."""
        config.addinivalue_line("markers", "rule(*ids, profile=None): the rules a case judges")

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Keep the cases of the wanted rules, in the wanted profile."""
        kept = [item for item in items if self._concerned(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept
        for item in items:  # JUnit XML shows them
            item.user_properties += [("rule", id) for id in rules_of(item)]
        if config.option.collectonly:
            self.results = [self._result(item, TESTED) for item in items]

    def _concerned(self, item: pytest.Item) -> bool:
        ids = rules_of(item)
        unknown = [id for id in ids if id not in catalogue()]
        if unknown or not ids:
            raise pytest.UsageError(f"{item.nodeid} judges {unknown or 'no rule'}")
        profiles = {mark.kwargs.get("profile") for mark in item.iter_markers("rule")} - {None}
        listing = item.config.option.collectonly
        return bool(self._wanted & set(ids)) and (
            listing or not profiles or self._options.profile in profiles
        )

    # --- running ---

    @pytest.fixture
    def bench(self, request: pytest.FixtureRequest) -> Iterator[Bench]:
        """What a case works with."""
        self._skip_newer(request.node)
        if self._patience.over:
            pytest.skip(f"not run: cases before waited {self._patience.lost:.0f} s in vain")
        bench = self._benches[request.node.nodeid] = Bench(self._options, self._pool)
        yield bench
        failed = getattr(request.node, "case_failed", False)
        self._pool.after_case(failed=failed)
        del self._benches[request.node.nodeid]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, None, None]:
        """No case waits for ever."""
        with self._patience.limit():
            return (yield)

    def _skip_newer(self, item: pytest.Item) -> None:
        """A running kernel is not blamed for rules that are younger than it is."""
        if self._options.target != "kernel":
            return
        for id in rules_of(item):
            since = catalogue()[id].since
            if since and tuple(map(int, since.split("."))) > release():
                pytest.skip(f"{id} is kept since Linux {since}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Write down what a case came to; one whose setup failed counts as failed."""
        report = yield
        item.case_failed = report.failed  # type: ignore[attr-defined]
        if _waited_in_vain(call):
            self._patience.lost += call.duration
        ended = report.when == "call" or (report.when == "setup" and not report.passed)
        if ended or (report.when == "teardown" and report.failed):
            outcome = {"passed": PASSED, "failed": FAILED}.get(report.outcome, SKIPPED)
            came = _came(report, call) if outcome != PASSED else ""
            bench = self._benches.get(item.nodeid)
            calls = tuple(bench.calls()) if bench and outcome == FAILED else ()
            result = self._result(item, outcome, report.duration, came, calls)
            self.results.append(result)
            self._on_case(result)
        return report

    def pytest_sessionfinish(self) -> None:
        """End all labs."""
        self._pool.close()

    def _result(
        self, item: pytest.Item, outcome: str, seconds: float = 0.0, came: str = "",
        calls: tuple[str, ...] = (),
    ) -> CaseResult:  # fmt: skip
        function = getattr(item, "function", None)
        demand = inspect.getdoc(function) if function else None
        return CaseResult(
            name=item.nodeid.rpartition("/")[2], demand=demand or item.name, outcome=outcome,
            rules=tuple(rules_of(item)), seconds=round(seconds, 3), came=came, calls=calls,
        )  # fmt: skip


def rules_of(item: pytest.Item) -> list[str]:
    """The ids that a case is marked with, its parameters' included."""
    marks = reversed(list(item.iter_markers("rule")))
    return list(dict.fromkeys(id for mark in marks for id in mark.args))


def _waited_in_vain(call: pytest.CallInfo[None]) -> bool:
    """Whether a driver did not come back, or its host did not."""
    error = call.excinfo.value if call.excinfo else None
    timeout = isinstance(error, OffloadError) and error.errno == errno.ETIMEDOUT
    return timeout or isinstance(error, CaseHangs)


def _came(report: Any, call: pytest.CallInfo[None]) -> str:
    """The assertion, with both sides as pytest shows them; or the reason of a skip."""
    if report.outcome == "skipped":
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    place = f" (line {crash.lineno})" if crash else ""
    return (crash.message if crash else str(call.excinfo and call.excinfo.value)) + place
