# SPDX-License-Identifier: Apache-2.0
"""Card, driver, core and whole labs against reference models, through any order of what happens.

Each file holds one machine, the model it compares with, and nothing of the product's logic.
`test_machines.py` runs them, `test_machines_can_fail.py` shows that each finds what it is for.
"""
