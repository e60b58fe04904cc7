# SPDX-License-Identifier: Apache-2.0
"""The sweep: every step of every add fails once, in every way, and leaves nothing behind.

The steps are counted first: the n-th one is made to fail for n = 1, 2, 3, ..., until the add
succeeds because there is no n-th step. Then commands to the card fail, each in each way that a card
can fail, and so does the undoing.
"""

import errno
import itertools

import pytest

from host_driver.lab import Lab
from proto.status import STATUS_ERRNO, Status
from support.adds import ADDS, attempt, everything, take_away
from support.rows import row

EVERY_ADD = pytest.mark.parametrize("name", ADDS)
DESTROYS = {"CREATE_KEY": [], "CREATE_SA": ["DESTROY_KEY"],
            "CREATE_SA_RULE": ["DESTROY_SA", "DESTROY_KEY"], "CREATE_POLICY_RULE": []}  # fmt: skip
COMMANDS = [
    pytest.param(name, opcode, id=f"{name}-{opcode}")
    for name, add in ADDS.items()
    for opcode in add.opcodes
]


@pytest.fixture(scope="module")
def hosts():
    """A host for each target, with an SA and a policy that nothing may touch."""
    made: dict[str, Lab] = {}

    def host(target: str):
        if target not in made:
            made[target] = Lab(target=target, hosts=1, card="full", seed=31)
            made[target].start()
        lab = made[target]
        (host,) = lab.hosts
        take_away(host)
        for text in (
            ADDS["packet-out"].text.replace("10.1.0.2", "10.9.0.9").replace("0x1000", "0x9000"),
            ADDS["protect-out"].text.replace("10.1.0.2", "10.9.0.9"),
        ):
            assert attempt(host, text) == (0, "")
        lab.settle()
        return lab, host

    yield host
    for lab in made.values():
        lab.close()


def after_failure(lab, host, text: str, before: dict) -> None:
    """Nothing is left, and the next add succeeds."""
    lab.faults.reset()
    lab.settle()
    assert everything(host) == before
    assert attempt(host, text) == (0, "")


@row("F-TAB-03", process=True)
@EVERY_ADD
def test_every_step_of_every_add_can_fail(hosts, target, name) -> None:
    lab, host = hosts(target)
    add, before, failed = ADDS[name], everything(host), []
    for number in itertools.count(1):
        fault = lab.faults.add(site="host.step", kind="fail", fail_nth=number, value=errno.ENOMEM)
        code, said = attempt(host, add.text)
        fired = [one for one in lab.faults.log() if one["name"] == fault]
        lab.faults.reset()
        if not fired:
            break
        failed.append(fired[0]["facts"]["step"])
        assert (code, len(fired)) == (errno.ENOMEM, 1)
        assert f"step {failed[-1]} failed" in said
        lab.settle()
        assert everything(host) == before
    assert code == 0, "the add succeeds when there is no step left to fail"
    assert failed == list(add.steps)


@row("F-TAB-03")
@pytest.mark.parametrize(("name", "opcode"), COMMANDS)
def test_every_status_of_every_command_is_told_and_undone(hosts, target, name, opcode) -> None:
    lab, host = hosts(target)
    before = everything(host)
    for status in [status for status in Status if status] + [77]:
        with lab.faults.inject(
            site="card.command", kind="status", match={"opcode": opcode}, times=1,
            value=f"{int(status)}:0x1a2b3c4d:no, says the card",
        ):  # fmt: skip
            code, said = attempt(host, ADDS[name].text)
        assert code == (STATUS_ERRNO[status] if status != 77 else errno.EIO)
        assert said == "Error: no, says the card (syndrome 0x1a2b3c4d).\n"
        lab.settle()
        assert everything(host) == before, status
    after_failure(lab, host, ADDS[name].text, before)


# What a card, or the way to it, can do to a command; errno, None: the add may also succeed.
BROKEN = {
    "not delivered": ("card.command", {"kind": "undelivered", "value": "TOKEN"}, errno.EBADR),
    "lost in the firmware": ("card.command", {"kind": "undelivered", "value": 6}, errno.EIO),
    "done, and denied": ("card.command", {"kind": "misreport", "value": "9:7"}, errno.EIO),
    "wrong token": ("card.command", {"kind": "wrong-token"}, errno.EBADR),
    "cut reply": ("card.command", {"kind": "truncated"}, errno.EIO),
    "another's reply": ("card.command", {"kind": "other-shape"}, errno.EIO),
    "done, no reply": ("card.command", {"kind": "silent"}, errno.ETIMEDOUT),
    "not done, no reply": ("card.command", {"kind": "silent", "value": "before"}, errno.ETIMEDOUT),
    "late reply": ("card.command", {"kind": "delay", "delay_ms": 2500}, errno.ETIMEDOUT),
    "done late": (
        "card.command", {"kind": "delay", "delay_ms": 5000, "value": "before"}, errno.ETIMEDOUT,
    ),
    "reply doubled": ("mailbox.reply", {"kind": "duplicate", "value": 3}, 0),
    "command doubled": ("mailbox.command", {"kind": "duplicate", "value": 3}, 0),
    "reply lost": ("mailbox.reply", {"kind": "drop"}, errno.ETIMEDOUT),
    "command lost": ("mailbox.command", {"kind": "drop"}, errno.ETIMEDOUT),
    "interrupt lost": ("mailbox.interrupt", {"kind": "lost"}, 0),
}  # fmt: skip


