# SPDX-License-Identifier: Apache-2.0
"""The mark `row`."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known; `support.rows` explains it."""
    config.addinivalue_line("markers", "row(*ids): the rows of the fault catalogue that it judges")
