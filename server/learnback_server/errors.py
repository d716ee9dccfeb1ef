"""What a call can fail with.

    CallError
    ├── BadCallError              INVALID_ARGUMENT    BadRequest names the fields
    │   ├── InvalidFieldError     INVALID_FIELD
    │   └── ContextLengthError    CONTEXT_LENGTH_EXCEEDED
    ├── NotFoundError             NOT_FOUND
    │   ├── CheckpointNotFoundError   CHECKPOINT_NOT_FOUND
    │   ├── GenerationNotFoundError   GENERATION_NOT_FOUND
    │   └── FeedbackNotFoundError     FEEDBACK_NOT_FOUND
    ├── RequestIdReusedError      ALREADY_EXISTS      REQUEST_ID_REUSED
    ├── CheckpointUnusableError   FAILED_PRECONDITION CHECKPOINT_UNUSABLE
    ├── AcceptanceUnavailableError    FAILED_PRECONDITION ACCEPTANCE_UNAVAILABLE
    ├── ExhaustedError            RESOURCE_EXHAUSTED
    │   ├── QueueFullError        QUEUE_FULL          RetryInfo
    │   ├── QueueTimeoutError     QUEUE_TIMEOUT       RetryInfo
    │   ├── QuotaExceededError    QUOTA_EXCEEDED      QuotaFailure names the quota
    │   └── MessageTooLargeError  MESSAGE_TOO_LARGE
    ├── UnauthenticatedError      UNAUTHENTICATED     UNAUTHENTICATED
    ├── PermissionDeniedError     PERMISSION_DENIED   PERMISSION_DENIED
    ├── DrainingError             UNAVAILABLE         SERVER_DRAINING, RetryInfo
    ├── StoreUnavailableError     UNAVAILABLE         STORE_UNAVAILABLE, RetryInfo
    ├── DeadlineError             DEADLINE_EXCEEDED   DEADLINE_EXCEEDED
    ├── UnimplementedError        UNIMPLEMENTED       UNIMPLEMENTED
    └── InternalError             INTERNAL            INTERNAL, a reference into the log

`to_status` makes each a `google.rpc.Status` with exactly one ErrorInfo. The status travels in the
trailing metadata, of which gRPC clients take about 8 KiB by default, so everything that a caller
could make long is clipped here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import grpc
from google.protobuf import duration_pb2, message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from learnback.v1 import errors_pb2
from learnback.v1.errors_pb2 import ErrorReason

DOMAIN = "learnback"
# What a caller is told to wait before trying again. Long enough for a few short answers to leave
# the queue, short enough that a free server is not left idle.
QUEUE_RETRY_SECONDS = 1.0
# Another replica can take the call at once; the pause only keeps a lone client from spinning.
DRAIN_RETRY_SECONDS = 0.2
# A Redis that starts again is back in seconds; Sentinels take 5 and an election. A client with four
# repetitions outlasts that.
STORE_RETRY_SECONDS = 2.5
# Bounds of what one error tells: 10 violations of at most 100 + 200 characters stay below 4 KiB.
MAX_VIOLATIONS = 10
_MAX_FIELD_CHARS = 100
_MAX_DESCRIPTION_CHARS = 200
_MAX_METADATA_CHARS = 200

_STATUS_METADATA_KEY = "grpc-status-details-bin"
# Overrides the back-off of clients that retry by service config (gRFC A6). Milliseconds.
_PUSHBACK_METADATA_KEY = "grpc-retry-pushback-ms"


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that is wrong, by its path in the request, and what to do about it."""

    field: str
    description: str


class CallError(Exception):
    """A call failed; its caller is told the message, the reason and the metadata.

    Args:
        message: What is wrong and what to do about it, in one sentence.
        metadata: Facts for programs, such as counts.
    """

    code: ClassVar[grpc.StatusCode]
    reason: ClassVar[ErrorReason.ValueType]
    retry_seconds: ClassVar[float | None] = None

    def __init__(self, message: str, **metadata: str | int) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = {
            name: clipped(value, _MAX_METADATA_CHARS) for name, value in metadata.items()
        }

    def details(self) -> list[message.Message]:
        """Returns what stands in the status beside ErrorInfo."""
        if self.retry_seconds is None:
            return []
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(self.retry_seconds * 1000))
        return [error_details_pb2.RetryInfo(retry_delay=delay)]


