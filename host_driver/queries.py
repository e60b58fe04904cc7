# SPDX-License-Identifier: Apache-2.0
"""The CONTROL channel: every query of a lab is a task, and gets exactly one answer.

Queries that need the card wait for it; those that arrive before the probe is done wait for that.
"""

import errno
import ipaddress
import os
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from host_driver import control, gso
from host_driver.control import Answer, AnyQuery
from host_driver.device_queries import DeviceQueries
from host_driver.netdev import HW_ESP, HW_ESP_TX_CSUM, LOOPBACK_IFINDEX, NetDevice, Skb
from host_driver.quiet import Quiet
from host_driver.sending import Traffic
from host_driver.sleep import Completion, Sleep, may_sleep, wait
from host_driver.xfrm.answers import Answers
from proto import VERSION
from proto.clock import NS
from proto.codec import decode
from proto.frame import FrameError, Kind, Message, pack
from proto.limits import MESSAGE_MAX_BYTES, NOTIFICATION_QUEUE, OPEN_DUMPS, PROTOCOL_VERSION
from proto.management import FaultRequest, about_faults
from proto.status import OffloadError
from proto.xfrm import Group

if TYPE_CHECKING:
    from host_driver.host import Host


# net.core.xfrm_*, by what the core calls them.
SYSCTLS = ("acq_expires", "larval_drop", "aevent_etime", "aevent_rseqth")


