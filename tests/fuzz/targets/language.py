# SPDX-License-Identifier: Apache-2.0
"""`ip xfrm` command lines at a core without a device behind it."""

import random

from fuzz.commands import COMMANDS, KEY, SETUP
from fuzz.mutate import NUMBERS, mutate_bytes
from fuzz.target import Outcome, plain, require
from support.core import Core

STATUSES = {0, 1, 2, 255}
WORDS = sorted({word for command in COMMANDS for word in command.split()})
SAS_MAX = 500


class IpTarget:
    """Exit status and complaint, never an exception, and no key in a complaint."""

    name = "ip"
    files = ("host_driver/ip/",)

    def seeds(self) -> list[bytes]:
        return [command.encode() for command in COMMANDS]

    def mutate(self, rng: random.Random, data: bytes, other: bytes) -> bytes:
        """Words are left out, doubled, swapped, replaced; now and then bytes."""
        if rng.random() < 0.2:
            return mutate_bytes(rng, data, other, [word.encode() for word in WORDS[:40]])
        words = data.decode(errors="replace").split(" ")
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(words) + 1)
            change = rng.randrange(5)
            if change == 0:
                del words[at : at + 1]
            elif change == 1:
                words.insert(at, rng.choice(WORDS))
            elif change == 2:
                words[at : at + 1] = [rng.choice((*WORDS, str(rng.choice(NUMBERS))))]
            elif change == 3:
                words[at:] = other.decode(errors="replace").split(" ")[at:]
            else:
                words[at : at + 1] *= 2
        # A batch reads files, and which ones are there is not ours to say.
        words = [word for word in words if not word.startswith(("-b", "-f", "/"))]
        return " ".join(words)[:4096].encode()

    def reset(self) -> None:
        self.core = Core()
        self.core.add(SETUP[0].partition(" offload")[0])

    def run(self, data: bytes) -> Outcome:
        result = self.core.ip(data.decode(errors="replace"))
        require(result.rc in STATUSES, f"exit status {result.rc}")
        require(not result.rc or result.stderr, "a refusal without a word")
        require(KEY not in result.stderr.lower(), "a complaint shows the key")
        return Outcome(1, int(result.rc != 0), {("rc", result.rc), plain(result.stderr)})

    def check(self) -> None:
        require(len(list(self.core.net.sad)) <= SAS_MAX, "the SAD fills up")
        require(self.core.ip("ip xfrm state flush").rc == 0, "flush was refused")
        require(self.core.ip("ip xfrm policy flush").rc == 0, "flush was refused")
        require(self.core.ip(SETUP[0].partition(" offload")[0]).rc == 0, "a valid SA was refused")
