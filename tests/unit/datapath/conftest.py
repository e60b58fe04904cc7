# SPDX-License-Identifier: Apache-2.0
"""A bench for the bursts: tables with keys, SAs and policies, and one call per batch of frames.

ESP of the tests' own is made and opened with `cryptography`, never with the card's kernels.
"""

import struct
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from nic_model import ahead, tables
from nic_model.datapath import rx_burst, tx_burst
from nic_model.esp import expand_key
from nic_model.jit import config
from nic_model.steering import Steering
from proto.caps import parse_card
from proto.commands import ALLOW, OUT, CreatePolicyRule, CreateSa, Selector
from proto.layouts import DESCRIPTOR, RxFlag
from proto.limits import BUFFER_BYTES, RX_OFFSET
from proto.link.dma import Dma, slots_of, tx_offset
from proto.status import Drop
from proto.wire import Frames

ETHERNET4 = bytes.fromhex("0200000000020200000000010800")
ETHERNET6 = bytes.fromhex("02000000000202000000000186dd")
SALT = b"salt"


def address(text: str) -> bytes:
    return ip_address(text).packed.ljust(16, b"\0")


def frame(packet: bytes) -> bytes:
    """The packet in an Ethernet frame."""
    return (ETHERNET4 if packet[0] >> 4 == 4 else ETHERNET6) + packet


def esp(
    key: bytes, spi: int, seq: int, payload: bytes, next_header: int, *,
    icv_bytes: int = 16, esn: bool = False, pad: int | None = None, iv: bytes = b"ivivivi8",
) -> bytes:  # fmt: skip
    """ESP bytes as RFC 4106 has them; `pad` overrides the pad length byte, not the padding."""
    fill = -(len(payload) + 2) % 4
    padding = bytes(range(1, fill + 1))
    clear = payload + padding + bytes([fill if pad is None else pad, next_header])
    aad = struct.pack(">IQ" if esn else ">II", spi, seq if esn else seq & 0xFFFF_FFFF)
    gcm = Cipher(algorithms.AES(key), modes.GCM(SALT + iv)).encryptor()
    gcm.authenticate_additional_data(aad)
    sealed = gcm.update(clear) + gcm.finalize()
    return struct.pack(">II", spi, seq & 0xFFFF_FFFF) + iv + sealed + gcm.tag[:icv_bytes]


def open_esp(key: bytes, data: bytes, *, icv_bytes: int = 16, high: int | None = None) -> bytes:
    """The clear bytes of an ESP packet up to its trailer; raises InvalidTag."""
    aad = data[:4] + (b"" if high is None else high.to_bytes(4, "big")) + data[4:8]
    tag = data[-icv_bytes:]
    mode = modes.GCM(SALT + data[8:16], tag, min_tag_length=icv_bytes)
    gcm = Cipher(algorithms.AES(key), mode).decryptor()
    gcm.authenticate_additional_data(aad)
    return gcm.update(data[16:-icv_bytes]) + gcm.finalize()


