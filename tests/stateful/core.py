# SPDX-License-Identifier: Apache-2.0
"""The core's SAD and SPD through netlink, against lists: lookup, errnos, acquires, expiries.

The driver writes down what it is told and refuses when told to. The model holds the lists that the
kernel walks. Of SAs one for each (source, destination, reqid): an SA of packet offload goes to its
head, any other in front of the first that is no packet SA (SAD-01..05). Of policies one for each
pair of prefixes (SPD-05, SPD-06, SPD-08), looked through as SPD-20..23 say.
"""

import errno
from collections import Counter
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from host_driver.conformance import messages
from host_driver.conformance.messages import SOURCE
from host_driver.conformance.packets import is_esp, spi, udp
from host_driver.testing import Policy, Sa, TrafficSelector
from host_driver.xfrm.state import OFFLOAD_PACKET, KmState
from proto.xfrm import POLICY_IN, POLICY_OUT, Msg
from support.core import Core, ask

PEERS = ("10.1.0.2", "10.1.0.3")
INEXACT = ("10.1.0.0/24", "0.0.0.0/0")  # in the order in which the kernel looks at their chains
DESTINATIONS = ("10.1.0.2/32", "10.1.0.3/32", *INEXACT)
SPIS, REQIDS = (0x1000, 0x1001, 0x1002), (1, 2)
NIC, TABLE = 2, 7
ACQUIRE_S = 165  # sysctl net.core.xfrm_acq_expires
NEVER = 1 << 62

kinds = st.sampled_from(("packet", "crypto", None))
peers = st.sampled_from(PEERS)


class RecordingDriver:
    """Accepts, or refuses with `refuse`; what is on the device, and every mistake of the core."""

    def __init__(self) -> None:
        self.refuse = 0
        self.states: dict[int, str] = {}
        self.policies: dict[int, str] = {}
        self.wrong: list[str] = []
        self.packets: Counter[int] = Counter()

    def xdo_dev_state_add(self, dev: Any, x: Any, extack: Any) -> int:
        if self.refuse and x.km.state != KmState.ACQ:
            extack.set("told to refuse")
            return -self.refuse
        if id(x) in self.states:
            self.wrong.append(f"SA {x.id.spi:#x} was added twice")
        self.states[id(x)] = "added"
        self.packets[id(x)] = 0
        return 0

    def xdo_dev_state_delete(self, dev: Any, x: Any) -> None:
        if self.states.get(id(x)) != "added":
            self.wrong.append(f"SA {x.id.spi:#x} deleted, it is {self.states.get(id(x))}")
        self.states[id(x)] = "deleted"

    def xdo_dev_state_free(self, dev: Any, x: Any) -> None:
        if self.states.pop(id(x), None) != "deleted":
            self.wrong.append(f"SA {x.id.spi:#x} freed before it was deleted")

    def xdo_dev_state_update_curlft(self, x: Any) -> None:
        if x.xso.type == OFFLOAD_PACKET:  # the core counts what it seals itself
            x.curlft.packets = self.packets[id(x)]

    def xdo_dev_offload_ok(self, skb: Any, x: Any) -> bool:
        self.packets[id(x)] += 1
        return True

    def xdo_dev_policy_add(self, xp: Any, extack: Any) -> int:
        if self.refuse:
            extack.set("told to refuse")
            return -self.refuse
        if id(xp) in self.policies:
            self.wrong.append(f"policy {xp.index} was added twice")
        self.policies[id(xp)] = "added"
        return 0

    def xdo_dev_policy_delete(self, xp: Any) -> None:
        if self.policies.get(id(xp)) != "added":
            self.wrong.append(f"policy {xp.index} deleted, it is {self.policies.get(id(xp))}")
        self.policies[id(xp)] = "deleted"

    def xdo_dev_policy_free(self, xp: Any) -> None:
        if self.policies.pop(id(xp), None) != "deleted":
            self.wrong.append(f"policy {xp.index} freed before it was deleted")

    @property
    def there(self) -> tuple[int, int]:
        """SAs and policies on the device."""
        return (
            sum(how == "added" for how in self.states.values()),
            sum(how == "added" for how in self.policies.values()),
        )


