# SPDX-License-Identifier: Apache-2.0
"""Who is let in at a socket, who is not, and what is said about it."""

import contextlib
import logging
import os
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proto.link.curve import Curve, write_keypair
from proto.link.gate import LOG_INTERVAL_S, LOG_LINES, Slow
from proto.link.zmq import Hub, Poller
from proto.status import OffloadError
from support import stranger

DEADLINE_S = 10.0
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="xn-") as path:
        yield Path(path)


def until(fact: Callable[[], object]) -> None:
    """Wait for what other threads do; fails at the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    poller = Poller([])
    while not fact():
        assert time.monotonic() < deadline
        poller.wait(5)


@ROOT
def test_another_user_gets_nothing_even_where_files_let_it(directory, caplog):
    directory.chmod(0o755)
    seen: list[int] = []
    with Hub(refused=lambda: seen.append(1)) as hub:
        card = hub.bind(f"ipc://{directory}/x")
        (directory / "x").chmod(0o666)
        card.send(b"for our peer only")
        assert stranger.talk(card.address, b"let me in", stranger.NOBODY) == []
        assert card.receive() == []
        assert hub.refused["user"] == len(seen) > 0
        host = hub.connect(card.address)  # and our peer still gets in
        host.send(b"it is me")
        assert Poller([card]).wait(10_000) == [card]
        assert card.receive() == [b"it is me"]
    assert f"refused at ipc://{directory}/x: user 65534, process" in caplog.text


def test_a_second_process_is_refused_while_the_first_lives(directory, caplog):
    with Hub() as hub, Hub() as other:
        card = hub.bind(f"ipc://{directory}/x")
        first = other.connect(card.address)
        first.send(b"first")
        assert Poller([card]).wait(10_000) == [card]
        assert stranger.talk(card.address, b"second", os.getuid()) == []
        card.send(b"for the first")
        assert Poller([first]).wait(10_000) == [first]
        assert (card.receive(), first.receive()) == ([b"first"], [b"for the first"])
        assert set(hub.refused) == {"second"}
    assert f"comes second, process {os.getpid()} is our peer" in caplog.text


def test_the_next_process_is_let_in_when_the_first_has_ended(directory):
    with Hub() as hub:
        card = hub.bind(f"ipc://{directory}/x")
        for message in (b"one", b"two"):
            assert stranger.talk(card.address, message, os.getuid()) == []
            assert card.receive() == [message]
        assert not hub.refused


def test_a_service_takes_many_processes_of_its_user(directory):
    with Hub() as hub, Hub() as other:
        service = hub.serve(f"ipc://{directory}/x")
        other.connect(f"ipc://{directory}/x").send(b"first")
        assert service.wait(10_000)
        assert stranger.talk(f"ipc://{directory}/x", b"second", os.getuid()) == []
        assert [message for _, message in service.receive()] == [b"first", b"second"]


def curve(directory: Path, own: str, peer: str) -> Curve:
    return Curve.load(directory / f"{own}.secret", directory / f"{peer}.public")


@pytest.mark.parametrize(
    ("secret", "server", "reason"),
    [
        ("", "", "handshake"),  # no key at all
        ("", "card.public", "key"),  # a key of its own
        ("", "host.public", "handshake"),  # and not even the card's right one
        ("card.secret", "card.public", "key"),
    ],
)
def test_tcp_takes_one_key_only(directory, caplog, secret, server, reason):
    for name in ("card", "host"):
        write_keypair(directory, name)
    paths = [str(directory / name) if name else "" for name in (secret, server)]
    with Hub(curve(directory, "card", "host")) as hub:
        card = hub.bind("tcp://127.0.0.1:0")
        card.send(b"for our peer only")
        assert stranger.talk(card.address, b"let me in", os.getuid(), *paths) == []
        assert card.receive() == []
        assert set(hub.refused) == {reason}
        with Hub(curve(directory, "host", "card")) as other:
            host = other.connect(card.address)
            host.send(b"it is me")
            assert Poller([card]).wait(10_000) == [card]
            assert card.receive() == [b"it is me"]
    assert f"refused at {card.address.rpartition(':')[0]}" in caplog.text
    assert "127.0.0.1" in caplog.text


def test_bytes_that_are_no_handshake(directory, caplog):
    write_keypair(directory, "card")
    with Hub(curve(directory, "card", "card")) as hub:
        card = hub.bind("tcp://127.0.0.1:0")
        port = int(card.address.rpartition(":")[2])
        for data in (b"GET / HTTP/1.1\r\n\r\n" * 9, b"\xff" * 200, bytes(200)):
            with socket.create_connection(("127.0.0.1", port)) as plain:
                plain.sendall(data)
                plain.settimeout(DEADLINE_S)
                with contextlib.suppress(ConnectionResetError):
                    while plain.recv(4096):
                        pass
        assert card.receive() == []
        until(lambda: hub.refused["handshake"])
    assert "127.0.0.1:" in caplog.text


def test_a_flood_of_strangers_is_a_few_lines(caplog):
    now = 0.0
    slow = Slow(lambda: now)
    for _ in range(1000):
        slow.warn("somebody")
    assert len(caplog.records) == LOG_LINES
    now += LOG_INTERVAL_S
    slow.warn("somebody else")
    assert len(caplog.records) == LOG_LINES + 1
    assert "somebody else (and 995 more" in caplog.text


@ROOT
def test_a_socket_that_somebody_else_made_is_not_dialled(directory):
    directory.chmod(0o777)
    path = directory / "x"
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(path))
        os.chown(path, stranger.NOBODY, stranger.NOBODY)
        with Hub() as hub, pytest.raises(OffloadError, match="not safe to dial"):
            hub.connect(f"ipc://{path}")


def test_a_socket_that_anybody_could_make_is_not_dialled(directory):
    directory.chmod(0o1777)
    with Hub() as hub, pytest.raises(OffloadError, match="not safe to dial"):
        hub.connect(f"ipc://{directory}/x")


def test_a_socket_whose_name_is_free_once_its_card_has_died_is_not_dialled(directory):
    """libzmq dials again by itself, and would find whoever has taken the name meanwhile."""
    address = f"ipc://{directory}/x"
    with Hub() as hub:
        hub.bind(address)
        hub.connect(address)
        directory.chmod(0o1777)
        with pytest.raises(OffloadError, match="not safe to dial"):
            hub.connect(address)


def test_a_socket_in_a_directory_that_anybody_could_make_is_not_dialled(directory):
    directory.chmod(0o1777)
    with Hub() as hub, pytest.raises(OffloadError, match="not safe to dial"):
        hub.connect(f"ipc://{directory}/later/x")


@pytest.mark.parametrize("name", ["@x", "*"])
def test_an_address_without_a_file_is_refused(name):
    """Names in Linux's abstract namespace have neither owner nor mode."""
    with Hub() as hub:
        for attach in (hub.bind, hub.serve, hub.connect):
            with pytest.raises(OffloadError, match="names no file"):
                attach(f"ipc://{name}")


def test_a_key_file_that_others_can_write_is_refused(directory):
    secret, public = write_keypair(directory, "card")
    assert stat.S_IMODE(public.stat().st_mode) & 0o022 == 0
    public.chmod(0o666)
    with pytest.raises(OffloadError, match="writable by others"):
        Curve.load(secret, public)


@pytest.fixture(autouse=True)
def _hear(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "xfrmnic.link")
