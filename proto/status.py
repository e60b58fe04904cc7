# SPDX-License-Identifier: Apache-2.0
"""How things end: errno with text, command status with syndrome, one reason per dropped packet."""

import errno as _errno
from enum import IntEnum, unique


class OffloadError(Exception):
    """A refusal as the user sees it.

    `errno` is positive (22 for EINVAL); `text` says what was offered, the limit and the object.
    """

    def __init__(self, errno: int, text: str) -> None:
        super().__init__(errno, text)
        self.errno = errno
        self.text = text

    def __str__(self) -> str:
        return f"{self.text} ({_errno.errorcode.get(self.errno, self.errno)})"


@unique
class Status(IntEnum):
    """Command status in a mailbox reply. The 32-bit syndrome beside it names the exact check."""

    OK = 0
    BAD_OPCODE = 1
    BAD_PARAMETER = 2
    BAD_OBJECT = 3
    NO_RESOURCES = 4
    OBJECT_BUSY = 5
    EXISTS = 6
    NOT_SUPPORTED = 7
    BAD_MESSAGE = 8
    INTERNAL_ERROR = 9
    BAD_SYSTEM_STATE = 10
    NOT_READY = 11
    LIMIT_EXCEEDED = 12
    BAD_OBJECT_STATE = 13
    BAD_INDEX = 14
    NO_RESOURCES_NOW = 15
    BAD_QUEUE_STATE = 16
    BAD_PACKET = 17
    TOO_MANY_OUTSTANDING = 18
    BAD_INPUT_LENGTH = 19
    BAD_OUTPUT_LENGTH = 20


STATUS_ERRNO: dict[Status, int] = {
    Status.OK: 0,
    Status.BAD_OPCODE: _errno.EINVAL,  # EOPNOTSUPP would mean "use software" (STATE-24)
    Status.BAD_PARAMETER: _errno.EINVAL,
    Status.BAD_OBJECT: _errno.ENOENT,
    Status.NO_RESOURCES: _errno.ENOSPC,
    Status.OBJECT_BUSY: _errno.EBUSY,
    Status.EXISTS: _errno.EEXIST,
    Status.NOT_SUPPORTED: _errno.EINVAL,
    Status.BAD_MESSAGE: _errno.EBADMSG,
    Status.INTERNAL_ERROR: _errno.EIO,
    Status.BAD_SYSTEM_STATE: _errno.EIO,
    Status.NOT_READY: _errno.EAGAIN,
    Status.LIMIT_EXCEEDED: _errno.ENOMEM,
    Status.BAD_OBJECT_STATE: _errno.EINVAL,
    Status.BAD_INDEX: _errno.EINVAL,
    Status.NO_RESOURCES_NOW: _errno.EAGAIN,
    Status.BAD_QUEUE_STATE: _errno.EINVAL,
    Status.BAD_PACKET: _errno.EINVAL,
    Status.TOO_MANY_OUTSTANDING: _errno.EINVAL,
    Status.BAD_INPUT_LENGTH: _errno.EIO,
    Status.BAD_OUTPUT_LENGTH: _errno.EIO,
}


@unique
class Delivery(IntEnum):
    """Whether a command reached the firmware at all; the Status counts only with OK.

    ABORTED is the driver's own: it gave the command up because the card is in error, or gone. The
    Status beside it says how the driver took it.
    """

    OK = 0
    SIGNATURE = 1
    TOKEN = 2
    BLOCK_NUMBER = 3
    OUTPUT_POINTER = 4
    INPUT_POINTER = 5
    FIRMWARE = 6
    INPUT_LENGTH = 7
    OUTPUT_LENGTH = 8
    RESERVED = 9
    DESCRIPTOR = 16
    ABORTED = 17


DELIVERY_ERRNO: dict[Delivery, int] = {
    Delivery.OK: 0,
    Delivery.SIGNATURE: _errno.EBADR,
    Delivery.TOKEN: _errno.EBADR,
    Delivery.BLOCK_NUMBER: _errno.EFAULT,
    Delivery.OUTPUT_POINTER: _errno.EFAULT,
    Delivery.INPUT_POINTER: _errno.EFAULT,
    Delivery.FIRMWARE: _errno.EIO,
    Delivery.INPUT_LENGTH: _errno.ENOMSG,
    Delivery.OUTPUT_LENGTH: _errno.ENOMSG,
    Delivery.RESERVED: _errno.ENOMSG,
    Delivery.DESCRIPTOR: _errno.ENOMSG,
    Delivery.ABORTED: _errno.ENXIO,
}


