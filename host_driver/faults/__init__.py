# SPDX-License-Identifier: Apache-2.0
"""The catalogue of what can fail, by name."""
