# SPDX-License-Identifier: Apache-2.0
"""What a lab adds to a NETLINK_XFRM socket: dumps in pieces, privilege, groups, sysctls."""

import errno
import struct
from collections.abc import Iterator

import pytest

from host_driver.lab import Lab
from host_driver.lab.handles import HostHandle
from proto.limits import NETLINK_DUMP_BYTES
from proto.netlink import NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, message, messages
from proto.status import OffloadError
from proto.xfrm import Group, Msg

SAS = 200
DUMP = message(Msg.GETSA, b"", NLM_F_REQUEST | NLM_F_DUMP, 1)
KEY = "0x" + "11" * 20


@pytest.fixture
def host() -> Iterator[HostHandle]:
    with Lab(target="sim", hosts=1, seed=7) as lab:
        yield lab.hosts[0]


def add(host: HostHandle, spi: int) -> None:
    result = host.ip(
        f"xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi {spi} "
        f"aead 'rfc4106(gcm(aes))' {KEY} 128"
    )
    assert result.rc == 0, result.stderr


def delete(host: HostHandle, spi: int) -> None:
    assert host.ip(f"xfrm state delete dst 10.0.0.2 proto esp spi {spi}").rc == 0


def spis(pieces: list[list[bytes]]) -> list[int]:
    found = [msg for piece in pieces for raw in piece for msg in messages(raw)]
    assert found[-1].type == NLMSG_DONE
    assert {msg.type for msg in found[:-1]} <= {Msg.NEWSA}
    return [int.from_bytes(msg.payload[72:76], "big") for msg in found[:-1]]


def test_a_dump_comes_in_pieces(host: HostHandle) -> None:
    for spi in range(1, SAS + 1):
        add(host, spi)
    pieces = list(host.netlink_pieces(DUMP))
    assert len(pieces) > 2
    assert all(sum(map(len, piece)) < NETLINK_DUMP_BYTES + 1024 for piece in pieces)
    assert spis(pieces) == list(range(SAS, 0, -1))
    assert [raw for piece in pieces for raw in piece] == host.netlink(DUMP)


def test_what_happens_during_a_dump_shows_in_it(host: HostHandle) -> None:
    """DUMP-01: deleted SAs are left out, new ones stand where the dump has been already."""
    for spi in range(1, SAS + 1):
        add(host, spi)
    walk = host.netlink_pieces(DUMP)
    first = next(walk)
    delete(host, 1)
    delete(host, SAS)  # was given already
    add(host, SAS + 1)
    assert spis([first, *walk]) == list(range(SAS, 1, -1))


def test_a_second_dump_of_one_datagram_is_busy(host: HostHandle) -> None:
    for spi in range(1, SAS + 1):
        add(host, spi)
    again = message(Msg.GETSA, b"", NLM_F_REQUEST | NLM_F_DUMP, 2)
    answers = [msg for raw in host.netlink(DUMP + again) for msg in messages(raw)]
    refused = [msg for msg in answers if msg.type == NLMSG_ERROR]
    assert [(msg.seq, struct.unpack_from("<i", msg.payload)[0]) for msg in refused] == [(2, -16)]
    assert answers[-1].type == NLMSG_DONE and len(answers) == SAS + 2


def test_dumps_given_up_do_not_pile_up(host: HostHandle) -> None:
    for spi in range(1, SAS + 1):
        add(host, spi)
    walks = [host.netlink_pieces(DUMP) for _ in range(70)]
    for walk in walks:
        next(walk)
    with pytest.raises(OffloadError) as refusal:
        next(walks[0])
    assert refusal.value.errno == errno.ENOENT
    assert sum(len(piece) for piece in walks[-1]) > 0


@pytest.mark.parametrize("type", [Msg.GETSA, Msg.NEWSA, Msg.GETSADINFO, Msg.NEWAE])
@pytest.mark.parametrize("flags", [NLM_F_REQUEST, NLM_F_REQUEST | NLM_F_DUMP])
def test_without_privilege_nothing_is_looked_at(host: HostHandle, type: int, flags: int) -> None:
    """UAPI-03: EPERM comes before a payload that is too short."""
    request = message(type, b"\1", flags, 9)
    (answer,) = host.netlink(request, privileged=False)
    (ack,) = messages(answer)
    assert ack.type == NLMSG_ERROR and struct.unpack_from("<i", ack.payload)[0] == -errno.EPERM


def test_an_unknown_type_is_refused_before_privilege(host: HostHandle) -> None:
    (answer,) = host.netlink(message(0x50, b"", NLM_F_REQUEST, 9), privileged=False)
    assert struct.unpack_from("<i", answer, 16)[0] == -errno.EINVAL


def test_a_host_hears_the_groups_that_it_listens_to(host: HostHandle) -> None:
    host.listen(Group.POLICY)
    add(host, 1)
    host.ip("xfrm policy add src 10.0.0.1 dst 10.0.0.2 dir out")
    types = [msg.type for raw in host.notifications() for msg in messages(raw)]
    assert types == [Msg.NEWPOLICY]
    with pytest.raises(OffloadError) as refusal:
        host.listen(77)
    assert refusal.value.errno == errno.EINVAL


def test_sysctl(host: HostHandle) -> None:
    host.sysctl("net.core.xfrm_acq_expires", 3)
    host.ip("xfrm state allocspi src 10.0.0.1 dst 10.0.0.2 proto esp")
    assert "expire add: soft 0(sec), hard 3(sec)" in host.ip("-s xfrm state").stdout
    for name, value, error in (("net.core.bogus", 1, errno.ENOENT), ("acq_expires", -1, 22)):
        with pytest.raises(OffloadError) as refusal:
            host.sysctl(name, value)
        assert refusal.value.errno == error