class Bench:
    """One set of tables; rows are handed out in order."""

    address, frame, esp, open_esp = map(staticmethod, (address, frame, esp, open_esp))
    KEY = bytes(range(16))
    SALT = SALT

    def __init__(self, card: str = "full:sa_max=64,key_max=64,rule_max=64") -> None:
        self.caps = parse_card(card)
        self.t = tables.make_tables(self.caps)
        self.steering = Steering(self.t)
        self.dma = Dma.anonymous()
        self.memory = self.dma.memory
        self.tx_index = self.rx_index = 0
        self.rows = 0

    def sa(self, *, key: bytes = KEY, src: str = "10.1.0.1", dst: str = "10.1.0.2",
           iv_mask: int = 0x0123_4567_89AB_CDEF, **fields: Any) -> int:  # fmt: skip
        """An SA with a rule; outbound unless told otherwise. Returns its row."""
        self.rows += 1
        expand_key(key, self.t.keys[self.rows])
        values = {
            "key": 1, "salt": SALT, "icv_bytes": 16, "spi": 0x1000, "direction": OUT, "reqid": 1,
            "family": 10 if ":" in dst else 2, "saddr": address(src), "daddr": address(dst),
            "selector": Selector(),
        }  # fmt: skip
        command = CreateSa(**(values | fields))
        tables.write_sa(self.t, self.rows, command, self.rows, 7, iv_mask, self.caps)
        if not (command.crypto and command.direction == OUT):
            self.steering.add_sa(self.rows)
        return self.rows

    def policy(self, *, direction: int = OUT, family: int = 2, action: int = ALLOW,
               protect: bool = True, priority: int = 0, reqid: int = 1,
               **fields: Any) -> int:  # fmt: skip
        """A policy; fields that a selector has make its selector."""
        chosen = {name: fields.pop(name) for name in Selector.__struct_fields__ if name in fields}
        return self.steering.add_policy(
            CreatePolicyRule(
                direction=direction, selector=Selector(family=family, **chosen), action=action,
                protect=protect, priority=priority, reqid=reqid, **fields,
            )
        )  # fmt: skip

    def tx(self, frames: Sequence[bytes], *, mtu: int = 1500, flags: int = 0, row: int = 0,
           generation: int = 7) -> list[bytes | Drop]:  # fmt: skip
        """Frames from the host: what left for each, or why it did not. `row` is the SA that crypto
        offload names."""
        descriptors = np.zeros(len(frames), DESCRIPTOR)
        descriptors["flags"] = flags
        if row:
            descriptors["handle"], descriptors["generation"] = row | generation << 24, generation
        for i, data in enumerate(frames):
            offset = tx_offset(self.tx_index + i)
            self.memory[offset : offset + len(data)] = np.frombuffer(data, np.uint8)
            descriptors[i]["offset"], descriptors[i]["length"] = offset, len(data)
        sent, verdict = self.tx_raw(descriptors, mtu)
        assert len(sent) + self.dropped == len(frames)
        left = iter(sent)
        return [Drop(why) if why else next(left) for why in verdict]

    def tx_raw(
        self, descriptors: Any, mtu: int = 1500, *, written: bool = True, room: int = 256
    ) -> tuple[list[bytes], Any]:
        """tx_burst itself: the frames that left, and the verdicts. Not `written` leaves the marks
        of the slots as they are."""
        n = len(descriptors)
        out, out_length = np.zeros(room * 9600, np.uint8), np.zeros(room, np.int64)
        if written:
            slots, marks = slots_of(self.tx_index, n)
            self.dma.tx_marks[slots] = marks
        verdict = np.zeros(n, np.uint8)
        before = self.t.drops[tables.TX].sum()
        taken, sent = tx_burst(
            self.t, self.memory, self.tx_index, descriptors, n, mtu, out, out_length, verdict,
        )  # fmt: skip
        self.tx_index += taken
        self.dropped = self.t.drops[tables.TX].sum() - before
        return Frames(out_length[:sent], out[: out_length[:sent].sum()]).each(), verdict[:taken]

    def rx(
        self, frames: Sequence[bytes], *, mac: int = 0, credits: int = 1024
    ) -> list[bytes | Drop]:
        """Frames from the wire: what the host got for each, or why it did not."""
        n = len(frames)
        lengths = np.array([len(data) for data in frames], np.int64)
        self.descriptors = np.zeros(max(n, 1), DESCRIPTOR)
        verdict = np.zeros(n, np.uint8)
        before = self.t.drops[tables.RX].sum()
        delivered = rx_burst(
            self.t, np.frombuffer(b"".join(frames) or b"\0", np.uint8),
            np.cumsum(lengths) - lengths, lengths, n, self.memory, mac, self.rx_index, credits,
            self.descriptors, verdict,
        )  # fmt: skip
        assert delivered == np.count_nonzero(verdict == 0)
        assert delivered + self.t.drops[tables.RX].sum() - before == n
        got = iter(self.descriptors[:delivered])
        result = [Drop(why) if why else self._read(next(got)) for why in verdict]
        self.rx_index += delivered
        return result

    def _read(self, descriptor: Any) -> bytes:
        offset = int(descriptor["offset"])
        assert offset >= RX_OFFSET and (offset - RX_OFFSET) % BUFFER_BYTES == 4
        assert descriptor["syndrome"] == 0 or descriptor["flags"] == RxFlag.CRYPTO
        return self.memory[offset : offset + int(descriptor["length"])].tobytes()

    def state(self, row: int) -> Any:
        return tables.read_sa(self.t, row)


@pytest.fixture(params=["few SAs", "many SAs"])
def make_bench(request) -> Callable[..., Bench]:
    """With many SAs the kernels look ahead; what comes out must be the same."""
    if request.param == "many SAs" and config.DISABLE_JIT:
        pytest.skip("plain Python has nothing to look ahead with")

    def make(*card: str) -> Bench:
        bench = Bench(*card)
        bench.t.steered[0] += ahead.MANY_SAS if request.param == "many SAs" else 0
        return bench

    return make


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()
