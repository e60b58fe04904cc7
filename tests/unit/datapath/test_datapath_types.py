# SPDX-License-Identifier: Apache-2.0
"""What numba inferred: no number may have become a float, which is the trap of mixed signedness."""

import re
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP

from nic_model import (
    account,
    aso,
    datapath_crypto,
    datapath_esp,
    datapath_rx,
    datapath_tx,
    flow,
    lookup,
    memory,
    packet,
    segment,
    tunnel,
)
from nic_model.jit import config
from proto.layouts import TxFlag


def dispatchers() -> list[Any]:
    paths = (datapath_esp, datapath_crypto, datapath_rx, datapath_tx)
    modules = (aso, flow, lookup, memory, packet, account, segment, tunnel, *paths)
    found = {id(item): item for module in modules for item in vars(module).values()}
    return [item for item in found.values() if hasattr(item, "nopython_signatures")]


@pytest.mark.skipif(config.DISABLE_JIT, reason="nothing is compiled")
def test_all_numbers_are_integers(bench: Any) -> None:
    bench.sa()
    bench.sa(direction=1)
    bench.policy()
    clear = bench.frame(bytes(IP(src="10.1.0.1", dst="10.1.0.2") / UDP()))
    bench.rx(bench.tx([clear]))
    crypto = bench.sa(crypto=True)
    bench.tx([clear], flags=TxFlag.CRYPTO, row=crypto)
    seen = 0
    for kernel in dispatchers():
        for overload in kernel.overloads.values():
            seen += 1
            floats = re.findall(r"\bfloat\d+\b.*", str(overload.type_annotation))
            assert floats == [], kernel.py_func.__name__
    assert seen > 0
