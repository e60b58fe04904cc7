# SPDX-License-Identifier: Apache-2.0
"""Endpoints over ZeroMQ: one DEALER socket per side and channel. The only module that imports zmq.

Credits bound what is in flight, so high-water marks stand far above every ring. Nothing lingers.

A link is the three channels between a host and its card, written as one text:

    ipc:///run/dir/card0                  -> ipc:///run/dir/card0.mailbox, .events, .rings
    tcp://127.0.0.1:0                     -> an ephemeral port each, reported by `Endpoint.address`
    mailbox=ADDRESS,events=ADDRESS,...    -> exactly these (how a connecting host is told the ports)

Keys cross the mailbox. tcp:// therefore needs CURVE on both sides, and the side that binds admits
one peer only. On the receiving side `wipe` zeroes the message where libzmq stored it; the copy that
the sending libzmq makes and frees is out of Python's reach (on ipc it never leaves the machine).
"""

import errno
import stat
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import zmq

from proto.frame import HEADER, Channel
from proto.limits import MESSAGE_MAX_BYTES, SOCKET_PATH_MAX_BYTES
from proto.status import OffloadError

LINK_CHANNELS = (Channel.MAILBOX, Channel.EVENTS, Channel.RINGS)
HIGH_WATER_MESSAGES = 1 << 16
DRAIN_MESSAGES = 256
TERM_TIMEOUT_S = 2.0
CURVE_KEY_CHARS = 40
ZAP_DOMAIN = "xfrmnic"


@dataclass(frozen=True)
class Curve:
    """Our CURVE secret and the one public key that we talk to, Z85 text. `repr` shows neither."""

    secret: bytes = field(repr=False)
    peer: bytes = field(repr=False)

    @classmethod
    def load(cls, secret: Path, peer: Path) -> Self:
        """Read two key files. Raises OffloadError for a secret that others can read, or no key."""
        if stat.S_IMODE(_stat(secret)) & 0o077:
            raise OffloadError(
                errno.EPERM, f"CURVE secret {secret} is readable by others, make it mode 0600"
            )
        return cls(_read_key(secret), _read_key(peer))


