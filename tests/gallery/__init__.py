# SPDX-License-Identifier: Apache-2.0
"""A gallery of broken drivers and cores: what the conformance suite must catch, and by which rule.

Each exhibit differs from the reference in one thing. `tests/conformance/test_gallery.py` shows the
suite each of them, and asks for the rule that names the fault.
"""
