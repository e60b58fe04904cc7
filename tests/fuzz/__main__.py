# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.fuzz`: see fuzz.cli."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from fuzz.cli import main

    sys.exit(main())
