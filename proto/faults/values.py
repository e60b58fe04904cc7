# SPDX-License-Identifier: Apache-2.0
"""Values of faults that are more than a number."""

from collections.abc import Mapping

from proto.status import Delivery, HealthSyndrome, Status, Syndrome

BEFORE = "before"
U32 = (1 << 32) - 1


def parse_status(value: object) -> tuple[int, int, str]:
    """`NO_RESOURCES:TABLE_FULL:no room`, `4:0x1103` or just 77 -> status, syndrome, text.

    Without syndrome it is 0; numbers that no enum knows are possible, as with real firmware. Raises
    ValueError.
    """
    status, _, rest = str(value).partition(":")
    syndrome, _, text = rest.partition(":")
    return _number(status, Status.__members__), _number(syndrome, Syndrome.__members__), text


def parse_delivery(value: object) -> int:
    """`TOKEN` or 2 -> 2; 0, which is no failure, is none. Raises ValueError."""
    number = _number(str(value), Delivery.__members__)
    if number in (Delivery.OK, Delivery.ABORTED):
        raise ValueError(f"{value} is no failure that a card reports")
    return number


def parse_syndrome(value: object) -> HealthSyndrome:
    """`TEMPERATURE` or 0x10; None is FIRMWARE_INTERNAL. Raises ValueError."""
    if value is None:
        return HealthSyndrome.FIRMWARE_INTERNAL
    return HealthSyndrome(_number(str(value), HealthSyndrome.__members__))


def _number(text: str, names: Mapping[str, int]) -> int:
    if text.upper() in names:
        return names[text.upper()]
    try:
        number = int(text or "0", 0)
    except ValueError:
        raise ValueError(f"{text!r} is no number and none of {', '.join(names)}") from None
    if not 0 <= number <= U32:
        raise ValueError(f"{number} does not fit 32 bits")
    return number
