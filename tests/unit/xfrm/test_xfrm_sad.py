# SPDX-License-Identifier: Apache-2.0
"""Order and cost of the SAD: against a plain list that does what SAD-01..05 say."""

import random
import sys
from typing import Any

from host_driver.xfrm.lifecycle import xfrm_state_add
from host_driver.xfrm.sad import Bucket
from host_driver.xfrm.state import DevOffload, KmState, XfrmState


def state(type: int, spi: int = 0) -> XfrmState:
    x = XfrmState(xso=DevOffload(None, type=type))
    x.id.spi, x.id.proto, x.props.family = spi, 50, 2
    return x


def test_order_is_the_kernels() -> None:
    rng = random.Random(3)
    for _ in range(200):
        bucket, model = Bucket(), []
        for _ in range(30):
            if model and rng.random() < 0.45:
                gone = rng.choice(model)
                model.remove(gone)
                bucket.discard(gone)
            else:
                x = state(rng.choice((0, 1, 2)))
                others = [i for i, y in enumerate(model) if y.xso.type != 2]
                model.insert(others[0] if others and x.xso.type != 2 else 0, x)
                bucket.insert(x)
            assert list(bucket) == model and bool(bucket) is bool(model)


def steps(net: Any, x: XfrmState) -> int:
    """Lines of Python that adding `x` takes."""
    count = 0

    def tracer(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return tracer

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        xfrm_state_add(net, x)
    finally:
        sys.settrace(before)
    return count


def test_adding_costs_the_same_however_many_there_are(world: Any) -> None:
    for type in (0, 2):
        first = [steps(world.net, state(type, 1 + 4 * i + type)) for i in range(4)][-1]
        for i in range(4, 500):
            xfrm_state_add(world.net, state(type, 1 + 4 * i + type))
        assert steps(world.net, state(type, 1 + 4 * 500 + type)) <= first + 10


def test_a_larval_state_is_found_in_a_full_bucket(world: Any) -> None:
    larval = state(0)
    larval.km.state = KmState.ACQ
    for i in range(1, 9):
        xfrm_state_add(world.net, state(2, i))
    world.net.sad.insert(larval)
    assert list(world.net.sad.larval(bytes(16), bytes(16), 0, 2)) == [larval]
    xfrm_state_add(world.net, state(2, 99))
    assert larval not in world.net.sad and larval.km.state == KmState.DEAD
    assert list(world.net.sad.larval(bytes(16), bytes(16), 0, 2)) == []
