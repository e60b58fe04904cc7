# SPDX-License-Identifier: Apache-2.0
"""`ip -batch` and `deleteall`: what iproute2 was seen to do, at a host of a lab."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from host_driver.ip import Result
from host_driver.ip import run as run_ip
from host_driver.lab import Lab
from host_driver.lab.handles import HostHandle
from proto.netlink import messages
from proto.xfrm import Msg

COUNT = "\t SPD IN  0 OUT {} FWD 0\n"
Batch = Callable[..., Result]


@pytest.fixture
def host() -> Iterator[HostHandle]:
    with Lab(target="sim", hosts=1, seed=7) as lab:
        yield lab.hosts[0]


@pytest.fixture
def batch(host: HostHandle, tmp_path: Path) -> Batch:
    def run(text: str, options: str = "") -> Result:
        path = tmp_path / "b"
        path.write_text(text)
        result = host.ip(f"ip {options} -batch {path}")
        return Result(result.rc, result.stdout, result.stderr.replace(str(path), "FILE"))

    return run


def test_lines_comments_and_continuations(batch: Batch) -> None:
    text = (
        "# a comment\n"
        "xfrm policy add src 1.1.1.1 dst 2.2.2.2 dir out\n"
        "\n"
        "xfrm policy count\n"
        "xfrm policy add src 1.1.1.1 \\\n"
        "  dst 2.2.2.3 dir out # another\n"
        "xfrm policy get src '1.1.1.1' dst \"2.2.2.3\" dir out\n"
    )
    policy = "src 1.1.1.1/32 dst 2.2.2.3/32 \n\tdir out priority 0 ptype main \n"
    assert batch(text) == Result(0, COUNT.format(1) + policy, "")


def test_a_list_ends_the_batch_with_success(batch: Batch) -> None:
    text = "xfrm policy count\nxfrm policy list\nxfrm policy count\nbogus\n"
    assert batch(text) == Result(0, COUNT.format(0), "")


def test_a_refusal_ends_the_batch_even_when_forced(batch: Batch) -> None:
    text = "xfrm policy count\nxfrm policy get src 1.1.1.1 dir out\nxfrm policy count\n"
    answer = Result(2, COUNT.format(0), "RTNETLINK answers: No such file or directory\n")
    assert batch(text) == answer
    assert batch(text, "-force") == answer


def test_an_unknown_object_is_told_with_its_line(batch: Batch) -> None:
    text = "xfrm policy count\nbogus\nxfrm policy count\n"
    stderr = 'Object "bogus" is unknown, try "ip help".\nCommand failed FILE:2\n'
    assert batch(text) == Result(1, COUNT.format(0), stderr)
    assert batch(text, "-force") == Result(1, 2 * COUNT.format(0), stderr)


def test_options_in_front_hold_for_every_line(batch: Batch) -> None:
    socket = " (Sock: IN 0 OUT 0 FWD 0)\n"
    assert batch("xfrm policy count\n", "-s").stdout == COUNT.format(0)[:-1] + socket
    assert batch("-s xfrm policy count\n").stderr.startswith('Object "-s" is unknown')


def test_a_file_that_is_not_there(host: HostHandle) -> None:
    stderr = 'Cannot open file "/no/b" for reading: No such file or directory\n'
    assert host.ip("ip -b /no/b") == Result(1, "", stderr)


def deletions(host: HostHandle, text: str) -> list[bytes]:
    """The deletions that a command sends."""
    sent: list[bytes] = []

    def transact(datagram: bytes) -> list[bytes]:
        sent.extend(
            msg.payload for msg in messages(datagram) if msg.type in (Msg.DELPOLICY, Msg.DELSA)
        )
        return host.netlink(datagram)

    assert run_ip(text, transact, {"lo": 1}).rc == 0
    return sent


def test_deleteall_names_mark_and_if_id(host: HostHandle) -> None:
    """The mark has 4 bytes too many: the attribute behind it, or nothing."""
    add = "xfrm policy add src 2.2.2.2 dst 0.0.0.0/0 dir in"
    for more in ("mark 1 mask 3", "if_id 5", "mark 1 mask 3 if_id 5"):
        assert host.ip(f"{add} {more}").rc == 0
    both, interface, mark = deletions(host, "xfrm policy deleteall")
    if_id = bytes.fromhex("08001f0005000000")
    assert both[64:] == bytes.fromhex("100015000100000003000000") + if_id[:4] + if_id
    assert interface[64:] == if_id
    assert mark[64:] == bytes.fromhex("10001500010000000300000000000000")
    assert host.ip("xfrm policy").stdout == ""


def test_deleteall_of_many_goes_in_rounds(host: HostHandle) -> None:
    for number in range(250):
        host.ip(f"xfrm policy add src 10.0.{number}.0/24 dst 10.1.0.0/16 dir out")
    result = host.ip("ip -s -s xfrm policy deleteall")
    counts = [line for line in result.stderr.splitlines() if "count" in line]
    assert counts == [f"Delete-all nlmsg count = {count}" for count in (102, 102, 46)]


def test_family_filters_lists(host: HostHandle) -> None:
    host.ip("xfrm policy add src fd00::1 dir out")
    host.ip("xfrm policy add src 10.0.0.1 dir out")
    assert "fd00::1" not in host.ip("ip -4 xfrm policy").stdout
    assert "10.0.0.1" not in host.ip("xfrm policy list src ::/0").stdout
    assert len(deletions(host, "ip -6 xfrm policy deleteall")) == 1
