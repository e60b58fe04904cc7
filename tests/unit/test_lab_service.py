# SPDX-License-Identifier: Apache-2.0
"""What a background lab answers, without the processes around it; and who gets which answer."""

import errno
from pathlib import Path

import msgspec
import pytest
from scapy.layers.inet import IP, UDP

from host_driver.faults.plan import PlannedFault
from host_driver.lab import Lab, PeerDied, service
from host_driver.lab.server import Server
from proto.frame import Kind, pack
from proto.link.zmq import Hub, Poller

PACKET = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP() / b"x")
KEY = bytes(range(20)).hex()
STATE = (
    "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1000 reqid 1 mode transport "
    f"aead 'rfc4106(gcm(aes))' 0x{KEY} 128 offload packet dev nic0 dir out"
)


class Socket:
    """In the place of proto.link.zmq.Service: requests that were put in, answers by client."""

    def __init__(self) -> None:
        self.requests: list[tuple[bytes, bytes]] = []
        self.answers: list[tuple[bytes, service.Answered]] = []

    def wait(self, timeout_ms: int) -> bool:
        return bool(self.requests)

    def receive(self) -> list[tuple[bytes, bytes]]:
        taken, self.requests = self.requests, []
        return taken

    def send(self, client: bytes, message: bytes) -> None:
        self.answers.append((client, service.decode_answer(message)))


@pytest.fixture(scope="module")
def lab():
    with Lab(target="sim", hosts=2, card="tiny", seed=1) as lab:
        lab.start_capture()
        yield lab


@pytest.fixture
def server(lab):
    return Server("blue", 17, lab, Socket())


def ask(server: Server, request: service.AnyRequest) -> service.Answered:
    return server.answer(service.Asked(3, request))


def test_every_request_has_a_handler(server) -> None:
    known = {request.__name__ for request in service.AnyRequest.__args__}
    assert {kind.__name__ for kind in server._handlers} == known


def test_faults_are_armed_listed_logged_and_mended(server) -> None:
    fields = {"site": "card.command", "kind": "silent", "times": 1, "name": "mute"}
    assert ask(server, service.AddFault(host=1, fields=fields)).value == "mute"
    server.lab.hosts[1].nic.census()
    (armed,) = ask(server, service.ListFaults()).value["armed"]
    assert (armed["party"], armed["name"], armed["fired"]) == ("card1", "mute", 1)
    (entry,) = ask(server, service.FaultLog(1)).value
    assert (entry["name"], entry["facts"]) == ("mute", {"opcode": "QueryCensus"})
    msgspec.json.encode(ask(server, service.ListFaults()).value)
    assert ask(server, service.RemoveFault("mute")).errno == 0
    assert ask(server, service.RemoveFault("mute")).errno == errno.ENOENT
    planned = PlannedFault(at_s=3600, fields={"site": "wire", "kind": "drop"})
    assert ask(server, service.FollowPlan([planned])).errno == 0
    assert ask(server, service.ListFaults()).value["planned"][0]["state"] == "waiting"
    assert ask(server, service.ResetFaults()).errno == 0
    assert ask(server, service.ListFaults()).value == {"armed": [], "planned": []}


@pytest.mark.parametrize(
    ("fault", "fields"),
    [
        (None, {"site": "moon", "kind": "drop"}),
        (None, {"site": "wire", "kind": "drop", "host": 1}),
        (None, {"site": "wire", "kind": "drop", "self": 1}),
        ("no-such-fault", {}),
    ],
)
def test_a_fault_that_is_none_is_refused(server, fault, fields) -> None:
    answer = ask(server, service.AddFault(fault, None, fields))
    assert answer.errno in (errno.EINVAL, errno.ENOENT)
    assert ask(server, service.ListFaults()).value["armed"] == []


def test_a_plan_is_followed_while_nobody_asks(server, lab) -> None:
    assert server._wait_ms() == 500
    lab.faults.follow([PlannedFault(at_s=0.02, fields={"site": "wire", "kind": "drop"})])
    assert server._wait_ms() == 20
    lab._world.advance(0.02)
    assert server._wait_ms() == 0
    server.look()
    assert [entry["party"] for entry in lab.faults.list()] == ["wire"]
    lab.faults.reset()


