# SPDX-License-Identifier: Apache-2.0
"""The mark that ties a case to the rules it judges."""

import pytest


def rule(*ids: str, profile: str | None = None) -> pytest.MarkDecorator:
    """Mark a case with the ids of the rules that it judges.

    `profile` ("latest" or "v6.2"): the case holds in that kernel profile only.
    """
    return pytest.mark.rule(*ids, profile=profile)