class BadCallError(CallError):
    """The request can't be served as it is, now or later.

    Args:
        violations: The fields that are wrong; at least one, of which the first few are told.
        found: How many there are in all.
        metadata: Facts for programs, such as counts.
    """

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(
        self, violations: Iterable[Violation], found: int | None = None, **metadata: str | int
    ) -> None:
        self.violations = [
            Violation(
                clipped(violation.field, _MAX_FIELD_CHARS),
                clipped(violation.description, _MAX_DESCRIPTION_CHARS),
            )
            for violation in violations
        ][:MAX_VIOLATIONS]
        first = self.violations[0]
        more = (found or len(self.violations)) - 1
        rest = f" (and {more} more)" if more else ""
        where = f"{first.field}: " if first.field else ""
        super().__init__(f"{where}{first.description}{rest}", **metadata)

    def details(self) -> list[message.Message]:
        """Returns the BadRequest that names the fields."""
        bad_request = error_details_pb2.BadRequest()
        for violation in self.violations:
            bad_request.field_violations.add(
                field=violation.field, description=violation.description
            )
        return [bad_request]


class InvalidFieldError(BadCallError):
    """Fields are missing, malformed or out of their range."""

    reason = errors_pb2.ERROR_REASON_INVALID_FIELD


class ContextLengthError(BadCallError):
    """The input and max_tokens do not fit the model's context."""

    reason = errors_pb2.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED


class NotFoundError(CallError):
    """Nothing goes by this name."""

    code = grpc.StatusCode.NOT_FOUND


class CheckpointNotFoundError(NotFoundError):
    """No checkpoint goes by this name or alias."""

    reason = errors_pb2.ERROR_REASON_CHECKPOINT_NOT_FOUND


class GenerationNotFoundError(NotFoundError):
    """No generation goes by this id, or its record has expired or never reached Redis."""

    reason = errors_pb2.ERROR_REASON_GENERATION_NOT_FOUND


class FeedbackNotFoundError(NotFoundError):
    """No feedback goes by this id."""

    reason = errors_pb2.ERROR_REASON_FEEDBACK_NOT_FOUND


class RequestIdReusedError(CallError):
    """The request_id was used before, with other content."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = errors_pb2.ERROR_REASON_REQUEST_ID_REUSED


class CheckpointUnusableError(CallError):
    """The checkpoint is rejected, retired, corrupt or foreign, or there is none to go back to."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.ERROR_REASON_CHECKPOINT_UNUSABLE


class AcceptanceUnavailableError(CallError):
    """The checkpoint has no acceptance head to put its answers in order by."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.ERROR_REASON_ACCEPTANCE_UNAVAILABLE


class ExhaustedError(CallError):
    """The server has no room for the call."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class QueueFullError(ExhaustedError):
    """As many generations wait as may."""

    reason = errors_pb2.ERROR_REASON_QUEUE_FULL
    retry_seconds = QUEUE_RETRY_SECONDS

    def __init__(self) -> None:
        super().__init__("the queue is full; try again later, or call another server")


class QueueTimeoutError(ExhaustedError):
    """The generation waited longer than its queue_timeout."""

    reason = errors_pb2.ERROR_REASON_QUEUE_TIMEOUT
    retry_seconds = QUEUE_RETRY_SECONDS


class QuotaExceededError(ExhaustedError):
    """The caller has as much of something as its quota allows.

    Args:
        tenant: Whose quota it is.
        most: Generations at once.
    """

    reason = errors_pb2.ERROR_REASON_QUOTA_EXCEEDED

    def __init__(self, tenant: str, most: int) -> None:
        tenant = clipped(tenant, _MAX_METADATA_CHARS)
        super().__init__(
            f"{tenant} has {most} generations running, which is all that it may have at once; "
            "wait for one to end",
            tenant=tenant,
            max_generations=most,
        )
        self._tenant = tenant

    def details(self) -> list[message.Message]:
        """Returns the QuotaFailure that names the quota."""
        failure = error_details_pb2.QuotaFailure()
        failure.violations.add(subject=f"token:{self._tenant}", description=self.message)
        return [failure]


