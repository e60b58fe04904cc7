# SPDX-License-Identifier: Apache-2.0
"""Where compiled kernels are kept. Imports no numba, so that asking costs nothing.

numba notices a change in the file of a kernel but not in the other modules that it was compiled
from, and it freezes globals; therefore the cache directory is named after all the sources that a
kernel can see, and after XFRMNIC_ESP, which chooses the form of AES-GCM that the datapath is
compiled with. CPU features are part of numba's own key; so are place and time of a source file,
and as the marker must not promise more than numba finds, both count here, too.
"""

import hashlib
import os
from importlib.metadata import version
from pathlib import Path

WARM = "warm"  # a marker file
_PACKAGES = ("nic_model", "proto")  # kernels freeze the constants of both


def _fingerprint() -> str:
    """Name of the cache directory: a hash of sources, numba version and chosen form."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256(os.fsencode(root))
    for package in _PACKAGES:
        for source in sorted((root / package).rglob("*.py")):
            digest.update(str(source.relative_to(root)).encode() + b"\0")
            digest.update(source.read_bytes() + b"\0")
            digest.update(str(source.stat().st_mtime_ns).encode() + b"\0")
    digest.update(version("numba").encode() + b"\0")
    digest.update(os.environ.get("XFRMNIC_ESP", "").encode())
    return digest.hexdigest()[:16]


def cache_directory() -> Path:
    """This version's directory: below NUMBA_CACHE_DIR if set, else below the user's cache."""
    name = _fingerprint()
    given = os.environ.get("NUMBA_CACHE_DIR")
    if given is None:
        home = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
        given = str(Path(home) / "xfrmnic")
    # A child process inherits the finished name.
    return Path(given) if Path(given).name == name else Path(given) / name


def compiles() -> bool:
    """Whether kernels are compiled at all: NUMBA_DISABLE_JIT runs them as plain Python."""
    return os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")


def mark_warm() -> None:
    """Note that everything is compiled and in the cache; whoever finds `WARM` need not wait."""
    directory = cache_directory()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / WARM).touch()


def use_cache_directory() -> None:
    """Tell numba, which must not be imported yet."""
    os.environ["NUMBA_CACHE_DIR"] = str(cache_directory())
