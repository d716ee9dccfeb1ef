"""Errors: each is one status with one ErrorInfo, short enough for any client."""

from __future__ import annotations

import inspect
import logging
from contextlib import asynccontextmanager

import grpc
import pytest
from google.rpc import error_details_pb2

from learnback.v1 import errors_pb2
from learnback.v1 import inference_pb2 as pb
from learnback.v1.inference_pb2_grpc import (
    InferenceServiceServicer,
    InferenceServiceStub,
    add_InferenceServiceServicer_to_server,
)
from learnback_server import errors
from learnback_server.errors import CallError, Violation, clipped, to_status, to_trailing_metadata
from learnback_server.guard import Guard

# gRPC clients take 8 KiB of metadata by default; a third of that goes for base64.
MOST_STATUS_BYTES = 5_000

LONG = "长" * 10_000
VIOLATIONS = [Violation(LONG, LONG)] * 100

ERRORS = [
    errors.InvalidFieldError(VIOLATIONS, 100),
    errors.ContextLengthError(VIOLATIONS, 100, prompt_tokens=9),
    errors.CheckpointNotFoundError("no checkpoint goes by this name", checkpoint=LONG),
    errors.GenerationNotFoundError("no generation goes by this id", generation_id=LONG),
    errors.FeedbackNotFoundError("no feedback goes by this id", feedback_id=LONG),
    errors.RequestIdReusedError("used before"),
    errors.CheckpointUnusableError("it was rejected", checkpoint=LONG),
    errors.AcceptanceUnavailableError("it has no acceptance head", checkpoint=LONG),
    errors.StoreUnavailableError(),
    errors.QueueFullError(),
    errors.QueueTimeoutError("waited too long"),
    errors.MessageTooLargeError("too large", message_bytes=1),
    errors.QuotaExceededError(LONG, 8),
    errors.UnauthenticatedError("send a token"),
    errors.PermissionDeniedError(LONG, LONG),
    errors.DrainingError(),
    errors.DeadlineError("over"),
    errors.UnimplementedError("not here", method=LONG),
    errors.InternalError("err-1"),
]


def leaves(kind: type[CallError] = CallError) -> set[type[CallError]]:
    subclasses = kind.__subclasses__()
    return set().union(*map(leaves, subclasses)) if subclasses else {kind}


def test_every_error_is_in_the_table_and_in_the_outline():
    assert {type(error) for error in ERRORS} == leaves()
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, CallError):
            assert name in errors.__doc__


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_becomes_one_status_with_one_error_info(error):
    status = to_status(error)
    assert status.code == error.code.value[0]
    infos = [d for d in status.details if d.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    assert len(infos) == 1
    info = error_details_pb2.ErrorInfo.FromString(infos[0].value)
    assert info.domain == "learnback"
    assert errors_pb2.ErrorReason.Value(f"ERROR_REASON_{info.reason}") == error.reason
    assert len(status.SerializeToString()) < MOST_STATUS_BYTES


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_says_when_to_try_again_exactly_if_that_may_help(error):
    pushback = dict(to_trailing_metadata(error)).get("grpc-retry-pushback-ms")
    retriable = isinstance(
        error,
        errors.QueueFullError
        | errors.QueueTimeoutError
        | errors.DrainingError
        | errors.StoreUnavailableError,
    )
    assert (pushback is not None) == retriable


@pytest.mark.parametrize(
    ("value", "chars", "expected"),
    [
        ("plain", 10, "plain"),
        ("x" * 20, 10, "xxxxxxx..."),
        ("é", 10, r"\xe9"),
        ("a\nb", 10, r"a\nb"),
        (7, 10, "7"),
        ("", 10, ""),
    ],
)
def test_clipped(value, chars, expected):
    assert clipped(value, chars) == expected


class Faulty(InferenceServiceServicer):
    """Fails as only a fault of ours would."""

    async def Generate(self, _request, _context):  # noqa: N802
        raise RuntimeError("the password is hunter2")

    async def GenerateStream(self, _request, _context):  # noqa: N802
        yield pb.GenerateStreamResponse()
        raise RuntimeError("the password is hunter2")


@asynccontextmanager
async def faulty_server():
    server = grpc.aio.server(interceptors=[Guard(1024)])
    add_InferenceServiceServicer_to_server(Faulty(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield InferenceServiceStub(channel)
    await server.stop(None)


def check_hidden(error: grpc.aio.AioRpcError, log: str) -> None:
    assert error.code() == grpc.StatusCode.INTERNAL
    assert "hunter2" not in str(error)
    assert "hunter2" in log
    (status,) = [value for key, value in error.trailing_metadata() if key.endswith("-bin")]
    assert b"INTERNAL" in status
    assert error.details().split()[-1] in log


async def test_what_nobody_expected_is_logged_and_not_told(caplog):
    async with faulty_server() as stub:
        with caplog.at_level(logging.ERROR), pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Generate(pb.GenerateRequest())
        check_hidden(raised.value, caplog.text)


async def test_nor_is_it_told_in_the_middle_of_a_stream(caplog):
    async with faulty_server() as stub:
        with caplog.at_level(logging.ERROR), pytest.raises(grpc.aio.AioRpcError) as raised:
            async for _ in stub.GenerateStream(pb.GenerateStreamRequest()):
                pass
        check_hidden(raised.value, caplog.text)
