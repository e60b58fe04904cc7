# SPDX-License-Identifier: Apache-2.0
"""Target `kernel`: the running Linux, in a network namespace of its own, through AF_NETLINK.

The same requests go to a real socket. What a kernel cannot show from outside (calls of its driver,
packets, its clock) and what this one was built without (ESP, for one) skips the case with the
reason. A device named by `dev` is moved into the namespace and comes back with its end.
"""

import contextlib
import ctypes
import errno
import os
import platform
import re
import select
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest

from host_driver.conformance import messages
from host_driver.ip import Result, run
from proto import netlink
from proto.status import OffloadError
from proto.xfrm import NETLINK_XFRM, Group, Msg

CLONE_NEWNET = 0x4000_0000
SOL_NETLINK, NETLINK_EXT_ACK = 270, 11
REPLY_TIMEOUT_S = 5.0
DATAGRAM_BYTES = 1 << 20
PLAIN_SPI = 0x7FFF_FFFF
OWN_NAMESPACE = "/proc/thread-self/ns/net"


def release() -> tuple[int, int]:
    """Version of the running kernel, as (6, 18)."""
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(found[1]), int(found[2])) if found else (0, 0)


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
        if dev is not None:
            self._take(dev)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=False)
        self.nic = KernelNic(dev or "lo")
        self._lacking: frozenset[int] | None = None  # errnos of a plain SA
        self._requests = _socket(0)
        self._listener = _socket(sum(1 << (group - 1) for group in Group))

    def reset(self) -> None:
        """Take back what a case did."""
        for step in (
            "state flush",
            "policy flush",
            "policy setdefault in accept fwd accept out accept",
        ):
            with contextlib.suppress(pytest.skip.Exception):
                self.ip(f"xfrm {step}")
        self.notifications()

    def close(self) -> None:
        """Leave the namespace; with its last socket it ends, and a moved device goes home."""
        self._requests.close()
        self._listener.close()
        _call("setns", self._outside, CLONE_NEWNET)
        os.close(self._outside)

    # --- what a case may ask ---

    def ip(self, text: str) -> Result:
        """Our `ip xfrm` on the kernel's socket."""
        devices = {name: index for index, name in socket.if_nameindex()}
        return run(text, self.netlink, devices)

    def netlink(self, request: bytes) -> list[bytes]:
        """Send a datagram; the datagrams of its answer. Skips an SA that needs a missing part."""
        self._requests.send(request)
        wanted = _expected(request)
        answers: list[bytes] = []
        while wanted and _readable(self._requests, REPLY_TIMEOUT_S):
            data = self._requests.recv(DATAGRAM_BYTES)
            answers.append(data)
            wanted -= sum(_ends(message, request) for message in netlink.messages(data))
        self._skip_if_lacking(request, answers)
        return answers

    def notifications(self) -> list[bytes]:
        """Multicast messages since the last call."""
        found = []
        while _readable(self._listener, 0.05):
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

    def wait(self, seconds: float) -> None:
        """Real time passes."""
        time.sleep(seconds)

    def receive(self) -> list[bytes]:
        """No packets are sent to this target."""
        return []

    def trace(self) -> list[dict[str, Any]]:
        """The calls of a kernel's driver are not to be seen from outside."""
        _skip("the calls of the running kernel's driver are not to be seen")

    def send(self, packets: Any) -> list[int]:
        """Packets are not sent."""
        _skip("target kernel carries no packets")

    def set_link(
        self, dev: str, *, up: bool | None = None, mtu: int | None = None,
        esp_hw_offload: bool | None = None, unregister: bool = False,
    ) -> None:  # fmt: skip
        """Links of the running kernel are left alone."""
        _skip("target kernel leaves devices alone")

    def _skip_if_lacking(self, request: bytes, answers: list[bytes]) -> None:
        """Skip where an SA was refused that this kernel could not build in any case."""
        if int.from_bytes(request[4:6], "little") not in (Msg.NEWSA, Msg.UPDSA):
            return
        if self._lacking is None:
            self._lacking = frozenset()  # asked once, by an SA that nothing is wrong with
            refused = messages.reply(self.netlink(messages.new_sa(spi=PLAIN_SPI))).errno
            self.netlink(messages.request(Msg.DELSA, messages.sa_id(PLAIN_SPI)))
            self._lacking = frozenset({refused} - {0})
        if messages.reply(answers).errno in self._lacking:
            _skip(f"this kernel cannot build an ESP SA ({_names(self._lacking)})")

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


def _names(errnos: frozenset[int]) -> str:
    return ", ".join(errno.errorcode.get(code, str(code)) for code in errnos)


def _call(name: str, *arguments: int) -> None:
    """A function of libc that Python 3.11 does not have. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _socket(groups: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_XFRM)
    opened.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
    opened.bind((0, groups))
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
