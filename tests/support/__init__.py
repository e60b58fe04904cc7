# SPDX-License-Identifier: Apache-2.0
"""What several tests share; importable because pytest puts `tests/` on the path."""
