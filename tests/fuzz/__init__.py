# SPDX-License-Identifier: Apache-2.0
"""Fuzzing with coverage: bad input for everything that reads any, and judges of what came of it."""
