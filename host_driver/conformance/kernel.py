# SPDX-License-Identifier: Apache-2.0
"""Target `kernel`: the running Linux, in a network namespace of its own, through AF_NETLINK.

The same requests go to a real socket, and UDP datagrams to a real stack, whose routes all lead to
one end of a veth pair. What a kernel cannot show from outside (calls of its driver, its clock) and
what this one was built without (ESP, for one) skips the case with the reason. A device named by
`dev` is moved into the namespace and comes back with its end.
"""

import contextlib
import ctypes
import errno
import os
import platform
import re
import select
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from host_driver.conformance import messages, packets
from host_driver.ip import Result, run
from proto import netlink
from proto.status import OffloadError
from proto.xfrm import NETLINK_XFRM, OFFLOAD_PACKET, Attr, Group, Msg

CLONE_NEWNET = 0x4000_0000
SOL_NETLINK, NETLINK_EXT_ACK = 270, 11
IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75
NOBODY = 65534
REPLY_TIMEOUT_S = 0.3  # the kernel has answered when the send returns
WAIT_MAX_S = 5  # of real time
DATAGRAM_BYTES = 1 << 20
PLAIN_SPI = 0x7FFF_FFFF
PLUMBING = (
    "link set lo up",
    "link add wire0 type veth peer name wire1",
    "link set wire1 up",
    "link set wire0 arp off up",
    "route add default dev wire0",
    "-6 route add default dev wire0",
)
OWN_NAMESPACE = "/proc/thread-self/ns/net"


def release() -> tuple[int, int]:
    """Version of the running kernel, as (6, 18)."""
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(found[1]), int(found[2])) if found else (0, 0)


def check_environment(dev: str | None) -> None:
    """Refuse a run that could not ask the kernel anything. Raises OffloadError(EPERM, ENOENT,
    ENODEV)."""
    if os.geteuid() != 0:
        raise OffloadError(errno.EPERM, "target kernel needs root, for a network namespace")
    if shutil.which("ip") is None:
        raise OffloadError(errno.ENOENT, "target kernel needs the command ip of iproute2")
    if dev is not None and dev not in (name for _, name in socket.if_nameindex()):
        raise OffloadError(errno.ENODEV, f"device {dev!r} does not exist")


