# SPDX-License-Identifier: Apache-2.0
"""Search another process' memory (Linux, same user) for a byte string."""

from pathlib import Path


def count_in_memory(pid: int, needles: list[bytes]) -> dict[bytes, int]:
    """How often each needle stands in the writable memory of `pid`."""
    found = dict.fromkeys(needles, 0)
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if "w" not in rights or line.endswith(("[vvar]", "[vsyscall]")):
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            try:
                memory.seek(start)
                data = memory.read(end - start)
            except OSError:
                continue
            for needle in needles:
                found[needle] += data.count(needle)
    return found
