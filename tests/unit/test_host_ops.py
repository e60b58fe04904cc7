# SPDX-License-Identifier: Apache-2.0
"""The one table of callbacks: each form that a kernel had is found and called as it is written."""

import errno
import inspect
from collections import Counter
from typing import Any

import pytest

from host_driver.driver.load import load_driver
from host_driver.netdev import NetDevice
from host_driver.ops import FORMS, Extack, Form, XfrmDevOps, form_of
from host_driver.trace import Trace, TracedOps
from host_driver.xfrm.policy import XfrmPolicy
from host_driver.xfrm.state import DevOffload, XfrmState
from proto.status import OffloadError

DEV = NetDevice("nic0", start_xmit=lambda skb: 0)
ALL_FORMS = [(name, form) for name, forms in FORMS.items() for form in forms]


def driver_of(**callbacks: Any) -> Any:
    driver = type("Driver", (), {})()
    vars(driver).update(callbacks)
    return driver


def objects() -> dict[str, Any]:
    """What the core has for each argument name."""
    offload = DevOffload(DEV, 0, 2, 2)
    return {
        "dev": DEV, "x": XfrmState(xso=offload), "xp": XfrmPolicy(xdo=offload), "skb": object(),
        "extack": Extack(),
    }  # fmt: skip


def written(form: Form, seen: list[tuple[Any, ...]]) -> Any:
    """A callback with the parameters of a form, as a driver author writes it."""
    names = ", ".join(form.arguments)
    space: dict[str, Any] = {"seen": seen}
    exec(f"def callback({names}):\n    seen.append(({names},))\n    return 0\n", space)
    return space["callback"]


@pytest.mark.parametrize(("canonical", "form"), ALL_FORMS, ids=lambda one: str(one))
def test_each_form_is_called_with_its_own_arguments(canonical: str, form: Form) -> None:
    seen: list[tuple[Any, ...]] = []
    table = TracedOps(driver_of(**{form.name: written(form, seen)}), Trace(), Counter())
    given = objects()
    getattr(table, canonical)(*(given[name] for name in FORMS[canonical][-1].arguments))
    assert seen == [tuple(given[name] for name in form.arguments)]


def test_anything_goes_gets_the_newest_form() -> None:
    seen: list[Any] = []
    driver = driver_of(xdo_dev_state_add=lambda *anything: seen.append(anything))
    given = objects()
    arguments = (given["dev"], given["x"], given["extack"])
    assert TracedOps(driver, Trace(), Counter()).xdo_dev_state_add(*arguments) == 0
    assert seen == [arguments]


def test_of_two_names_the_newer_one_is_called() -> None:
    driver = driver_of(
        xdo_dev_state_update_curlft=lambda x: None, xdo_dev_state_update_stats=lambda x: None
    )
    form = form_of(driver, "xdo_dev_state_update_curlft")
    assert form is not None and form.name == "xdo_dev_state_update_stats"


def test_a_parameter_with_a_default_may_stay_away() -> None:
    form = form_of(driver_of(xdo_dev_policy_add=lambda xp, extack=None: 0), "xdo_dev_policy_add")
    assert form is not None and form.since == "v6.3"


@pytest.mark.parametrize(
    ("name", "callback", "words"),
    [
        ("xdo_dev_state_add", lambda: 0, "xdo_dev_state_add() is no known form"),
        ("xdo_dev_state_add", lambda a, b, c, d: 0, "xdo_dev_state_add(a, b, c, d) is no known"),
        ("xdo_dev_state_add", lambda a, b, c, d: 0, "(x) of v4.11, xdo_dev_state_add(x, extack)"),
        ("xdo_dev_policy_delete", lambda xp, extack: 0, "xdo_dev_policy_delete(xp) of v6.2"),
        ("xdo_dev_state_update_stats", lambda: 0, "xdo_dev_state_update_curlft(x) of v6.2"),
        ("xdo_dev_state_ad", lambda x: 0, "xdo_dev_state_ad is no known callback, known are"),
    ],
)
def test_a_form_that_no_kernel_has_is_refused_with_the_known_ones(name, callback, words) -> None:
    with pytest.raises(OffloadError) as refusal:
        TracedOps(driver_of(**{name: callback}), Trace(), Counter())
    assert refusal.value.errno == errno.EINVAL
    assert words in refusal.value.text


class Misspelt:
    """Loaded below by its name."""

    def xdo_dev_state_add(self, dev, x, extack): ...
    def xdo_dev_state_delete(self): ...


def test_a_driver_class_is_judged_before_a_card_is_touched() -> None:
    name = f"{__name__}:Misspelt"
    with pytest.raises(OffloadError, match="xdo_dev_state_delete") as refusal:
        load_driver(name)
    assert refusal.value.text.startswith(f"driver {name!r} has a callback that cannot be called: ")


def test_the_protocol_has_the_newest_forms() -> None:
    """What a driver author reads is what the core gives."""
    for canonical, forms in FORMS.items():
        method = getattr(XfrmDevOps, canonical, None)
        assert method is not None, canonical
        parameters = tuple(inspect.signature(method).parameters)[1:]
        assert parameters == forms[-1].arguments, canonical
