# SPDX-License-Identifier: Apache-2.0
"""Faults: what to break, where, how often. Seeded; probability 0 changes no byte.

sites.py   the table of sites and kinds       armed.py   when an armed fault happens
spec.py    FaultSpec, and what is refused     held.py    broken copies, messages held back
table.py   FaultTable: what a party asks
"""

from proto.faults.held import Released
from proto.faults.sites import MESSAGE_KINDS, SITES, Kind, Site, concerned
from proto.faults.spec import FaultSpec, check, from_fields
from proto.faults.table import FaultTable, Fired, Firing
from proto.faults.values import BEFORE, parse_delivery, parse_status

__all__ = [
    "BEFORE",
    "MESSAGE_KINDS",
    "SITES",
    "FaultSpec",
    "FaultTable",
    "Fired",
    "Firing",
    "Kind",
    "Released",
    "Site",
    "check",
    "concerned",
    "from_fields",
    "parse_delivery",
    "parse_status",
]
