# SPDX-License-Identifier: Apache-2.0
"""How long requests take as the tables grow, and what a dump needs, as JSON.

    python perf/netlink.py [--sizes 1000 10000 100000] [--rounds 9]

One core without a card: the time of GETSA, of NEWSA with DELSA, of GETPOLICY, and of NEWPOLICY with
DELPOLICY (into the one chain that holds all policies, and into a chain of its own), in
microseconds, at each number of SAs and policies, the sizes measured in turns. `growth` is the
median at the largest size over the one at the smallest: near 1 where time does not grow. A dump is
read in pieces; `peak_kib` is what that took at most beside the tables.
"""

import argparse
import gc
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import measure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from host_driver.netdev import Devices, NetDevice
from host_driver.sleep import Scheduler
from host_driver.xfrm.net import XfrmNet
from proto.limits import NETLINK_DUMP_BYTES
from proto.netlink import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    attribute,
    message,
)
from proto.xfrm import AF_INET, IPPROTO_ESP, POLICY_OUT, Attr, Msg
from proto.xfrm_structs import (
    AlgoAead,
    UserPolicyId,
    UserPolicyInfo,
    UserSaId,
    UserSaInfo,
    UserTmpl,
    XfrmId,
    XfrmSelector,
)

SIZES = (1_000, 10_000, 100_000)
CALLS = 200  # per measure
DO = NLM_F_REQUEST | NLM_F_ACK
HERE, THERE = (bytes((10, 0, 0, last)) + bytes(12) for last in (1, 2))
KEY = bytes(range(1, 21))
AEAD = attribute(Attr.ALG_AEAD, AlgoAead(b"rfc4106(gcm(aes))", 160, 128).pack() + KEY)


