# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies and state machines for tests of drivers, cards and key managers.

    values.py     families, addresses, networks, ports, SPIs, keys, traffic selectors
    objects.py    SAs and policies: as `ip xfrm` text, as netlink bytes, as dicts
    packets.py    IP packets, also those that a selector covers, and their fragments
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

from host_driver.testing.machine import LabMachine, run_on_lab
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
    "LabMachine", "Policy", "Sa", "TrafficSelector", "address_pairs", "addresses", "esp_packets",
    "families", "fragmented", "fragments", "keys", "networks", "packets", "packets_of", "policies",
    "policy_of", "ports", "run_on_lab", "sas", "selectors", "spis", "tcp", "tcp_packets",
    "udp_packets",
]  # fmt: skip
