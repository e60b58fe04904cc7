# SPDX-License-Identifier: Apache-2.0
"""One protected way through a lab, from the first host to the second, and what came of it."""

import itertools
from collections import Counter

from support.esp import A6, B6, GCM, A, B, datagram, policy, state, template

KINDS = {
    "packet": "offload packet dev nic0 dir {dir}",
    "crypto": "offload crypto dev nic0 dir {dir}",
    "software": "",
}

_IDS = itertools.count(1)  # of IP packets: no fragment of one test meets those of another


class Way:
    """SAs and policies from a to b. `drops` is everything that b counted as not delivered."""

    def __init__(self, lab, kind="packet", v6=False, mode="transport", window=32, esn=False):
        self.lab = lab
        self.a, self.b = lab.hosts
        self.kind, self.mode, self.window, self.esn = kind, mode, window, esn
        self.ends = (A6, B6) if v6 else (A, B)
        device = "offload packet dev nic0 " if kind == "packet" else ""
        self.ids = _IDS
        self.add_sa()
        for host, dir in ((self.a, "out"), (self.b, "in")):
            where = template(mode=mode, ends=self.ends)
            self.ip(host, policy(dir, device + where, ends=self.ends))
        self.before = self.counted()
        self.first_frame = len(lab.wire.frames())

    @staticmethod
    def ip(host, command: str) -> None:
        done = host.ip(command)
        assert (done.rc, done.stderr) == (0, ""), command

    def add_sa(self, spi=0x1000, algorithm=GCM, out="", hosts=(0, 1)) -> None:
        """An SA at both ends, or at one of them; `out` is added at the sender."""
        for number in hosts:
            dir = ("out", "in")[number]
            extra = f"replay-window {self.window} " if dir == "in" else ""
            if self.esn:
                software_out = self.kind == "software" and dir == "out"
                extra += "flag esn " + (f"replay-window {self.window} " if software_out else "")
            extra += (out + " " if dir == "out" else "") + KINDS[self.kind].format(dir=dir)
            command = state(algorithm, self.mode, extra, self.ends, spi)
            self.ip(self.lab.hosts[number], command.replace(f"reqid {spi}", f"reqid {0x1000}"))

    def delete_sa(self, spi=0x1000, hosts=(0, 1)) -> None:
        for number in hosts:
            source, target = self.ends
            command = f"xfrm state delete src {source} dst {target} proto esp spi {spi:#x}"
            self.ip(self.lab.hosts[number], command)
        self.lab.settle()

    def send(self, count: int, size=50) -> list[bytes]:
        """Packets that tell themselves apart; returns them."""
        packets = [datagram(size + number % 7, self.ends, **self._id()) for number in range(count)]
        for first in range(0, count, 200):
            assert not any(self.a.send(packets[first : first + 200]))
        return packets

    def _id(self) -> dict[str, int]:
        number = next(self.ids) & 0xFFFF
        return {"fl": number} if ":" in self.ends[0] else {"id": number}

    def arrived(self) -> list[bytes]:
        self.lab.settle()
        return self.b.receive()

    def frames(self) -> list[bytes]:
        """What a's card has put on the wire so far."""
        seen = self.lab.wire.frames(self.first_frame)
        return [frame.data for frame in seen if frame.src == 0]

    def inject(self, *frames: bytes) -> None:
        self.lab.wire.inject(host=1, frames=frames)

    def counted(self) -> Counter[str]:
        drops = {name: count for name, count in self.b.nic.counters().items() if "drop" in name}
        return Counter(drops) + Counter(self.b.mib())

    def drops(self) -> dict[str, int]:
        """Counters of b that say why something was not delivered, as far as they moved."""
        self.lab.settle()
        return dict(self.counted() - self.before)

    def clear(self) -> None:
        """Leave nothing behind."""
        self.lab.faults.reset()
        for host in self.lab.hosts:
            for table in ("state", "policy"):
                self.ip(host, f"xfrm {table} flush")
        self.lab.settle()
        self.b.receive()
        for host in self.lab.hosts:
            host.notifications()
            assert not any(host.nic.census().values())
