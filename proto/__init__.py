# SPDX-License-Identifier: Apache-2.0
"""What host and card agree on: the bus between them and the kernel's UAPI.

The import name `proto` also belongs to the distribution proto-plus; `XFRMNIC` lets the two other
packages notice at once that they got the wrong one.
"""

XFRMNIC = "xfrmnic"
VERSION = "0.1.0"
