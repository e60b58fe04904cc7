# SPDX-License-Identifier: Apache-2.0
"""A driver with the optional callbacks that it lacks, as callbacks that do nothing.

For the core a missing callback and one that does nothing are the same (OPS-03), but only the second
leaves a call in the trace. So cases can say which calls they want to see, whatever a driver left
out. `completed("my_pkg.driver:MyDriver")` names a class that `load_driver` finds in this module.
"""

from typing import Any

from host_driver.driver.load import load_driver
from host_driver.ops import FORMS

# What a driver may leave out without saying that it cannot do something: policy_add says that.
OPTIONAL = (
    "xdo_dev_state_free",
    "xdo_dev_state_update_curlft",
    "xdo_dev_policy_delete",
    "xdo_dev_policy_free",
)


def completed(driver: str | None) -> str | None:
    """The name under which the completed driver can be loaded; None is the reference driver."""
    return None if driver is None else f"{__name__}:{driver.replace(':', '/')}"


def __getattr__(name: str) -> type[Any]:
    """The completed class of `module/Class`."""
    if "/" not in name:
        raise AttributeError(name)
    driver = load_driver(name.replace("/", ":"))
    missing = {
        callback: _nothing
        for callback in OPTIONAL
        if not any(callable(getattr(driver, form.name, None)) for form in FORMS[callback])
    }
    return type(driver.__name__, (driver,), missing)


def _nothing(self: object, *arguments: object) -> None:
    """Do nothing."""
