# SPDX-License-Identifier: Apache-2.0
"""Endpoints over ZeroMQ: one DEALER socket per side and channel.

Credits bound what is in flight, so high-water marks stand far above every ring. Nothing lingers.

A link is the three channels between a host and its card, written as one text:

    ipc:///run/dir/card0                  -> ipc:///run/dir/card0.mailbox, .events, .rings
    tcp://127.0.0.1:0                     -> an ephemeral port each, reported by `Endpoint.address`
    mailbox=ADDRESS,events=ADDRESS,...    -> exactly these (how a connecting host is told the ports)

Keys cross the mailbox. tcp:// therefore needs CURVE on both sides, and a gate (`proto.link.gate`)
stands before every socket that is bound: it admits one peer only.

On the receiving side `wipe` zeroes the message where libzmq stored it; the copy that the sending
libzmq makes and frees is out of Python's reach (on ipc it never leaves the machine).
"""

import errno
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import zmq

from proto.frame import HEADER, Channel
from proto.limits import MESSAGE_MAX_BYTES, SOCKET_PATH_MAX_BYTES
from proto.link.curve import Curve
from proto.link.gate import Gate
from proto.link.watch import Watch
from proto.status import OffloadError

LINK_CHANNELS = (Channel.MAILBOX, Channel.EVENTS, Channel.RINGS)
HIGH_WATER_MESSAGES = 1 << 16
DRAIN_MESSAGES = 256
TERM_TIMEOUT_S = 2.0


def wipe(message: bytes | bytearray | memoryview) -> None:
    """Zero a message in place, as far as it is writable: bytearrays, and what Endpoints made with
    `wipe` received."""
    view = memoryview(message)
    if not view.readonly:
        view[:] = bytes(len(view))


def link_addresses(link: str) -> dict[Channel, str]:
    """The addresses of a link text, by channel. Raises OffloadError(EINVAL)."""
    if "=" not in link:
        if link.startswith("tcp://"):
            if not link.endswith(":0"):
                raise OffloadError(
                    errno.EINVAL,
                    f"link {link!r} names one port for three channels, use port 0 or "
                    "mailbox=ADDRESS,events=ADDRESS,rings=ADDRESS",
                )
            return dict.fromkeys(LINK_CHANNELS, link)
        return {channel: f"{link}.{channel.name.lower()}" for channel in LINK_CHANNELS}
    parts = dict(part.partition("=")[::2] for part in link.split(","))
    names = [channel.name.lower() for channel in LINK_CHANNELS]
    if sorted(parts) != sorted(names):
        raise OffloadError(
            errno.EINVAL, f"link {link!r} names {sorted(parts)}, a link needs {sorted(names)}"
        )
    return {channel: parts[channel.name.lower()] for channel in LINK_CHANNELS}


def _check_address(address: str, curve: Curve | None) -> str:
    """The address as ZeroMQ takes it. Raises OffloadError for one that we refuse."""
    scheme, separator, rest = address.partition("://")
    if not separator or scheme not in ("ipc", "tcp") or not rest:
        raise OffloadError(errno.EINVAL, f"address {address!r} is neither ipc://PATH nor tcp://")
    if scheme == "ipc":
        if rest[0] in "@*":
            raise OffloadError(
                errno.EINVAL, f"address {address!r} names no file that could have an owner"
            )
        length = len(rest.encode())
        if length > SOCKET_PATH_MAX_BYTES:
            raise OffloadError(
                errno.ENAMETOOLONG,
                f"socket path {rest} has {length} bytes, a socket takes {SOCKET_PATH_MAX_BYTES}; "
                "use a shorter run directory",
            )
        return address
    if curve is None:
        raise OffloadError(
            errno.EPERM, f"{address} without CURVE keys is refused: SA keys would cross it in clear"
        )
    return f"tcp://127.0.0.1{rest}" if rest.startswith(":") else address


