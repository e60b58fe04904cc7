# SPDX-License-Identifier: Apache-2.0
"""The XFRM core of a host; functions have their names in net/xfrm. `net.XfrmNet` is the way in."""
