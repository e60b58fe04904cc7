# SPDX-License-Identifier: Apache-2.0
"""The background lab's own loop: answer one request after the other, and notice a death meanwhile.

When a process of the lab dies, the lab has ended everything else already; the server stays to tell
everybody who asks which one it was, until `down` ends it, too.
"""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

from host_driver.ip import format_notification
from host_driver.lab import service
from host_driver.lab.asking import PeerDied
from host_driver.lab.handles import HostHandle
from host_driver.lab.keys import esp_keys
from host_driver.lab.lab import Lab
from host_driver.lab.life import VERBS, PartyDown
from host_driver.lab.pcapng import write_esp_keys
from proto import netlink
from proto.frame import FrameError
from proto.link.zmq import Service
from proto.status import OffloadError

LOOK_INTERVAL_MS = 500  # how late a death is noticed while nobody asks


class Server:
    """Serves `lab` on `socket` until somebody asks for `Down`."""

    def __init__(self, name: str, pid: int, lab: Lab, socket: Service) -> None:
        self.name = name
        self.pid = pid
        self.lab = lab
        self.socket = socket
        self.death: PeerDied | None = None
        self.ending = False
        self.malformed = 0  # requests that were none
        self._handlers: dict[type[service.Request], Callable[[Any], Any]] = {
            service.Status: self.status,
            service.Ip: self.ip,
            service.Monitor: self.monitor,
            service.SendPackets: self.send,
            service.Settle: self.settle,
            service.WriteCapture: self.capture,
            service.AddFault: self.add_fault,
            service.FollowPlan: lambda request: self.lab.faults.follow(request.plan),
            service.RemoveFault: lambda request: self.lab.faults.remove(request.name),
            service.ResetFaults: lambda request: self.lab.faults.reset(),
            service.ListFaults: self.list_faults,
            service.FaultLog: lambda request: self.lab.faults.log()[-request.limit :],
            service.Live: self.live,
            service.ResetCard: self.reset_card,
            service.Reload: lambda request: self._of(request.host).reload(),
            service.Down: self.down,
        }

    def serve(self) -> None:
        """Until `Down`."""
        while not self.ending:
            self.socket.wait(self._wait_ms())
            for client, raw in self.socket.receive():
                try:
                    asked = service.decode_request(raw)
                except FrameError:
                    self.malformed += 1  # it has no number that an answer could carry
                    continue
                self.socket.send(client, service.encode(self.answer(asked)))
            self.look()

    def _wait_ms(self) -> int:
        """Until the next look, or until a plan of faults has something to do."""
        moment_ns = self.lab.faults.next_ns()
        if moment_ns is None or self.death is not None:
            return LOOK_INTERVAL_MS
        left_ns = moment_ns - self.lab.now_ns()
        return max(0, min(LOOK_INTERVAL_MS, -(-left_ns // 1_000_000)))

    def look(self) -> None:
        """Notice the death of a process, and what a plan of faults wants now."""
        if self.death is None:
            try:
                self.lab.advance(0)
            except PeerDied as death:
                self.death = death

    def answer(self, asked: service.Asked) -> service.Answered:
        """What a request comes to, refusals included."""
        try:
            self.look()
            if self.death is not None and not isinstance(
                asked.request, service.Status | service.Down
            ):
                raise self.death
            value = self._handlers[type(asked.request)](asked.request)
            return service.Answered(asked.number, value=value)
        except OffloadError as error:
            return service.Answered(asked.number, error.errno, error.text)
        except OSError as error:
            return service.Answered(asked.number, error.errno or errno.EIO, str(error))

    # --- requests ---

    def status(self, request: service.Status) -> dict[str, Any]:
        """Everything `xfrmnic status` shows."""
        settings = self.lab.settings
        about = {
            "name": self.name,
            "pid": self.pid,
            "card": settings.card,
            "seed": settings.seed,
            "malformed_requests": self.malformed,
            "dead": None if self.death is None else self.death.text,
            "processes": {},
            "hosts": [],
        }
        if self.death is None:
            about["processes"] = self.lab.pids()
            about["hosts"] = [self._host(number) for number in range(settings.hosts)]
        return about

    def _host(self, number: int) -> dict[str, Any]:
        host = self.lab.hosts[number]
        health = {"health": host.nic.health()}
        try:
            return health | self._alive(host)
        except PartyDown as down:
            return health | {"down": down.text}

    @staticmethod
    def _alive(host: HostHandle) -> dict[str, Any]:
        devices = [{**device, "mac": bytes(device["mac"]).hex(":")} for device in host.devices()]
        counters = host.nic.counters()
        return {
            "devices": devices,
            "census": _or_nothing(host.nic.census),
            "reporters": host.nic.reporters(),
            "counters": {name: value for name, value in counters.items() if value},
            "mib": {name: value for name, value in host.mib().items() if value},
            "snmp": {name: value for name, value in host.snmp().items() if value},
        }

    def ip(self, request: service.Ip) -> dict[str, Any]:
        """`ip ...` at a host."""
        result = self._of(request.host).ip(request.text)
        return {"rc": result.rc, "stdout": result.stdout, "stderr": result.stderr}

    def monitor(self, request: service.Monitor) -> list[str]:
        """What `ip xfrm monitor` would print now."""
        host = self._of(request.host)
        wanted = {kind for name in request.kinds for kind in service.MONITOR_KINDS.get(name, ())}
        devices = {device["name"]: device["ifindex"] for device in host.devices()}
        style = {"nokeys": request.nokeys, "stats": request.stats, "oneline": request.oneline}
        return [
            format_notification(raw, devices, **style)
            for raw in host.notifications()
            if not wanted or any(message.type in wanted for message in netlink.messages(raw))
        ]

    def send(self, request: service.SendPackets) -> list[int]:
        """Packets out of a host's stack."""
        return self._of(request.host).send(request.packets)

    def settle(self, request: service.Settle) -> None:
        """Until nothing moves; what was delivered meanwhile waits in the hosts' sockets."""
        self.lab.settle()

    def capture(self, request: service.WriteCapture) -> dict[str, Any]:
        """Write the pcapng, and beside it the keys of the SAs that exist now."""
        self.lab.settle()
        written: dict[str, Any] = {"packets": self.lab.capture(Path(request.path)), "keys": None}
        if request.keys_path is not None:
            keys = dict.fromkeys(key for host in self.lab.hosts for key in esp_keys(host))
            write_esp_keys(Path(request.keys_path), keys)
            written["keys"] = len(keys)
        return written

    def add_fault(self, request: service.AddFault) -> str:
        """Arm a fault."""
        return self.lab.faults.add(request.fault, host=request.host, **_fields(request.fields))

    def list_faults(self, request: service.ListFaults) -> dict[str, Any]:
        """What is armed and what is planned."""
        return {"armed": self.lab.faults.list(), "planned": self.lab.faults.planned()}

    def live(self, request: service.Live) -> str:
        """Life and death of a party."""
        kind, number = request.party[:4], request.party[4:]
        if kind not in ("host", "card") or not number.isdigit() or request.verb not in VERBS:
            raise OffloadError(errno.EINVAL, f"nothing is known of {request}")
        host = self._of(int(number))
        party = host if kind == "host" else host.nic
        arguments = [] if request.card is None else [request.card]
        getattr(party, request.verb)(*arguments)
        return self.lab.state(request.party)

    def reset_card(self, request: service.ResetCard) -> dict[str, Any]:
        """A reset from outside."""
        nic = self._of(request.host).nic
        nic.reset(request.level)
        return nic.health()

    def down(self, request: service.Down) -> None:
        """Answer, then leave the loop."""
        self.ending = True

    def _of(self, number: int) -> HostHandle:
        if number not in range(len(self.lab.hosts)):
            hosts = len(self.lab.hosts)
            raise OffloadError(errno.EINVAL, f"no host {number} in lab {self.name!r} of {hosts}")
        return self.lab.hosts[number]


def _or_nothing(census: Callable[[], dict[str, int]]) -> dict[str, int]:
    """What a card has; one that is gone has nothing to say."""
    try:
        return census()
    except OffloadError:
        return {}


def _fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields that do not stand for arguments of `lab.faults.add` itself. OffloadError(EINVAL)."""
    if fields.keys() & {"fault", "host", "self"}:
        raise OffloadError(errno.EINVAL, f"fault fields {sorted(fields)} are not all fields")
    return fields
