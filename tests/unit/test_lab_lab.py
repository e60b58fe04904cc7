# SPDX-License-Identifier: Apache-2.0
"""The lab's public surface, in the simulator, and that a seed decides everything there."""

import errno
import itertools

import pytest
from scapy.layers.inet import IP, UDP
from scapy.utils import RawPcapNgReader

from host_driver.lab import Lab
from proto.clock import NS
from proto.limits import RING_SIZE
from proto.status import OffloadError
from proto.xfrm import Group

ENDS = "src 10.0.0.1 dst 10.0.0.2"
KEY = "0x" + bytes(range(20)).hex()
SA = (
    f"xfrm state add {ENDS} proto esp spi 0x1000 reqid 1 mode transport "
    f"aead 'rfc4106(gcm(aes))' {KEY} 128 offload packet dev nic0 dir "
)
LIMITS = " limit packet-soft 3 limit packet-hard 5"
POLICY = (
    f"xfrm policy add {ENDS} offload packet dev nic0 "
    f"tmpl {ENDS} proto esp reqid 1 mode transport dir "
)


def clear(count: int) -> list[bytes]:
    """UDP packets from host 0 to host 1, told apart by their IP id."""
    head = IP(src="10.0.0.1", dst="10.0.0.2")
    return [bytes(head.copy() / UDP(sport=1, dport=2) / n.to_bytes(4)) for n in range(count)]


def protect(lab: Lab) -> None:
    for host, way in zip(lab.hosts, ("out", "in"), strict=True):
        assert host.ip(SA + way).stderr == ""
        assert host.ip(POLICY + way).stderr == ""


def test_packets_go_in_clear_and_come_out_equal_with_esp_between():
    with Lab(hosts=2, seed=1) as lab:
        protect(lab)
        a, b = lab.hosts
        packets = clear(3 * RING_SIZE)
        assert a.send(packets) == [0] * len(packets)
        lab.settle()
        assert b.receive() == packets
        frames = lab.wire.frames()
        assert len(frames) == len(packets)
        assert {(frame.src, frame.dst, frame.data[23]) for frame in frames} == {(0, 1, 50)}
        assert frames[0].data[:12] == b.nic.mac + a.nic.mac
        assert lab.wire.frames(start=len(frames)) == []
        assert b.nic.counters()["rx_drop_no_buffer"] == 0


def test_a_limit_is_told_with_its_times_by_card_and_core():
    with Lab(hosts=2, seed=1) as lab:
        protect(lab)
        a, b = lab.hosts
        assert a.ip(SA.replace("add", "update").replace(" mode", LIMITS + " mode") + "out").rc == 0
        a.listen(Group.EXPIRE)
        a.notifications()
        before_ns = lab.now_ns()
        for count in (3, 2):  # one look at both limits would tell of the hard one only
            a.send(clear(count))
            lab.settle()
        events, messages = a.nic.events(), a.timed_notifications()
        assert [(event["type"], event["spi"]) for event in events] == [
            ("soft_limit", "0x1000"), ("hard_limit", "0x1000"),
        ]  # fmt: skip
        # struct xfrm_user_expire: `hard` stands behind 224 bytes of xfrm_usersa_info (UAPI-43).
        assert [message[16 + 224] for _, message in messages] == [0, 1]
        for event, (sent_ns, _) in zip(events, messages, strict=True):
            assert before_ns <= event["time_ns"] <= sent_ns <= lab.now_ns()
        assert a.nic.events(start=1) == events[1:]
        assert (b.nic.events(), a.notifications(), a.timed_notifications()) == ([], [], [])
        a.nic.kill()
        with pytest.raises(OffloadError) as refused:
            a.nic.events()
        assert refused.value.errno == errno.EHOSTDOWN


def play(seed: int, link: str = "ipc") -> tuple[object, ...]:
    """A little of everything; all that can be seen of it."""
    with Lab(hosts=2, seed=seed, link=link) as lab:
        protect(lab)
        a, b = lab.hosts
        lab.faults.add(site="wire", kind="corrupt", probability=0.2)
        a.send(clear(50))
        lab.advance(2.5)
        assert b.ip("xfrm state delete dst 10.0.0.2 proto esp spi 0x1000").rc == 0
        lab.settle()
        return (
            lab.now_ns(), lab.wire.frames(), a.notifications(), b.notifications(), a.trace(),
            b.trace(), b.receive(), a.nic.counters(), b.nic.counters(),
        )  # fmt: skip


def test_the_same_seed_gives_the_same_bytes():
    assert play(7) == play(7)


def test_another_seed_gives_other_bytes():
    assert play(7)[1] != play(8)[1]


