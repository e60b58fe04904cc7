# SPDX-License-Identifier: Apache-2.0
"""What the observer takes a frame for at its receiver, seen in runs that do nothing wrong."""

from host_driver.conformance.packets import udp
from host_driver.lab.record import Frame
from host_driver.simulate.actions import AddPolicy, AddSa, Arm, Attack, Send
from host_driver.simulate.arrival import Receiver
from host_driver.simulate.headers import parse
from host_driver.simulate.judge import make_judge
from host_driver.simulate.opening import Opener
from host_driver.simulate.plan import Plan
from host_driver.simulate.runner import Run
from host_driver.simulate.tracks import Seen, Tracks

IN_UDP = 5  # the flow with ESP in UDP
IN_IPV6 = 1  # one in transport mode over IPv6
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


def test_of_frames_with_the_same_packet_the_last_one_brought_it() -> None:
    """A packet too short for a tag was lost, and comes again many steps later."""
    packet = udp(b"", 9, 10, "10.1.0.1", "10.1.0.2")
    receiver = Receiver(1, Opener())
    lost, come, beside = (
        Seen(Frame(bytes(14) + packet, 0, 0, 1), step, packet, parse(packet)) for step in (3, 9, 9)
    )
    receiver.arrived(lost, Tracks())
    receiver.rest(8)
    for seen in (come, beside):
        receiver.arrived(seen, Tracks())
    assert receiver.brought(packet) == (come, False)
    come.delivered += 1
    assert receiver.brought(packet)[0] is beside


def test_of_frames_with_the_same_packet_that_are_all_on_their_way_the_first_one_brought_it() -> (
    None
):
    packet = udp(b"", 9, 10, "10.1.0.1", "10.1.0.2")
    receiver = Receiver(1, Opener())
    receiver.rest(2)
    both = [
        Seen(Frame(bytes(14) + packet, 0, 0, 1), step, packet, parse(packet)) for step in (3, 4)
    ]
    for seen in both:
        receiver.arrived(seen, Tracks())
    for seen in both:
        assert receiver.brought(packet) == (seen, False)
        seen.delivered += 1


def test_a_bit_of_an_unprotected_header_may_flip() -> None:
    """Of an IPv6 packet in transport mode nothing looks at the traffic class; what comes with it
    is authentic."""
    actions = (
        AddSa(flow=IN_IPV6, way=1, number=1),
        *(AddPolicy(flow=IN_IPV6, way=1, end=end, priority=5) for end in ("out", "in")),
        Arm(fault="flip", fields={"site": "wire", "kind": "corrupt", "seed": 22}),
        Send(flow=IN_IPV6, way=1, count=1, size=20),
    )
    run = Run(Plan(seed=1, card="full", actions=actions), make_judge())
    assert run.run().violations == []
    step = run.ledger.steps[4]
    (submitted,), (delivered,) = step.submitted, step.delivered
    assert delivered.packet[40:] == submitted.packet[40:]
    assert delivered.packet[:40] != submitted.packet[:40]