def _check_owner(address: str) -> None:
    """Dial no ipc socket that somebody else made, or could ever make: keys would go there.

    A socket that is ours now is not enough. Once our card has died, whoever can write to the
    directory may take its name, and libzmq would dial again. Raises OffloadError(EPERM).
    """
    if not address.startswith("ipc://"):
        return
    path = Path(address.removeprefix("ipc://"))
    found = []
    with suppress(OSError):  # its card may come later
        found.append(path.lstat())
    for directory in path.parents:
        with suppress(OSError):
            found.append(directory.stat())
            break
    owners = {one.st_uid for one in found}
    if owners - {0, os.geteuid()} or found[-1].st_mode & 0o022:
        raise OffloadError(
            errno.EPERM, f"socket {path} is not safe to dial, another user made it or could make it"
        )


class Endpoint:
    """One side of one channel (`proto.link.Endpoint`). Made by a Hub; belongs to one thread.

    `address` is the real one, also where an ephemeral port was asked for. `unsent` counts messages
    that found no peer: the channel's index (or the missing reply) shows the loss to the receiver.
    With a `watch` the other end's coming and going is told.
    """

    def __init__(self, socket: zmq.Socket[bytes], address: str, *, wipe: bool) -> None:
        self.socket = socket
        self.address = address
        self.unsent = 0
        self.watch: Watch | None = None
        self._wipe = wipe

    def send(self, message: bytes) -> bool:
        """Queue one message; never blocks. Whether there was a peer to take it."""
        try:
            self.socket.send(message, zmq.NOBLOCK)
        except zmq.Again:
            self.unsent += 1
            return False
        return True

    def receive(self, limit: int = DRAIN_MESSAGES) -> list[bytes]:
        """What waits, at most `limit`; with `wipe` as writable memoryviews."""
        messages: list[bytes] = []
        try:
            while len(messages) < limit:
                messages.append(self._receive_one())
        except zmq.Again:
            pass
        return messages

    def _receive_one(self) -> bytes:
        if not self._wipe:
            return self.socket.recv(zmq.NOBLOCK)
        frame = self.socket.recv(zmq.NOBLOCK, copy=False)
        return frame.buffer  # type: ignore[return-value]  # parties read bytes-like

    def close(self) -> None:
        """Drop the channel; what is queued is lost."""
        if self.watch is not None:
            self.watch.close()
        self.socket.close(linger=0)


