# SPDX-License-Identifier: Apache-2.0
"""What a lab is made of: its arguments, checked once, unknown ones refused clearly."""

import errno
from dataclasses import dataclass
from pathlib import Path

from host_driver.xfrm.profile import LATEST, profile_by_name
from proto.caps import parse_card
from proto.status import OffloadError

TARGETS = ("sim", "process")
LINKS = ("ipc", "tcp")
HOSTS_MAX = 2


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments of Lab. Raises OffloadError(EINVAL) with what is known instead."""

    target: str = "sim"
    hosts: int = 1
    card: str = "full"
    profile: str = LATEST.name
    seed: int = 0
    driver: str | None = None
    link: str = "ipc"
    run_dir: Path | None = None

    def __post_init__(self) -> None:
        _one_of("target", self.target, TARGETS)
        _one_of("link", self.link, LINKS)
        profile_by_name(self.profile)
        if self.hosts not in range(1, HOSTS_MAX + 1):
            raise OffloadError(
                errno.EINVAL, f"a lab of {self.hosts!r} hosts is not offered, 1 or {HOSTS_MAX} are"
            )
        if not isinstance(self.seed, int) or self.seed < 0:
            raise OffloadError(errno.EINVAL, f"seed {self.seed!r} is no whole number from 0 on")
        if self.driver is not None and not all(self.driver.partition(":")):
            raise OffloadError(
                errno.EINVAL, f"driver {self.driver!r} is not written as package.module:Class"
            )
        parse_card(self.card)


def _one_of(what: str, offered: str, known: tuple[str, ...]) -> None:
    if offered not in known:
        raise OffloadError(
            errno.EINVAL, f"{what} {offered!r} is unknown, known are {', '.join(known)}"
        )


def mac_of(host: int) -> bytes:
    """The MAC of a host's card: locally administered, then "xfrm" and the host's number."""
    return b"\x02xfrm" + bytes([host])
