# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies and state machines for tests of drivers, cards and key managers.

    values.py     families, addresses, networks, ports, SPIs, keys, traffic selectors
    objects.py    SAs and policies: as `ip xfrm` text, as netlink bytes, as dicts
    packets.py    IP packets, also those that a selector covers, and their fragments
    faults.py     faults of any site and kind, and names of the catalogue
    actions.py    plans for the simulator
    machine.py    a RuleBasedStateMachine on a Lab, and how a test runs one

Hypothesis is no dependency of the product: `pip install 'xfrmnic[testing]'` brings it.
"""

try:
    import hypothesis as _hypothesis
except ImportError as error:
    raise ImportError(
        "host_driver.testing draws examples with Hypothesis, which is not installed: "
        "pip install 'xfrmnic[testing]'"
    ) from error

from host_driver.testing.actions import action_strategies, arm_strategies, plans, simulate
from host_driver.testing.faults import fault_names, fault_specs
from host_driver.testing.machine import LabMachine, PairMachine, run_on_lab
from host_driver.testing.objects import Policy, Sa, policies, policy_of, sas
from host_driver.testing.packets import (
    esp_packets,
    fragmented,
    fragments,
    packets,
    packets_of,
    tcp,
    tcp_packets,
    udp_packets,
)  # fmt: skip
from host_driver.testing.values import (
    TrafficSelector,
    address_pairs,
    addresses,
    families,
    keys,
    networks,
    ports,
    selectors,
    spis,
)  # fmt: skip

del _hypothesis

__all__ = [
    "LabMachine", "PairMachine", "Policy", "Sa", "TrafficSelector", "action_strategies",
    "address_pairs", "addresses", "arm_strategies", "esp_packets", "families", "fault_names",
    "fault_specs", "fragmented", "fragments", "keys", "networks", "packets", "packets_of", "plans",
    "policies", "policy_of", "ports", "run_on_lab", "sas", "selectors", "simulate", "spis", "tcp",
    "tcp_packets", "udp_packets",
]  # fmt: skip
