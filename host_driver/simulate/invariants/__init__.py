# SPDX-License-Identifier: Apache-2.0
"""What is promised, each invariant a function that yields what broke it (docs/invariants.md).

One file for each section of the list: confidentiality (1..9), uniqueness (10..16), replay (17..21),
limits (22..29), accounting (30..37), lifecycle (38..45), recovery (46..54). `ELSEWHERE` names those
that no observer of a simulated run can judge, with the tests that do.
"""

from host_driver.simulate.invariants import (
    accounting,
    confidentiality,
    lifecycle,
    limits,
    recovery,
    replay,
    uniqueness,
)
from host_driver.simulate.invariants.registry import REGISTERED, Elsewhere, Invariant

INVARIANTS: dict[int, Invariant] = dict(sorted(REGISTERED.items()))

SECTIONS = {
    "Confidentiality and policy": confidentiality,
    "Cryptographic uniqueness": uniqueness,
    "Anti-replay": replay,
    "Limits": limits,
    "Accounting": accounting,
    "Object lifecycle": lifecycle,
    "Control path and recovery": recovery,
}

# Not judged here: title, why, and the tests that do.
ELSEWHERE: dict[int, Elsewhere] = {
    8: Elsewhere(
        "Key hygiene", "memory of processes is not seen from outside",
        ("tests/process/test_key_hygiene.py",),
    ),
    20: Elsewhere(
        "Windows survive export and import", "no life of the simulator moves a window by hand",
        ("tests/stateful/card_replay.py", "host_driver/conformance/cases/test_replay_requests.py"),
    ),
    53: Elsewhere(
        "Any bytes on the control channel", "lives speak the protocol; fuzzing does not",
        ("tests/fuzz/targets/",),
    ),
    54: Elsewhere(
        "Determinism", "a run cannot judge itself: two of them are compared",
        ("tests/unit/simulate/test_runs.py",),
    ),
}  # fmt: skip

__all__ = ["ELSEWHERE", "INVARIANTS", "SECTIONS", "Elsewhere", "Invariant"]
