"""A call of the contract as a value: which RPC, with which request, read in which way.

Functions that make such values (`generation_calls`, `feedback_calls`, `checkpoint_calls`,
`health`) are all that the two clients share. They do no input or output, so that a client is only
a transport for them. Each raises InvalidRequest for arguments that the contract can't carry and
TypeError for keywords that it does not know.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from google.protobuf.message import Message

from learnback_client import checks
from learnback_client.errors import invalid
from learnback_client.options import CallOptions

DEFAULT_TIMEOUT_S = 120.0
"""Deadline of a call that does not say: a wait in the queue and a long answer of a large model."""
WATCH_TIMEOUT_S = 3600.0
"""Deadline of watching that does not say: a few rounds of training."""

ResponseT = TypeVar("ResponseT", bound=Message)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[ResponseT, T]):
    """One call, ready to be sent."""

    path: str
    """The RPC, as HTTP/2 names it."""
    request: Message
    response: type[ResponseT]
    read: Callable[[ResponseT], T]
    """Makes of one response what the caller gets."""
    timeout: float | None = None
    """In seconds, as the caller asked; math.inf for none; None for the client's default."""
    least_timeout: float = 0.0
    """The client's default is lengthened to this, in seconds."""
    request_id: str = ""
    """As sent."""

    def deadline(self, default: float) -> float | None:
        """Returns the timeout in gRPC's form: seconds, or None for none.

        Args:
            default: The client's, in seconds.

        Raises:
            InvalidRequest: The caller's is not a number over zero.
        """
        if self.timeout is not None:
            return deadline(self.timeout)
        return deadline(max(default, self.least_timeout))


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list."""

    items: tuple[T, ...]
    next_token: str
    """Asks for the next page; empty on the last one."""


def next_page(call: Call[ResponseT, Page[T]], token: str) -> Call[ResponseT, Page[T]]:
    """Returns the call for the page that `token` asks for."""
    request = type(call.request)()
    request.CopyFrom(call.request)
    # Every list of the contract is paged by a field of this name.
    request.page_token = token  # type: ignore[attr-defined]
    return replace(call, request=request)


def deadline(timeout: float) -> float | None:
    """Returns a timeout as gRPC wants it: None for none.

    Raises:
        InvalidRequest: It is not a number over zero.
    """
    if not isinstance(timeout, int | float) or isinstance(timeout, bool) or not timeout > 0:
        raise invalid("timeout", f"must be a number of seconds over zero, not {timeout!r}")
    return None if math.isinf(timeout) else float(timeout)


def watch_timeout(options: CallOptions) -> float:
    """Returns the timeout of a call that watches."""
    timeout = options.get("timeout")
    return WATCH_TIMEOUT_S if timeout is None else timeout


def request_id(given: str | None) -> str:
    """Returns the caller's id of the call, or a fresh one."""
    return uuid.uuid4().hex if given is None else checks.text("request_id", given)
