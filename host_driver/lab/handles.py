# SPDX-License-Identifier: Apache-2.0
"""What a lab hands out: hosts, their cards, the wire. The names are a promise."""

import errno
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from host_driver import control
from host_driver.lab.asking import World
from host_driver.lab.life import PartyDown
from host_driver.lab.record import Frame
from proto import management
from proto.events import EventType
from proto.limits import BURST
from proto.status import OffloadError

if TYPE_CHECKING:
    from host_driver.ip import Result


GENERATE_AT_ONCE = 1 << 17  # packets; a question must be answered within CONTROL_TIMEOUT_MS


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
        return [message for _, message in self.timed_notifications()]

    def timed_notifications(self) -> list[tuple[int, bytes]]:
        """The same, each behind the time at which the core sent it: ns since the Unix epoch, on the
        clock that card and host of one machine share (virtual in the simulator)."""
        taken: list[tuple[int, bytes]] = []
        while (answer := self._ask(control.Notifications())).blobs:
            taken += zip(answer.value, answer.blobs, strict=True)
        return taken

    def listen(self, *groups: int, room: int | None = None) -> None:
        """Be a member of these multicast groups only; without any nobody hears the core. A host
        begins as a member of all. `room`: how many messages wait at most until they are read."""
        self._ask(control.Listen(list(groups), room))

    def sysctl(self, name: str, value: int | str) -> None:
        """`sysctl -w NAME=VALUE`: net.core.xfrm_{acq_expires, larval_drop, aevent_*}."""
        self._ask(control.Sysctl(name, int(value)))

    def send(self, packets: Sequence[bytes], gso_size: int = 0) -> list[int]:
        """The stack sends IP packets; -> an errno each, 0 = accepted. With `gso_size` each is TCP
        or UDP of up to 64 KiB, which becomes packets of so many bytes of payload on its way: by the
        card, or where it does not do that, by the host."""
        errnos: list[int] = []
        for first in range(0, len(packets), BURST):
            chunk = [bytes(packet) for packet in packets[first : first + BURST]]
            errnos += self._ask(control.Send(chunk, gso_size)).errnos
        return errnos

    def generate(self, packets: Sequence[bytes], count: int, gso_size: int = 0) -> dict[str, int]:
        """The stack sends `count` packets, these round and round, from within the host; -> how
        many were "accepted", "refused" (and why, as "errno_N"), and "elapsed_ns" until the card was
        done with them, on the host's clock. Raises OffloadError: EINVAL without a packet, ETIMEDOUT
        where the card does not take them."""
        total = {"accepted": 0, "refused": 0, "elapsed_ns": 0}
        for first in range(0, max(count, 1), GENERATE_AT_ONCE):
            at = first % len(packets) if packets else 0
            templates = [bytes(packet) for packet in (*packets[at:], *packets[:at])]
            query = control.Generate(templates, min(GENERATE_AT_ONCE, count - first), gso_size)
            answer = self._ask(query)
            for name, value in answer.values.items():
                total[name] += value
            for number, times in answer.value.items():
                total["refused"] += times
                total[f"errno_{number}"] = total.get(f"errno_{number}", 0) + times
        return total

    def receive(self) -> list[bytes]:
        """All IP packets delivered to the stack since the last call."""
        return self._all(control.Receive(BURST))

    def discard(self) -> dict[str, int]:
        """The same, read within the host and thrown away: how many "packets" and "bytes"."""
        return self._ask(control.Discard()).values

    def mib(self) -> dict[str, int]:
        """/proc/net/xfrm_stat, by the kernel's names."""
        return self._ask(control.Mib()).values

    def snmp(self) -> dict[str, int]:
        """Packets that ended below XFRM, as nstat names them: /proc/net/snmp and snmp6."""
        return self._ask(control.Snmp()).values

    def trace(self, start: int = 0) -> list[dict[str, Any]]:
        """The xdo_* calls that the core made so far, oldest first; `start` skips that many."""
        return list(self._ask(control.Trace(start)).value)

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
        segmentation: bool | None = None,
        unregister: bool = False,
    ) -> None:
        """`ip link set` and `ethtool -K`; None leaves a setting as it is. `segmentation` is that of
        TCP and of UDP. Raises OffloadError, EOPNOTSUPP for what the card cannot do."""
        self._ask(
            control.SetLink(
                dev, up, mtu, esp_hw_offload, esp_tx_csum_hw_offload, segmentation, unregister
            )
        )

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

    # Life and death. What makes no sense now raises OffloadError(EALREADY); a host that is stopped
    # or dead answers nothing but EHOSTDOWN.

    def kill(self) -> None:
        """SIGKILL: all that it knew is lost. Its card notices by and by."""
        self._world.live(f"host{self.number}", "kill")

    def stop(self) -> None:
        """SIGSTOP."""
        self._world.live(f"host{self.number}", "stop")

    def resume(self) -> None:
        """SIGCONT."""
        self._world.live(f"host{self.number}", "resume")

    def restart(self) -> None:
        """Another life with nothing in it; it takes its card anew. A living one is killed first."""
        self._world.live(f"host{self.number}", "restart")

    def reload(self) -> None:
        """`devlink dev reload`. Raises OffloadError(EBUSY) while anything is offloaded."""
        self._ask(control.Reload())

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

    def events(self, start: int = 0) -> list[dict[str, Any]]:
        """The last EVENT_LOG events that the card raised since it booted, past its host, oldest
        first: "time_ns" (of the step that raised it, as in `HostHandle.timed_notifications`),
        "type" ("soft_limit", "hard_limit", "sequence", "overrun", "queue_error"), "spi" of the SA
        ("0x1000"; "0x0": it is about none), "handle" and "generation" as the host hears them.
        `start` skips that many. Raises OffloadError(EHOSTDOWN) for a card that is down."""
        raised = self._world.ask_card(self._number, management.Events(start))
        return [
            {
                "time_ns": time_ns, "type": EventType(kind).name.lower(), "spi": f"{spi:#x}",
                "handle": handle, "generation": generation,
            }
            for time_ns, kind, handle, generation, spi in raised
        ]  # fmt: skip

    def audit(self) -> dict[str, int]:
        """Let the driver compare the card with what should be there, and make it so; -> how many
        `objects` the card has, how many the driver has `known` and `bound`, and what was wrong:
        `orphans` and `undead` (destroyed), `missing` (the SA expires, the policy is made again),
        `lost`, `quarantined`."""
        return self._world.ask(self._number, control.Audit()).values

    def health(self) -> dict[str, Any]:
        """How the card says it is, past its host: state ("boot", "idle", "active", "error",
        "resetting"; or "dead", "stopped"), boot, counter, epoch, syndrome, ext_synd, rfr."""
        try:
            return dict(self._world.ask_card(self._number, management.Health()))
        except PartyDown as down:
            return {"state": down.state.value}

    def reporters(self) -> list[dict[str, Any]]:
        """`devlink health show` at the host: reporters fw, fw_fatal, tx, rx."""
        return list(self._world.ask(self._number, control.Reporters()).value)

    def recover(self) -> None:
        """`devlink health recover`: a device that was given up is tried once more."""
        self._world.ask(self._number, control.Recover())

    def reset(self, level: str) -> None:
        """From outside: "function" (an FLR: all of the host's objects are gone) or "firmware"
        (everything is wiped, and it boots anew). Raises OffloadError(EBUSY) when another function
        of the card does not agree."""
        self._world.ask_card(self._number, management.ResetCard(level))

    def kill(self) -> None:
        """SIGKILL: the card is gone, with everything in it."""
        self._world.live(self._party, "kill")

    def stop(self) -> None:
        """SIGSTOP."""
        self._world.live(self._party, "stop")

    def resume(self) -> None:
        """SIGCONT."""
        self._world.live(self._party, "resume")

    def restart(self, card: str | None = None) -> None:
        """Another boot, empty; a living card is killed first. `card`: it comes back as another one
        (`proto.caps.parse_card`), as after a change of firmware."""
        self._world.live(self._party, "restart", card)

    @property
    def _party(self) -> str:
        return f"card{self._number}"


