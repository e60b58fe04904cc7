# SPDX-License-Identifier: Apache-2.0
"""What a lab holds: processes, descriptors, sockets, threads, memory, as /proc tells of them.

flat(samples)            growth between the first sample and the last, in words
left_behind(pids, dir)   what is still there once a lab was closed
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

PROC = Path("/proc")
PAGES = os.sysconf("SC_PAGE_SIZE")
MIB, HOUR_S = 1 << 20, 3600

# What may come on top of the first sample. Memory of a process that lives on: arenas of its
# allocator, and kernels that it compiles when they are first needed.
MORE_DESCRIPTORS, MORE_SOCKETS, MORE_THREADS = 3, 3, 1
MORE_MEMORY = 64 * MIB
STEADY_MEMORY = 16 * MIB  # and in the second half of a run, along the line through its samples
FRAME_BYTES = 1024  # of the memory of the judge, who remembers every IV of every key
LINE_SAMPLES = 8  # a line through fewer means nothing


class Figures(msgspec.Struct, frozen=True):
    """Of one process; memory is what is resident and its own, in bytes: DMA memory and program text
    are mapped, and have the size of their files."""

    pid: int
    descriptors: int
    sockets: int
    threads: int
    memory: int


class Sample(msgspec.Struct, frozen=True):
    """One look. `parties` by name, "lab" is this process; `children` are all live child processes
    of it, `files` the names in the run directory, `kept` frames whose IVs the judge has kept."""

    at_s: float
    parties: dict[str, Figures]
    children: int
    files: int
    kept: int


def sample(at_s: float, pids: Mapping[str, int], run_dir: Path | None, kept: int) -> Sample:
    """Look at the parties, and at this process, which runs the lab."""
    everybody = {**pids, "lab": os.getpid()}
    return Sample(
        round(at_s, 1),
        {name: figures(pid) for name, pid in everybody.items()},
        sum(_children(everybody["lab"]).values()),
        len(list(run_dir.iterdir())) if run_dir else 0,
        kept,
    )


def figures(pid: int) -> Figures:
    """Of one process; zeros once it has ended."""
    try:
        links = [str(link.readlink()) for link in _links(PROC / str(pid) / "fd")]
        threads = len(list((PROC / str(pid) / "task").iterdir()))
        resident, shared = (PROC / str(pid) / "statm").read_text().split()[1:3]
    except OSError:
        return Figures(pid, 0, 0, 0, 0)
    sockets = sum(link.startswith("socket:") for link in links)
    return Figures(pid, len(links), sockets, threads, (int(resident) - int(shared)) * PAGES)


def _links(folder: Path) -> Iterator[Path]:
    """Descriptors, without the one that looks at them."""
    return (link for link in list(folder.iterdir()) if link.is_symlink())


def _children(pid: int) -> dict[int, int]:
    """Children of each thread of a process, zombies included."""
    return {
        int(task.name): len((task / "children").read_text().split())
        for task in (PROC / str(pid) / "task").iterdir()
    }


def flat(samples: Sequence[Sample]) -> list[str]:
    """What there is more of than there should be, in words; nothing if all is flat."""
    if len(samples) < 2:
        return []
    first, last = samples[0], samples[-1]
    found = []
    if set(last.parties) != set(first.parties):
        found.append(f"parties were {sorted(first.parties)}, are {sorted(last.parties)}")
    for name, what in (("children", "child processes"), ("files", "files in the run directory")):
        before, after = getattr(first, name), getattr(last, name)
        if after > before:
            found.append(f"{after} {what}, {before} at first")
    for name in sorted(set(first.parties) & set(last.parties)):
        found += _grown(name, first.parties[name], last.parties[name], _allowed(name, first, last))
        found += _rising(name, samples)
    return found


def _allowed(name: str, first: Sample, last: Sample) -> int:
    """Memory that a party may have got for what the judge, which is in the lab, remembers."""
    return (last.kept - first.kept) * FRAME_BYTES if name == "lab" else 0


def _grown(name: str, first: Figures, last: Figures, allowed: int) -> Iterator[str]:
    for what, more in (
        ("descriptors", MORE_DESCRIPTORS), ("sockets", MORE_SOCKETS), ("threads", MORE_THREADS),
    ):  # fmt: skip
        before, after = getattr(first, what), getattr(last, what)
        if after > before + more:
            yield f"{name} has {after} {what}, {before} at first"
    if last.memory > first.memory + MORE_MEMORY + allowed:
        yield f"{name} has {last.memory // MIB} MiB of memory, {first.memory // MIB} at first"


def _rising(name: str, samples: Sequence[Sample]) -> Iterator[str]:
    """Memory of a process that lived through the second half, along the line."""
    half = samples[len(samples) // 2 :]
    pids = {one.parties[name].pid for one in half if name in one.parties}
    if len(half) < LINE_SAMPLES or len(pids) != 1:
        return
    rise = slope(half, lambda one: one.parties[name].memory) * (half[-1].at_s - half[0].at_s)
    if rise > STEADY_MEMORY + _allowed(name, half[0], half[-1]):
        yield f"{name} gained {rise / MIB:.1f} MiB in the second half, and goes on"


def slope(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    """Of the line of least squares, per second; 0 where there is none."""
    times, values = [one.at_s for one in samples], [value(one) for one in samples]
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((t - middle) ** 2 for t in times)
    if not spread:
        return 0.0
    return sum((t - middle) * (v - mean) for t, v in zip(times, values, strict=True)) / spread


def lines(samples: Sequence[Sample]) -> Iterator[str]:
    """First, last and slope of everybody, for people."""
    if not samples:
        return
    first, last = samples[0], samples[-1]
    for name in sorted(set(first.parties) & set(last.parties)):
        one, two = first.parties[name], last.parties[name]
        half = [each for each in samples[len(samples) // 2 :] if name in each.parties]
        hourly = slope(half, lambda each: each.parties[name].memory) * HOUR_S / MIB  # noqa: B023
        yield (
            f"{name}: memory {one.memory / MIB:.1f} -> {two.memory / MIB:.1f} MiB, second half "
            f"{hourly:+.1f} MiB/h; descriptors {one.descriptors} -> {two.descriptors}, "
            f"sockets {one.sockets} -> {two.sockets}, threads {one.threads} -> {two.threads}"
        )


def left_behind(pids: Mapping[str, int], run_dir: Path | None) -> list[str]:
    """What is still there of a lab that was closed."""
    alive = (f"{name} (pid {pid}) still runs" for name, pid in pids.items() if figures(pid).threads)
    files = sorted(one.name for one in run_dir.iterdir()) if run_dir and run_dir.exists() else []
    return [*alive, *([f"the run directory still has {', '.join(files)}"] if files else [])]
