# SPDX-License-Identifier: Apache-2.0
"""The player: does one action after the other to a lab, as users would, and writes the ledger.

What an action does lies in `play_sa`, `play_policy`, `play_traffic`, `play_attack` and `play_life`;
here is what they share: asking a host, and who is alive.
"""

import errno
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from host_driver.conformance.messages import reply
from host_driver.ip import run
from host_driver.lab import Lab
from host_driver.lab.asking import NoAnswer, PeerDied
from host_driver.lab.handles import HostHandle
from host_driver.simulate.actions import Picking
from host_driver.simulate.ledger import Ledger, Life, PolicyAsked, SaAsked, Step, Submitted
from host_driver.simulate.plan import Plan
from host_driver.xfrm.profile import profile_by_name
from proto.status import OffloadError

T = TypeVar("T")

DEVICE = "nic0"
DISTURBED_S = 0.05  # what a step lasts while a card or host is down, and nothing settles
RESTLESS_STEPS = 10


class Answer(NamedTuple):
    """How an action ended: an errno, 0 for done, and what was said."""

    errno: int = 0
    text: str = ""


class Player:
    """`step` is the one that is being played. `running` are the hosts whose process runs, `cards`
    those whose card does; `stopped` are parties that hang, as (party, host),
    `featured` the hosts whose device has its offload feature on."""

    def __init__(self, lab: Lab, ledger: Ledger, plan: Plan) -> None:
        self.lab = lab
        self.ledger = ledger
        self.plan = plan
        self.step = Step(0, "run", "", lab.now_ns())
        self.running = set(range(len(lab.hosts)))
        self.cards = set(self.running)
        self.pins: dict[int, str] = {}  # what steps were about
        self.insiders: dict[int, int] = {}  # by number of the SA: how far insiders have counted
        self._patience = 0  # steps until it is worth to wait again
        self.featured = set(self.running)
        self.stopped: set[tuple[str, int]] = set()
        self.faults: dict[str, str] = {}  # armed, by the plan's name: the lab's name
        devices = lab.hosts[0].devices()
        self._devices = {dev["name"]: dev["ifindex"] for dev in devices}
        self._sa_dir_known = profile_by_name(plan.profile).sa_dir_known

    @property
    def hosts(self) -> Sequence[HostHandle]:
        """The lab's hosts."""
        return self.lab.hosts

    def out_needs_window(self, esn: bool) -> bool:
        """Kernels that know no direction of SAs want a window for ESN, sender or not."""
        return esn and not self._sa_dir_known

    def healthy(self, host: int) -> bool:
        """Whether host and card run, as far as was asked for."""
        return host in self.running and host in self.cards

    def choose(self, action: Picking, among: Sequence[T], name: Callable[[T], str]) -> T | None:
        """What a step is about: by name if it is pinned, else by number; and its name is kept."""
        if action.pinned is not None:
            return next((one for one in among if name(one) == action.pinned), None)
        chosen = among[action.pick % len(among)] if among else None
        self.pins[action.id] = "" if chosen is None else name(chosen)
        return chosen

    def call(self, host: int, question: Callable[[], Any]) -> tuple[Answer, Any]:
        """Ask a living host; -> how that ended, and the answer (None where there is none)."""
        if host not in self.running:
            return Answer(errno.EHOSTDOWN, f"host{host} is down"), None
        try:
            return Answer(), question()
        except PeerDied:
            raise
        except NoAnswer as error:
            self.step.unanswered.append(error.text)
            return Answer(error.errno, error.text), None
        except OffloadError as error:
            return Answer(error.errno, error.text), None

    def netlink(self, host: int, request: bytes) -> Answer:
        """One netlink request; -> its acknowledgement."""
        answer, datagrams = self.call(host, lambda: self.hosts[host].netlink(request))
        if datagrams is None:
            return answer
        came = reply(datagrams)
        return Answer(came.errno, came.text)

    def ip(self, host: int, text: str) -> Answer:
        """One `ip` command; -> the errno that the core acknowledged with, and its text."""
        answers: list[Answer] = []

        def transact(request: bytes) -> list[bytes]:
            answer, datagrams = self.call(host, lambda: self.hosts[host].netlink(request))
            if datagrams is not None:
                came = reply(datagrams)
                answer = Answer(came.errno, came.text)
            answers.append(answer)
            return datagrams or []

        result = run(text, transact, self._devices, self._sa_dir_known)
        if answers:
            return answers[-1]
        return Answer(errno.EINVAL if result.rc else 0, result.stderr.strip())

    def take_back(self, asked: SaAsked | PolicyAsked, request: str) -> Answer:
        """Ask the host of an SA or policy to delete it."""
        asked.removed_ns, asked.removed_step = self.lab.now_ns(), self.step.number
        answer = self.ip(asked.host, request)
        asked.remove_errno = answer.errno
        if answer.errno == errno.EHOSTDOWN:  # nobody heard it
            asked.removed_ns = asked.removed_step = asked.remove_errno = None
        return answer

    def send(self, host: int, packets: Sequence[bytes]) -> Answer:
        """The stack of a host sends; what was refused counts in the answer."""
        now_ns = self.lab.now_ns()
        answer, errnos = self.call(host, lambda: self.hosts[host].send(packets))
        for packet, error in zip(packets, errnos or [], strict=False):
            self.step.submitted.append(Submitted(self.step.number, host, packet, error, now_ns))
        if errnos is None:
            return answer
        return Answer(0, f"{sum(not error for error in errnos)} of {len(packets)} accepted")

    def settle(self) -> bool:
        """Until nothing moves any more; False if something still does, or cannot be asked.

        Where waiting was in vain, the next steps do not wait so long for the same.
        """
        if self._patience or not all(map(self.healthy, range(len(self.hosts)))):
            self._patience = max(0, self._patience - 1)
            self.lab.advance(DISTURBED_S)
            return False
        try:
            self.lab.settle()
        except OffloadError as error:
            self.step.restless = error.text
            self._patience = RESTLESS_STEPS
            return False
        return True

    def calm(self) -> None:
        """What kept things moving is gone: wait again."""
        self._patience = 0

    def live(self, host: int, party: Any, what: str, answer: Answer) -> Answer:
        """Write down what was done to a party."""
        now_ns = self.lab.now_ns()
        self.step.lives.append(Life(self.step.number, host, party, what, answer.errno, now_ns))
        return answer

    def forget(self, host: int, *, offloaded: bool = False) -> None:
        """SAs and policies of a host are gone by the user's own doing: it died, or its link went
        down, which flushes what is `offloaded` (NDEV-01)."""
        now_ns, number = self.lab.now_ns(), self.step.number
        for sa in self.ledger.live_sas(host):
            if not offloaded or self.ledger.on_card(sa):
                sa.removed_ns, sa.removed_step = now_ns, number
        for policy in self.ledger.live_policies(host):
            if not offloaded or policy.offload:
                policy.removed_ns, policy.removed_step = now_ns, number
