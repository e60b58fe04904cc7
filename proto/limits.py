# SPDX-License-Identifier: Apache-2.0
"""The bounds that host, card and lab share, named once. Units stand last in the name."""

PROTOCOL_VERSION = 3
COMMAND_REVISION = 5  # of mailbox commands

# Rings and DMA memory. A slot of the region belongs to one ring position: slot = index % RING_SIZE.
RING_SIZE = 1024
BURST = 256
BUFFER_BYTES = 10_240
MARK_BYTES = 4  # of a buffer; behind its mark stands the packet (proto.link.dma)
SLOT_BYTES = BUFFER_BYTES - MARK_BYTES
TX_BUFFER_BYTES = 65_600  # holds the longest frame that a descriptor can tell of
RX_OFFSET = RING_SIZE * TX_BUFFER_BYTES
DMA_BYTES = RX_OFFSET + RING_SIZE * BUFFER_BYTES
WIRE_CREDITS = 4096
FRAME_MAX_BYTES = 9_600
MESSAGE_MAX_BYTES = 20 << 20  # a burst of the longest frames

# Host queues in front of and behind the rings.
TXQUEUE_LEN = 1000
GENERATE_MAX = 1 << 20  # packets of one run of the host's traffic source
SOCKET_RCVBUF_BYTES = 256 << 20
NOTIFICATION_QUEUE = 65_536
TRACE_ENTRIES = 16_384
NETLINK_DUMP_BYTES = 32_768  # a dump gives its answers in buffers of this size
OPEN_DUMPS = 64

# Mailbox and event queue.
MAILBOX_SLOTS = 32
MAILBOX_GENERATIONS = (1 << 32) // MAILBOX_SLOTS - 1  # of tokens in one slot
MAILBOX_QUEUE = 4096  # commands that wait for a slot
MAILBOX_MESSAGE_BYTES = 8192  # of one command; the longest has a replay window of 4096 packets
COMMAND_TIMEOUT_MS = 2_000
RESET_TIMEOUT_MS = 10_000  # of commands that empty the whole card
LIST_PAGE = 256  # objects in one reply
EVENT_QUEUE = 1024
EVENT_LOG = 4096  # the last events that a card remembers for the lab
RECONCILE_INTERVAL_MS = 1_000
RECONCILE_BATCH = 256
AUDIT_INTERVAL_MS = 60_000  # between looks at the whole card without any doubt

# Health of a card and its recovery.
HEALTH_INTERVAL_MS = 1_000  # between records
HEALTH_POLL_MS, HEALTH_JITTER_MS = 2_000, 1_000  # the host looks, plus a drawn part of the second
HEALTH_MISSES = 3  # polls with the same record are reported, twice as many are fatal
HOST_LOST_MS = 15_000  # without a word of its host a card is nobody's
RESET_MS, BOOT_MS = 200, 300  # of a firmware reset, and of initialising after it
FATAL_GRACE_MS = 60_000
FATAL_RECOVERIES = 3  # that fail, or do not last FATAL_GRACE_MS, until the host gives up
RECOVERY_RETRY_MS = 1_000
INIT_TIMEOUT_MS = 120_000  # of a card that initialises

# Recovery of a queue.
FLUSH_TIMEOUT_MS = 2_000
TX_TIMEOUT_MS = 15_000
QUEUE_GRACE_MS = 500

# Waits of the launcher. Compiling the kernels on a slow machine is the longest of them.
HELLO_TIMEOUT_MS = 300_000
CONTROL_TIMEOUT_MS = 30_000
SETTLE_TIMEOUT_MS = 60_000
TERMINATE_TIMEOUT_MS = 3_000

# Packets and ESP (RFC 4303, RFC 4106).
ETHERNET_BYTES = 14
GSO_MAX_BYTES = 0xFFFF - ETHERNET_BYTES  # of an IP packet that the card segments
GSO_MAX_SEGMENTS = BURST
MTU_DEFAULT = 1500
MTU_MIN = 576
MTU_MAX = 9_000
REPLAY_WINDOW_MAX = 4096
SPI_MIN = 1

# Wire recorder of a lab.
WIRE_RECORD_FRAMES = 1 << 20

# sockaddr_un.sun_path without its closing NUL; zmq refuses longer ipc paths.
SOCKET_PATH_MAX_BYTES = 107