class WireHandle:
    """The wire between the cards, or in front of the only one."""

    def __init__(self, world: World, hosts: int) -> None:
        self._world = world
        self._hosts = hosts

    def frames(self, start: int = 0) -> list[Frame]:
        """Ethernet frames seen so far, before any fault; `start` skips that many."""
        with self._world.wire() as wire:
            return wire.frames(start)

    def forget(self) -> int:
        """Let go of the frames seen so far, as long runs should; -> how many there were since the
        lab began, the `start` of what comes now."""
        with self._world.wire() as wire:
            wire.forget()
            return wire.recorded

    def inject(self, *, host: int, frames: Sequence[bytes]) -> None:
        """Let frames arrive at that host's card. Raises OffloadError(EINVAL, EMSGSIZE)."""
        self._check(host)
        with self._world.wire() as wire:
            wire.inject(host, frames)

    def _check(self, host: int) -> None:
        if host not in range(self._hosts):
            raise OffloadError(errno.EINVAL, f"no host {host} in a lab of {self._hosts}")

    def set_carrier(self, *, host: int, up: bool) -> None:
        """Pull the cable of a host's card, or put it in again."""
        self._check(host)
        with self._world.wire() as wire:
            wire.set_carrier(host, up)

    def counters(self) -> dict[str, int]:
        """Frames in and out by port (`from_0`, `to_1`, ...), drops by faults, losses."""
        with self._world.wire() as wire:
            return dict(sorted(wire.counters.items()))
