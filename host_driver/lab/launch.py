# SPDX-License-Identifier: Apache-2.0
"""How the processes of a lab are started, the first time and whenever they begin another life.

What both ends of a link share is made once: the DMA file, the link's keys, the ports of tcp://. A
card that is started again binds the same addresses, and its host finds it there.
"""

from pathlib import Path

from host_driver.lab.child import Child, prepare
from host_driver.lab.settings import Settings, mac_of
from proto.hello import Hello
from proto.link.curve import write_keypair
from proto.link.dma import Dma
from proto.link.zmq import LINK_CHANNELS

CARD, HOST = "nic_model", "host_driver"


class Launcher:
    """Starts the cards and hosts of one lab in its run directory."""

    def __init__(self, settings: Settings, path: Path) -> None:
        self._settings = settings
        self._path = path
        self._links: dict[int, str] = {}  # of cards that have said where they are bound
        for number in range(settings.hosts):
            if settings.link == "tcp":
                write_keypair(path, f"card{number}")
                write_keypair(path, f"host{number}")
            else:
                Dma.create(path / f"dma{number}")

    def wire(self, number: int) -> str:
        """Where the wire listens for a card."""
        return f"ipc://{self._path}/wire{number}"

    def control(self, party: str) -> str:
        """Where the lab listens for a party ("host0", "card1")."""
        name = party if party.startswith("card") else ""
        return f"ipc://{self._path}/{name.rstrip('0123456789')}control{party[4:]}"

    def bound(self, number: int, hello: Hello) -> None:
        """Where a card is bound for its host; it stays there."""
        names = [channel.name.lower() for channel in LINK_CHANNELS]
        self._links[number] = ",".join(f"{name}={hello.endpoints[name]}" for name in names)

    def prepare(self) -> None:
        """Begin to load what cards and hosts are made of, at the same time."""
        for module in (CARD, HOST):
            prepare(module)

    def card(self, number: int, card: str) -> Child:
        """Start a card. No seed: it would make the IVs of two labs, or of two lives, alike, and
        both may be given one key."""
        arguments = ["--card", card, "--wire", self.wire(number), "--mac", mac_of(number).hex(":")]
        if self._settings.link == "tcp":
            arguments += ["--link", self._links.get(number, "tcp://127.0.0.1:0")]
            arguments += self._keys(f"card{number}", f"host{number}")
        else:
            arguments += self._local_link(number)
        return self._start(f"card{number}", CARD, arguments)

    def host(self, number: int) -> Child:
        """Start a host, whose card has been bound."""
        settings = self._settings
        arguments = ["--mac", mac_of(number).hex(":"), "--peer-mac", mac_of(1 - number).hex(":")]
        arguments += ["--seed", str(settings.seed * 4 + 2 + number), "--profile", settings.profile]
        if settings.driver is not None:
            arguments += ["--driver", settings.driver]
        if settings.link == "tcp":
            arguments += ["--link", self._links[number]]
            arguments += self._keys(f"host{number}", f"card{number}")
        else:
            arguments += self._local_link(number)
        return self._start(f"host{number}", HOST, arguments)

    def _start(self, name: str, module: str, arguments: list[str]) -> Child:
        always = ["--name", name, "--control", self.control(name)]
        return Child(name, module, [*always, *arguments], self._path / f"{name}.log")

    def _keys(self, ours: str, theirs: str) -> list[str]:
        secret, public = self._path / f"{ours}.secret", self._path / f"{theirs}.public"
        return ["--curve-secret", str(secret), "--curve-peer", str(public)]

    def _local_link(self, number: int) -> list[str]:
        """Where card and host of one machine meet: sockets and DMA file in the run directory."""
        return ["--link", f"ipc://{self._path}/card{number}",
                "--dma", str(self._path / f"dma{number}")]  # fmt: skip
