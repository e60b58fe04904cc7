# SPDX-License-Identifier: Apache-2.0
"""What a key manager asks for and what it gets: features, refusals, fallbacks, traps, routes."""

import errno

import pytest

from host_driver.lab import Lab
from host_driver.xfrm.profile import profile_by_name
from support.core import Core
from support.esp import GCM, datagram, policy, state, template
from support.rows import row

PROBE_S = 30  # longest that a host may take to get its card back
CX6DX_WINDOWS = (32, 64, 128, 256)


class Accepting:
    """A driver that takes everything."""

    def xdo_dev_state_add(self, dev, x, extack) -> int:
        return 0

    def xdo_dev_state_delete(self, dev, x) -> None:
        pass

    def xdo_dev_policy_add(self, xp, extack) -> int:
        return 0

    def xdo_dev_policy_delete(self, xp) -> None:
        pass


def offloaded(dir: str = "out", kind: str = "packet") -> str:
    return f"offload {kind} dev nic0 dir {dir}"


def add(host, *commands: str) -> None:
    for command in commands:
        done = host.ip(command)
        assert (done.rc, done.stderr) == (0, ""), command


def clear_frames(lab) -> list[bytes]:
    """Frames with one of our datagrams in clear."""
    return [frame.data for frame in lab.wire.frames() if frame.data[23] == 17]


def shown(host) -> bool:
    """Whether the user is told that an SA is on the card."""
    return "mode packet" in host.ip("xfrm state list").stdout


@row("F-MGT-01", process=True)
def test_who_thinks_it_is_offloaded_is_right(target) -> None:
    """The device says whether it has the feature; an SA is shown as offloaded if it is on the card;
    and nothing leaves in clear, whatever the feature says."""
    with Lab(target=target) as lab:
        (host,) = lab.hosts
        nic = next(dev for dev in host.devices() if dev["name"] == "nic0")
        assert "esp-hw-offload" in nic["features"]
        out = policy("out", "offload packet dev nic0 " + template())
        add(host, state(GCM, extra=offloaded()), out)
        host.set_link(esp_hw_offload=False)
        nic = next(dev for dev in host.devices() if dev["name"] == "nic0")
        assert "esp-hw-offload" not in nic["features"]
        for again in range(2):
            lab.settle()
            assert shown(host) == bool(host.nic.census()["sas"])
            host.send([datagram()])
            if not again:
                host.ip("xfrm state flush")
                host.ip(state(GCM, extra=offloaded()))
        lab.settle()
        assert clear_frames(lab) == []


NOT_OFFERED = [
    (state(GCM.replace(" 128", " 64"), extra=offloaded()), "ICV of 64 bits"),
    (state(GCM.replace("14 128", "14" + "aa" * 8 + " 128"), extra=offloaded()), "192 bits"),
    (state(GCM, extra="replay-window 33 " + offloaded("in")), "replay window 33"),
    (state(GCM, extra="encap espinudp 4500 4500 0.0.0.0 " + offloaded()), "UDP encapsulation"),
    (state(GCM, "beet", offloaded()), "mode beet"),
]
WRONG = [
    state(GCM.replace("0x", "0xaa"), extra=offloaded()),
    state(GCM, extra=offloaded()).replace("spi 0x1000", "spi 0"),
    state(GCM, extra="replay-window 32 " + offloaded("out")),
    state(GCM, extra=offloaded()).replace("dev nic0", "dev nic9"),
]


@row("F-MGT-02")
def test_every_refusal_says_what_is_wrong(target) -> None:
    """EINVAL is all that a kernel has for it; the texts tell what the card does not offer, which a
    daemon may answer with a fallback, from what is wrong."""
    with Lab(target=target, card="cx6dx") as lab:
        (host,) = lab.hosts
        texts = []
        for command, words in NOT_OFFERED:
            done = host.ip(command)
            assert done.rc == 2 and words in done.stderr and "not offered" in done.stderr, command
            texts.append(done.stderr)
        for command in WRONG:
            done = host.ip(command)
            assert done.rc and done.stderr and "not offered" not in done.stderr, command
            texts.append(done.stderr)
        assert len(set(texts)) == len(texts)
        assert not host.ip("xfrm state list").stdout and not any(host.nic.census().values())


@row("F-MGT-03", process=True)
def test_packet_offload_that_is_not_there_is_refused(target) -> None:
    with Lab(target=target, card="crypto-only") as lab:
        (host,) = lab.hosts
        done = host.ip(state(GCM, extra=offloaded()))
        assert done.rc == 2 and "no packet offload" in done.stderr
        done = host.ip(policy("out", "offload packet dev nic0 " + template()))
        assert done.rc == 2 and "no packet offload" in done.stderr
        for table in ("state", "policy"):
            assert not host.ip(f"xfrm {table} list").stdout
        add(host, state(GCM, extra=offloaded(kind="crypto")))
        assert "mode crypto" in host.ip("xfrm state list").stdout


