"""What a server answers becomes one error of the tree, with all that was told."""

from __future__ import annotations

import pickle

import grpc
import pytest

from learnback.v1 import errors_pb2
from learnback_client import errors
from tests.client.double import Failure

Code = grpc.StatusCode

# By every reason of the contract: the status code that it comes with, and the class.
REASONS = {
    "INVALID_FIELD": (Code.INVALID_ARGUMENT, errors.InvalidRequest),
    "CONTEXT_LENGTH_EXCEEDED": (Code.INVALID_ARGUMENT, errors.ContextLengthExceeded),
    "CHECKPOINT_NOT_FOUND": (Code.NOT_FOUND, errors.CheckpointNotFound),
    "GENERATION_NOT_FOUND": (Code.NOT_FOUND, errors.GenerationNotFound),
    "FEEDBACK_NOT_FOUND": (Code.NOT_FOUND, errors.FeedbackNotFound),
    "REQUEST_ID_REUSED": (Code.ALREADY_EXISTS, errors.RequestIdReused),
    "QUEUE_FULL": (Code.RESOURCE_EXHAUSTED, errors.QueueFull),
    "QUEUE_TIMEOUT": (Code.RESOURCE_EXHAUSTED, errors.QueueTimeout),
    "QUOTA_EXCEEDED": (Code.RESOURCE_EXHAUSTED, errors.QuotaExceeded),
    "MESSAGE_TOO_LARGE": (Code.RESOURCE_EXHAUSTED, errors.MessageTooLarge),
    "SERVER_DRAINING": (Code.UNAVAILABLE, errors.ServerDraining),
    "STORE_UNAVAILABLE": (Code.UNAVAILABLE, errors.StoreUnavailable),
    "DEADLINE_EXCEEDED": (Code.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
    "CANCELLED": (Code.CANCELLED, errors.Cancelled),
    "UNAUTHENTICATED": (Code.UNAUTHENTICATED, errors.Unauthenticated),
    "PERMISSION_DENIED": (Code.PERMISSION_DENIED, errors.PermissionDenied),
    "CHECKPOINT_UNUSABLE": (Code.FAILED_PRECONDITION, errors.CheckpointUnusable),
    "ACCEPTANCE_UNAVAILABLE": (Code.FAILED_PRECONDITION, errors.AcceptanceUnavailable),
    "UNIMPLEMENTED": (Code.UNIMPLEMENTED, errors.Unimplemented),
    "INTERNAL": (Code.INTERNAL, errors.Internal),
}

CODES = {
    Code.INVALID_ARGUMENT: errors.InvalidRequest,
    Code.NOT_FOUND: errors.NotFound,
    Code.ALREADY_EXISTS: errors.AlreadyExists,
    Code.RESOURCE_EXHAUSTED: errors.ResourceExhausted,
    Code.UNAVAILABLE: errors.Unavailable,
    Code.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    Code.CANCELLED: errors.Cancelled,
    Code.UNAUTHENTICATED: errors.Unauthenticated,
    Code.PERMISSION_DENIED: errors.PermissionDenied,
    Code.FAILED_PRECONDITION: errors.FailedPrecondition,
    Code.UNIMPLEMENTED: errors.Unimplemented,
    Code.INTERNAL: errors.Internal,
    Code.UNKNOWN: errors.LearnbackError,
    Code.ABORTED: errors.LearnbackError,
    Code.OUT_OF_RANGE: errors.LearnbackError,
    Code.DATA_LOSS: errors.LearnbackError,
}


class Call(grpc.RpcError):
    """A failed call as gRPC raises it."""

    def __init__(self, failure, metadata=None):
        self._failure = failure
        self._metadata = metadata

    def code(self):
        return self._failure.code

    def details(self):
        return self._failure.message

    def trailing_metadata(self):
        return self._metadata


def test_the_table_knows_every_reason_and_every_code():
    names = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.keys()}  # noqa: SIM118
    assert set(REASONS) == names - {"UNSPECIFIED"}
    assert set(CODES) == set(Code) - {Code.OK}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("reason", [r for r in REASONS if REASONS[r][0] != Code.UNAVAILABLE])
def test_reasons(client, server, reason, streaming):
    code, kind = REASONS[reason]
    server.fail(Failure(code, "what happened", reason))
    with pytest.raises(errors.LearnbackError, match="what happened") as caught:
        client.stream("a", request_id="r").result() if streaming else client.generate(
            "a", request_id="r"
        )
    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.reason) == (code, reason)
    assert caught.value.request_id == "r"


@pytest.mark.parametrize("code", CODES)
def test_codes_without_a_reason(code):
    error = errors.from_call(Call(Failure(code, "plain")))
    assert type(error) is CODES[code]
    assert (error.code, error.message) == (code, "plain")


def test_a_reason_that_only_a_newer_server_knows_falls_back_to_the_code(client, server):
    server.fail(Failure(Code.NOT_FOUND, reason="TENANT_NOT_FOUND"))
    with pytest.raises(errors.NotFound) as caught:
        client.generate("a")
    assert type(caught.value) is errors.NotFound
    assert caught.value.reason == "TENANT_NOT_FOUND"


def test_a_reason_of_somebody_else_does_not_count(client, server):
    server.fail(Failure(Code.INTERNAL, reason="QUEUE_FULL", domain="proxy.example"))
    with pytest.raises(errors.Internal) as caught:
        client.generate("a")
    assert caught.value.reason == "INTERNAL"


def test_violations_figures_and_waiting_times_are_kept(client, server):
    server.fail(
        Failure(
            Code.RESOURCE_EXHAUSTED,
            reason="QUOTA_EXCEEDED",
            metadata={"limit": "5"},
            quota=(("author:ann", "5 a minute"),),
            retry_seconds=1.5,
        ),
        Failure(
            Code.INVALID_ARGUMENT,
            reason="INVALID_FIELD",
            violations=(("spec.sampling.top_p", "must be over 0"), ("spec.author", "too long")),
        ),
    )
    with pytest.raises(errors.QuotaExceeded) as caught:
        client.generate("a")
    assert caught.value.retry_after == 1.5
    assert caught.value.metadata == {"limit": "5"}
    assert caught.value.violations == (errors.Violation("author:ann", "5 a minute"),)
    with pytest.raises(errors.InvalidRequest) as caught:
        client.generate("a")
    fields = [each.field for each in caught.value.violations]
    assert fields == ["spec.sampling.top_p", "spec.author"]
    assert caught.value.retry_after is None


def test_garbled_details_do_not_hide_the_error():
    metadata = (("grpc-status-details-bin", b"\xff\xff garbage"),)
    error = errors.from_call(Call(Failure(Code.INTERNAL, "boom"), metadata))
    assert type(error) is errors.Internal
    assert error.message == "boom"


def test_grpc_s_own_refusal_of_large_messages_has_its_class():
    failure = Failure(Code.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)")
    assert type(errors.from_call(Call(failure))) is errors.MessageTooLarge


def test_an_error_survives_pickling():
    error = errors.from_call(Call(Failure(Code.INTERNAL, "boom")), "r")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert type(copy) is errors.Internal
    assert (copy.message, copy.code, copy.request_id) == ("boom", Code.INTERNAL, "r")


def test_the_drawn_tree_is_the_tree():
    drawn = [line for line in (errors.__doc__ or "").splitlines() if "──" in line]
    names = [line.replace("│", " ").split("── ")[1].split()[0] for line in drawn]
    assert names == [kind.__name__ for kind in errors._tree(errors.LearnbackError)]
