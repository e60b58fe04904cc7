# SPDX-License-Identifier: Apache-2.0
"""The lab: hosts, cards and a wire as processes, or all of them in one seeded simulator.

The only place of the host's side that knows the card as well.
"""

from host_driver.lab.asking import PeerDied
from host_driver.lab.lab import Lab
from host_driver.lab.record import Frame

__all__ = ["Frame", "Lab", "PeerDied"]
