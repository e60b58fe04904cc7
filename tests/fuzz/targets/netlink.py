# SPDX-License-Identifier: Apache-2.0
"""NETLINK_XFRM datagrams at a host with a card behind it.

Judged: every refused message is answered with an errno and the request, and counted; what the
kernel skips is counted as well; no object stays on the card that no SA or policy owns.
"""

import errno
import random

from fuzz.commands import COMMANDS, SETUP
from fuzz.mutate import mutate_bytes
from fuzz.target import Outcome, plain, require
from host_driver import ip
from host_driver.lab import Lab
from proto import netlink
from proto.netlink import NLA, NLM_F_CAPPED, NLMSG_DONE, NLMSG_ERROR, NLMSGHDR, align
from proto.xfrm import MSG_MIN, Msg
from support.inside import party

CARD = "full:key_max=64,sa_max=64,rule_max=160"
ATTRIBUTES = 40
COUNTED = ("netlink_refused", "netlink_skipped", "netlink_malformed")
OTHER_TYPES = (Msg.NEWAE, Msg.GETAE, Msg.MIGRATE, Msg.EXPIRE, Msg.POLEXPIRE, Msg.ACQUIRE,
               Msg.GETSADINFO, Msg.NEWSADINFO, Msg.SETDEFAULT, Msg.MIGRATE + 9)  # fmt: skip


class NetlinkTarget:
    """One host of a simulated lab; an input is one datagram."""

    files = ("host_driver/xfrm/", "host_driver/driver/", "proto/netlink.py")

    def __init__(self, profile: str = "latest") -> None:
        self.name = "netlink" if profile == "latest" else f"netlink-{profile}"
        self.lab = Lab(target="sim", hosts=1, card=CARD, profile=profile, seed=1)
        self.lab.start()
        (self.host,) = self.lab.hosts

    def seeds(self) -> list[bytes]:
        """What `ip` would send, and what it never sends."""
        requests: list[bytes] = []

        def note(request: bytes) -> list[bytes]:
            requests.append(request)
            done = netlink.message(NLMSG_ERROR, bytes(20))
            return [done]

        for command in COMMANDS:
            try:
                ip.run(command, note, {"nic0": 2, "lo": 1})
            except (IndexError, KeyError):  # the answer was none
                continue
        requests += [
            netlink.message(type, bytes(MSG_MIN.get(type, 4)), 5, 1) for type in OTHER_TYPES
        ]
        return requests

    def mutate(self, rng: random.Random, data: bytes, other: bytes) -> bytes:
        """Mostly whole messages with changed payload or attributes; sometimes bytes, or two."""
        way = rng.random()
        if way < 0.15:
            return mutate_bytes(rng, data, other)
        if way < 0.2:
            return data.ljust(align(len(data)), b"\0") + other
        try:
            message = next(netlink.messages(data))
        except (netlink.NetlinkError, StopIteration):
            return mutate_bytes(rng, data, other)
        type, flags = message.type, message.flags
        if rng.random() < 0.1:
            type = rng.choice((*Msg, rng.randrange(1 << 16)))
        if rng.random() < 0.1:
            flags ^= 1 << rng.randrange(16)
        payload = self._payload(rng, message, other)
        return netlink.message(type, payload, flags, message.seq, message.pid)[:8192]

    def _payload(self, rng: random.Random, message: netlink.NlMsg, other: bytes) -> bytes:
        fixed = align(MSG_MIN.get(message.type, 0))
        head = message.payload[:fixed]
        found = [*netlink.attributes(message.payload, fixed).values.items()]
        if rng.random() < 0.3:
            head = mutate_bytes(rng, head)
        for _ in range(rng.randrange(1, 3)):
            at = rng.randrange(len(found) + 1)
            change = rng.randrange(6)
            if change == 0 and found:
                del found[at % len(found)]
            elif change == 1:
                size = rng.choice((0, 1, 4, 8, 12, 24, 64))
                found.insert(at, (rng.randrange(ATTRIBUTES), rng.randbytes(size)))
            elif change == 2 and found:
                found.insert(at, found[at % len(found)])
            elif found:
                type, value = found[at % len(found)]
                found[at % len(found)] = (type, mutate_bytes(rng, value, other))
        return head + b"".join(
            netlink.attribute(type, value[: 0xFFFF - NLA.size]) for type, value in found
        )

    def reset(self) -> None:
        for command in ("ip xfrm state flush", "ip xfrm policy flush"):
            require(self.host.ip(command).rc == 0, f"{command} was refused")
        self.host.ip("ip xfrm policy setdefault in accept fwd accept out accept")
        self.host.notifications()
        for command in SETUP:
            result = self.host.ip(command)
            require(result.rc == 0, f"a valid request was refused: {result.stderr}")

    def run(self, data: bytes) -> Outcome:
        outcome = Outcome(0)
        counters = party(self.lab, "host0").counters
        before = {name: counters[name] for name in COUNTED}
        self._run(data, outcome)
        moved = {name: counters[name] - before[name] for name in COUNTED}
        require(moved["netlink_refused"] == outcome.refused, f"refused {outcome.refused}: {moved}")
        passed_over = moved["netlink_skipped"] + moved["netlink_malformed"]
        outcome.offered, outcome.refused = (
            outcome.offered + passed_over,
            outcome.refused + passed_over,
        )
        outcome.features |= {name for name in COUNTED if moved[name]}
        return outcome

    def _run(self, data: bytes, outcome: Outcome) -> None:
        for answer in self.host.netlink(data):
            outcome.offered += 1
            (message,) = netlink.messages(answer)
            outcome.features.add(("answer", message.type))
            if message.type not in (NLMSG_ERROR, NLMSG_DONE):
                continue
            error = -int.from_bytes(message.payload[:4], "little", signed=True)
            if not error:
                continue
            require(error in errno.errorcode, f"errno {error} is none")
            text = self._text(message)
            outcome.refused += 1
            outcome.features |= {("errno", error), plain(text)}

    def _text(self, message: netlink.NlMsg) -> str:
        if message.type == NLMSG_DONE:
            return ""
        (length,) = (int.from_bytes(message.payload[4:8], "little"),)
        echoed = NLMSGHDR.size if message.flags & NLM_F_CAPPED else align(length)
        tlvs = netlink.attributes(message.payload, 4 + echoed).values
        return tlvs.get(netlink.NLMSGERR_ATTR_MSG, b"").decode(errors="replace")

    def check(self) -> None:
        counters = self.host.nic.counters()
        for name in ("driver_exceptions", "driver_internal_errors", "driver_task_errors"):
            require(not counters.get(name), f"{name} = {counters.get(name)}")
        for command in ("ip xfrm state flush", "ip xfrm policy flush"):
            require(self.host.ip(command).rc == 0, f"{command} was refused")
        self.lab.settle()
        census = self.host.nic.census()
        require(not any(census.values()), f"the card still has {census}")
