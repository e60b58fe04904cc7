# SPDX-License-Identifier: Apache-2.0
"""The card's process shell: its flags, and what it compiles before it says HELLO."""

import os
import subprocess
import sys

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from nic_model.__main__ import main, parse
from nic_model.datapath import KERNELS
from nic_model.jit import config
from nic_model.warm import steps
from proto import commands as c
from proto.frame import Kind
from proto.xfrm import AF_INET, AF_INET6

LINK = ["--link", "ipc:///tmp/x", "--wire", "ipc:///tmp/y"]


def test_flags_of_a_card():
    flags = parse([*LINK, "--name", "c7", "--card", "cx6dx:sa_max=9", "--mac", "02:00:00:00:00:7f"])
    assert (flags.name, flags.card.name, flags.card.sa_max) == ("c7", "cx6dx", 9)
    assert flags.mac == b"\2\0\0\0\0\x7f"
    assert (flags.dma, flags.seed, flags.warm) == ("inline", None, False)


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        ([], "--link and --wire are needed"),
        (LINK[:2], "--link and --wire are needed"),
        ([*LINK, "--card", "cx9"], "'cx9' is unknown"),
        ([*LINK, "--card", "full:sa_max=0"], "sa_max 0 is outside"),
        ([*LINK, "--mac", "02:00"], "'02:00' is not six bytes"),
        ([*LINK, "--seed", "x"], "invalid int value"),
        ([*LINK, "--curve-secret", "/tmp/k"], "come together"),
        ([*LINK, "--nonsense"], "--nonsense"),
    ],
)
def test_a_bad_flag_is_told_with_status_2(argv, word, capsys):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert word in capsys.readouterr().err


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="nothing is compiled")
def test_nothing_is_compiled_after_warming(new_card, read):
    for step in steps():
        step.run()
    before = [list(kernel.signatures) for kernel in KERNELS]
    assert [len(signatures) for signatures in before] == [1, 1]

    for shared in (True, False):
        card = new_card(shared=shared, mac=b"\2\0\0\0\0\1")
        card.make(c.SetPort(mtu=9000, mac_filter=True))
        for family in (AF_INET, AF_INET6):
            card.protect(c.OUT, family, esn=True)
            card.protect(c.IN, family)
        for ip in (IP(src="10.1.0.1", dst="10.1.0.2"), IPv6(src="fd00:1::1", dst="fd00:1::2")):
            sent = card.tx([bytes(Ether(dst="02:00:00:00:00:01") / ip / UDP())])
            card.rx(read.frames(sent))
            assert len(read.of(Kind.TX_DONE, sent)) == 1
    assert [list(kernel.signatures) for kernel in KERNELS] == before


def test_a_card_that_compiles_nothing_says_nothing_of_warm(tmp_path):
    """NUMBA_DISABLE_JIT runs the kernels as Python: the empty cache must not look warm."""
    done = subprocess.run(
        [sys.executable, "-m", "nic_model", "--warm"],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1", "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("warm"))
