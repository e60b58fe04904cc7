# SPDX-License-Identifier: Apache-2.0
"""Policies, flushes, and requests that must be refused."""

from host_driver.simulate import texts
from host_driver.simulate.actions import AddPolicy, DeletePolicy, Flush, Refused
from host_driver.simulate.flows import FLOWS
from host_driver.simulate.ledger import PolicyAsked
from host_driver.simulate.play import DEVICE, Answer, Player
from host_driver.simulate.play_sa import NOTHING

_ID = "src 10.1.0.1 dst 10.1.0.2 proto esp spi 0xbad"
_KEY = "rfc4106(gcm(aes)) 0x" + "ab" * 20
# What core, driver or card refuse whatever there is, each for a reason of its own.
REFUSED = (
    f"xfrm state add {_ID} mode beet aead {_KEY} 128 offload packet dev nic0 dir out",
    f"xfrm state add {_ID} mode transport aead {_KEY} 128 offload packet dev lo dir out",
    f"xfrm state add {_ID} mode transport aead {_KEY} 120 offload packet dev nic0 dir out",
    f"xfrm state add {_ID} mode transport aead {_KEY} 128 limit packet-hard 0 "
    "offload packet dev nic0 dir out",
    f"xfrm state add {_ID} mode transport aead {_KEY} 128 flag esn replay-window 4097 "
    "offload packet dev nic0 dir in",
    f"xfrm state add {_ID} mode transport mark 7 mask 7 aead {_KEY} 128 "
    "offload packet dev nic0 dir out",
    f"xfrm state add {_ID} mode transport aead {_KEY} 128 tfcpad 64 offload packet dev nic0 dir in",
    "xfrm policy add src 10.9.0.1 dst 10.9.0.2 dir fwd priority 9 offload packet dev nic0",
    "xfrm policy add src 10.9.0.1 dst 10.9.0.2 dir out priority 9 tmpl proto ah reqid 1 "
    "mode transport offload packet dev nic0",
    "xfrm policy add src 10.9.0.1 dst 10.9.0.2 dir out priority 9 offload packet dev lo",
    f"xfrm state delete {_ID}",
    "xfrm policy delete src 10.9.0.1 dst 10.9.0.2 dir out",
)  # fmt: skip


def add_policy(player: Player, action: AddPolicy) -> Answer:
    """A policy at the sender or the receiver of a way; an update takes the place of its like."""
    flow = FLOWS[action.flow]
    host = action.way if action.end == "out" else 1 - action.way
    policy = PolicyAsked(
        number=len(player.ledger.policies),
        host=host,
        direction=action.end,
        selector=flow.selector(action.way, action.shape),
        verdict=action.verdict,
        priority=action.priority,
        offload=flow.offload == "packet" and not action.software,
        mode=flow.mode,
        tunnel=flow.outer(action.way),
        reqid=flow.reqid(action.way),
    )
    return offer(player, policy, "update" if action.update else "add")


def offer(player: Player, policy: PolicyAsked, verb: str = "add") -> Answer:
    """Ask a host for a policy; the ledger has it whatever the answer is."""
    policy.asked_ns, policy.asked_step = player.lab.now_ns(), player.step.number
    replaced = [
        old
        for old in player.ledger.live_policies(policy.host)
        if verb == "update" and (old.direction, old.selector) == (policy.direction, policy.selector)
    ]
    player.ledger.policies.append(policy)
    answer = player.ip(policy.host, texts.policy(policy, verb, DEVICE))
    policy.answered_ns, policy.errno, policy.text = player.lab.now_ns(), *answer
    if not answer.errno:
        for old in replaced:
            old.removed_ns, old.removed_step = policy.answered_ns, player.step.number
    return answer


def take_back(player: Player, policy: PolicyAsked) -> Answer:
    """Ask a host to delete a policy."""
    return player.take_back(policy, texts.policy_delete(policy))


def delete_policy(player: Player, action: DeletePolicy) -> Answer:
    """One of those that are there."""
    policy = player.choose(action, player.ledger.live_policies(), lambda one: str(one.priority))
    return NOTHING if policy is None else take_back(player, policy)


def flush(player: Player, action: Flush) -> Answer:
    """`ip xfrm state flush`, `ip xfrm policy flush`."""
    now_ns, number = player.lab.now_ns(), player.step.number
    if action.host in player.running:
        for asked in (
            player.ledger.live_sas(action.host)
            if action.what == "state"
            else player.ledger.live_policies(action.host)
        ):
            asked.removed_ns, asked.removed_step = now_ns, number
    return player.ip(action.host, f"xfrm {action.what} flush")


def refused(player: Player, action: Refused) -> Answer:
    """A request that leaves no trace (INV-42)."""
    return player.ip(action.host, REFUSED[action.which % len(REFUSED)])
