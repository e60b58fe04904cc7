# SPDX-License-Identifier: Apache-2.0
"""What a lab hands out: hosts, their cards, the wire, the faults. The names are a promise."""

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from host_driver import control
from host_driver.lab.asking import World
from host_driver.lab.wire import Frame
from proto import faults
from proto.limits import BURST
from proto.status import OffloadError

if TYPE_CHECKING:
    from host_driver.ip import Result


class HostHandle:
    """One host of the lab. Methods raise OffloadError for what the host refuses, and PeerDied."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self.number = number
        self.nic = NicHandle(world, number)

    def __repr__(self) -> str:
        return f"<host{self.number}>"

    def ip(self, text: str) -> "Result":
        """Run an `ip` command -> Result(rc, stdout, stderr); what `ip` refuses is a result, too."""
        from host_driver.ip import run
        from host_driver.xfrm.profile import profile_by_name

        info = self.info()
        devices = {dev["name"]: dev["ifindex"] for dev in info["devices"]}
        return run(text, self.netlink, devices, profile_by_name(info["profile"]).sa_dir_known)

    def netlink(self, request: bytes, privileged: bool = True) -> list[bytes]:
        """Send one NETLINK_XFRM request datagram; -> reply messages, as a socket gives them.

        Not `privileged` is a requester without CAP_NET_ADMIN (UAPI-03).
        """
        return [message for piece in self.netlink_pieces(request, privileged) for message in piece]

    def netlink_together(self, requests: Sequence[bytes]) -> list[list[bytes]]:
        """Requests of several requesters, sent at one moment in this order; -> replies of each."""
        together = control.NetlinkTogether([bytes(request) for request in requests])
        return list(self._ask(together).value)

    def netlink_pieces(self, request: bytes, privileged: bool = True) -> Iterator[list[bytes]]:
        """The same as the socket is read: a dump goes on only when its next piece is taken."""
        answer = self._ask(control.Netlink(bytes(request), privileged))
        yield answer.blobs
        while answer.value is not None:
            answer = self._ask(control.NetlinkMore(answer.value))
            yield answer.blobs

    def notifications(self) -> list[bytes]:
        """Multicast messages since the last call."""
        return self._all(control.Notifications())

    def listen(self, *groups: int, room: int | None = None) -> None:
        """Be a member of these multicast groups only; without any nobody hears the core. A host
        begins as a member of all. `room`: how many messages wait at most until they are read."""
        self._ask(control.Listen(list(groups), room))

    def sysctl(self, name: str, value: int | str) -> None:
        """`sysctl -w NAME=VALUE`: net.core.xfrm_{acq_expires, larval_drop, aevent_*}."""
        self._ask(control.Sysctl(name, int(value)))

    def send(self, packets: Sequence[bytes]) -> list[int]:
        """The stack sends IP packets; -> an errno each, 0 = accepted."""
        errnos: list[int] = []
        for first in range(0, len(packets), BURST):
            chunk = [bytes(packet) for packet in packets[first : first + BURST]]
            errnos += self._ask(control.Send(chunk)).errnos
        return errnos

    def receive(self) -> list[bytes]:
        """All IP packets delivered to the stack since the last call."""
        return self._all(control.Receive(BURST))

    def mib(self) -> dict[str, int]:
        """/proc/net/xfrm_stat, by the kernel's names."""
        return self._ask(control.Mib()).values

    def trace(self) -> list[dict[str, Any]]:
        """The xdo_* calls that the core made so far, oldest first."""
        return list(self._ask(control.Trace()).value)

    def devices(self) -> list[dict[str, Any]]:
        """Network devices: name, ifindex, mac, mtu, up."""
        return list(self.info()["devices"])

    def info(self) -> dict[str, Any]:
        """Devices, caps, versions, pid."""
        return dict(self._ask(control.Info()).value)

    def set_link(
        self,
        dev: str = "nic0",
        *,
        up: bool | None = None,
        mtu: int | None = None,
        esp_hw_offload: bool | None = None,
        esp_tx_csum_hw_offload: bool | None = None,
        unregister: bool = False,
    ) -> None:
        """`ip link set` and `ethtool -K`; None leaves a setting as it is."""
        change = control.SetLink(dev, up, mtu, esp_hw_offload, esp_tx_csum_hw_offload, unregister)
        self._ask(change)

    def set_networks(self, *networks: str) -> None:
        """What is on the link of the card, as "10.1.0.0/24"; all else has no route then. Without
        networks every address is reached. Raises OffloadError(EINVAL)."""
        self._ask(control.SetNetworks(list(networks)))

    def add_device(self, name: str) -> int:
        """A second port of the card, up and without a wire; -> its ifindex. EEXIST for a double."""
        return int(self._ask(control.AddDevice(name)).value)

    def set_clock_forward(self, seconds: int) -> None:
        """Let the core's timers see `seconds` pass at once, also among processes."""
        self._ask(control.SetClockForward(seconds))

    def _ask(self, query: control.AnyQuery) -> control.Answer:
        return self._world.ask(self.number, query)

    def _all(self, query: control.AnyQuery) -> list[bytes]:
        """Repeat a query that takes things away until nothing is left."""
        taken: list[bytes] = []
        while blobs := self._ask(query).blobs:
            taken += blobs
        return taken


