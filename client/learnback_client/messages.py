"""The turns of a conversation, in the forms that people have at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from learnback.v1 import inference_pb2
from learnback_client import checks
from learnback_client.errors import invalid
from learnback_client.generation import ChatMessage, Role
from learnback_client.protos import read_enum

MessageLike: TypeAlias = ChatMessage | Mapping[str, str] | tuple[str, str]
"""A turn: `ChatMessage`, {"role": ..., "content": ...} or (role, content)."""

_KEYS = {"role", "content"}


def write_chat(field: str, messages: Sequence[MessageLike]) -> inference_pb2.Chat:
    """Returns the conversation as the contract has it.

    Args:
        field: Name of the argument, for errors.
        messages: The turns, oldest first.

    Raises:
        InvalidRequest: A turn has none of the forms, or a role that there is not.
    """
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise invalid(field, f"must be a list of messages, not a {type(messages).__name__}")
    return inference_pb2.Chat(
        messages=[_write_message(f"{field}[{i}]", each) for i, each in enumerate(messages)]
    )


def read_chat(chat: inference_pb2.Chat) -> tuple[ChatMessage, ...]:
    """Reads a conversation."""
    return tuple(ChatMessage(read_enum(Role, each.role), each.content) for each in chat.messages)


def _write_message(field: str, message: object) -> inference_pb2.Message:
    role, content = _parts(field, message)
    member = checks.member(f"{field}.role", role, Role)
    return inference_pb2.Message(
        role=inference_pb2.Role.Value(f"ROLE_{member.name}"),
        content=checks.text(f"{field}.content", content),
    )


def _parts(field: str, message: object) -> tuple[object, object]:
    match message:
        case ChatMessage():
            return message.role, message.content
        case Mapping() if message.keys() == _KEYS:
            return message["role"], message["content"]
        case (role, content):
            return role, content
    raise invalid(field, 'must be {"role": ..., "content": ...} or (role, content)')
