# SPDX-License-Identifier: Apache-2.0
"""The command line: one file per noun, `app.py` knows them all by name."""
