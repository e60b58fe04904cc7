# SPDX-License-Identifier: Apache-2.0
"""One outbound SA with limits behind a policy, and what its user is told of it."""

from host_driver.lab import Lab
from proto import netlink
from proto.xfrm import Msg
from support.esp import GCM, datagram, policy, state, template

ESP = 50
HARD_AT = 224  # of `hard` in struct xfrm_user_expire: behind xfrm_usersa_info


class Limited:
    """A lab of one host whose SA carries `limits` (words of `ip xfrm`), dir out."""

    def __init__(self, target: str, limits: str, *, bits=8, card="", more="", seed=5):
        card = f"full:counter_bits={bits}" + (f",{card}" if card else "")
        self.lab = Lab(target=target, hosts=1, card=card, seed=seed)
        self.lab.start()
        (self.host,) = self.lab.hosts
        self.add(limits, more)
        self.ip(policy("out", "offload packet dev nic0 " + template()))
        self.told: list[int] = []
        self.host.notifications()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lab.close()

    def ip(self, command: str) -> None:
        done = self.host.ip(command)
        assert (done.rc, done.stderr) == (0, ""), command

    def add(self, limits: str, more="", verb="add", algorithm=GCM) -> None:
        command = state(algorithm, extra=f"{more} {limits} offload packet dev nic0 dir out")
        self.ip(command.replace("state add", f"state {verb}"))

    def delete(self) -> None:
        self.ip("xfrm state delete src 10.1.0.1 dst 10.1.0.2 proto esp spi 0x1000")

    def send(self, count: int) -> None:
        for first in range(0, count, 200):
            self.host.send([datagram()] * min(200, count - first))
        self.lab.settle()
        self.hear()

    def hear(self) -> list[int]:
        """The `hard` byte of each EXPIRE message so far."""
        for raw in self.host.notifications():
            self.told += [
                message.payload[HARD_AT]
                for message in netlink.messages(raw)
                if message.type == Msg.EXPIRE
            ]
        return self.told

    def pass_time(self, seconds: float) -> list[int]:
        self.lab.advance(seconds)
        self.lab.settle()
        return self.hear()

    def until(self, told: list[int], seconds: int = 15) -> None:
        """Wait, a moment at a time, until so much was told."""
        for _ in range(seconds * 4):
            if self.hear() == told:
                break
            self.pass_time(0.25)
        assert self.hear() == told

    def sequence(self) -> list[int]:
        """The sequence numbers on the wire; anything but ESP there is wrong in every test."""
        frames = [frame.data for frame in self.lab.wire.frames()]
        assert all(frame[23] == ESP for frame in frames)
        return [int.from_bytes(frame[38:42], "big") for frame in frames]

    def left(self) -> int:
        """How many frames have left, each with the next number."""
        numbers = self.sequence()
        assert numbers == list(range(1, len(numbers) + 1))
        return len(numbers)

    def gone(self) -> bool:
        """Whether neither core nor card know the SA."""
        census = self.host.nic.census()
        return (
            "spi 0x00001000" not in self.host.ip("xfrm state list").stdout
            and census["sas"] == census["keys"] == census["rules_sa"] == 0
        )

    def counters(self, *names: str) -> list[int]:
        values = self.host.nic.counters()
        return [values.get(name, 0) for name in names]