class NicHandle:
    """The card of a host, as its host sees it. `name`, `ifindex` and `mac` never change."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._number = number
        info = world.ask(number, control.Info()).value
        device = next(dev for dev in info["devices"] if dev["name"] != "lo")
        self.name: str = device["name"]
        self.ifindex: int = device["ifindex"]
        self.mac: bytes = device["mac"]

    def counters(self) -> dict[str, int]:
        """Ethtool-style counters of card and driver."""
        return self._world.ask(self._number, control.Counters()).values

    def census(self) -> dict[str, int]:
        """Live objects on the card, by kind."""
        return self._world.ask(self._number, control.Census()).values


class WireHandle:
    """The wire between the cards, or in front of the only one."""

    def __init__(self, world: World, hosts: int) -> None:
        self._world = world
        self._hosts = hosts

    def frames(self, start: int = 0) -> list[Frame]:
        """Ethernet frames seen so far, before any fault; `start` skips that many."""
        with self._world.wire() as wire:
            return wire.frames(start)

    def inject(self, *, host: int, frames: Sequence[bytes]) -> None:
        """Let frames arrive at that host's card. Raises OffloadError(EINVAL, EMSGSIZE)."""
        if host not in range(self._hosts):
            raise OffloadError(errno.EINVAL, f"no host {host} in a lab of {self._hosts}")
        with self._world.wire() as wire:
            wire.inject(host, frames)

    def counters(self) -> dict[str, int]:
        """Frames in and out by port (`from_0`, `to_1`, ...), drops by faults, losses."""
        with self._world.wire() as wire:
            return dict(sorted(wire.counters.items()))


class FaultsHandle:
    """The armed faults of all hosts and of the wire."""

    def __init__(self, world: World, hosts: int, seed: int) -> None:
        self._world = world
        self._hosts = range(hosts)
        self._seed = seed
        self._added = 0
        self._undo: dict[str, list[Callable[[], object]]] = {}

    def add(self, *, host: int | None = None, **fields: Any) -> str:
        """Arm a fault and return its name; `fields` are those of proto.faults.FaultSpec.

        `host` None arms it at every host; on the wire, `host` means frames that its card sent.
        Without `seed` the lab's seed decides. Raises OffloadError(EINVAL) and then arms nothing.
        """
        spec = self._spec(host, fields)
        undo: list[Callable[[], object]] = []
        faults.check(spec)
        if any(faults.concerns(spec, site) for site in faults.SITES if site != "wire"):
            for number in self._hosts if host is None else (host,):
                self._world.ask(number, control.AddFault(spec))
                undo.append(self._remover(number, spec.name))
        if faults.concerns(spec, "wire"):
            with self._world.wire() as wire:
                wire.faults.add(_wire_spec(spec, host))
            undo.append(self._wire_remover(spec.name))
        self._undo[spec.name] = undo
        return spec.name

    def remove(self, name: str) -> None:
        """Disarm one fault. Raises OffloadError(ENOENT)."""
        if name not in self._undo:
            raise OffloadError(errno.ENOENT, f"no fault named {name!r} is armed")
        for undo in self._undo.pop(name):
            undo()

    def reset(self) -> None:
        """Disarm everything."""
        for number in self._hosts:
            self._world.ask(number, control.ResetFaults())
        with self._world.wire() as wire:
            wire.faults.reset()
        self._undo.clear()

    @contextmanager
    def inject(self, *, host: int | None = None, **fields: Any) -> Iterator[str]:
        """A fault for the time of a `with` block; yields its name."""
        name = self.add(host=host, **fields)
        try:
            yield name
        finally:
            if name in self._undo:
                self.remove(name)

    def _spec(self, host: int | None, fields: dict[str, Any]) -> faults.FaultSpec:
        """Every check that a host would make, before the first host is asked."""
        if host is not None and host not in self._hosts:
            raise OffloadError(errno.EINVAL, f"no host {host} in a lab of {len(self._hosts)}")
        self._added += 1
        fields = {"seed": self._seed + self._added, **fields}
        fields.setdefault("name", f"{fields.get('site')}-{fields.get('kind')}-{self._added}")
        try:
            spec = msgspec.convert(fields, faults.FaultSpec)
        except msgspec.ValidationError as error:
            raise OffloadError(errno.EINVAL, f"fault: {error}") from None
        unknown = fields.keys() - set(spec.__struct_fields__)
        if unknown:
            raise OffloadError(
                errno.EINVAL,
                f"fault fields {sorted(unknown)} are unknown, "
                f"known are {', '.join(spec.__struct_fields__)} and host",
            )
        faults.check(spec)
        if spec.name in self._undo:
            raise OffloadError(errno.EINVAL, f"a fault named {spec.name!r} is armed already")
        return spec

    def _remover(self, number: int, name: str) -> Callable[[], object]:
        return lambda: self._world.ask(number, control.RemoveFault(name))

    def _wire_remover(self, name: str) -> Callable[[], object]:
        def undo() -> None:
            with self._world.wire() as wire:
                wire.faults.remove(name)

        return undo


def _wire_spec(spec: faults.FaultSpec, host: int | None) -> faults.FaultSpec:
    """The wire's form: `host` becomes the sender, a numeric SPI the text that frames have."""
    match = dict(spec.match)
    if host is not None:
        match["src"] = host
    if isinstance(spi := match.get("spi"), int):
        match["spi"] = f"{spi:#x}"
    return msgspec.structs.replace(spec, match=match)