class MessageTooLargeError(ExhaustedError):
    """The request has more bytes than the server takes."""

    reason = errors_pb2.ERROR_REASON_MESSAGE_TOO_LARGE


class UnauthenticatedError(CallError):
    """The token is missing, malformed or unknown. No message repeats it."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = errors_pb2.ERROR_REASON_UNAUTHENTICATED


class PermissionDeniedError(CallError):
    """The token is known, and does not reach this service.

    Args:
        tenant: Whose token it is.
        scope: What it lacks.
    """

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = errors_pb2.ERROR_REASON_PERMISSION_DENIED

    def __init__(self, tenant: str, scope: str) -> None:
        tenant, scope = (clipped(name, _MAX_METADATA_CHARS) for name in (tenant, scope))
        super().__init__(
            f'the token of {tenant} lacks the scope "{scope}"', tenant=tenant, scope=scope
        )


class DrainingError(CallError):
    """The server shuts down and did not take the call."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = errors_pb2.ERROR_REASON_SERVER_DRAINING
    retry_seconds = DRAIN_RETRY_SECONDS

    def __init__(self) -> None:
        super().__init__("the server shuts down and did not take the call; call another one")


class StoreUnavailableError(CallError):
    """Redis, or the object store of checkpoints, can't be reached or can't write now."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = errors_pb2.ERROR_REASON_STORE_UNAVAILABLE
    retry_seconds = STORE_RETRY_SECONDS

    def __init__(self) -> None:
        super().__init__(
            "the store of feedback (Redis), or that of checkpoints, can't be reached now; try "
            "again, with the same request_id if there is one, and it will count once"
        )


class DeadlineError(CallError):
    """The deadline of the call was over before the answer was complete."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED


class UnimplementedError(CallError):
    """This server does not offer the method."""

    code = grpc.StatusCode.UNIMPLEMENTED
    reason = errors_pb2.ERROR_REASON_UNIMPLEMENTED


class InternalError(CallError):
    """A fault of the server. The caller gets a reference; the log has the rest under it."""

    code = grpc.StatusCode.INTERNAL
    reason = errors_pb2.ERROR_REASON_INTERNAL

    def __init__(self, reference: str) -> None:
        super().__init__(
            f"the server failed; its log tells why under {reference}", reference=reference
        )


def to_status(error: CallError) -> status_pb2.Status:
    """Returns the error as it goes over the wire."""
    status = status_pb2.Status(code=error.code.value[0], message=error.message)
    reason, metadata = reason_name(error.reason), error.metadata
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)
    for detail in (info, *error.details()):
        status.details.add().Pack(detail)
    return status


def reason_name(reason: ErrorReason.ValueType) -> str:
    """Returns a reason as ErrorInfo tells it."""
    return ErrorReason.Name(reason).removeprefix("ERROR_REASON_")


def to_trailing_metadata(error: CallError) -> tuple[tuple[str, str | bytes], ...]:
    """Returns the metadata that bears the error: its status, and when to try again."""
    status = (_STATUS_METADATA_KEY, to_status(error).SerializeToString())
    if error.retry_seconds is None:
        return (status,)
    return (status, (_PUSHBACK_METADATA_KEY, str(int(error.retry_seconds * 1000))))


def clipped(value: object, chars: int) -> str:
    """Returns the value as text of at most so many characters, all of them printable ASCII.

    What a caller sent comes back in messages and in HTTP/2 trailers, where three bytes go for each
    byte that is not ASCII.
    """
    text = str(value)
    printable = text if text.isascii() and text.isprintable() else ascii(text)[1:-1]
    return printable if len(printable) <= chars else printable[: chars - 3] + "..."