@row("F-TAB-03")
@pytest.mark.parametrize(("name", "opcode"), COMMANDS)
def test_every_way_in_which_a_command_breaks_is_survived(hosts, target, name, opcode) -> None:
    lab, host = hosts(target)
    before = everything(host)
    for what, (site, fields, expected) in BROKEN.items():
        lab.faults.add(site=site, match={"opcode": opcode}, times=1, **fields)
        code, said = attempt(host, ADDS[name].text)
        assert code == expected, (what, said)
        if code:
            assert (said.startswith("Error: ") and opcode in said) or "fault" in said, what
            lab.advance(8)
            assert everything(host) == before, what
            assert attempt(host, ADDS[name].text) == (0, ""), what
        lab.settle()
        assert lab.faults.log(), what
        remove(host, ADDS[name].text)
        lab.faults.reset()
        lab.advance(8)
        assert everything(host) == before, what


@row("F-TAB-03")
@pytest.mark.parametrize(("name", "opcode"), COMMANDS)
@pytest.mark.parametrize("times", [1, 3, 9], ids=lambda times: f"{times} times")
def test_undoing_may_fail_as_well(hosts, target, name, opcode, times) -> None:
    """The command fails, and so do the destroys that take back what was made before it."""
    lab, host = hosts(target)
    before = everything(host)
    lab.faults.add(
        site="card.command", kind="status", match={"opcode": opcode}, times=1, value="9:0x55"
    )
    for destroy in DESTROYS[opcode]:
        lab.faults.add(
            site="card.command", kind="status", match={"opcode": destroy}, times=times,
            value="OBJECT_BUSY" if times == 3 else "INTERNAL_ERROR",
        )  # fmt: skip
    code, said = attempt(host, ADDS[name].text)
    assert (code, "syndrome 0x55" in said) == (errno.EIO, True)
    lab.advance(20)
    for _ in range(3):  # audits try again what is in quarantine
        host.nic.audit()
    after_failure(lab, host, ADDS[name].text, before)


@row("F-TAB-03")
@EVERY_ADD
@pytest.mark.parametrize("undoing", [False, True], ids=["making", "undoing"])
def test_the_card_may_die_at_any_command(hosts, target, name, undoing) -> None:
    """While something is made, or while it is taken back: the add ends with an error, and the next
    boot has the policies and nothing else."""
    lab, host = hosts(target)
    add = ADDS[name]
    assert host.ip("xfrm state flush").rc == 0
    lab.settle()
    before = everything(host)
    for number in range(1, len(add.opcodes) + 1 - undoing):
        if undoing:  # the last command is refused, and its undoing kills the card
            lab.faults.add(
                site="card.command", kind="status", match={"opcode": add.opcodes[-1]}, times=1,
                value="NO_RESOURCES",
            )  # fmt: skip
        skip = number - 1 + (len(add.opcodes) if undoing else 0)
        lab.faults.add(
            site="card.process", kind="crash", match={"kind": "COMMAND"}, skip=skip, times=1
        )
        code, said = attempt(host, add.text)
        assert code in ((errno.ENOSPC,) if undoing else (errno.ENXIO, errno.ETIMEDOUT)), said
        lab.faults.reset()
        assert lab.state("card0") == "dead"
        host.nic.restart()
        lab.advance(5)
        lab.settle()
        assert everything(host) == before, number
        assert attempt(host, add.text) == (0, "")
        remove(host, add.text)
        lab.settle()


def remove(host, text: str) -> None:
    """Delete what an add has made."""
    words = text.split()
    what = words[1]
    if what == "state":
        ends = " ".join(words[3:7])
        done = host.ip(f"xfrm state delete {ends} proto esp spi 0x1000")
    else:
        done = host.ip(f"xfrm policy delete {' '.join(words[3:9])}")
    assert (done.rc, done.stderr) == (0, "")