def test_status_says_what_runs(server) -> None:
    answer = ask(server, service.Status())
    assert (answer.number, answer.errno) == (3, 0)
    about = answer.value
    assert (about["name"], about["pid"], about["card"], about["dead"]) == ("blue", 17, "tiny", None)
    names = [device["name"] for device in about["hosts"][1]["devices"]]
    assert names == ["lo", "nic0"]
    msgspec.json.encode(about)


def test_ip_and_monitor(server) -> None:
    assert ask(server, service.Ip(0, STATE)).value["rc"] == 0
    assert ask(server, service.Monitor(0, ["expire"])).value == []
    assert ask(server, service.Ip(0, "xfrm state flush")).value["rc"] == 0
    told = ask(server, service.Monitor(0, ["SA"], nokeys=True)).value
    assert "Flushed state" in "".join(told)
    assert KEY not in "".join(told)


def test_a_request_does_not_show_a_key() -> None:
    assert KEY not in repr(service.Asked(1, service.Ip(0, STATE)))


def test_send_settle_capture(server, tmp_path: Path) -> None:
    ask(server, service.Ip(0, STATE.replace("spi 0x1000", "spi 0x2000")))
    assert ask(server, service.SendPackets(0, [PACKET, b"E"])).value == [0, errno.EINVAL]
    assert ask(server, service.Settle()).errno == 0
    written = ask(server, service.WriteCapture(str(tmp_path / "a"), str(tmp_path / "k"))).value
    assert written["packets"] >= 1
    assert written["keys"] == 1
    assert KEY in (tmp_path / "k").read_text()


@pytest.mark.parametrize(
    ("request_", "number", "text"),
    [
        (service.Ip(2, "xfrm state"), errno.EINVAL, "no host 2 in lab 'blue' of 2"),
        (service.SendPackets(-1, []), errno.EINVAL, "no host -1"),
        (service.WriteCapture("/nonexistent/x"), errno.ENOENT, "/nonexistent/x"),
    ],
    ids=["ip", "send", "capture"],
)
def test_refusals_carry_errno_and_text(server, request_, number: int, text: str) -> None:
    answer = ask(server, request_)
    assert answer.errno == number
    assert text in answer.text


def test_after_a_death_everything_but_status_and_down_is_refused(server, monkeypatch) -> None:
    def dead(seconds: float) -> None:
        raise PeerDied("card0 (pid 5) was killed by SIGKILL")

    monkeypatch.setattr(server.lab, "advance", dead)
    answer = ask(server, service.Ip(0, "xfrm state"))
    assert (answer.errno, answer.text) == (errno.EOWNERDEAD, "card0 (pid 5) was killed by SIGKILL")
    assert ask(server, service.Status()).value["dead"] == answer.text
    assert ask(server, service.Down()).errno == 0
    assert server.ending


def test_nonsense_is_ignored_and_down_ends_the_loop(server) -> None:
    server.socket.requests = [
        (b"a", b""),
        (b"b", b"\xff" * 64),
        (b"c", pack(Kind.CONTROL, b"\xc1")),
        (b"d", pack(Kind.CONTROL, msgspec.msgpack.encode([1, {"type": "Dance"}]))),
        (b"e", service.encode(service.Asked(9, service.Down()))),
    ]
    server.serve()
    assert [(client, answer.number) for client, answer in server.socket.answers] == [(b"e", 9)]


def test_each_client_gets_its_own_answer(run_root: Path) -> None:
    address = f"ipc://{run_root}/many"
    with Hub() as serving, Hub() as one, Hub() as other:
        socket = serving.serve(address)
        clients = [one.connect(address), other.connect(address)]
        for number, client in enumerate(clients):
            client.send(b"%d" % number)
        waiting = 2
        while waiting:
            assert socket.wait(10_000)
            for client, request in socket.receive():
                socket.send(client, b"answer to " + request)
                waiting -= 1
        socket.send(b"nobody", b"into the void")
        for number, client in enumerate(clients):
            assert Poller([client]).wait(10_000)
            assert client.receive() == [b"answer to %d" % number]
