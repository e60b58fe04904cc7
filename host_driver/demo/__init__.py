# SPDX-License-Identifier: Apache-2.0
"""The demo: a story told with real processes and recorded traffic, in which every claim is checked.

page.py     what is printed, and the ledger of expectations
cast.py     the hosts' addresses, their SAs and policies as `ip xfrm` text, the recorded traffic
observer.py judges the wire with its own ESP, on `cryptography`
story.py    the acts, in order
"""

from pathlib import Path

LAN_PCAP = Path(__file__).parent / "lan.pcap"
