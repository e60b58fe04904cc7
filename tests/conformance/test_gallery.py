# SPDX-License-Identifier: Apache-2.0
"""Every exhibit of the gallery is caught by the suite, by a rule that names its fault."""

import inspect
from collections.abc import Callable

import pytest

from gallery import cores, drivers_calls, drivers_data
from host_driver.conformance.run import run
from host_driver.conformance.target import Options

# driver -> the rule that it breaks
DRIVERS = {
    "drivers_calls:SleepsInDelete": "OPS-16",
    "drivers_calls:SleepsInUpdate": "OPS-20",
    "drivers_calls:SleepsInPolicyDelete": "OPS-32",
    "drivers_calls:SleepsInPolicyFree": "OPS-33",
    "drivers_calls:SleepsInOffloadOk": "OPS-24",
    "drivers_calls:SleepsInLarvalAdd": "OPS-11",
    "drivers_calls:RefusesLarval": "ACQ-03",
    "drivers_calls:PacketIsNotSupported": "OPS-14",
    "drivers_calls:PositiveErrno": "OPS-14",
    "drivers_calls:RaisesInDelete": "OPS-16",
    "drivers_calls:RaisesInFree": "TRAP-45",
    "drivers_calls:CannotUpdateAfterDelete": "OPS-22",
    "drivers_calls:ExpiresInsideDelete": "TRAP-42",
    "drivers_calls:FreeForgets": "OPS-17",
    "drivers_calls:PolicyDeleteForgets": "OPS-32",
    "drivers_calls:KeyedBySpi": "TRAP-48",
    "drivers_calls:WantsSaBeforePolicy": "OPS-35",
    "drivers_calls:WantsPolicyBeforeSa": "OPS-35",
    "drivers_calls:NoPolicyAdd": "LIFE-42",
    "drivers_data:BypassForProtect": "INV-09",
    "drivers_data:NoHardLimit": "LIFE-32",
    "drivers_data:NoReplayWindow": "REPLAY-09",
    "drivers_data:NoEsn": "REPLAY-14",
    "drivers_data:OnePriority": "SPD-27",
    "drivers_data:OneReqid": "LIFE-42",
    "drivers_data:StartsAtOne": "REPLAY-03",
    "drivers_data:LeavesKeyBehind": "OPS-14",
    "drivers_data:AcceptsEverything": "OPS-15",
    "drivers_data:SwallowsErrno": "INV-12",
    "drivers_data:Deaf": "LIFE-30",
    "drivers_data:CountsBackwards": "LIFE-36",
    "drivers_data:AddsInsteadOfSetting": "OPS-20",
    "drivers_data:NoCounters": "TRAP-04",
    "drivers_data:SwapsCounters": "TRAP-04",
    "drivers_data:NoFailureCounts": "TRAP-16",
    "drivers_data:OldestSa": "LIFE-42",
}

BASES = {"Sleeper", "Rewriting", "Selecting"}  # of exhibits, and nothing is wrong with them

CORES = {
    cores.no_delete_of_a_duplicate: "TRACE-03",
    cores.deletes_twice: "INV-02",
    cores.never_frees: "TRACE-04",
    cores.keeps_keys_until_free: "DEL-05",
    cores.policy_is_not_deleted_from_the_device: "TRACE-18",
    cores.policy_is_never_freed: "OPS-33",
    cores.loses_device_references: "INV-04",
    cores.limit_is_the_last_that_fits: "LIFE-02",
    cores.soft_and_hard_together: "LIFE-14",
    cores.soft_again_and_again: "LIFE-15",
    cores.hard_expiry_is_silent: "LIFE-24",
    cores.expire_says_soft: "LIFE-27",
    cores.expired_stays: "LIFE-24",
    cores.device_down_keeps_sas: "NDEV-02",
    cores.device_down_is_announced: "NDEV-04",
    cores.update_takes_the_key: "STATE-31",
    cores.update_keeps_dying: "LIFE-15",
    cores.reports_the_ipv6_flag: "UAPI-61",
    cores.reports_no_direction: "UAPI-61",
    cores.dumps_stale_counters: "DUMP-03",
    cores.priority_rules_packet_policies: "SPD-06",
    cores.software_sas_first: "SAD-02",
    cores.any_sa_for_a_packet_policy: "TX-11",
    cores.clear_while_pending: "ACQ-20",
    cores.ignores_offload_ok: "TX-05",
    cores.acquires_without_end: "ACQ-06",
    cores.larval_sa_lives_for_ever: "ACQ-09",
    cores.trusts_every_packet: "RX-02",
    cores.opens_what_no_selector_covers: "RX-10",
    cores.software_where_packet_fails: "STATE-25",
}


@pytest.mark.parametrize(("driver", "rule"), DRIVERS.items(), ids=DRIVERS)
def test_a_broken_driver_is_caught(driver: str, rule: str) -> None:
    report = run(Options(driver=f"gallery.{driver}"), [rule])
    assert [result.rule.id for result in report.failed] == [rule]


@pytest.mark.parametrize(
    ("breaks", "rule"), CORES.items(), ids=[breaks.__name__ for breaks in CORES]
)
def test_a_broken_core_is_caught(
    breaks: Callable[[pytest.MonkeyPatch], None], rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks(monkeypatch)
    report = run(Options(), [rule])
    assert [result.rule.id for result in report.failed] == [rule]


def test_every_exhibit_is_shown() -> None:
    assert set(CORES) == set(cores.EXHIBITS)
    assert set(DRIVERS) == {
        f"{room.__name__.partition('.')[2]}:{name}"
        for room in (drivers_calls, drivers_data)
        for name, made in vars(room).items()
        if inspect.isclass(made) and made.__module__ == room.__name__ and name not in BASES
    }