class _Envelope(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """An Ask whose query is still closed, so that a malformed one can be answered."""

    id: int
    query: msgspec.Raw


class Queries:
    """One handler per query; a handler returns an Answer or is a sleeping function that does."""

    def __init__(self, host: "Host") -> None:
        self._host = host
        self._dumps: dict[int, Answers] = {}
        self._last_dump = 0
        self._handlers: dict[type, Callable[[Any], Answer | Sleep[Answer]]] = {
            control.Netlink: self._netlink,
            control.NetlinkMore: self._netlink_more,
            control.NetlinkTogether: self._netlink_together,
            control.Notifications: self._notifications,
            control.Listen: self._listen,
            control.Sysctl: self._sysctl,
            **Traffic(host).handlers,
            control.Receive: self._receive,
            control.Discard: self._discard,
            control.Mib: self._mib,
            control.Snmp: self._snmp,
            **DeviceQueries(host).handlers,
            control.Trace: self._trace,
            **dict.fromkeys(get_args(FaultRequest), self._about_faults),
            control.SetLink: self._set_link,
            control.SetNetworks: self._set_networks,
            control.AddDevice: self._add_device,
            control.SetClockForward: self._set_clock_forward,
            control.Info: self._info,
            control.Capture: self._capture,
            control.Quiesce: Quiet(host).quiesce,
        }

    def asked(self, message: Message, raw: bytes) -> None:
        """A CONTROL message: start the task that answers it. Malformed ones are counted."""
        try:
            envelope = decode(message.body, _Envelope)
        except FrameError:
            self._host.counters["control_malformed"] += 1
            return
        try:
            query = decode(envelope.query, AnyQuery)
        except FrameError as error:
            self._host.counters["control_malformed"] += 1
            self._reply(Answer(envelope.id, errno.EBADMSG, f"malformed query: {error}"))
            return
        self._host.sched.spawn(self._serve(envelope.id, query))

    def _serve(self, number: int, query: AnyQuery) -> Sleep[None]:
        try:
            yield from wait(self._host.ready)
            answer = yield from may_sleep(self._handlers[type(query)](query))
        except OffloadError as error:
            answer = Answer(0, error.errno, error.text)
        except Exception as error:  # noqa: BLE001  # a defect; the host lives on, says where
            self._host.counters["internal_errors"] += 1
            answer = Answer(0, errno.EIO, _where(query, error))
        self._reply(msgspec.structs.replace(answer, id=number))

    def _reply(self, answer: Answer) -> None:
        body = msgspec.msgpack.encode(answer)
        if len(body) > MESSAGE_MAX_BYTES:
            text = f"answer of {len(body)} bytes is longer than {MESSAGE_MAX_BYTES}"
            body = msgspec.msgpack.encode(Answer(answer.id, errno.EMSGSIZE, text))
        self._host.edge.control(pack(Kind.CONTROL, body))

    def _netlink(self, query: control.Netlink) -> Sleep[Answer]:
        answers = yield from self._host.net.netlink(query.request, query.privileged)
        return self._next_of(answers)

    def _netlink_more(self, query: control.NetlinkMore) -> Answer:
        answers = self._dumps.pop(query.dump, None)
        if answers is None:
            raise OffloadError(errno.ENOENT, f"dump {query.dump} has ended or was given up")
        return self._next_of(answers)

    def _netlink_together(self, query: control.NetlinkTogether) -> Sleep[Answer]:
        """A task for each requester, as a process for each would be."""
        replies: list[list[bytes]] = [[] for _ in query.requests]
        done = [Completion() for _ in query.requests]

        def ask(number: int) -> Sleep[None]:
            try:
                replies[number] += yield from self._host.net.netlink(query.requests[number])
            finally:
                done[number].complete()

        for number in range(len(query.requests)):
            self._host.spawn(ask(number))
        for one in done:
            yield from wait(one)
        return Answer(0, value=replies)

    def _next_of(self, answers: Answers) -> Answer:
        """The next piece; what is left waits under a number. Of too many, the oldest goes."""
        blobs = answers.take()
        if not answers:
            return Answer(0, blobs=blobs)
        self._last_dump += 1
        self._dumps[self._last_dump] = answers
        while len(self._dumps) > OPEN_DUMPS:
            del self._dumps[next(iter(self._dumps))]
        return Answer(0, blobs=blobs, value=self._last_dump)

    def _notifications(self, query: control.Notifications) -> Answer:
        messages, times_ns = self._host.notifications.take()
        return Answer(0, blobs=messages, value=times_ns)

    def _listen(self, query: control.Listen) -> Answer:
        groups = frozenset(Group)
        if query.groups is not None:
            unknown = set(query.groups) - groups
            if unknown:
                raise OffloadError(errno.EINVAL, f"multicast groups {sorted(unknown)} are unknown")
            groups = frozenset(map(Group, query.groups))
        room = NOTIFICATION_QUEUE if query.room is None else query.room
        if not 0 <= room <= NOTIFICATION_QUEUE:
            raise OffloadError(errno.EINVAL, f"room {room} is outside 0..{NOTIFICATION_QUEUE}")
        self._host.notifications.groups, self._host.notifications.room = groups, room
        return Answer(0)

    def _sysctl(self, query: control.Sysctl) -> Answer:
        name = query.name.removeprefix("net.core.xfrm_")
        if name not in SYSCTLS:
            known = ", ".join(f"net.core.xfrm_{each}" for each in SYSCTLS)
            raise OffloadError(errno.ENOENT, f"sysctl {query.name!r} is unknown, known are {known}")
        if not 0 <= query.value < 1 << 32:
            raise OffloadError(errno.EINVAL, f"{query.name}: {query.value} is no 32-bit number")
        setattr(self._host.net, name, query.value)
        return Answer(0)

    def _receive(self, query: control.Receive) -> Answer:
        return Answer(0, blobs=self._host.received.take(query.limit))

    def _discard(self, query: control.Discard) -> Answer:
        packets, size = self._host.received.discard()
        return Answer(0, values={"packets": packets, "bytes": size})

    def _mib(self, query: control.Mib) -> Answer:
        return Answer(0, values=self._host.net.statistics())

    def _snmp(self, query: control.Snmp) -> Answer:
        return Answer(0, values=self._host.net.snmp_statistics())

    def _trace(self, query: control.Trace) -> Answer:
        return Answer(0, value=self._host.trace.entries(query.start))

    def _about_faults(self, request: FaultRequest) -> Answer:
        return Answer(0, value=about_faults(self._host.faults, request))

    def _set_link(self, query: control.SetLink) -> Sleep[Answer]:
        host = self._host
        dev = host.devices.by_name(query.dev)
        if dev is None:
            raise OffloadError(errno.ENODEV, f"device {query.dev!r} does not exist")
        if query.mtu is not None:
            if dev is host.nic:
                yield from host.port.set_mtu(query.mtu)
            else:
                host.devices.set_mtu(dev, query.mtu)
        self._set_features(dev, query)
        if query.up is not None:
            host.devices.set_up(dev, query.up)
        if query.unregister:
            host.devices.unregister(dev)
        return Answer(0)

    def _set_features(self, dev: NetDevice, query: control.SetLink) -> None:
        caps = self._host.caps
        cuts = caps is not None and caps.segmentation and dev.ifindex != LOOPBACK_IFINDEX
        if query.segmentation and not cuts:
            raise OffloadError(errno.EOPNOTSUPP, f"device {dev.name} cuts no packets")
        wanted = dict.fromkeys(gso.FEATURES, query.segmentation)
        wanted |= {HW_ESP: query.esp_hw_offload, HW_ESP_TX_CSUM: query.esp_tx_csum_hw_offload}
        features = dev.features - {name for name, on in wanted.items() if on is False}
        features |= {name for name, on in wanted.items() if on}
        if features != dev.features:
            self._host.devices.set_features(dev, features)

    def _set_networks(self, query: control.SetNetworks) -> Answer:
        try:
            networks = [ipaddress.ip_network(text) for text in query.networks]
        except ValueError as error:
            raise OffloadError(errno.EINVAL, f"network: {error}") from None
        self._host.devices.networks = networks
        self._host.net.flows.clear()
        return Answer(0)

    def _add_device(self, query: control.AddDevice) -> Answer:
        host = self._host

        def unwired(skb: Skb) -> int:
            host.counters["xmit_without_wire"] += 1
            return 0

        nic = host.nic
        dev = NetDevice(
            query.name, nic.mac, features=nic.features, xfrmdev_ops=nic.xfrmdev_ops,
            start_xmit=unwired,
        )  # fmt: skip
        host.devices.register(dev)
        host.devices.set_up(dev, True)
        return Answer(0, value=dev.ifindex)

    def _set_clock_forward(self, query: control.SetClockForward) -> Answer:
        if query.seconds < 0:
            raise OffloadError(errno.EINVAL, f"a clock does not go back, by {query.seconds} s")
        self._host.clock_ahead_ns += query.seconds * NS
        return Answer(0)

    def _info(self, query: control.Info) -> Answer:
        host = self._host
        value = {
            "name": host.name,
            "pid": os.getpid(),
            "version": VERSION,
            "protocol": PROTOCOL_VERSION,
            "profile": host.net.profile.name,
            "driver": host.driver_name,
            "error": host.driver_error,
            "device_state": host.recovery.state.value,
            "caps": msgspec.to_builtins(host.caps),
            "devices": [_device(dev) for dev in host.devices],
        }
        return Answer(0, value=value)

    def _capture(self, query: control.Capture) -> Answer:
        clear_side = self._host.clear_side
        if query.on is not None:
            clear_side.on = query.on
            return Answer(0)
        return Answer(0, value=clear_side.take())


def _device(dev: NetDevice) -> dict[str, Any]:
    return {
        "name": dev.name,
        "ifindex": dev.ifindex,
        "mac": dev.mac,
        "mtu": dev.mtu,
        "up": dev.up,
        "carrier": dev.carrier,
        "features": sorted(dev.features),
        "refcnt": dev.refcnt,
    }


def _where(query: AnyQuery, error: Exception) -> str:
    """Type and place of a defect; not its text, which may quote what it was given, keys too."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(query).__name__}: {type(error).__name__} in {frame.name}, line {frame.lineno}"