@row("F-MGT-03")
def test_software_is_no_secret(target) -> None:
    """Crypto offload may end up in software (STATE-24), and then nobody is told otherwise."""
    with Lab(target=target, card="full:crypto=no") as lab:
        (host,) = lab.hosts
        add(host, state(GCM, extra=offloaded(kind="crypto")), policy("out", template()))
        assert "offload" not in host.ip("xfrm state list").stdout
        assert not any(host.nic.census().values())
        host.send([datagram()])
        lab.settle()
        assert clear_frames(lab) == [] and len(lab.wire.frames()) == 1


@row("F-MGT-04", process=True)
def test_a_window_is_as_large_as_asked_for_or_refused(target) -> None:
    with Lab(target=target, card="cx6dx") as lab:
        (host,) = lab.hosts
        for size in (1, 31, 33, 65, 255, 257, 1024):
            done = host.ip(state(GCM, extra=f"replay-window {size} {offloaded('in')}"))
            assert done.rc == 2 and f"replay window {size} is not offered" in done.stderr
            assert "32, 64, 128, 256" in done.stderr
            assert not any(host.nic.census().values())
        for number, size in enumerate(CX6DX_WINDOWS, 0x2000):
            add(host, state(GCM, extra=f"replay-window {size} {offloaded('in')}", spi=number))
            assert f"replay-window {size}" in host.ip("xfrm state list").stdout.replace("_", "-")


@row("F-MGT-05", process=True)
def test_a_probe_that_hangs_ends(target) -> None:
    """The card swallows the answer to the first questions; the host asks again, and goes on."""
    with Lab(target=target) as lab:
        (host,) = lab.hosts
        lab.faults.add("probe-hangs")
        before = lab.now_ns()
        host.reload()
        lab.settle()
        assert (lab.now_ns() - before) / 1e9 < PROBE_S
        assert len([one for one in lab.faults.log() if one["name"] == "probe-hangs"]) == 2
        add(host, state(GCM, extra=offloaded()))
        assert host.nic.census()["sas"] == 1


@row("F-MGT-06", process=True)
def test_a_trap_in_software_catches_what_the_card_lets_go(target) -> None:
    """A wide block policy in software stands behind an offloaded one. While that is there it
    decides, and packets are protected or vanish; it goes when the link goes down, and the trap is
    left."""
    with Lab(target=target) as lab:
        (host,) = lab.hosts
        trap = policy("out", "action block priority 1000", ends=("10.1.0.0/24", "10.1.0.0/24"))
        add(host, trap, policy("out", "priority 10 offload packet dev nic0 " + template()))
        assert host.send([datagram()]) == [0]  # vanishes: no SA yet (ACQ-20)
        add(host, state(GCM, extra=offloaded()))
        assert host.send([datagram()]) == [0]
        lab.settle()
        assert len(lab.wire.frames()) == 1
        host.set_link(up=False)
        host.set_link(up=True)
        assert "offload" not in host.ip("xfrm policy list").stdout
        assert host.send([datagram()]) == [errno.EPERM]
        lab.settle()
        assert host.mib()["XfrmOutPolBlock"] == 1
        assert clear_frames(lab) == [] and len(lab.wire.frames()) == 1


@row("F-MGT-10", lab=False)
@pytest.mark.parametrize("name", ["latest", "v6.2"])
def test_nothing_leaves_in_clear_by_another_port(name, monkeypatch) -> None:
    """The route leads to nic1, the SA is nic0's: refused and counted. Kernels that do not look hand
    it over, marked so that no device lets it out in clear."""
    core = Core(Accepting(), profile=profile_by_name(name))
    other = core.add_nic("nic1", Accepting())
    core.add(state(GCM, extra=offloaded()))
    core.add(policy("out", "offload packet dev nic0 " + template()))
    assert core.net.output(datagram()) == 0
    assert [skb.protect for skb in core.sent] == [True]
    core.take(), core.moved()

    monkeypatch.setattr(core.devices, "route", lambda address: other)
    refused = core.net.output(datagram())
    if profile_by_name(name).route_device_checked:
        assert refused == -errno.EHOSTUNREACH and core.sent == []
        assert core.moved() == {"XfrmOutError": 1}
    else:
        assert [skb.protect for skb in core.sent] == [True]