def _stat(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError as error:
        raise OffloadError(
            error.errno or errno.ENOENT, f"CURVE key file {path}: {error.strerror}"
        ) from None


def _read_key(path: Path) -> bytes:
    _stat(path)
    key = path.read_bytes().strip()
    if len(key) != CURVE_KEY_CHARS:
        raise OffloadError(
            errno.EINVAL,
            f"CURVE key file {path} holds {len(key)} characters, a key has {CURVE_KEY_CHARS}",
        )
    return key


def write_keypair(directory: Path, name: str) -> tuple[Path, Path]:
    """Make a CURVE key pair: NAME.secret (0600) and NAME.public, one Z85 line each."""
    public, secret = zmq.curve_keypair()
    paths = directory / f"{name}.secret", directory / f"{name}.public"
    for path, key in zip(paths, (secret, public), strict=True):
        path.touch(0o600, exist_ok=False)
        path.write_bytes(key + b"\n")
    return paths


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


class Endpoint:
    """One side of one channel (`proto.link.Endpoint`). Made by a Hub; belongs to one thread.

    `address` is the real one, also where an ephemeral port was asked for. `unsent` counts messages
    that found no peer: the channel's index (or the missing reply) shows the loss to the receiver.
    """

    def __init__(self, socket: zmq.Socket[bytes], address: str, *, wipe: bool) -> None:
        self.socket = socket
        self.address = address
        self.unsent = 0
        self._wipe = wipe

    def send(self, message: bytes) -> None:
        """Queue one message; never blocks."""
        try:
            self.socket.send(message, zmq.NOBLOCK)
        except zmq.Again:
            self.unsent += 1

    def receive(self) -> list[bytes]:
        """What waits, at most DRAIN_MESSAGES; with `wipe` as writable memoryviews."""
        messages: list[bytes] = []
        try:
            while len(messages) < DRAIN_MESSAGES:
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


class _OnePeer:
    """ZAP policy: the client that owns this public key, nobody else."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def callback(self, domain: str, key: bytes) -> bool:
        return key == self._key


class Hub:
    """The ZeroMQ context of a process, and every endpoint made in it."""

    def __init__(self, curve: Curve | None = None) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._curve = curve
        self._endpoints: list[Endpoint | Service] = []
        self._authenticator: object = None

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

    def connect(self, address: str, *, wipe: bool = False) -> Endpoint:
        """Dial; the peer may appear later. Raises OffloadError with the address."""
        checked = _check_address(address, self._curve)
        socket = self._socket(checked, server=False)
        self._attach(socket, socket.connect, checked)
        return self._endpoint(socket, checked, wipe=wipe)

    def bind_link(self, link: str) -> dict[Channel, Endpoint]:
        """The card's side of a link; the mailbox wipes."""
        return {
            channel: self.bind(address, wipe=channel is Channel.MAILBOX)
            for channel, address in link_addresses(link).items()
        }

    def connect_link(self, link: str) -> dict[Channel, Endpoint]:
        """The host's side of a link; the mailbox wipes."""
        return {
            channel: self.connect(address, wipe=channel is Channel.MAILBOX)
            for channel, address in link_addresses(link).items()
        }

    def close(self) -> None:
        """Close every endpoint and end the context. A second call changes nothing."""
        for endpoint in self._endpoints:
            endpoint.close()
        self._endpoints.clear()
        if self._authenticator is not None:
            self._authenticator.stop()  # type: ignore[attr-defined]
            self._authenticator = None
        # libzmq may never finish a context although every socket is closed (libzmq#2586): it gets
        # some time, and the process goes on without it.
        ender = threading.Thread(target=self._context.term, daemon=True)
        ender.start()
        ender.join(TERM_TIMEOUT_S)

    def _listen(self, address: str, kind: int) -> tuple[zmq.Socket[bytes], str]:
        checked = _check_address(address, self._curve)
        socket = self._socket(checked, server=True, kind=kind)
        self._attach(socket, socket.bind, checked)
        real = socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()  # type: ignore[union-attr]
        if checked.startswith("ipc://"):
            Path(checked.removeprefix("ipc://")).chmod(0o600)
        return socket, real

    def _socket(self, address: str, *, server: bool, kind: int = zmq.DEALER) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.set_hwm(HIGH_WATER_MESSAGES)
        if address.startswith("tcp://"):
            socket.setsockopt(zmq.MAXMSGSIZE, HEADER.size + MESSAGE_MAX_BYTES)
            self._secure(socket, server=server)
        return socket

    def _secure(self, socket: zmq.Socket[bytes], *, server: bool) -> None:
        assert self._curve is not None
        socket.curve_secretkey = self._curve.secret
        socket.curve_publickey = zmq.curve_public(self._curve.secret)
        if not server:
            socket.curve_serverkey = self._curve.peer
            return
        if self._authenticator is None:
            from zmq.auth.thread import ThreadAuthenticator

            self._authenticator = authenticator = ThreadAuthenticator(self._context)
            authenticator.start()
            authenticator.configure_curve_callback(ZAP_DOMAIN, _OnePeer(self._curve.peer))
        socket.curve_server = True
        socket.zap_domain = ZAP_DOMAIN.encode()

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

    def __init__(self, endpoints: Iterable[Endpoint], handles: Iterable[int] = ()) -> None:
        self._poller = zmq.Poller()
        self._by_socket: Mapping[object, Endpoint] = {e.socket: e for e in endpoints}
        for socket in self._by_socket:
            self._poller.register(socket, zmq.POLLIN)
        for handle in handles:
            self._poller.register(handle, zmq.POLLIN)

    def wait(self, timeout_ms: int | None) -> list[Endpoint | int]:
        """What is readable within `timeout_ms` (None waits for ever), in order of registration."""
        ready = self._poller.poll(timeout_ms)
        return [self._by_socket.get(item, item) for item, _ in ready]