class Service:
    """One side that answers many clients, each of them an ordinary Endpoint (`Hub.connect`)."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket

    def wait(self, timeout_ms: int) -> bool:
        """Whether a request is there within `timeout_ms`."""
        return bool(self._socket.poll(timeout_ms))

    def receive(self) -> list[tuple[bytes, bytes]]:
        """(client, request) pairs that wait, at most DRAIN_MESSAGES."""
        requests: list[tuple[bytes, bytes]] = []
        try:
            while len(requests) < DRAIN_MESSAGES:
                client, *parts = self._socket.recv_multipart(zmq.NOBLOCK)
                requests.append((client, b"".join(parts)))
        except zmq.Again:
            pass
        return requests

    def send(self, client: bytes, message: bytes) -> None:
        """Answer one client; a client that has gone is not missed."""
        try:
            self._socket.send_multipart((client, message), zmq.NOBLOCK)
        except zmq.Again:
            pass

    def close(self) -> None:
        """Stop listening; what is queued is lost."""
        self._socket.close(linger=0)


class Hub:
    """The ZeroMQ context of a process, and every endpoint made in it.

    `refused` is called (in a thread of the gate) for each peer that is not let in.
    """

    def __init__(
        self, curve: Curve | None = None, refused: Callable[[], None] = lambda: None
    ) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._curve = curve
        self._endpoints: list[Endpoint | Service] = []
        self._gate: Gate | None = None
        self._refused = refused

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def bind(self, address: str, *, wipe: bool = False) -> Endpoint:
        """Listen. An ipc socket file gets mode 0600. Raises OffloadError with the address."""
        socket, real = self._listen(address, zmq.DEALER)
        return self._endpoint(socket, real, wipe=wipe)

    def serve(self, address: str) -> Service:
        """Listen for many clients. Same file mode and refusals as `bind`."""
        service = Service(self._listen(address, zmq.ROUTER)[0])
        self._endpoints.append(service)
        return service

    def connect(self, address: str, *, wipe: bool = False, watch: bool = False) -> Endpoint:
        """Dial; the peer may appear later. Raises OffloadError with the address."""
        checked = _check_address(address, self._curve)
        _check_owner(checked)
        socket = self._socket(checked, server=False)
        watching = Watch(socket) if watch else None
        self._attach(socket, socket.connect, checked)
        endpoint = self._endpoint(socket, checked, wipe=wipe)
        endpoint.watch = watching
        return endpoint

    def bind_link(self, link: str) -> dict[Channel, Endpoint]:
        """The card's side of a link; the mailbox wipes."""
        return {
            channel: self.bind(address, wipe=channel is Channel.MAILBOX)
            for channel, address in link_addresses(link).items()
        }

    def connect_link(self, link: str) -> dict[Channel, Endpoint]:
        """The host's side of a link; the mailbox wipes, and tells whether the card is there."""
        ends = {}
        for channel, address in link_addresses(link).items():
            mailbox = channel is Channel.MAILBOX
            ends[channel] = self.connect(address, wipe=mailbox, watch=mailbox)
        return ends

    def close(self) -> None:
        """Close every endpoint and end the context. A second call changes nothing."""
        for endpoint in self._endpoints:
            endpoint.close()
        self._endpoints.clear()
        if self._gate is not None:
            self._gate.stop()
            self._gate = None
        # libzmq may never finish a context although every socket is closed (libzmq#2586): it gets
        # some time, and the process goes on without it.
        ender = threading.Thread(target=self._context.term, daemon=True)
        ender.start()
        ender.join(TERM_TIMEOUT_S)

    @property
    def refused(self) -> Counter[str]:
        """Peers that were not let in, by reason: user, second, key, address, handshake."""
        return self._gate.refused if self._gate is not None else Counter()

    def _listen(self, address: str, kind: int) -> tuple[zmq.Socket[bytes], str]:
        checked = _check_address(address, self._curve)
        socket = self._socket(checked, server=True, kind=kind)
        if self._gate is None:
            key = self._curve.peer if self._curve else None
            self._gate = Gate(self._context, key, self._refused)
        self._gate.guard(socket, checked, single=kind == zmq.DEALER)
        self._attach(socket, socket.bind, checked)
        real = socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()  # type: ignore[union-attr]
        if checked.startswith("ipc://"):
            Path(checked.removeprefix("ipc://")).chmod(0o600)
        return socket, real

    def _socket(self, address: str, *, server: bool, kind: int = zmq.DEALER) -> zmq.Socket[bytes]:
        """A socket, not bound or connected yet; on tcp with our keys."""
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.set_hwm(HIGH_WATER_MESSAGES)
        if address.startswith("tcp://"):
            assert self._curve is not None
            socket.setsockopt(zmq.MAXMSGSIZE, HEADER.size + MESSAGE_MAX_BYTES)
            socket.curve_secretkey = self._curve.secret
            socket.curve_publickey = zmq.curve_public(self._curve.secret)
            if server:
                socket.curve_server = True
            else:
                socket.curve_serverkey = self._curve.peer
        return socket

    @staticmethod
    def _attach(socket: zmq.Socket[bytes], method: Callable[[str], object], address: str) -> None:
        try:
            method(address)
        except zmq.ZMQError as error:
            socket.close(linger=0)  # an open socket would keep the context from ending
            raise OffloadError(error.errno or errno.EIO, f"{address}: {error.strerror}") from None

    def _endpoint(self, socket: zmq.Socket[bytes], address: str, *, wipe: bool) -> Endpoint:
        endpoint = Endpoint(socket, address, wipe=wipe)
        self._endpoints.append(endpoint)
        return endpoint


class Poller:
    """Waits for endpoints and plain file descriptors at once."""

    def __init__(self, endpoints: Iterable[Endpoint | Watch], handles: Iterable[int] = ()) -> None:
        self._poller = zmq.Poller()
        self._by_socket: Mapping[object, Endpoint | Watch] = {e.socket: e for e in endpoints}
        for socket in self._by_socket:
            self._poller.register(socket, zmq.POLLIN)
        for handle in handles:
            self._poller.register(handle, zmq.POLLIN)

    def wait(self, timeout_ms: int | None) -> list[Endpoint | Watch | int]:
        """What is readable within `timeout_ms` (None waits for ever), in order of registration."""
        ready = self._poller.poll(timeout_ms)
        return [self._by_socket.get(item, item) for item, _ in ready]
