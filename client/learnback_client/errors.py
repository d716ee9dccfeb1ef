"""What can go wrong, as one tree of exceptions.

Which class is raised is decided by the reason that the server gives (`ErrorReason` in
`errors.proto`), and where it gives none, by the status code of the call:

    LearnbackError                    any code that has no class of its own
    ├── InvalidRequest                INVALID_ARGUMENT     INVALID_FIELD
    │   └── ContextLengthExceeded                          CONTEXT_LENGTH_EXCEEDED
    ├── NotFound                      NOT_FOUND
    │   ├── CheckpointNotFound                             CHECKPOINT_NOT_FOUND
    │   ├── GenerationNotFound                             GENERATION_NOT_FOUND
    │   └── FeedbackNotFound                               FEEDBACK_NOT_FOUND
    ├── AlreadyExists                 ALREADY_EXISTS
    │   └── RequestIdReused                                REQUEST_ID_REUSED
    ├── ResourceExhausted             RESOURCE_EXHAUSTED
    │   ├── QueueFull                                      QUEUE_FULL
    │   ├── QueueTimeout                                   QUEUE_TIMEOUT
    │   ├── QuotaExceeded                                  QUOTA_EXCEEDED
    │   └── MessageTooLarge                                MESSAGE_TOO_LARGE
    ├── Unavailable                   UNAVAILABLE
    │   ├── ServerDraining                                 SERVER_DRAINING
    │   └── StoreUnavailable                               STORE_UNAVAILABLE
    ├── DeadlineExceeded              DEADLINE_EXCEEDED    DEADLINE_EXCEEDED
    ├── Cancelled                     CANCELLED            CANCELLED
    ├── Unauthenticated               UNAUTHENTICATED      UNAUTHENTICATED
    ├── PermissionDenied              PERMISSION_DENIED    PERMISSION_DENIED
    ├── FailedPrecondition            FAILED_PRECONDITION
    │   ├── CheckpointUnusable                             CHECKPOINT_UNUSABLE
    │   └── AcceptanceUnavailable                          ACCEPTANCE_UNAVAILABLE
    ├── Unimplemented                 UNIMPLEMENTED        UNIMPLEMENTED
    └── Internal                      INTERNAL             INTERNAL

`InvalidRequest` is also raised before any network for arguments that the contract can't carry. A
keyword that no method knows is a `TypeError`, as everywhere in Python.
"""

# ruff: noqa: N818 - the classes are named by what happened, as the contract names its reasons.
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

_DOMAIN = "learnback"
_DETAILS_KEY = "grpc-status-details-bin"
# gRPC refuses messages over its limits itself, with no ErrorInfo; this much of its text is stable.
_TOO_LARGE_MARK = "message larger than max"


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong with a request."""

    field: str
    """The field of the contract, the argument of this client, or the subject of the quota."""
    description: str
    """What is wrong with it."""


class LearnbackError(Exception):
    """Base of all errors of this client, and the error of a status that has no class of its own."""

    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    """The status code of the call."""
    reason: str = ""
    """One of `ErrorReason`, without its prefix ("QUEUE_FULL"); empty if none was given."""
    violations: tuple[Violation, ...] = ()
    """Which fields (or quotas) are concerned, and how."""
    retry_after: float | None = None
    """Seconds after which to try again, if the server said so."""
    metadata: Mapping[str, str] = {}
    """Figures that the server sent along, by name."""
    request_id: str = ""
    """Id of the failed call, as it stands in the server's log."""

    def __init__(self, message: str) -> None:
        super().__init__(message)

    @property
    def message(self) -> str:
        """What happened, in words."""
        return str(self)


class InvalidRequest(LearnbackError):
    """A field is missing, malformed or out of its range; `violations` names it."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_FIELD"


class ContextLengthExceeded(InvalidRequest):
    """The input and `max_tokens` do not fit the model's context."""

    reason = "CONTEXT_LENGTH_EXCEEDED"


class NotFound(LearnbackError):
    """Nothing goes by this name or id."""

    code = grpc.StatusCode.NOT_FOUND


class CheckpointNotFound(NotFound):
    """No checkpoint goes by this name or alias."""

    reason = "CHECKPOINT_NOT_FOUND"


class GenerationNotFound(NotFound):
    """No generation goes by this id, or its record has expired."""

    reason = "GENERATION_NOT_FOUND"


class FeedbackNotFound(NotFound):
    """No feedback goes by this id."""

    reason = "FEEDBACK_NOT_FOUND"


class AlreadyExists(LearnbackError):
    """What was to be made is there already."""

    code = grpc.StatusCode.ALREADY_EXISTS


class RequestIdReused(AlreadyExists):
    """This `request_id` was used with other content."""

    reason = "REQUEST_ID_REUSED"


class ResourceExhausted(LearnbackError):
    """A limit of the server was reached. Never retried by the client: that would add to the load.

    `retry_after` tells when a new try makes sense.
    """

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class QueueFull(ResourceExhausted):
    """The server's queue is full."""

    reason = "QUEUE_FULL"


class QueueTimeout(ResourceExhausted):
    """The request waited longer than its `queue_timeout`."""

    reason = "QUEUE_TIMEOUT"


