# SPDX-License-Identifier: Apache-2.0
"""What a lab asks of a host over the CONTROL channel: tagged MessagePack, one answer each.

The requests about faults are those of `proto.management` -> Answer.value.
"""

from typing import Any

import msgspec

from proto.management import FaultRequest


class Query(msgspec.Struct, tag=lambda name: name, forbid_unknown_fields=True):
    """Base of all requests; the tag is the class name."""


class Netlink(Query):
    """A NETLINK_XFRM request as bytes -> Answer.blobs: the reply messages, or the first of them.

    Answer.value is None, or the number of the dump that goes on (NetlinkMore).
    Not `privileged`: the requester lacks CAP_NET_ADMIN (UAPI-03).
    """

    request: bytes
    privileged: bool = True

    def __repr__(self) -> str:
        return f"Netlink(<{len(self.request)} bytes>)"  # they may hold a key


class NetlinkMore(Query):
    """Go on with a dump: the next messages -> Answer.blobs, as for Netlink."""

    dump: int


class NetlinkTogether(Query):
    """Datagrams of several requesters at one moment -> Answer.value: replies, a list for each."""

    requests: list[bytes]

    def __repr__(self) -> str:
        return f"NetlinkTogether(<{len(self.requests)} requests>)"


class Notifications(Query):
    """-> Answer.blobs: multicast messages since the last call; Answer.value: when the core sent
    each, in ns since the Unix epoch."""


class Listen(Query):
    """Hear these multicast groups from now on, and no others; None is all of them.

    The socket's buffer takes `room` messages, None is NOTIFICATION_QUEUE.
    """

    groups: list[int] | None = None
    room: int | None = None


class Sysctl(Query):
    """`sysctl -w NAME=VALUE` of net.core.xfrm_*; ENOENT for another name."""

    name: str
    value: int


class Send(Query):
    """The stack sends IP packets -> Answer.errnos, 0 = accepted. With `gso_size` they are TCP or
    UDP, as large as 64 KiB, to be cut into packets of so many bytes of payload."""

    packets: list[bytes]
    gso_size: int = 0


class Generate(Query):
    """The stack sends `count` packets, the given ones round and round, as the kernel's pktgen does.

    -> Answer.values: "accepted", and "elapsed_ns" until the card was done with them; Answer.value:
    how many were refused, by errno. EINVAL without a packet, and for more than GENERATE_MAX;
    ETIMEDOUT where the card is not done TX_TIMEOUT_MS after the last one.
    """

    packets: list[bytes]
    count: int
    gso_size: int = 0


class Receive(Query):
    """-> Answer.blobs: at most `limit` IP packets delivered to the stack."""

    limit: int = 256


class Discard(Query):
    """The stack's user reads everything that was delivered, and throws it away. -> Answer.values:
    "packets" and "bytes"."""


class Mib(Query):
    """-> Answer.values: /proc/net/xfrm_stat."""


class Snmp(Query):
    """-> Answer.values: packets that ended below XFRM, of /proc/net/snmp and snmp6."""


class Counters(Query):
    """-> Answer.values: ethtool-style counters of card and driver."""


class Census(Query):
    """-> Answer.values: live objects on the card."""


class Audit(Query):
    """Compare the card with what should be there, and make it so -> Answer.values: what was found.

    EOPNOTSUPP for a driver that does not offer it.
    """


class Reporters(Query):
    """-> Answer.value: the health reporters fw, fw_fatal, tx and rx, as dicts."""


class Recover(Query):
    """A device that was given up after too many failures is tried once more."""


class Reload(Query):
    """Unload the driver and probe anew; EBUSY while anything is offloaded."""


class Trace(Query):
    """-> Answer.value: the xdo_* calls made so far, oldest first, without the first `start`."""

    start: int = 0


class SetLink(Query):
    """`ip link set DEV up|down mtu N`, `ethtool -K DEV esp-hw-offload on|off
    esp-tx-csum-hw-offload on|off`, and gso.FEATURES on|off; None = keep."""

    dev: str
    up: bool | None = None
    mtu: int | None = None
    esp_hw_offload: bool | None = None
    esp_tx_csum_hw_offload: bool | None = None
    segmentation: bool | None = None
    unregister: bool = False


class SetNetworks(Query):
    """The networks on the link of nic0, as "10.1.0.0/24"; none: every address is."""

    networks: list[str]


class AddDevice(Query):
    """A second port of the card, up and without a wire: the same driver, other ifindex.

    -> Answer.value: its ifindex.
    """

    name: str


class SetClockForward(Query):
    """The core's clock goes forward by whole seconds, as all its timers see it."""

    seconds: int


class Info(Query):
    """-> Answer.value: devices (name, ifindex, mac, mtu, up), caps, versions, pid."""


class Capture(Query):
    """Start (True) or stop (False) recording the clear side; None takes what was recorded.

    -> Answer.value: list of (time_ns, "in" or "out", packet).
    """

    on: bool | None = None


class Quiesce(Query):
    """Sleeps until the host and its card have nothing left to do.

    -> Answer.values: what has moved so far; two equal answers mean that nothing moved between them.
    """


AnyQuery = (
    Netlink | NetlinkMore | NetlinkTogether | Notifications | Listen | Sysctl | Send | Generate
    | Receive | Discard | Mib | Snmp | Counters | Census | Audit | Trace | FaultRequest | SetLink
    | SetNetworks | AddDevice | SetClockForward | Info | Capture | Quiesce
    | Reporters | Recover | Reload
)  # fmt: skip


class Ask(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A query with the id that its answer repeats."""

    id: int
    query: AnyQuery


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """`errno` not 0: the query failed, `text` says why."""

    id: int
    errno: int = 0
    text: str = ""
    blobs: list[bytes] = []
    errnos: list[int] = []
    values: dict[str, int] = {}
    value: Any = None
