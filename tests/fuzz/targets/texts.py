# SPDX-License-Identifier: Apache-2.0
"""Files and texts that a user gives: recordings, card profiles, what a process says of itself."""

import contextlib
import random
import struct
import tempfile
from pathlib import Path

import msgspec

from fuzz.mutate import INPUT_MAX_BYTES, NUMBERS, mutate_bytes, mutate_tree
from fuzz.target import Outcome, Trees, plain, require
from host_driver.faults.catalogue import catalogue
from host_driver.faults.plan import parse_plan, specs_of
from host_driver.lab.pcap import read_pcap
from host_driver.simulate.draw import draw
from host_driver.simulate.plan import decode_plan, encode_plan
from proto.caps import PROFILES, Caps, parse_card
from proto.faults import SITES, FaultTable
from proto.hello import Hello, decode_hello
from proto.status import OffloadError

# Some row of the catalogue whose fault is armed.
NAMED = next(row.fault for row in catalogue().values() if row.inject)
PACKET = bytes.fromhex("4500001c00000000401100000a0000010a00000200050006000800001122334455667788")


class PcapTarget:
    """Recordings: either refused whole, or every record lies in the file."""

    name = "pcap"
    files = ("host_driver/lab/pcap.py",)

    def __init__(self) -> None:
        self._file = tempfile.NamedTemporaryFile(suffix=".pcap")  # noqa: SIM115  # lives with it
        self._path = Path(self._file.name)

    def seeds(self) -> list[bytes]:
        frame = bytes(12) + b"\x08\x00" + PACKET
        files = [b"\x0a\x0d\x0d\x0a" + bytes(24), b""]
        for order, magic in (("<", 0xA1B2C3D4), (">", 0xA1B2C3D4), ("<", 0xA1B23C4D)):
            for linktype, data in ((1, frame), (101, PACKET)):
                head = struct.pack(order + "IHHIIII", magic, 2, 4, 0, 0, 65_535, linktype)
                record = struct.pack(order + "IIII", 1, 2, len(data), len(data)) + data
                files.append(head + record * 3)
        return files

    def mutate(self, rng: random.Random, data: bytes, other: bytes) -> bytes:
        return mutate_bytes(rng, data, other, (b"\xff\xff\xff\x7f", b"\0\0\4\0"))

    def reset(self) -> None:
        pass

    def run(self, data: bytes) -> Outcome:
        self._path.write_bytes(data)
        try:
            recording = read_pcap(self._path)
        except OffloadError as refusal:
            return Outcome(1, 1, {plain(refusal.text.replace(str(self._path), ""))})
        held = sum(len(record.data) + 16 for record in recording)
        require(24 + held + recording.skipped_bytes == len(data), "bytes of the file are lost")
        require(all(record.data in data for record in recording), "a record is not in the file")
        packets = recording.packets()
        require(all(packet[0] >> 4 in (4, 6) for packet in packets), "no IP packet")
        lost = int(recording.skipped_bytes > 0)
        return Outcome(1, lost, {("records", min(len(recording), 3), min(len(packets), 3), lost)})

    def check(self) -> None:
        outcome = self.run(self.seeds()[2])
        require(outcome.features == {("records", 3, 3, 0)}, "a good recording is not read")


class CardTextTarget:
    """`PROFILE[:NAME=VALUE,...]`: an OffloadError, or a card within its bounds."""

    name = "card-text"
    files = ("proto/caps.py",)

    def seeds(self) -> list[bytes]:
        fields = [name for name in Caps.__struct_fields__ if name != "name"]
        values = (
            "0",
            "1",
            "yes",
            "no",
            "8/12/16",
            "128/256",
            "64",
            "-1",
            "0x10",
            "",
            "99999999999",
        )
        return [name.encode() for name in PROFILES] + [
            f"full:{field}={value},sa_max=4".encode() for field in fields for value in values
        ]

    def mutate(self, rng: random.Random, data: bytes, other: bytes) -> bytes:
        return mutate_bytes(rng, data, other, (b",", b"=", b":", b"/", b"full:"))

    def reset(self) -> None:
        pass

    def run(self, data: bytes) -> Outcome:
        try:
            caps = parse_card(data.decode(errors="replace"))
        except OffloadError as refusal:
            return Outcome(1, 1, {plain(refusal.text)})
        require(caps.event_queue > 0 < caps.sa_max < 1 << 24, "a card out of bounds")
        again = msgspec.msgpack.decode(msgspec.msgpack.encode(caps), type=Caps)
        require(again == caps, "a card that its own HELLO cannot carry")
        return Outcome()

    def check(self) -> None:
        require(parse_card("full:sa_max=16").sa_max == 16, "a good card is not read")


