# SPDX-License-Identifier: Apache-2.0
"""Bugs planted into the product, which the simulator must find and name. None is ever in it."""