class KernelNic:
    """The offload device, or `lo` where none was named."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ifindex = socket.if_nametoindex(name)
        self.mac = bytes(6)

    def counters(self) -> dict[str, int]:
        """A device of its own kind has counters of its own."""
        return {}

    def census(self) -> dict[str, int]:
        """Objects of hardware are not to be seen."""
        _skip("objects on a real device are not to be seen")


class KernelHost:
    """The running kernel as a host. Raises OffloadError(EPERM) without CAP_SYS_ADMIN."""

    def __init__(self, dev: str | None) -> None:
        self._outside = os.open(OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("unshare", CLONE_NEWNET)
        except OSError as error:
            os.close(self._outside)
            raise OffloadError(
                errno.EPERM, f"a network namespace of its own needs root: {error.strerror}"
            ) from None
        try:
            if dev is not None:
                self._take(dev)
            for words in PLUMBING:
                subprocess.run(["ip", *words.split()], check=False, capture_output=True)
            self.nic = KernelNic(dev or "lo")
        except BaseException:
            self._go_home()
            raise
        self._requests = _socket(())
        self._listener = _socket(Group)
        self._offloads = True
        self._lacking = dict(self._without())

    def reset(self, steps: Iterable[str]) -> None:
        """Take back what a case did, by these `ip` commands."""
        for step in steps:
            with contextlib.suppress(pytest.skip.Exception):
                self.ip(step)
        self.listen(*Group)

    def close(self) -> None:
        """Leave the namespace; with its last socket it ends, and a moved device goes home."""
        self._requests.close()
        self._listener.close()
        self._go_home()

    def _go_home(self) -> None:
        _call("setns", self._outside, CLONE_NEWNET)
        os.close(self._outside)

    # --- what a case may ask ---

    def ip(self, text: str) -> Result:
        """Our `ip xfrm` on the kernel's socket."""
        devices = {name: index for index, name in socket.if_nameindex()}
        return run(text, self.netlink, devices)

    def netlink(self, request: bytes, privileged: bool = True) -> list[bytes]:
        """Send a datagram; the datagrams of its answer. Skips where a part of the kernel is missing
        that the request needs."""
        if not self._offloads and _wants_offload(request):
            _skip("this kernel was built without offload and makes software objects instead")
        answers = self._asked(request, privileged)
        refused = messages.reply(answers)
        missing = self._lacking.get((_type(request), refused.errno, refused.text))
        if refused.errno and missing:
            _skip(f"this kernel refuses {missing} ({errno.errorcode[refused.errno]})")
        return answers

    def netlink_together(self, requests: Sequence[bytes]) -> list[list[bytes]]:
        """That a driver sleeps while another request comes cannot be arranged."""
        _skip("requests to the running kernel come one after the other")

    def listen(self, *groups: int, room: int | None = None) -> None:
        """Be a member of these multicast groups only."""
        if room is not None:
            _skip("buffers of the running kernel are measured in bytes, not in messages")
        self._listener.close()
        self._listener = _socket(groups)

    def sysctl(self, name: str, value: int) -> None:
        """`sysctl -w NAME=VALUE` in this namespace."""
        Path("/proc/sys", *name.split(".")).write_text(str(value))

    def notifications(self) -> list[bytes]:
        """Multicast messages since the last call."""
        found = []
        while _readable(self._listener, 0):  # they were queued before the request was answered
            found.append(self._listener.recv(DATAGRAM_BYTES))
        return found

    def mib(self) -> dict[str, int]:
        """/proc/net/xfrm_stat of this namespace; empty where the kernel was built without it."""
        with contextlib.suppress(OSError):
            lines = Path("/proc/thread-self/net/xfrm_stat").read_text().splitlines()
            return {name: int(count) for name, count in map(str.split, lines)}
        return {}

    def devices(self) -> list[dict[str, Any]]:
        """Name and ifindex; references are the kernel's secret."""
        return [{"name": name, "ifindex": index} for index, name in socket.if_nameindex()]

    def add_device(self, name: str) -> int:
        """There is the one that was named."""
        _skip("target kernel has one offload device at the most")

    def wait(self, seconds: float) -> None:
        """Real time passes."""
        if seconds > WAIT_MAX_S:
            _skip(f"would wait {seconds} s of real time")
        time.sleep(seconds)

    def send(self, packets: Sequence[bytes]) -> list[int]:
        """The stack sends UDP datagrams, from whatever address; an errno each."""
        return [_send_udp(packet) for packet in packets]

    def receive(self) -> list[bytes]:
        """Nobody takes what comes in."""
        return []

    def trace(self) -> list[dict[str, Any]]:
        """The calls of a kernel's driver are not to be seen from outside."""
        _skip("the calls of the running kernel's driver are not to be seen")

    def set_link(
        self, dev: str, *, up: bool | None = None, mtu: int | None = None,
        esp_hw_offload: bool | None = None, esp_tx_csum_hw_offload: bool | None = None,
        unregister: bool = False,
    ) -> None:  # fmt: skip
        """Links of the running kernel are left alone."""
        _skip("target kernel leaves devices alone")

    def _without(self) -> Iterator[tuple[tuple[int, int, str], str]]:
        """(type, errno, text) -> what this kernel was built without: asked with the plainest object
        of each kind, so what is refused for the same reason is nobody's fault."""
        sel = messages.selector("198.51.100.1", "198.51.100.2")
        packet = {Attr.OFFLOAD_DEV: messages.offload(self.nic.ifindex, OFFLOAD_PACKET)}
        info = messages.sa_info(PLAIN_SPI)
        plain = (
            ("an ESP SA with AES-GCM", Msg.NEWSA, messages.new_sa(info)),
            ("an ESP SA with AES-CBC", Msg.NEWSA, messages.new_sa(info, messages.ALGORITHMS)),
            ("policy offload", Msg.NEWPOLICY, messages.new_policy(attributes=packet, sel=sel)),
        )
        for name, type, request in plain:
            refused = messages.reply(self._asked(request))
            for same in (type, Msg.UPDSA if type == Msg.NEWSA else Msg.UPDPOLICY):
                yield (same, refused.errno, refused.text), name
            if type == Msg.NEWPOLICY and not refused.errno:
                shown = self._asked(messages.request(Msg.GETPOLICY, messages.policy_id(sel)))
                self._offloads = Attr.OFFLOAD_DEV in messages.reply(shown).notes[0].attributes
            self._asked(messages.request(Msg.DELSA, messages.sa_id(PLAIN_SPI)))
            self._asked(messages.request(Msg.DELPOLICY, messages.policy_id(sel)))
        self.notifications()

    def _asked(self, request: bytes, privileged: bool = True) -> list[bytes]:
        with contextlib.nullcontext() if privileged else _nobody():
            self._requests.send(request)
        wanted = _expected(request)
        answers: list[bytes] = []
        while wanted and _readable(self._requests, REPLY_TIMEOUT_S):
            data = self._requests.recv(DATAGRAM_BYTES)
            answers.append(data)
            wanted -= sum(_ends(message, request) for message in netlink.messages(data))
        return answers

    def _take(self, dev: str) -> None:
        """Move a device in from the namespace that we came from."""
        done = subprocess.run(
            ["nsenter", f"--net=/proc/self/fd/{self._outside}",
             "ip", "link", "set", dev, "netns", str(os.getpid())],
            check=False, capture_output=True, text=True, pass_fds=(self._outside,),
        )  # fmt: skip
        if done.returncode:
            raise OffloadError(errno.ENODEV, f"device {dev}: {done.stderr.strip()}")
        subprocess.run(["ip", "link", "set", dev, "up"], check=True)


