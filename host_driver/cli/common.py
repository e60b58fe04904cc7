# SPDX-License-Identifier: Apache-2.0
"""What the verbs share: exit status, JSON or text, and the choice of a lab and a host."""

import errno
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import click

from proto.status import OffloadError

F = TypeVar("F", bound=Callable[..., Any])


class ExpectationFailed(click.ClickException):
    """Something came out otherwise than asked for."""

    exit_code = 1


class BadEnvironment(click.ClickException):
    """The machine or the moment does not allow it: no lab, no permission, a path too long."""

    exit_code = 3


class PeerDied(click.ClickException):
    """A process of the lab ended on its own; the text names it."""

    exit_code = 4


def refusals(command: F) -> F:
    """Turn what a lab refuses into exit status and text: 2 usage, 3 environment, 4 a peer died."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except OffloadError as error:
            if error.errno == errno.EOWNERDEAD:
                raise PeerDied(error.text) from None
            if error.errno == errno.EINVAL:
                raise click.UsageError(error.text) from None
            raise BadEnvironment(error.text) from None

    return cast(F, wrapped)


def example(text: str) -> str:
    """A help epilog that shows one line to type."""
    return f"\b\nExample:\n  {text}"


def json_option(command: F) -> F:
    """`--json`: one JSON document on stdout instead of text."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def lab_option(command: F) -> F:
    """`--lab NAME`: needed only where several labs run."""
    return click.option("--lab", "name", metavar="NAME", help="Which lab, where several run.")(
        command
    )


def host_option(command: F) -> F:
    """`--host N`: which host of the lab."""
    return click.option(
        "--host", type=click.IntRange(min=0), default=0, show_default=True, help="Host of the lab."
    )(command)


def show(value: dict[str, Any], text: str, as_json: bool) -> None:
    """The result of a verb on stdout: `value` as JSON, or `text`."""
    click.echo(json.dumps(value, indent=2) if as_json else text)


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
