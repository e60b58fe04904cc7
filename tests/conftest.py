# SPDX-License-Identifier: Apache-2.0
"""What all tests share: a run directory of their own, so that no lab of the user is touched."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

VECTORS = Path(__file__).parent / "vectors"

# `--hypothesis-profile=deep` looks longer (support.examples) and elsewhere each time.
# No clock judges: neither how long an example runs nor how long drawing one takes.
NO_CLOCK = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", derandomize=True, print_blob=True, **NO_CLOCK)
settings.register_profile("deep", print_blob=True, **NO_CLOCK)
settings.load_profile("ci")


@pytest.fixture(scope="session", autouse=True)
def run_root() -> Iterator[Path]:
    """XFRMNIC_RUN_DIR of these tests. pytest's own temporary paths are too long for a socket."""
    with pytest.MonkeyPatch.context() as patch:
        root = Path(tempfile.mkdtemp(prefix="xn-"))
        patch.setenv("XFRMNIC_RUN_DIR", str(root))
        yield root
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The recorded and published vectors, tests/vectors."""
    return VECTORS
