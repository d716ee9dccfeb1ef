"""Reading protocol buffers into plain Python: enumerations, times and durations."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

EnumT = TypeVar("EnumT", bound=StrEnum)


def read_enum(kind: type[EnumT], number: int) -> EnumT:
    """Returns the member at place `number` of `kind`, which lists its members as the contract does.

    A number that a newer server knows and this client does not is read as "unspecified", which
    every such enumeration has at place 0.
    """
    members = list(kind)
    return members[number] if 0 <= number < len(members) else members[0]


def read_time(message: Message, field: str) -> datetime | None:
    """Returns the Timestamp in `field` as an aware datetime in UTC, or None if it is not set."""
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    return stamp.ToDatetime(tzinfo=UTC)


def read_seconds(message: Message, field: str) -> float | None:
    """Returns the Duration in `field` in seconds, or None if it is not set."""
    if not message.HasField(field):
        return None
    span: Duration = getattr(message, field)
    return span.ToTimedelta().total_seconds()
