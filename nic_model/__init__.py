# SPDX-License-Identifier: Apache-2.0
"""The card: objects, steering, ESP and ports. Imports proto only."""

import proto

if getattr(proto, "XFRMNIC", None) != "xfrmnic":
    raise ImportError(
        f"the package 'proto' at {proto.__file__} is not xfrmnic's; "
        "another distribution (proto-plus?) owns that name here: use a fresh virtual environment"
    )