class Core:
    """A core with `size` SAs and `size` policies; requests are answered at once."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sched = Scheduler()
        devices = Devices()
        devices.set_up(devices.register(NetDevice("lo", start_xmit=lambda skb: 0)), True)
        self.net = XfrmNet(devices, self.sched, random.Random(7), lambda group, message: 1)
        self.net.now_ns = 10**18
        for number in range(1, size + 1):
            self.do(Msg.NEWSA, sa(number))
            self.do(Msg.NEWPOLICY, policy(number))

    def ask(self, type: int, payload: bytes, flags: int) -> Any:
        """The answers to one request, which may still have to be taken."""
        answers: list[Any] = []

        def task() -> Iterator[Any]:
            answers.append((yield from self.net.netlink(message(type, payload, flags))))

        self.sched.spawn(task())
        self.sched.run(self.net.now_ns)
        return answers[0]

    def do(self, type: int, payload: bytes) -> None:
        """One request that must succeed."""
        *_, ack = self.ask(type, payload, DO)
        assert ack[4] == NLMSG_ERROR and not any(ack[16:20]), ack.hex()

    def get(self, type: int, payload: bytes) -> None:
        """One request that must be answered by an object."""
        (reply,) = self.ask(type, payload, NLM_F_REQUEST)
        assert reply[4] != NLMSG_ERROR, reply.hex()


def address(number: int) -> bytes:
    """10.0.0.0/8, one address for each number."""
    return (0x0A00_0000 | number).to_bytes(4, "big") + bytes(12)


def sa(number: int) -> bytes:
    """NEWSA: half of all SAs share their addresses, as rekeyed ones do."""
    daddr = THERE if number % 2 else address(number)
    info = UserSaInfo(
        id=XfrmId(daddr, number, IPPROTO_ESP), saddr=HERE, reqid=1, family=AF_INET,
    )  # fmt: skip
    return info.pack() + AEAD


def sa_id(number: int) -> bytes:
    """GETSA and DELSA."""
    daddr = THERE if number % 2 else address(number)
    return UserSaId(daddr, number, AF_INET, IPPROTO_ESP).pack()


def selector(number: int, chain: int) -> XfrmSelector:
    """Policies of chain 0 differ by ports and protocol only; other chains hold one policy each."""
    daddr = THERE if not chain else address(chain)
    sel = XfrmSelector(daddr, HERE, family=AF_INET, prefixlen_d=32, prefixlen_s=32)
    sel.proto, sel.dport, sel.dport_mask = 1 + number // 60_000, number % 60_000, 0xFFFF
    return sel


def policy(number: int, chain: int = 0) -> bytes:
    """NEWPOLICY of a middling priority among many."""
    info = UserPolicyInfo(selector(number, chain), priority=number * 7919 % 997, dir=POLICY_OUT)
    tmpl = UserTmpl(XfrmId(proto=IPPROTO_ESP), AF_INET, reqid=1)
    return info.pack() + attribute(Attr.TMPL, tmpl.pack())


def policy_id(number: int, chain: int = 0) -> bytes:
    """GETPOLICY and DELPOLICY."""
    return UserPolicyId(selector(number, chain), dir=POLICY_OUT).pack()


def get_sa(core: Core, number: int) -> None:
    core.get(Msg.GETSA, sa_id(1 + number * 7919 % core.size))


def add_sa(core: Core, number: int) -> None:
    core.do(Msg.NEWSA, sa(200_000 + number))
    core.do(Msg.DELSA, sa_id(200_000 + number))


def get_policy(core: Core, number: int) -> None:
    core.get(Msg.GETPOLICY, policy_id(1 + number * 7919 % core.size))


def add_policy(core: Core, number: int) -> None:
    core.do(Msg.NEWPOLICY, policy(200_000 + number))
    core.do(Msg.DELPOLICY, policy_id(200_000 + number))


def add_policy_elsewhere(core: Core, number: int) -> None:
    core.do(Msg.NEWPOLICY, policy(number, 300_000 + number))
    core.do(Msg.DELPOLICY, policy_id(number, 300_000 + number))


OPERATIONS: dict[str, Callable[[Core, int], None]] = {
    "GETSA": get_sa,
    "NEWSA+DELSA": add_sa,
    "GETPOLICY": get_policy,
    "NEWPOLICY+DELPOLICY, one chain": add_policy,
    "NEWPOLICY+DELPOLICY, many chains": add_policy_elsewhere,
}


def microseconds(core: Core, operation: Callable[[Core, int], None]) -> float:
    """The mean time of CALLS calls."""
    started = time.perf_counter()
    for number in range(CALLS):
        operation(core, number)
    return (time.perf_counter() - started) / CALLS * 1e6


def grow(cores: list[Core], name: str, rounds: int) -> dict[str, Any]:
    """One operation at every size, in turns."""
    operation = OPERATIONS[name]
    cases = {
        str(core.size): lambda core=core: microseconds(core, operation)  # type: ignore[misc]
        for core in cores
    }
    timed = measure.in_turns(cases, rounds)
    results = {size: measure.summary(times) for size, times in timed.items()}
    medians = [result["median"] for result in results.values()]
    return {"microseconds": results, "growth": round(medians[-1] / medians[0], 2)}


def dump(core: Core, type: int) -> dict[str, Any]:
    """Read a whole dump in pieces: how fast, and how much memory the reading takes."""
    pieces, objects, size = 0, 0, 0
    started = time.perf_counter()
    answers = core.ask(type, b"", NLM_F_REQUEST | NLM_F_DUMP)
    while piece := answers.take():
        pieces += 1
        objects += sum(reply[4] != NLMSG_DONE for reply in piece)
        size += sum(map(len, piece))
    elapsed = time.perf_counter() - started
    assert objects == core.size

    gc.collect()
    tracemalloc.start()
    answers = core.ask(type, b"", NLM_F_REQUEST | NLM_F_DUMP)
    while answers.take():
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "objects": objects,
        "bytes": size,
        "pieces": pieces,
        "objects_per_s": round(objects / elapsed),
        "peak_kib": round(peak / 1024, 1),
    }


def main() -> None:
    """Build all cores, measure, and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=measure.ROUNDS)
    options = parser.parse_args()
    cores = []
    for size in options.sizes:
        print(f"{size} SAs and policies ...", file=sys.stderr)
        cores.append(Core(size))
    gc.freeze()  # what is there is not looked at by the collector again
    results = {name: grow(cores, name, options.rounds) for name in OPERATIONS}
    dumps = {
        str(core.size): {kind.name: dump(core, kind) for kind in (Msg.GETSA, Msg.GETPOLICY)}
        for core in cores
    }
    measure.report(
        {"requests": results, "dumps": dumps},
        benchmark="netlink",
        calls=CALLS,
        rounds=options.rounds,
        dump_piece_bytes=NETLINK_DUMP_BYTES,
    )


if __name__ == "__main__":
    main()