class QuotaExceeded(ResourceExhausted):
    """The caller's quota is spent; `violations` names it."""

    reason = "QUOTA_EXCEEDED"


class MessageTooLarge(ResourceExhausted):
    """The request or the reply is larger than one of the two sides takes."""

    reason = "MESSAGE_TOO_LARGE"


class Unavailable(LearnbackError):
    """The server can't be reached, also after the client's own retries."""

    code = grpc.StatusCode.UNAVAILABLE


class ServerDraining(Unavailable):
    """The server shuts down."""

    reason = "SERVER_DRAINING"


class StoreUnavailable(Unavailable):
    """The server's store can't be reached; nothing was written."""

    reason = "STORE_UNAVAILABLE"


class DeadlineExceeded(LearnbackError):
    """The `timeout` of the call was over."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class Cancelled(LearnbackError):
    """The call was cancelled, here or by the server."""

    code = grpc.StatusCode.CANCELLED
    reason = "CANCELLED"


class Unauthenticated(LearnbackError):
    """The token is missing or unknown."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class PermissionDenied(LearnbackError):
    """The token does not reach this service."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"


class FailedPrecondition(LearnbackError):
    """The server is not in the state that the call needs."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class CheckpointUnusable(FailedPrecondition):
    """The checkpoint can't take this step, or there is none to go back to."""

    reason = "CHECKPOINT_UNUSABLE"


class AcceptanceUnavailable(FailedPrecondition):
    """The checkpoint has no acceptance head to put its answers in order by."""

    reason = "ACCEPTANCE_UNAVAILABLE"


class Unimplemented(LearnbackError):
    """This server does not offer the method."""

    code = grpc.StatusCode.UNIMPLEMENTED
    reason = "UNIMPLEMENTED"


class Internal(LearnbackError):
    """A fault of the server; its log has the details under `request_id`."""

    code = grpc.StatusCode.INTERNAL
    reason = "INTERNAL"


def _tree(root: type[LearnbackError]) -> Iterator[type[LearnbackError]]:
    for child in root.__subclasses__():
        yield child
        yield from _tree(child)


_BY_REASON = {kind.reason: kind for kind in _tree(LearnbackError) if kind.reason}
_BY_CODE = {kind.code: kind for kind in LearnbackError.__subclasses__()}


class FailedCall(Protocol):
    """What this module reads of gRPC's exceptions; the sync and the asyncio ones both have it."""

    def code(self) -> grpc.StatusCode:
        """The status code."""

    def details(self) -> str | None:
        """The server's message."""

    def trailing_metadata(self) -> object:
        """Pairs of key and value, or None."""


def invalid(field: str, description: str) -> InvalidRequest:
    """The error for an argument that this client refuses before any network."""
    error = InvalidRequest(f"{field}: {description}")
    error.violations = (Violation(field, description),)
    return error


def from_call(failed: FailedCall, request_id: str = "") -> LearnbackError:
    """Turns gRPC's exception into one of the tree.

    Args:
        failed: The exception that gRPC raised.
        request_id: Id that the call was sent with.
    """
    message = failed.details() or failed.code().name
    details = _details(failed)
    error = _kind(failed.code(), message, details)(message)
    error.code = failed.code()
    error.request_id = request_id
    error.violations = tuple(_violations(details))
    if details.info is not None:
        error.reason = details.info.reason
        error.metadata = dict(details.info.metadata)
    if details.retry is not None:
        error.retry_after = details.retry.retry_delay.ToTimedelta().total_seconds()
    return error


def _kind(code: grpc.StatusCode, message: str, details: _Details) -> type[LearnbackError]:
    if details.info is not None and details.info.reason in _BY_REASON:
        return _BY_REASON[details.info.reason]
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE_MARK in message:
        return MessageTooLarge
    return _BY_CODE.get(code, LearnbackError)


@dataclass(slots=True)
class _Details:
    info: error_details_pb2.ErrorInfo | None = None
    bad_request: error_details_pb2.BadRequest | None = None
    quota: error_details_pb2.QuotaFailure | None = None
    retry: error_details_pb2.RetryInfo | None = None


def _details(failed: FailedCall) -> _Details:
    """Reads the details of a status; those that are missing or unreadable stay None."""
    details = _Details()
    for part in _status(failed).details:
        if part.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(part.value)
            details.info = info if info.domain == _DOMAIN else details.info
        elif part.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            details.bad_request = error_details_pb2.BadRequest.FromString(part.value)
        elif part.Is(error_details_pb2.QuotaFailure.DESCRIPTOR):
            details.quota = error_details_pb2.QuotaFailure.FromString(part.value)
        elif part.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            details.retry = error_details_pb2.RetryInfo.FromString(part.value)
    return details


def _status(failed: FailedCall) -> status_pb2.Status:
    metadata = failed.trailing_metadata()
    pairs = metadata if isinstance(metadata, Iterable) else ()
    for key, value in pairs:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:  # a proxy garbled it; code and message still tell what happened
                break
    return status_pb2.Status()


def _violations(details: _Details) -> Iterator[Violation]:
    if details.bad_request is not None:
        for broken in details.bad_request.field_violations:
            yield Violation(broken.field, broken.description)
    if details.quota is not None:
        for spent in details.quota.violations:
            yield Violation(spent.subject, spent.description)
