# SPDX-License-Identifier: Apache-2.0
"""What the verbs of `ip xfrm` work with, whatever their object is."""

from dataclasses import dataclass, field

from host_driver.ip.format import Style
from host_driver.ip.talk import Talk
from host_driver.ip.words import Words

ALL_FLAGS = b"\xff\xff\xff\xff"  # of GETSADINFO, GETSPDINFO and NEWSPDINFO: everything wanted


@dataclass(slots=True)
class Command:
    """What every verb gets: the words behind it, the conversation, the style, how often -s."""

    words: Words
    talk: Talk
    style: Style
    stats: int = 0
    notes: list[str] = field(default_factory=list)  # what the tool says on stderr with -s -s