class HelloTarget(Trees):
    """HELLO of a process: ValueError or msgspec's error, or something of this protocol."""

    name = "hello"
    files = ("proto/hello.py", "proto/caps.py")
    words = (b"\x91" * 2000, b"\x81\xa1x" * 900)

    def seeds(self) -> list[bytes]:
        hellos = (
            Hello(party="host", name="host0", pid=7),
            Hello(
                party="card", name="card0", pid=8, caps=PROFILES["cx6dx"],
                endpoints={"rings": "tcp://127.0.0.1:5"},
            ),
        )  # fmt: skip
        return [msgspec.msgpack.encode(hello) for hello in hellos]

    def reset(self) -> None:
        pass

    def run(self, data: bytes) -> Outcome:
        try:
            hello = decode_hello(data)
        except ValueError as refusal:
            return Outcome(1, 1, {plain(str(refusal))})
        require(hello.protocol == Hello(party="", name="", pid=0).protocol, "another protocol")
        return Outcome()

    def check(self) -> None:
        require(decode_hello(self.seeds()[1]).name == "card0", "a good HELLO is not read")


class FaultPlanTarget:
    """TOML plans of faults: OffloadError with a place, or faults that can be armed."""

    name = "fault-plan"
    files = ("host_driver/faults/", "proto/faults/")

    def seeds(self) -> list[bytes]:
        named = f'[[fault]]\nfault = "{NAMED}"\nhost = 0\nat_s = 10\nuntil_s = 12.5\n'
        fields = '[[fault]]\nsite = "wire"\nkind = "drop"\nprobability = 0.01\n'
        more = "match = { esp = 1 }\ntimes = 3\nskip = 2\ninterval = 4\nspace = 100\n"
        more += "delay_ms = 5\nfail_nth = 2\nseed = 9\n"
        texts = [named, fields, fields + more, named + fields, fields + 'value = "x"\nname = "n"\n']
        texts += [
            f'[[fault]]\nsite = "{site}"\nkind = "{kind}"\n'
            for site, about in SITES.items()
            for kind in about.kinds
        ]
        return [text.encode() for text in texts]

    def mutate(self, rng: random.Random, data: bytes, other: bytes) -> bytes:
        """Lines are doubled, swapped and left out; then bytes."""
        lines = data.split(b"\n")
        at = rng.randrange(len(lines))
        change = rng.randrange(4)
        if change == 0:
            del lines[at]
        elif change == 1:
            lines.insert(at, rng.choice(other.split(b"\n")))
        elif change == 2:
            name, _, _ = lines[at].partition(b"=")
            lines[at] = name + b"= " + str(rng.choice(NUMBERS)).encode()
        else:
            return mutate_bytes(rng, data, other, (b"[[fault]]\n", b"inf", b"nan", b"{", b'"""'))
        return b"\n".join(lines)

    def reset(self) -> None:
        pass

    def run(self, data: bytes) -> Outcome:
        try:
            planned = parse_plan(data.decode(errors="replace"))
        except OffloadError as refusal:
            return Outcome(1, 1, {plain(refusal.text)})
        table = FaultTable()
        for one in planned:
            for spec in specs_of(one.fault, one.fields, "-1"):
                with contextlib.suppress(OffloadError):  # a name that is armed already
                    table.add(spec)
        facts = {"opcode": "CREATE_SA", "spi": 5, "bytes": 9}
        for spec in table.specs():
            table.fire(spec.site, facts, 1)
        return Outcome(1, 0, {("faults", len(planned))})

    def check(self) -> None:
        require(len(parse_plan(self.seeds()[3].decode())) == 2, "a good plan is not read")


class SimulationTarget:
    """Plans that `xfrmnic replay` reads: OffloadError, or a plan that comes out as it went in."""

    name = "simulation"
    files = ("host_driver/simulate/plan.py",)

    def seeds(self) -> list[bytes]:
        return [encode_plan(draw(seed, 2)) for seed in range(9)]

    def mutate(self, rng: random.Random, data: bytes, other: bytes) -> bytes:
        """As a tree, and as text."""
        with contextlib.suppress(ValueError, RecursionError, OverflowError):
            if rng.random() < 0.7:
                tree = mutate_tree(rng, msgspec.json.decode(data), msgspec.json.decode(other))
                return msgspec.json.encode(tree)[: 8 * INPUT_MAX_BYTES]
        return mutate_bytes(rng, data, other, (b"[" * 1500, b'{"a":' * 900, b"1e999", b"null"))

    def reset(self) -> None:
        pass

    def run(self, data: bytes) -> Outcome:
        try:
            plan = decode_plan(data, "input")
        except OffloadError as refusal:
            return Outcome(1, 1, {plain(refusal.text)})
        require(decode_plan(encode_plan(plan), "again") == plan, "another plan comes out")
        plan.lines()
        return Outcome(1, 0, {("actions", len(plan.actions))})

    def check(self) -> None:
        require(decode_plan(self.seeds()[0], "good").seed == 0, "a good plan is not read")
