# SPDX-License-Identifier: Apache-2.0
"""The conformance suite: does a driver, and the core that calls it, keep the kernel's contract?

    rules/*.toml    the contract: one table per rule, with its source in the kernel
    catalogue.py    rules as objects, chosen by id
    cases/          pytest files; `@rule("STATE-28")` (marks.py) says which rules a case judges

    bench.py        what a case works with: hosts on a target (target.py), from the pool (pool.py)
    subject.py      one host as a case sees it: requests, packets, calls of the driver
    texts.py language.py    `ip xfrm` commands, and what the tool prints
    messages.py layouts.py  netlink requests that `ip xfrm` cannot say, and answers read
    packets.py policies.py  packets, an ESP of the suite's own, and policies over them
    workload.py     a life of a host, drawn from the seed
    probe.py        a driver that does what an SA or policy tells it to: refuse, count, sleep
    complete.py     the driver under test with the optional callbacks that it lacks
    kernel.py       target `kernel`: AF_NETLINK in a network namespace of its own

    patience.py     how long a driver is waited for that does not come back
    suite.py        the pytest plugin: which cases run, what they come to
    report.py       outcomes by rule -> terminal, JSON;  page.py -> one HTML page
    run.py          a whole run: from arguments to a Report

The rules are written once and the cases run on three targets: `sim`, `process` and `kernel`.
"""

from host_driver.conformance.catalogue import Rule, catalogue
from host_driver.conformance.marks import rule

__all__ = ["Rule", "catalogue", "rule"]
