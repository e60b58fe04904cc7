# SPDX-License-Identifier: Apache-2.0
"""How long a property is looked at: bounded by default, longer with `--hypothesis-profile=deep`."""

from hypothesis import settings

DEEPER = 20


def bounded(examples: int, steps: int = 50) -> settings:
    """So many examples, of a state machine with so many steps each; 20 times the examples, and
    twice the steps, in profile `deep`."""
    deep = settings.get_current_profile_name() == "deep"
    return settings(
        max_examples=examples * (DEEPER if deep else 1),
        stateful_step_count=steps * (2 if deep else 1),
        deadline=None,
    )