@dataclass(eq=False)
class Entry:
    """An SA of the model, or with `spi` 0 a larval one that a packet asked for."""

    spi: int
    peer: str
    reqid: int
    kind: str | None
    born: int
    hard: int = NEVER
    soft: int = NEVER
    hard_s: int = NEVER
    soft_s: int = NEVER
    packets: int = 0
    dying: bool = False

    @property
    def larval(self) -> bool:
        return not self.spi


class CoreMachine(RuleBasedStateMachine):
    """One core with one device."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = RecordingDriver()
        self.core = Core(ops=self.driver)
        self.buckets: dict[tuple[str, int], list[Entry]] = {}
        self.chains: dict[str, list[Policy]] = {dst: [] for dst in DESTINATIONS}
        self.flows: dict[tuple[str, int], Entry] = {}  # decisions, until an SA or policy changes
        self.now = 0
        self.priority = 0
        self.told: Counter[str] = Counter()
        self.mib: Counter[str] = Counter()

    # --- asking ---

    def ask(self, request: bytes, expected: int, refuse: int = 0) -> messages.Reply:
        self.driver.refuse = refuse
        answer = messages.reply(ask(self.core.net, request))
        self.driver.refuse = 0
        assert answer.errno == expected, (answer, expected)
        if refuse and expected == refuse:
            assert "told to refuse" in answer.text
        return answer

    def find(self, peer: str, number: int) -> Entry | None:
        return next((e for e in self.entries() if (e.peer, e.spi) == (peer, number)), None)

    def entries(self) -> list[Entry]:
        return [entry for bucket in self.buckets.values() for entry in bucket]

    def crowded(self) -> bool:
        """With one more the kernel would enlarge its tables, and put everything in anew (SAD-05,
        SPD-09)."""
        return len(self.entries()) == TABLE

    def insert(self, entry: Entry) -> None:
        self.flows.clear()
        bucket = self.buckets.setdefault((entry.peer, entry.reqid), [])
        others = [place for place, one in enumerate(bucket) if one.kind != "packet"]
        bucket.insert(others[0] if others and entry.kind != "packet" else 0, entry)

    def drop(self, entry: Entry) -> None:
        self.flows.clear()
        self.buckets[entry.peer, entry.reqid].remove(entry)

    # --- SAs ---

    @rule(
        peer=peers, number=st.sampled_from(SPIS), reqid=st.sampled_from(REQIDS), kind=kinds,
        refuse=st.sampled_from((0, 0, 0, errno.EINVAL, errno.ENOSPC, errno.EOPNOTSUPP)),
        packets=st.none() | st.tuples(st.integers(1, 3), st.integers(1, 3)),
        seconds=st.none() | st.tuples(st.integers(1, 5), st.integers(1, 9)),
    )  # fmt: skip
    def new_sa(
        self, peer: str, number: int, reqid: int, kind: str | None, refuse: int,
        packets: tuple[int, int] | None, seconds: tuple[int, int] | None,
    ) -> None:  # fmt: skip
        """The driver is asked first; what exists is refused later, and taken back (TRACE-03)."""
        if self.crowded():
            return
        entry = Entry(number, peer, reqid, kind, self.now)
        limits: list[tuple[str, int]] = []
        if packets and kind != "packet":
            entry.soft, entry.hard = packets[0], packets[0] + packets[1]
            limits += [("packet-soft", entry.soft), ("packet-hard", entry.hard)]
        if seconds:
            entry.soft_s, entry.hard_s = seconds[0], seconds[0] + seconds[1]
            limits += [("time-soft", entry.soft_s), ("time-hard", entry.hard_s)]
        sa = Sa(
            number, SOURCE, peer, "out", bytes(range(20)), reqid, limits=tuple(limits), offload=kind
        )
        expected = errno.EEXIST if self.find(peer, number) else 0
        if refuse and kind:
            if kind == "crypto" and refuse == errno.EOPNOTSUPP:
                entry.kind = None  # software takes it (STATE-24)
            else:
                expected = refuse
        self.ask(sa.request(NIC), expected, refuse)
        if not expected:
            self.replace_larval(entry)

    def replace_larval(self, entry: Entry) -> None:
        """The SA that a larval one was waiting for takes its place."""
        bucket = self.buckets.get((entry.peer, entry.reqid), [])
        waiting = next((one for one in bucket if one.larval), None)
        self.insert(entry)
        if waiting is not None:
            self.drop(waiting)

    @rule(peer=peers, number=st.sampled_from(SPIS))
    def delete_sa(self, peer: str, number: int) -> None:
        entry = self.find(peer, number)
        request = messages.request(Msg.DELSA, messages.sa_id(number, peer))
        self.ask(request, 0 if entry else errno.ESRCH)
        if entry:
            self.drop(entry)

    @rule(peer=peers, number=st.sampled_from(SPIS))
    def get_sa(self, peer: str, number: int) -> None:
        entry = self.find(peer, number)
        request = messages.request(Msg.GETSA, messages.sa_id(number, peer))
        answer = self.ask(request, 0 if entry else errno.ESRCH)
        if entry:
            (note,) = answer.notes
            info = messages.UserSaInfo.unpack(note.fixed)
            assert (info.id.spi, info.reqid) == (number, entry.reqid)
            assert info.curlft.packets == entry.packets

    @rule(peer=peers, number=st.sampled_from(SPIS), hard=st.integers(4, 9))
    def update_sa(self, peer: str, number: int, hard: int) -> None:
        """UPDSA gives a software SA other limits; the key and what was counted stay."""
        entry = self.find(peer, number)
        if entry is not None and (entry.kind is not None or entry.packets >= hard):
            return
        reqid = entry.reqid if entry else 1
        sa = Sa(
            number, SOURCE, peer, "out", bytes(range(20)), reqid, offload=None,
            limits=(("packet-hard", hard),),
        )  # fmt: skip
        self.ask(sa.request(NIC, Msg.UPDSA), 0 if entry else errno.ESRCH)
        if entry:
            entry.hard, entry.soft, entry.dying = hard, NEVER, False
            entry.hard_s = entry.soft_s = NEVER

    @rule()
    def flush_sas(self) -> None:
        self.ask(messages.request(Msg.FLUSHSA, b"\0"), 0)
        self.buckets.clear()
        self.flows.clear()

    # --- policies ---

    @rule(
        peer=st.sampled_from(DESTINATIONS),
        port=st.sampled_from((0, 9)), reqid=st.sampled_from(REQIDS), offload=st.booleans(),
        action=st.sampled_from(("protect", "protect", "protect", "block", "bypass")),
        update=st.booleans(), refuse=st.sampled_from((0, 0, 0, errno.EINVAL)), first=st.booleans(),
    )  # fmt: skip
    def new_policy(
        self, peer: str, port: int, action: str, reqid: int, offload: bool, update: bool,
        refuse: int, first: bool,
    ) -> None:  # fmt: skip
        selector = TrafficSelector(f"{SOURCE}/32", peer, 17 if port else 0, 0, port)
        self.priority += 1
        priority = 1000 + (-self.priority if first else self.priority)
        policy = Policy(selector, "out", action, reqid, priority=priority, offload=offload)
        old = next((one for one in self.policies() if one.selector == selector), None)
        if old is None and len(self.policies()) == TABLE - 1:
            return
        expected = errno.EEXIST if old and not update else 0
        if refuse and offload:
            expected = refuse
        kind = Msg.UPDPOLICY if update else Msg.NEWPOLICY
        self.ask(policy.request(NIC, kind), expected, refuse)
        if not expected:
            self.link(policy, self.chains[peer])
            self.flows.clear()
            if old:
                self.chains[peer].remove(old)

    @precondition(lambda self: self.policies())
    @rule(which=st.integers(0, 20), offload=st.booleans(), first=st.booleans())
    def new_policy_beside(self, which: int, offload: bool, first: bool) -> None:
        """A second policy in the chain of another, and a packet that both cover."""
        beside = self.policies()[which % len(self.policies())]
        dst, port = beside.selector.dst, 0 if beside.selector.dport else 9
        self.new_policy(dst, port, "bypass", 1, offload, False, 0, first)
        self._send(PEERS[dst == f"{PEERS[1]}/32"], 9)

    @rule(
        peer=peers, number=st.sampled_from(SPIS), reqid=st.sampled_from(REQIDS), kind=kinds,
        packets=st.none() | st.tuples(st.integers(1, 3), st.integers(1, 3)),
        count=st.integers(1, 5),
    )  # fmt: skip
    def connect(
        self, peer: str, number: int, reqid: int, kind: str | None,
        packets: tuple[int, int] | None, count: int,
    ) -> None:  # fmt: skip
        """A policy between two hosts, the SA that it asks for, and packets."""
        self.new_policy(f"{peer}/32", 0, "protect", reqid, kind == "packet", True, 0, True)
        self.new_sa(peer, number, reqid, kind, 0, packets, None)
        self.send(peer, 9, count)

    @staticmethod
    def link(policy: Policy, chain: list[Policy]) -> None:
        before = [n for n, one in enumerate(chain, 1) if one.priority <= policy.priority]
        chain.insert(before[-1] if before and not policy.offload else 0, policy)

    def policies(self) -> list[Policy]:
        return [policy for chain in self.chains.values() for policy in chain]

    @precondition(lambda self: self.policies())
    @rule(which=st.integers(0, 20), again=st.booleans())
    def delete_policy(self, which: int, again: bool) -> None:
        policy = self.policies()[which % len(self.policies())]
        uapi = policy.selector.uapi()
        request = messages.request(Msg.DELPOLICY, messages.policy_id(uapi, dir=POLICY_OUT))
        self.ask(request, 0)
        self.chains[policy.selector.dst].remove(policy)
        self.flows.clear()
        if again:
            self.ask(request, errno.ENOENT)

    @rule()
    def flush_policies(self) -> None:
        self.ask(messages.request(Msg.FLUSHPOLICY, b""), 0)
        for chain in self.chains.values():
            chain.clear()
        self.flows.clear()

    @rule()
    def other_direction(self) -> None:
        """A policy in never says anything about what goes out."""
        selector = TrafficSelector("0.0.0.0/0", "0.0.0.0/0")
        request = messages.new_policy(
            messages.policy_info(sel=selector.uapi(), dir=POLICY_IN, action=1, priority=0),
            templates=[], type=Msg.UPDPOLICY,
        )  # fmt: skip
        self.ask(request, 0)

    # --- packets ---

    @rule(peer=peers, port=st.sampled_from((9, 10)), count=st.integers(1, 4))
    def send(self, peer: str, port: int, count: int) -> None:
        for _ in range(count):
            self._send(peer, port)

    def _send(self, peer: str, port: int) -> None:
        if self.crowded():
            return
        packet = udp(b"data", 4000, port, SOURCE, peer)
        error, sent, entry = self.output(peer, port)
        self.core.take()
        assert self.core.net.output(packet) == -error
        self.core.sched.run(self.core.net.now_ns)
        left = [(skb.data, skb.protect) for skb in self.core.sent]
        if sent == "":
            assert left == []
        elif sent == "clear":
            assert left == [(packet, False)]
        elif sent == "packet":
            assert left == [(packet, True)]
        else:
            ((data, protect),) = left
            assert entry is not None and is_esp(data) and spi(data) == entry.spi and not protect

    def output(self, peer: str, port: int) -> tuple[int, str, Entry | None]:
        """The errno that the sender hears, what leaves, and by which SA."""
        policy = self.lookup(peer, port)
        if policy is None or policy.action == "bypass":
            return 0, "clear", None
        if policy.action == "block":
            self.mib["XfrmOutPolBlock"] += 1
            return errno.EPERM, "", None
        entry = self.flows.get((peer, port)) or self.choose(policy, peer)
        if entry is None:
            self.mib["XfrmOutNoStates"] += 1
            return 0, "", None  # ACQ-20: it vanishes
        self.flows[peer, port] = entry  # TX-02: dying SAs are kept, too
        if entry.kind == "packet":
            entry.packets += 1
            return 0, "packet", entry
        if entry.packets >= entry.hard:
            self.mib["XfrmOutStateExpired"] += 1
            self.expire(entry)
            return errno.EINVAL, "", None
        if entry.packets >= entry.soft and not entry.dying:
            entry.dying = True
            self.told[f"soft {entry.spi:#x}"] += 1
        entry.packets += 1
        return 0, "esp", entry

    def lookup(self, peer: str, port: int) -> Policy | None:
        """The exact chain first, and it alone where the device has the policy (SPD-20..23)."""
        best = self.first(self.chains[f"{peer}/32"], port, NEVER)
        if best is not None and best.offload:
            return best
        for dst in INEXACT:
            best = self.first(self.chains[dst], port, best.priority if best else NEVER) or best
        return best

    @staticmethod
    def first(chain: list[Policy], port: int, limit: int) -> Policy | None:
        for policy in chain:
            if policy.priority > limit:
                return None
            if policy.selector.dport in (0, port):
                return policy
        return None

    def choose(self, policy: Policy, peer: str) -> Entry | None:
        """TX-11, TX-13: SAs of the policy's kind, alive before dying, then the newest; larval ones
        are waited for. Without any a key manager is asked (ACQ-01)."""
        bucket = self.buckets.get((peer, policy.reqid), [])
        eligible = []
        for entry in bucket:
            if policy.offload and entry.kind != "packet":
                break
            if policy.offload or entry.kind != "packet":
                eligible.append(entry)
        usable = [entry for entry in eligible if not entry.larval]
        if usable:
            return max(usable, key=lambda entry: (not entry.dying, entry.born))
        if not eligible:
            self.told["acquire"] += 1
            kind = "packet" if policy.offload else None
            self.insert(Entry(0, peer, policy.reqid, kind, self.now, hard_s=ACQUIRE_S))
        return None

    # --- time ---

    @rule(seconds=st.sampled_from((1, 1, 2, 5, 200)))
    def time_passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            self.core.advance(1)
            for entry in self.entries():
                age = self.now - entry.born
                if age >= entry.hard_s:
                    self.expire(entry)
                elif age >= entry.soft_s and not entry.dying:
                    entry.dying = True
                    self.told[f"soft {entry.spi:#x}"] += 1

    def expire(self, entry: Entry) -> None:
        self.told[f"hard {entry.spi:#x}"] += 1
        self.drop(entry)

    # --- what holds at every moment ---

    @invariant()
    def the_user_hears_once(self) -> None:
        datagrams = [message for _, message in self.core.events]
        heard = Counter(messages.expiries(messages.notes(datagrams)))
        heard["acquire"] = sum(note.name == "ACQUIRE" for note in messages.notes(datagrams))
        assert +heard == +self.told

    @invariant()
    def the_dump_is_the_model(self) -> None:
        answer = messages.reply(ask(self.core.net, messages.dump(Msg.GETSA)))
        found = [messages.UserSaInfo.unpack(note.fixed) for note in answer.notes]
        assert Counter((info.id.daddr, info.id.spi) for info in found) == Counter(
            (messages.address(entry.peer), entry.spi) for entry in self.entries()
        )

    @invariant()
    def the_device_has_what_is_offloaded(self) -> None:
        assert self.driver.wrong == []
        offloaded = sum(1 for entry in self.entries() if entry.kind)
        policies = sum(1 for policy in self.policies() if policy.offload)
        assert self.driver.there == (offloaded, policies), (self.driver.there, offloaded, policies)

    @invariant()
    def counters_are_the_models(self) -> None:
        moved = {name: n for name, n in self.core.net.mib.values().items() if n}
        assert moved == +self.mib
