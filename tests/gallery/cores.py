# SPDX-License-Identifier: Apache-2.0
"""Cores that break the contract: each exhibit changes one function of the XFRM core.

An exhibit is a function that takes pytest's monkeypatch; its docstring says what is wrong then.
"""

import errno

from host_driver.xfrm import device, encode, lifecycle, lifetime, user_sa
