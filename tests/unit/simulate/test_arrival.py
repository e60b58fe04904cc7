# SPDX-License-Identifier: Apache-2.0
"""What the observer takes a frame for at its receiver, seen in runs that do nothing wrong."""

from host_driver.simulate.actions import AddPolicy, AddSa, Attack, Send
from host_driver.simulate.judge import make_judge
from host_driver.simulate.plan import Plan
from host_driver.simulate.runner import Run

IN_UDP = 5  # the flow with ESP in UDP
PORT_BIT = 8 * (20 + 3) + 2  # behind the IPv4 header: 4500 becomes 4496


def test_esp_in_udp_to_another_port_is_a_datagram_like_others() -> None:
    actions = (
        AddSa(flow=IN_UDP, way=1, number=1),
        AddPolicy(flow=IN_UDP, way=1, end="out", priority=5),
        Send(flow=IN_UDP, way=1, count=2, size=20),
        Attack(kind="bitflip", host=0, number=PORT_BIT, flow=IN_UDP),
    )
    run = Run(Plan(seed=1, card="full", actions=actions), make_judge())
    assert run.run().violations == []
    (frame,) = run.ledger.steps[3].frames
    (delivered,) = run.ledger.steps[3].delivered
    assert frame.data[14 + 22 :][:2] == (4496).to_bytes(2)
    assert delivered.packet == frame.data[14:]
