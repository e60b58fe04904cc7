# SPDX-License-Identifier: Apache-2.0
"""The driver: xfrmdev_ops on a mailbox, packet queues, events as hints.

`ReferenceDriver` is the one that the product ships; any class that takes a `DriverContext` and has
the callbacks of `host_driver.ops` can stand in its place.
"""

from host_driver.driver.context import DriverContext

__all__ = ["DriverContext"]
