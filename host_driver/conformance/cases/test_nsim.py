# SPDX-License-Identifier: Apache-2.0
"""NSIM-01 and 03: drivers of crypto offload alone, judged on a card made like theirs."""

import errno

import pytest

from host_driver.conformance import texts
from host_driver.conformance.bench import Bench
from host_driver.conformance.marks import rule

LIKE_NETDEVSIM = "crypto-only:sa_max=33,key_bits=128,icv_bytes=16,esn=0"


def answer(bench: Bench, card: str, **state: str | int | bytes) -> int:
    """What the driver says to an SA of crypto offload, unless `state` says otherwise."""
    host = bench.host(card=card)
    bench.needs_crypto()
    how = {"offload": "crypto", **state}
    host.ip(texts.state(host.dev, **how))  # type: ignore[arg-type]
    result: int = host.calls()[0]["result"]
    return result


@rule("NSIM-01")
@pytest.mark.parametrize(
    ("state", "result"),
    [({}, 0), ({"offload": "packet"}, -errno.EINVAL), ({"icv": 96}, -errno.EINVAL),
     ({"key": bytes(range(36))}, -errno.EINVAL)],
)  # fmt: skip
def test_what_a_small_crypto_card_takes(bench: Bench, state: dict[str, int], result: int) -> None:
    """AES-GCM with 128 bits and an ICV of 128, nothing else; and no packet offload."""
    assert answer(bench, LIKE_NETDEVSIM, **state) == result


@rule("NSIM-01")
def test_a_full_table_has_no_space(bench: Bench) -> None:
    """33 SAs fit; the next gets ENOSPC, and no software SA instead."""
    host = bench.host(card=LIKE_NETDEVSIM)
    for spi in range(0x1000, 0x1021):
        host.ok(texts.state(host.dev, spi=spi, offload="crypto"))
    assert host.ip(texts.state(host.dev, spi=0x1021, offload="crypto")).rc == 2
    assert host.calls()[-1]["result"] == -errno.ENOSPC
    assert host.sa(0x1021) is None
    host.ok(texts.delete(spi=0x1000))
    host.ok(texts.state(host.dev, spi=0x1021, offload="crypto"))


@rule("NSIM-03")
def test_a_driver_of_crypto_offload_refuses_packet_offload(bench: Bench) -> None:
    """EINVAL, so nothing falls back to software without a word."""
    host = bench.host(card="crypto-only")
    assert host.ip(texts.state(host.dev)).rc == 2
    assert host.calls()[0]["result"] == -errno.EINVAL
    assert host.states() == []
