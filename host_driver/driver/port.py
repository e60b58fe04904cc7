# SPDX-License-Identifier: Apache-2.0
"""The card's port as its device has it.

A command whose answer says nothing sure may have been carried out. The device keeps what it had,
and the card is told that until it says yes; else one MTU would rule in the stack and another in the
card, which drops what the stack lets through.
"""

from typing import TYPE_CHECKING

from host_driver.driver.command import CommandFailed, CommandUnknown, failure
from host_driver.sleep import Completion, Sleep, wait
from proto.commands import SetPort

if TYPE_CHECKING:
    from host_driver.host import Host


class Port:
    """The port of a host's card."""

    def __init__(self, host: "Host") -> None:
        self._doubtful = False  # nobody knows what the card has
        self._host = host

    def set_mtu(self, mtu: int) -> Sleep[None]:
        """Of the card, then of the device. Raises OffloadError, and then the device's is as it was,
        and the card's will be."""
        yield from self._set(mtu)
        self._host.devices.set_mtu(self._host.nic, mtu)

    def begin(self) -> Sleep[None]:
        """Of a card that was just taken: what the device has. Raises OffloadError."""
        yield from self._set(self._host.nic.mtu)
        self._doubtful = False

    @property
    def behind(self) -> bool:
        """Whether there is something to tell, and a card that would hear it."""
        return self._doubtful and self._host.recovery.up

    def retry(self) -> None:
        """The tick: tell again what was not taken."""
        if self.behind:
            self._doubtful = False
            self._host.spawn(self._tell())

    def _set(self, mtu: int) -> Sleep[None]:
        try:
            yield from self._host.mailbox.execute(SetPort(mtu=mtu))
        except CommandUnknown as error:
            self._host.spawn(self._tell(error.late))
            raise
        except CommandFailed as error:
            self._doubtful |= not error.clean
            raise

    def _tell(self, late: Completion | None = None) -> Sleep[None]:
        """What the device has; `late`: once the card can no longer carry out what it was told."""
        if late is not None:
            yield from wait(late)
        command = SetPort(mtu=self._host.nic.mtu)
        reply = yield from wait(self._host.mailbox.post(command))
        if failure(command, reply) or command.mtu != self._host.nic.mtu:
            self._doubtful = True
