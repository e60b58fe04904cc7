# SPDX-License-Identifier: Apache-2.0
"""The run directory of a lab: sockets, DMA files, logs, link keys. Only its owner may look in.

Default labs live below $XFRMNIC_RUN_DIR, else $XDG_RUNTIME_DIR/xfrmnic, else /tmp/xfrmnic-UID,
because socket paths must be short. A lab holds a lock on its directory while it lives; the next
default lab sweeps away what a killed one left behind.
"""

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proto.limits import SOCKET_PATH_MAX_BYTES
from proto.status import OffloadError

VARIABLE = "XFRMNIC_RUN_DIR"
LOCK = "lab.lock"
LONGEST_NAME = "card0.mailbox"


class RunDir:
    """A directory of mode 0700 that belongs to one lab. `path` is absolute."""

    def __init__(self, wanted: Path | None = None) -> None:
        """Make it. Raises OffloadError: path too long, not ours, or in use by another lab."""
        if wanted is None:
            self.path, self._lock = _make_default(base_directory())
        else:
            self.path, self._lock = _make_given(wanted.absolute())

    def remove(self) -> None:
        """Delete the directory with all that is in it. A second call changes nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1


def base_directory() -> Path:
    """Where default run directories live; made if missing. Raises OffloadError(EPERM).

    The check matters below /tmp, where somebody else may have made the name first.
    """
    given = os.environ.get(VARIABLE)
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or "/nonexistent")
    if given:
        base = Path(given).absolute()
    elif runtime.is_dir() and os.access(runtime, os.W_OK):
        base = runtime / "xfrmnic"
    else:
        base = Path("/tmp") / f"xfrmnic-{os.getuid()}"
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OffloadError(
            error.errno or errno.EIO, f"run directory {base}: {error.strerror}; set {VARIABLE}"
        ) from None
    found = base.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise OffloadError(
            errno.EPERM,
            f"{base} must be a directory of user {os.getuid()} with mode 0700; "
            f"remove it, or set {VARIABLE}",
        )
    _check_above(base)
    return base


def _check_above(path: Path) -> None:
    """Whoever can rename a directory above ours can put another one in its place.

    Raises OffloadError(EPERM). Such a directory is safe when it is sticky, as /tmp is.
    """
    for directory in path.resolve().parents:
        found = directory.stat()
        free = found.st_mode & 0o002 and not found.st_mode & stat.S_ISVTX
        if free or found.st_uid not in (0, os.getuid()):
            raise OffloadError(
                errno.EPERM,
                f"run directory {path}: others can replace what is in {directory}; "
                f"choose a directory elsewhere ({VARIABLE})",
            )


def _own(path: Path) -> None:
    """Take an empty directory: mode 0700, and not through a symbolic link or of another user.

    Raises OffloadError(EPERM), OSError.
    """
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(handle).st_uid != os.getuid():
            raise OffloadError(errno.EPERM, f"run directory {path} belongs to another user")
        os.fchmod(handle, 0o700)
    finally:
        os.close(handle)


def check_length(path: Path) -> None:
    """Refuse a directory whose sockets would not fit. Raises OffloadError(ENAMETOOLONG)."""
    length = len(os.fsencode(path / LONGEST_NAME))
    if length > SOCKET_PATH_MAX_BYTES:
        raise OffloadError(
            errno.ENAMETOOLONG,
            f"run directory {path}: its longest socket path has {length} bytes, a socket takes "
            f"{SOCKET_PATH_MAX_BYTES}; choose a directory at least "
            f"{length - SOCKET_PATH_MAX_BYTES} bytes shorter ({VARIABLE})",
        )


def _try_lock(directory: Path, flags: int = os.O_CREAT) -> int:
    """A locked descriptor of the directory's lock file, -1 if somebody else holds it."""
    handle = os.open(directory / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return -1
    return handle


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep others from making or sweeping run directories below `directory`."""
    handle = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _make_given(path: Path) -> tuple[Path, int]:
    check_length(path)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_above(path)
        with _locked(path.parent):
            path.mkdir(mode=0o700, exist_ok=True)
            _own(path)
            if any(path.iterdir()):
                raise OffloadError(
                    errno.EEXIST,
                    f"run directory {path} is not empty: another lab, or the rest of one, is in it",
                )
            return path, _try_lock(path)
    except OSError as error:
        raise OffloadError(
            error.errno or errno.EIO, f"run directory {path}: {error.strerror}"
        ) from None


def _make_default(base: Path) -> tuple[Path, int]:
    """A fresh directory, after the rest of killed labs has been swept away."""
    with _locked(base):
        for abandoned_path in _abandoned(base):
            shutil.rmtree(abandoned_path, ignore_errors=True)
        path = Path(tempfile.mkdtemp(prefix="lab-", dir=base))
        check_length(path)
        return path, _try_lock(path)


def _abandoned(base: Path) -> Iterator[Path]:
    for path in sorted(base.glob("lab-*")):
        try:
            handle = _try_lock(path, flags=0)
        except OSError:
            continue  # being removed by its own lab
        if handle >= 0:
            try:
                yield path
            finally:
                os.close(handle)


def abandoned(base: Path, *, remove: bool = False) -> list[Path]:
    """Run directories that killed labs left below `base`; with `remove` they are gone now."""
    found = []
    with _locked(base):
        for path in _abandoned(base):
            found.append(path)
            if remove:
                shutil.rmtree(path, ignore_errors=True)
    return found
