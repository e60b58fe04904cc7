# SPDX-License-Identifier: Apache-2.0
"""Two hosts that protect what they say to each other, whatever becomes of them and of their cards.

What is on the wire is judged by its bytes: nothing between the two in clear, no (SPI, sequence
number) and no (SPI, IV) twice. Every SA has a key and an SPI of its own, so the SPI stands for it.
"""

from collections import Counter

from proto import netlink
from proto.xfrm import Msg
from support.esp import A, B, datagram, policy

ESP = 50
IP_AT, ESP_AT = 14, 34  # in an Ethernet frame with an IPv4 header of 20 bytes
HARD_AT = 224  # of `hard` in struct xfrm_user_expire: behind xfrm_usersa_info
CARD = "full:sa_max=64,key_max=64,rule_max=128"
EMPTY = {"keys": 0, "sas": 0, "rules_sa": 0, "rules_policy": 0}
ONLY_POLICIES = EMPTY | {"rules_policy": 2}
POLICY = "offload packet dev nic0 tmpl proto esp reqid 1 mode transport"


def sa(spi: int, source: str, target: str, dir: str, offload: str = "packet") -> str:
    """An SA with a key that only this SPI has."""
    where = f"offload {offload} dev nic0 dir {dir}" if offload else ""
    key = (spi * 0x0101_0101_0101_0101_01).to_bytes(20)[-20:].hex()
    return (
        f"xfrm state add src {source} dst {target} proto esp spi {spi:#x} reqid 1 mode transport "
        f"aead 'rfc4106(gcm(aes))' 0x{key} 128 {where}"
    )


class Both:
    """A lab of two hosts, `a` and `b`; `rekey` gives both directions another pair of SAs."""

    def __init__(self, lab, *, offload: str = "packet") -> None:
        self.lab = lab
        self.a, self.b = lab.hosts
        self.offload = offload
        self.spi = 0x1000
        self.first_frame = len(lab.wire.frames())
        for host in lab.hosts:
            self.add_policies(host)
        self.rekey()
        for host in lab.hosts:
            host.notifications()

    @staticmethod
    def ip(host, command: str) -> None:
        done = host.ip(command)
        assert (done.rc, done.stderr) == (0, ""), command

    def add_policies(self, host) -> None:
        for source, target, sender in ((A, B, self.a), (B, A, self.b)):
            dir = "out" if host is sender else "in"
            self.ip(host, policy(dir, POLICY, ends=(source, target)))

    def rekey(self) -> None:
        """New SAs for both ways; -> nothing of the old ones is needed."""
        self.spi += 0x10
        for number, (source, target, sender) in enumerate(((A, B, self.a), (B, A, self.b))):
            for host in self.lab.hosts:
                dir = "out" if host is sender else "in"
                self.ip(host, sa(self.spi + number, source, target, dir, self.offload))

    def say(self, host, count: int = 3) -> list[int]:
        """The errnos of packets to the other host."""
        ends = (A, B) if host is self.a else (B, A)
        return host.send([datagram(40 + number, ends, id=number) for number in range(count)])

    def talk(self, count: int = 3) -> None:
        """Packets go both ways, and all arrive."""
        for sender, receiver in ((self.a, self.b), (self.b, self.a)):
            receiver.receive()
            assert self.say(sender, count) == [0] * count
            self.lab.settle()
            assert len(receiver.receive()) == count

    def frames(self, start: int | None = None):
        return self.lab.wire.frames(self.first_frame if start is None else start)

    def judge(self) -> None:
        """What must never be on the wire, over the whole life of this pair."""
        sequence, ivs = Counter(), Counter()
        for frame in self.frames():
            if frame.src is None:
                continue  # a test put it there
            assert frame.data[IP_AT + 9] == ESP, f"in clear from {frame.src}: {frame.data.hex()}"
            spi = frame.data[ESP_AT : ESP_AT + 4]
            sequence[spi + frame.data[ESP_AT + 4 : ESP_AT + 8]] += 1
            ivs[spi + frame.data[ESP_AT + 8 : ESP_AT + 16]] += 1
        assert [key.hex() for key, count in sequence.items() if count > 1] == []
        assert [key.hex() for key, count in ivs.items() if count > 1] == []

    def expired(self, host) -> list[int]:
        """SPIs of the SAs that the key manager was told are gone, hard."""
        spis = []
        for raw in host.notifications():
            for message in netlink.messages(raw):
                if message.type == Msg.EXPIRE and message.payload[HARD_AT]:
                    spis.append(int.from_bytes(message.payload[72:76]))
        return sorted(spis)

    def wait_for(self, check, seconds: float = 30.0, step: float = 0.25) -> None:
        """Until it is so, for so long at most."""
        for _ in range(round(seconds / step)):
            if check():
                return
            self.lab.advance(step)
        assert check()

    def up(self, host) -> bool:
        return host.info()["device_state"] == "up"

    def comes_back(self, host) -> None:
        """The device is up again, and its policies on the card."""
        self.wait_for(lambda: self.up(host))
        self.lab.settle()

    def comes_back_and_talks(self) -> None:
        """After a new pair of SAs everything is as before."""
        self.comes_back(self.a)
        assert self.a.nic.census() == ONLY_POLICIES
        self.rekey()
        self.talk()

    def reporter(self, host, name: str) -> dict:
        return next(one for one in host.nic.reporters() if one["name"] == name)