def test_inline_packets_make_no_difference():
    assert play(7) == play(7, link="tcp")


def test_virtual_time_moves_exactly_as_told():
    with Lab() as lab:
        before = lab.now_ns()
        lab.advance(86_400)
        assert lab.now_ns() - before == 86_400 * NS


def test_injected_frames_reach_the_stack_and_have_no_sender():
    with Lab() as lab:
        (host,) = lab.hosts
        (packet,) = clear(1)
        lab.wire.inject(host=0, frames=[host.nic.mac + bytes(6) + b"\x08\x00" + packet])
        lab.settle()
        assert host.receive() == [packet]
        assert [(frame.src, frame.dst) for frame in lab.wire.frames()] == [(None, 0)]
        assert lab.wire.counters()["injected_0"] == 1


def test_an_open_wire_takes_frames():
    with Lab() as lab:
        (host,) = lab.hosts
        assert host.send(clear(2)) == [0, 0]
        lab.settle()
        assert [(frame.src, frame.dst) for frame in lab.wire.frames()] == [(0, None)] * 2


@pytest.mark.parametrize(("kind", "arrive"), [("drop", [1, 2]), ("duplicate", [0, 0, 1, 2])])
def test_wire_faults_by_name_and_scope(kind, arrive):
    packets = clear(3)
    with Lab(hosts=2) as lab:
        a, b = lab.hosts
        with lab.faults.inject(site="wire", kind=kind, times=1, host=0):
            a.send(packets)
            lab.settle()
        assert b.receive() == [packets[n] for n in arrive]
        with lab.faults.inject(site="wire", kind=kind, host=1):
            a.send(packets)
            lab.settle()
        assert b.receive() == packets


@pytest.mark.parametrize("fields", [
    {"site": "nowhere", "kind": "drop"}, {"site": "wire", "kind": "explode"}, {"site": "wire"},
    {"site": "wire", "kind": "drop", "probability": 2.0}, {"site": "wire", "kind": "drop", "x": 1},
    {"site": "wire", "kind": "drop", "host": 5}, {"site": "wire", "kind": "drop", "times": "no"},
])  # fmt: skip
def test_faults_that_could_never_fire_are_refused(fields):
    with Lab() as lab, pytest.raises(OffloadError) as refusal:
        lab.faults.add(**fields)
    assert refusal.value.errno == errno.EINVAL


def test_faults_have_names_and_can_be_taken_back():
    with Lab() as lab:
        name = lab.faults.add(site="mailbox", kind="drop", name="mute", match={"opcode": "NONE"})
        assert name == "mute"
        with pytest.raises(OffloadError, match="mute"):
            lab.faults.add(site="wire", kind="drop", name="mute")
        lab.faults.remove("mute")
        with pytest.raises(OffloadError) as refusal:
            lab.faults.remove("mute")
        assert refusal.value.errno == errno.ENOENT
        lab.faults.add(site="wire", kind="drop")
        lab.faults.reset()
        lab.hosts[0].send(clear(1))
        lab.settle()
        assert "fault_dropped" not in lab.wire.counters()


def test_a_capture_shows_both_clear_sides_and_the_wire(tmp_path):
    packets = clear(5)
    with Lab(hosts=2) as lab:
        protect(lab)
        a = lab.hosts[0]
        a.send(clear(1))
        lab.settle()
        with pytest.raises(OffloadError, match="start_capture"):
            lab.capture(tmp_path / "none.pcapng")
        lab.start_capture()
        a.send(packets)
        lab.settle()
        assert lab.capture(tmp_path / "all.pcapng") == 15
        frames = [frame.data for frame in lab.wire.frames(start=1)]
    assert (tmp_path / "all.pcapng").stat().st_mode & 0o777 == 0o600  # clear text is in there
    with RawPcapNgReader(str(tmp_path / "all.pcapng")) as reader:
        found = sorted((meta.ifname, data) for data, meta in reader)
    by_name = {name: [data for _, data in group]
               for name, group in itertools.groupby(found, key=lambda row: row[0])}  # fmt: skip
    assert by_name[b"host0"] == by_name[b"host1"] == sorted(packets)
    assert by_name[b"wire"] == sorted(frames)


def test_link_settings_reach_the_device():
    with Lab() as lab:
        (host,) = lab.hosts
        host.set_link(mtu=1400, esp_hw_offload=False)
        nic = next(dev for dev in host.devices() if dev["name"] == "nic0")
        assert nic["mtu"] == 1400
        assert "esp-hw-offload" not in nic["features"]
        host.set_link(up=False)
        assert host.nic.ifindex == nic["ifindex"]
        with pytest.raises(OffloadError, match="nic7"):
            host.set_link("nic7", up=True)
