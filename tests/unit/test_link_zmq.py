# SPDX-License-Identifier: Apache-2.0
"""Endpoints over ZeroMQ: order, wiping, refused addresses, CURVE with one admitted peer."""

import errno
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from proto.frame import Channel
from proto.limits import SOCKET_PATH_MAX_BYTES
from proto.link.curve import Curve, write_keypair
from proto.link.zmq import Endpoint, Hub, Poller, link_addresses, wipe
from proto.status import OffloadError

DEADLINE_MS = 10_000


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="xn-") as path:
        yield Path(path)


def collect(endpoint: Endpoint, count: int) -> list[bytes]:
    """`count` messages, or what came before the deadline."""
    poller, messages = Poller([endpoint]), []
    while len(messages) < count and poller.wait(DEADLINE_MS):
        messages += endpoint.receive()
    return [bytes(message) for message in messages]


def test_messages_arrive_whole_and_in_order(directory: Path) -> None:
    with Hub() as hub:
        card = hub.bind(f"ipc://{directory}/x")
        host = hub.connect(f"ipc://{directory}/x")
        sent = [bytes([n % 256]) * (n * 37) for n in range(1000)]
        for message in sent:
            host.send(message)
        assert collect(card, len(sent)) == sent
        card.send(b"back")
        assert collect(host, 1) == [b"back"]


def test_the_socket_is_for_its_owner_only(directory: Path) -> None:
    with Hub() as hub:
        hub.bind(f"ipc://{directory}/x")
        assert stat.S_IMODE((directory / "x").stat().st_mode) == 0o600


def test_a_message_without_a_peer_is_counted_not_waited_for(directory: Path) -> None:
    with Hub() as hub:
        card = hub.bind(f"ipc://{directory}/x")
        card.send(b"nobody hears this")
        assert card.unsent == 1


@pytest.mark.parametrize("size", [1, 33, 34, 1000, 9000, 100_000])
def test_a_received_key_can_be_wiped_where_it_lies(directory: Path, size: int) -> None:
    with Hub() as hub:
        card = hub.bind(f"ipc://{directory}/x", wipe=True)
        hub.connect(f"ipc://{directory}/x").send(b"k" * size)
        assert Poller([card]).wait(DEADLINE_MS) == [card]
        (message,) = card.receive()
        assert isinstance(message, memoryview)
        assert bytes(message) == b"k" * size
        wipe(message)
        assert bytes(message) == bytes(size)


def test_a_path_too_long_for_a_socket_is_refused_with_a_remedy(directory: Path) -> None:
    path = f"{directory}/{'x' * SOCKET_PATH_MAX_BYTES}"
    with Hub() as hub, pytest.raises(OffloadError) as refusal:
        hub.bind(f"ipc://{path}")
    assert refusal.value.errno == errno.ENAMETOOLONG
    assert f"{len(path)} bytes" in refusal.value.text
    assert str(SOCKET_PATH_MAX_BYTES) in refusal.value.text
    assert "shorter run directory" in refusal.value.text


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("tcp://127.0.0.1:0", errno.EPERM),
        ("tcp://*:5000", errno.EPERM),
        ("udp://127.0.0.1:1", errno.EINVAL),
        ("inproc://x", errno.EINVAL),
        ("ipc://", errno.EINVAL),
        ("", errno.EINVAL),
        ("ipc:///no/such/directory/x", errno.ENOENT),
    ],
)
def test_addresses_that_are_refused(address: str, code: int) -> None:
    with Hub() as hub, pytest.raises(OffloadError) as refusal:
        hub.bind(address)
    assert refusal.value.errno == code


def curve(directory: Path, own: str, peer: str) -> Curve:
    return Curve.load(directory / f"{own}.secret", directory / f"{peer}.public")


def test_tcp_with_curve_reports_its_ephemeral_ports(directory: Path) -> None:
    for name in ("card", "host"):
        write_keypair(directory, name)
    with (
        Hub(curve(directory, "card", "host")) as one,
        Hub(curve(directory, "host", "card")) as other,
    ):
        ends = one.bind_link("tcp://127.0.0.1:0")
        ports = {end.address.rpartition(":")[2] for end in ends.values()}
        assert len(ports - {"0"}) == 3
        link = ",".join(f"{channel.name.lower()}={end.address}" for channel, end in ends.items())
        host = other.connect_link(link)
        for channel, end in host.items():
            end.send(channel.name.encode())
            assert collect(ends[channel], 1) == [channel.name.encode()]


def test_tcp_without_a_host_stays_on_loopback(directory: Path) -> None:
    write_keypair(directory, "card")
    with Hub(curve(directory, "card", "card")) as hub:
        assert hub.bind("tcp://:0").address.startswith("tcp://127.0.0.1:")


def test_a_stranger_with_a_valid_key_is_not_admitted(directory: Path) -> None:
    for name in ("card", "host", "stranger"):
        write_keypair(directory, name)
    with (
        Hub(curve(directory, "card", "host")) as one,
        Hub(curve(directory, "stranger", "card")) as foreign,
        Hub(curve(directory, "host", "card")) as other,
    ):
        card = one.bind("tcp://127.0.0.1:0")
        foreign.connect(card.address).send(b"let me in")
        other.connect(card.address).send(b"it is me")
        assert collect(card, 2 if Poller([card]).wait(DEADLINE_MS) == [] else 1) == [b"it is me"]
        assert Poller([card]).wait(200) == []


def test_a_secret_that_others_can_read_is_refused(directory: Path) -> None:
    secret, public = write_keypair(directory, "card")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    secret.chmod(0o644)
    with pytest.raises(OffloadError) as refusal:
        Curve.load(secret, public)
    assert refusal.value.errno == errno.EPERM


def test_key_files_that_hold_no_key_are_refused(directory: Path) -> None:
    secret, _ = write_keypair(directory, "card")
    short = directory / "short"
    short.write_text("no key")
    with pytest.raises(OffloadError, match="6 characters"):
        Curve.load(secret, short)
    with pytest.raises(OffloadError, match="No such file"):
        Curve.load(secret, directory / "missing")


def test_curve_keys_are_not_in_repr(directory: Path) -> None:
    secret, public = write_keypair(directory, "card")
    text = repr(Curve.load(secret, public))
    assert secret.read_text().strip() not in text
    assert public.read_text().strip() not in text


def test_a_link_names_three_channels() -> None:
    assert link_addresses("ipc:///r/card0") == {
        Channel.MAILBOX: "ipc:///r/card0.mailbox",
        Channel.EVENTS: "ipc:///r/card0.events",
        Channel.RINGS: "ipc:///r/card0.rings",
    }
    given = "mailbox=tcp://h:1,events=tcp://h:2,rings=tcp://h:3"
    assert link_addresses(given)[Channel.RINGS] == "tcp://h:3"


@pytest.mark.parametrize("link", ["tcp://h:5000", "mailbox=ipc:///x", "a=b,events=c,rings=d"])
def test_links_that_name_no_three_channels(link: str) -> None:
    with pytest.raises(OffloadError) as refusal:
        link_addresses(link)
    assert refusal.value.errno == errno.EINVAL