def _skip(reason: str) -> NoReturn:
    pytest.skip(reason)


def _wants_offload(request: bytes) -> bool:
    with contextlib.suppress(netlink.NetlinkError):
        return any(Attr.OFFLOAD_DEV in one.attributes for one in messages.notes([request]))
    return False


def _type(request: bytes) -> int:
    return int.from_bytes(request[4:6], "little")


@contextlib.contextmanager
def _nobody() -> Iterator[None]:
    """Without any capability for a while."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def _send_udp(packet: bytes) -> int:
    """Let the stack send a datagram like this one; 0, or why it did not."""
    size = packets.header_bytes(packet)
    if packets.protocol(packet) != packets.UDP:
        _skip("target kernel sends UDP only")
    v6 = size == 40
    at = 8 if v6 else 12
    ends = packet[at:size]
    half = len(ends) // 2
    family = socket.AF_INET6 if v6 else socket.AF_INET
    source, target = (socket.inet_ntop(family, end) for end in (ends[:half], ends[half:]))
    sport, dport = struct.unpack_from(">HH", packet, size)
    level, option = (socket.IPPROTO_IPV6, IPV6_TRANSPARENT) if v6 else (0, IP_TRANSPARENT)
    with socket.socket(family, socket.SOCK_DGRAM) as opened:
        opened.setsockopt(level, option, 1)
        try:
            opened.bind((source, sport))
            opened.sendto(packet[size + 8 :], (target, dport))
        except OSError as error:
            return error.errno or errno.EIO
    return 0


def _call(name: str, *arguments: int) -> None:
    """A function of libc that Python 3.11 does not have. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _socket(groups: Iterable[int]) -> socket.socket:
    """A netlink socket that is a member of these groups."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_XFRM)
    opened.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
    opened.bind((0, sum(1 << (group - 1) for group in groups)))
    return opened


def _readable(opened: socket.socket, seconds: float) -> bool:
    return bool(select.select([opened], [], [], seconds)[0])


def _expected(request: bytes) -> int:
    """How many final messages an answer to this datagram has, when all of it is answered."""
    count = 0
    with contextlib.suppress(netlink.NetlinkError):
        count = sum(1 for _ in netlink.messages(request))
    return count


def _ends(message: netlink.NlMsg, request: bytes) -> bool:
    """Whether this message is the last of an answer: ack, error, DONE, or the one reply."""
    flags = int.from_bytes(request[6:8], "little")
    if message.type in (netlink.NLMSG_ERROR, netlink.NLMSG_DONE):
        return True
    return not flags & (netlink.NLM_F_ACK | netlink.NLM_F_ROOT)
