# SPDX-License-Identifier: Apache-2.0
"""Random `ip xfrm` commands, as iproute2 6.1 on Linux 6.18 answered them, at a host of a lab.

That kernel had no ciphers, so no command made an SA; what is there are policies and larval SAs. The
long help texts of states and policies grew since then and are told apart by their first word only.
"""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from host_driver.lab import Lab

VECTORS = Path(__file__).parents[1] / "vectors" / "ip" / "6.1.json"
CASES: list[dict[str, Any]] = json.loads(VECTORS.read_text())
DATE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_sequence(case: dict[str, Any]) -> None:
    with Lab(target="sim", hosts=1, seed=7) as lab:
        for command in case["commands"]:
            text = shlex.join(command["argv"])
            result = lab.hosts[0].ip(text)
            stderr = "USAGE" if command["stderr"] == "USAGE" else result.stderr
            assert (result.stderr[:5] == "Usage") == command["stderr"].upper().startswith("USAGE")
            ours = (result.rc, DATE.sub("DATE", result.stdout), stderr)
            assert ours == (command["rc"], command["stdout"], command["stderr"]), text