@unique
class Syndrome(IntEnum):
    """Why the firmware refused a command (32 bits on the wire)."""

    NONE = 0
    UNKNOWN_OPCODE = 0x1001
    MALFORMED = 0x1002
    TOKEN_STALE = 0x1003
    MESSAGE_TOO_LONG = 0x1004
    HANDLE_UNKNOWN = 0x1101
    HANDLE_IN_USE = 0x1102
    TABLE_FULL = 0x1103
    SA_EXISTS = 0x1104
    KEY_LENGTH = 0x1201
    ICV_LENGTH = 0x1202
    WINDOW_SIZE = 0x1203
    ESN_UNSUPPORTED = 0x1204
    MODE = 0x1205
    ENCAP_UNSUPPORTED = 0x1206
    FAMILY = 0x1207
    DIRECTION = 0x1208
    LIMIT = 0x1209
    SEQUENCE = 0x120A
    SELECTOR = 0x120B
    PRIORITY_UNSUPPORTED = 0x120C
    PACKET_UNSUPPORTED = 0x120D
    SPI = 0x120E
    FIELD = 0x120F  # a field outside what it can hold
    CRYPTO_UNSUPPORTED = 0x1210
    PORT_SETTING = 0x1301
    QUEUE_STATE = 0x1302  # no edge of queue.EDGES leads there
    EPOCH = 0x1401  # InitFunction with an epoch that cannot be taken
    INITIALIZING = 0x1402  # boots, ask again
    FUNCTION_STATE = 0x1403  # not in this state of the function
    RESET_REFUSED = 0x1404  # another function would not agree


@unique
class HealthSyndrome(IntEnum):
    """What ails a card, in its health record, as ConnectX numbers it."""

    NONE = 0
    FIRMWARE_INTERNAL = 0x1
    DEAD_ENGINE = 0x7
    HARDWARE = 0x8
    FIRMWARE_CRC = 0x9
    CONTEXT_FETCH = 0xA
    CONTEXT_PAGE = 0xB
    EVENT_QUEUE_OVERRUN = 0xC
    EVENT_QUEUE_ERROR = 0xD
    EVENT_QUEUE_INVALID = 0xE
    FATAL_SERIAL = 0xF
    TEMPERATURE = 0x10
    POISONED_MEMORY = 0x12
    TRUST_LOCKDOWN = 0x13


@unique
class Drop(IntEnum):
    """The verdict on a frame: 0 passes, every other value is the one reason why it was dropped.

    The card has one counter per reason and direction, named after it in lower case
    (`tx_drop_no_sa`, `rx_drop_replay`).
    """

    NONE = 0
    MALFORMED = 1  # frame, IP or extension header does not parse
    TOO_LONG = 2  # does not fit a buffer or the link, encapsulated where it is
    FRAGMENT = 3  # a protect or block policy could cover it, or ESP in pieces
    POLICY_BLOCK = 4
    NO_SA = 5  # protect policy, no usable SA of its reqid
    HARD_LIMIT = 6
    SEQUENCE_EXHAUSTED = 7  # RFC 4303 3.3.3: the counter must not cycle
    CLEAR_TEXT = 8  # clear packet where a policy asks for protection
    ESP_HEADER = 9  # shorter than ESP header, IV, trailer and ICV
    REPLAY = 10  # duplicate, or left of the window
    INTEGRITY = 11  # ICV is wrong
    TRAILER = 12  # pad length is beyond the payload
    SELECTOR = 13  # decrypted packet does not fit the SA's selector
    TEMPLATE = 14  # decrypted by an SA that the IN policy does not name
    NO_BUFFER = 15  # host posted no receive buffer
    DESCRIPTOR = 16  # descriptor points outside its ring slot
    DUMMY = 17  # RFC 4303 2.6: next header 59 is discarded silently
    MAC_FILTER = 18  # frame for another MAC while the filter is on
    MODE = 19  # opened by a tunnel SA, and no IP packet of its next header is in it
    CRYPTO = 20  # for crypto offload, and not the next ESP packet of its SA
    FLUSHED = 21  # stood in a queue behind an error
    ENGINE = 22  # the card failed on it
    CLOSED = 23  # no host has the card, or it is in error
