# SPDX-License-Identifier: Apache-2.0
"""`ip -batch FILE`: one command a line, until one fails or ends the tool.

The tool is one program that runs them all, and its commands exit as they do when they stand alone:
a refused one ends the batch with its own status, and so does a list, with success. Only a line that
names no object is counted as failed, which -force forgives.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from host_driver.ip.words import IpError, shown

_WORD = re.compile(r"""'[^']*'|"[^"]*"|\S+""")


class Ended(Exception):
    """A command that ends the tool although it succeeded; `text` is what it printed."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class UnknownObject(IpError):
    """The first word names no object: in a batch the one complaint that does not end the tool."""


def commands(text: str) -> Iterator[tuple[int, list[str]]]:
    """Number and words of each command; a comment begins at #, a backslash joins two lines."""
    joined = ""
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0]
        if line.endswith("\\"):
            joined += line[:-1]
            continue
        found = _WORD.findall(joined + line)
        joined = ""
        if found:
            yield number, [word[1:-1] if word[0] in "'\"" else word for word in found]


def run_batch(name: str, force: bool, command: Callable[[list[str]], str]) -> tuple[int, str, str]:
    """Do the commands in the file `name`; gives exit status, stdout and stderr."""
    try:
        text = Path(name).read_text(errors="surrogateescape")
    except OSError as error:
        complaint = f'Cannot open file "{shown(name)}" for reading: {error.strerror}\n'
        return 1, "", complaint
    rc, stdout, stderr = 0, "", ""
    for number, words in commands(text):
        try:
            stdout += command(words)
        except Ended as end:
            return 0, stdout + end.text, stderr
        except UnknownObject as error:
            rc, stderr = 1, f"{stderr}{error.stderr}Command failed {name}:{number}\n"
            if not force:
                break
        except IpError as error:
            return error.rc, stdout, stderr + error.stderr
    return rc, stdout, stderr
