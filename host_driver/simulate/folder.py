# SPDX-License-Identifier: Apache-2.0
"""What a failure leaves: one folder, from which it runs again.

    plan.json        the steps that are left after shrinking      drawn.json   as they were drawn
    violation.json   what broke, and the hash of the trace        log.txt      every step, its end
    events.jsonl     notifications and xdo_* calls                tables.txt   what could be asked
    wire.pcapng      clear side and wire

No file holds a key: keys come from the seed, and are zeros here.
"""

import errno
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from host_driver.simulate.ledger import Ledger, Step, Violation
from host_driver.simulate.plan import Plan, decode_plan, encode_plan
from host_driver.simulate.runner import Outcome, Run
from proto import VERSION
from proto.status import OffloadError

PLAN, DRAWN, VIOLATION = "plan.json", "drawn.json", "violation.json"
TABLES = ("-s xfrm state list nokeys", "-s xfrm policy list")


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """How a recorded run ended, and which version of the program it was."""

    hash: str
    steps: int
    version: str
    violations: list[Violation]


def write_folder(folder: Path, drawn: Plan, run: Run, outcome: Outcome) -> None:
    """Leave everything of a failed run whose lab is still there. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    recorded = Recorded(
        hash=outcome.hash, steps=outcome.steps, version=VERSION, violations=outcome.violations
    )
    (folder / PLAN).write_bytes(encode_plan(outcome.plan))
    (folder / DRAWN).write_bytes(encode_plan(drawn))
    (folder / VIOLATION).write_bytes(msgspec.json.format(msgspec.json.encode(recorded), indent=1))
    (folder / "log.txt").write_text("\n".join(_log(run.ledger, outcome)) + "\n", "utf-8")
    with (folder / "events.jsonl").open("wb") as file:
        file.writelines(msgspec.json.encode(event) + b"\n" for event in _events(run.ledger))
    run.lab.capture(folder / "wire.pcapng")
    (folder / "tables.txt").write_text("\n".join(_tables(run)) + "\n", "utf-8")


def leave(folder: Path, drawn: Plan, run: Run, outcome: Outcome) -> str:
    """The same; -> the line that a shell takes to play it again, or why there is none."""
    why = why_not_written(folder, drawn, run, outcome)
    return f"({why})" if why else f"xfrmnic replay {shlex.quote(str(folder))}"


def why_not_written(folder: Path, drawn: Plan, run: Run, outcome: Outcome) -> str:
    """The same; -> what kept it from being written, empty if it is there: whatever that was, what
    broke is told all the same."""
    try:
        write_folder(folder, drawn, run, outcome)
    except OSError as error:
        return f"no folder: {error}"
    return ""


def read_folder(folder: Path) -> tuple[Plan, Recorded]:
    """The plan of a failure and how it ended. Raises OffloadError(ENOENT, EINVAL)."""
    try:
        plan, violation = ((folder / name).read_bytes() for name in (PLAN, VIOLATION))
    except OSError as error:
        raise OffloadError(
            errno.ENOENT, f"{folder} is no folder of a failure: {error.filename}: {error.strerror}"
        ) from None
    try:
        recorded = msgspec.json.decode(violation, type=Recorded)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise OffloadError(errno.EINVAL, f"{folder / VIOLATION}: {error}") from None
    return decode_plan(plan, str(folder / PLAN)), recorded


def _log(ledger: Ledger, outcome: Outcome) -> Iterator[str]:
    yield from outcome.plan.lines()
    began_ns = ledger.steps[0].began_ns if ledger.steps else 0
    for step in ledger.steps:
        yield _line(step, began_ns)
        fired = Counter((one["party"], one["name"], one["site"]) for one in step.firings)
        yield from (f"        {name} fired {count} times at {site} of {party}"
                    for (party, name, site), count in fired.items())  # fmt: skip
        yield from (f"        {text}" for text in (step.restless, *step.unanswered) if text)
    yield from (f"INV-{one.invariant:02} broke in step {one.step}: {one.text}"
                for one in outcome.violations)  # fmt: skip


def _line(step: Step, began_ns: int) -> str:
    seconds = (step.began_ns - began_ns) / 1e9
    came = f"{len(step.submitted)} sent, {len(step.frames)} frames, {len(step.delivered)} delivered"
    answer = f" -> {step.errno} {step.text}" if step.errno or step.text else ""
    return f"{step.number:5} {seconds:12.6f} {step.phase} {step.action}{answer}   [{came}]"


def _events(ledger: Ledger) -> Iterator[dict[str, object]]:
    """Messages of the core carry keys, as the kernel's do; here they are zeros."""
    for step in ledger.steps:
        for notice in step.notices:
            message = notice.message
            for sa in ledger.sas:
                message = message.replace(sa.key, bytes(len(sa.key)))
            yield {"step": step.number, "host": notice.host, "message": message.hex()}
        for host, calls in enumerate(step.trace):
            yield from ({"step": step.number, "host": host, **call} for call in calls)


def _tables(run: Run) -> Iterator[str]:
    """What could be asked when it was over."""
    for host in run.lab.hosts:
        for command in TABLES:
            try:
                yield f"host{host.number}: ip {command}\n{host.ip(command).stdout}"
            except OffloadError as error:
                yield f"host{host.number}: ip {command}\n{error}"
    for snapshot in run.ledger.steps[-1].snapshots if run.ledger.steps else ():
        for name in ("census", "counters", "mib", "snmp"):
            yield f"host{snapshot.host}: {name} {getattr(snapshot, name)}"
