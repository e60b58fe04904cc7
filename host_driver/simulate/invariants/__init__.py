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
from host_driver.simulate.invariants.registry import REGISTERED, Invariant

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

__all__ = ["INVARIANTS", "SECTIONS", "Invariant"]
