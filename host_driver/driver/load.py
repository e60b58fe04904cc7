# SPDX-License-Identifier: Apache-2.0
"""Finds the driver class that a host is told to use: `package.module:Class`."""

import errno
import importlib
import inspect
from typing import Any, NoReturn

from host_driver.driver.reference import ReferenceDriver
from host_driver.ops import FORMS, REQUIRED, form_of, refuse_unknown
from proto.status import OffloadError


def load_driver(name: str | None) -> type[Any]:
    """The class; None is the reference driver. Raises OffloadError(EINVAL) that says what is wrong.

    Callbacks and their forms are checked here, before a card is touched (OPS-01).
    """
    if name is None:
        return ReferenceDriver
    module_name, _, class_name = name.partition(":")
    if not module_name or not class_name:
        _refuse(name, "is not written as package.module:Class")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # noqa: BLE001  # whatever a foreign module does
        _refuse(name, f"cannot be imported: {type(error).__name__}: {error}")
    driver = getattr(module, class_name, None)
    if not inspect.isclass(driver):
        _refuse(name, f"is no class of {module_name}")
    missing = [callback for callback in REQUIRED if not callable(getattr(driver, callback, None))]
    if missing:
        _refuse(name, f"lacks {', '.join(missing)}")
    try:
        unborn = object.__new__(driver)
    except TypeError:  # not made in the usual way: the fence will look at what comes out of it
        return driver
    try:
        refuse_unknown(unborn)
        for callback in FORMS:
            form_of(unborn, callback)
    except OffloadError as error:
        _refuse(name, f"has a callback that cannot be called: {error.text}")
    return driver


def _refuse(name: str, text: str) -> NoReturn:
    raise OffloadError(errno.EINVAL, f"driver {name!r} {text}")
