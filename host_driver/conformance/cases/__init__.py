# SPDX-License-Identifier: Apache-2.0
"""The cases, one file or more per section of the contract; pytest runs them through the suite."""
