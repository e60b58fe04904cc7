# SPDX-License-Identifier: Apache-2.0
"""The XFRM core of a host, file and function names as in net/xfrm. `net.XfrmNet` is the way in."""
