# SPDX-License-Identifier: Apache-2.0
"""Keys of tcp links: files that hold one CURVE key each, and who may own and read them."""

import errno
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import zmq

from proto.status import OffloadError

CURVE_KEY_CHARS = 40


@dataclass(frozen=True)
class Curve:
    """Our CURVE secret and the one public key that we talk to, Z85 text. `repr` shows neither."""

    secret: bytes = field(repr=False)
    peer: bytes = field(repr=False)

    @classmethod
    def load(cls, secret: Path, peer: Path) -> Self:
        """Read two key files. Raises OffloadError for no key, for a secret that others can read,
        and for a file that others can write: it says who is let in."""
        return cls(_read(secret, forbidden=0o077), _read(peer, forbidden=0o022))


def _read(path: Path, forbidden: int) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise OffloadError(
            error.errno or errno.ENOENT, f"CURVE key file {path}: {error.strerror}"
        ) from None
    with os.fdopen(handle, "rb") as file:
        _check_file(path, os.fstat(handle), forbidden)
        key = file.read(CURVE_KEY_CHARS + 2).strip()
    if len(key) != CURVE_KEY_CHARS:
        raise OffloadError(
            errno.EINVAL,
            f"CURVE key file {path} holds {len(key)} characters, a key has {CURVE_KEY_CHARS}",
        )
    return key


def _check_file(path: Path, found: os.stat_result, forbidden: int) -> None:
    if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()):
        raise OffloadError(errno.EPERM, f"CURVE key file {path} is no file of user {os.geteuid()}")
    if stat.S_IMODE(found.st_mode) & forbidden:
        what = "CURVE secret" if forbidden & 0o044 else "CURVE key file"
        can = "readable" if forbidden & 0o044 else "writable"
        raise OffloadError(errno.EPERM, f"{what} {path} is {can} by others, make it mode 0600")


def write_keypair(directory: Path, name: str) -> tuple[Path, Path]:
    """Make a CURVE key pair: NAME.secret (0600) and NAME.public, one Z85 line each."""
    public, secret = zmq.curve_keypair()
    paths = directory / f"{name}.secret", directory / f"{name}.public"
    for path, key in zip(paths, (secret, public), strict=True):
        path.touch(0o600, exist_ok=False)
        path.write_bytes(key + b"\n")
    return paths
