# SPDX-License-Identifier: Apache-2.0
"""The host: XFRM core, driver and the tools around them."""

import proto

if getattr(proto, "XFRMNIC", None) != "xfrmnic":
    raise ImportError(
        f"the package 'proto' at {proto.__file__} is not xfrmnic's; "
        "another distribution (proto-plus?) owns that name here: use a fresh virtual environment"
    )
