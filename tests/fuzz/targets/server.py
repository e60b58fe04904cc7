# SPDX-License-Identifier: Apache-2.0
"""Requests of the command line to a background lab, which serves on, whatever it is asked."""

import os
from typing import Any

from fuzz.commands import COMMANDS, SETUP
from fuzz.examples import examples
from fuzz.target import Outcome, Trees, encode, plain, require, tree_of
from fuzz.targets.texts import NAMED
from host_driver.lab import Lab, service
from host_driver.lab.server import Server
from proto.frame import Kind, pack
from proto.status import OffloadError

RECORDS_MAX = 6


class _Socket:
    """In the place of a socket: the requests of one moment, and the answers to them."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.answers: list[service.Answered] = []
        self.server: Any = None

    def wait(self, timeout_ms: int) -> bool:
        return bool(self.requests)

    def receive(self) -> list[tuple[bytes, bytes]]:
        self.server.ending = True  # one round, then back to the fuzzer
        requests, self.requests = self.requests, []
        return [(b"client", raw) for raw in requests]

    def send(self, client: bytes, message: bytes) -> None:
        self.answers.append(service.decode_answer(message))


class ServerTarget(Trees):
    """An input is a list of request bodies: trees, or bytes as they are."""

    name = "server"
    files = ("host_driver/lab/server.py", "host_driver/lab/service.py", "host_driver/lab/faults",
             "host_driver/faults/plan.py", "host_driver/lab/fault_plan.py")  # fmt: skip
    words = (b"\x91" * 1500,)

    def __init__(self) -> None:
        self._lab: Any = None

    def seeds(self) -> list[bytes]:
        fault = {"site": "wire", "kind": "drop", "times": 1, "name": "x"}
        requests: list[Any] = [
            {"type": "Status"}, {"type": "Settle"}, {"type": "ResetFaults"}, {"type": "Down"},
            {"type": "Monitor", "host": 0, "kinds": ["SA", "acquire"], "stats": True},
            {"type": "SendPackets", "host": 0, "packets": [bytes([0x45]) + bytes(27)]},
            {"type": "WriteCapture", "path": "x.pcapng", "keys_path": None},
            {"type": "AddFault", "fault": NAMED, "host": 0, "fields": {}},
            {"type": "AddFault", "fields": fault}, {"type": "RemoveFault", "name": "x"},
            {"type": "FollowPlan", "plan": [{"fault": NAMED, "at_s": 1, "until_s": 2}]},
            {"type": "FollowPlan", "plan": [{"fields": fault, "host": 0}]},
            {"type": "ListFaults"}, {"type": "FaultLog"},
        ]  # fmt: skip
        requests += examples(service.AnyRequest)
        requests += [{"type": "Ip", "host": 0, "text": text} for text in COMMANDS]
        return [encode([[7, request]]) for request in requests]

    def reset(self) -> None:
        if self._lab is not None:
            self._lab.close()
        self._lab = Lab(target="sim", hosts=1, card="full:key_max=64,sa_max=64,rule_max=160")
        self._lab.start()
        self.socket = _Socket()
        self.server = Server("fuzz", os.getpid(), self._lab, self.socket)  # type: ignore[arg-type]
        self.socket.server = self.server
        # Writing where the input says is what this request is for; here only the path is looked at.
        self.server._handlers[service.WriteCapture] = lambda request: os.fsencode(request.path)

    def run(self, data: bytes) -> Outcome:
        outcome = Outcome(0)
        bodies = tree_of(data)
        for body in bodies[:RECORDS_MAX] if isinstance(bodies, list) else ():
            raw = body if isinstance(body, bytes) else encode(body)
            if b"-b" in raw:  # a batch reads files, and which ones are there is not ours to say
                continue
            outcome.offered += 1
            self._serve(pack(Kind.CONTROL, raw), outcome)
        return outcome

    def _serve(self, raw: bytes, outcome: Outcome) -> None:
        self.socket.requests, self.socket.answers = [raw], []
        malformed = self.server.malformed
        self.server.ending = False
        self.server.serve()
        if not self.socket.answers:
            require(self.server.malformed > malformed, "a request was passed over uncounted")
            outcome.refused += 1
            return
        (answer,) = self.socket.answers
        require(not answer.errno or answer.text, "a refusal without a word")
        outcome.refused += answer.errno > 0
        outcome.features |= {("errno", answer.errno), plain(answer.text)}

    def check(self) -> None:
        lab = self._lab
        lab.faults.reset()
        (host,) = lab.hosts
        try:
            for command in ("ip xfrm state flush", "ip xfrm policy flush", *SETUP):
                require(host.ip(command).rc == 0, f"{command} was refused")
        except OffloadError as error:
            require(False, str(error))
