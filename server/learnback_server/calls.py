"""Stands before every call of ours: counts and times it, opens its span, and says how it ended.

What the call finds out about itself on the way (`context.note`) is in the log lines about it.

Limits: the labels of a call are those of our own methods; a call of any other counts as "unknown",
so that nobody fills the memory by making names up. Health and reflection are not watched.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import grpc
from opentelemetry.trace import SpanKind

from learnback.v1 import checkpoints_pb2, feedback_pb2, inference_pb2, learning_pb2
from learnback_server.guard import OUR_SERVICES, Context, Handler
from learnback_server.metrics import ServerMetrics
from learnback_telemetry.tracing import TRACEPARENT, Tracer, describe, fail

_log = logging.getLogger(__name__)

# Ends that are the server's doing; only these make a span a failed one, as OpenTelemetry has it.
_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)


class CallWatch(grpc.aio.ServerInterceptor):
    """Watches the calls of our services.

    Args:
        metrics: Counts them.
        tracer: Makes their spans.
    """

    def __init__(self, metrics: ServerMetrics, tracer: Tracer) -> None:
        self._metrics = metrics
        self._tracer = tracer
        for method in _METHODS.values():
            metrics.expect_calls(method)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Returns the method, watched. The guard must come behind: its handlers are coroutines."""
        handler: Any = await continuation(handler_call_details)
        path = handler_call_details.method
        if not path.startswith(OUR_SERVICES):
            return cast(Handler, handler)
        method = _METHODS.get(path, ("unknown", "unknown"))
        make, inner = _taken_apart(handler)
        return make(
            self._watched(inner, method), handler.request_deserializer, handler.response_serializer
        )

    def _watched(
        self, inner: Callable[..., Awaitable[Any]], method: tuple[str, str]
    ) -> Callable[..., Awaitable[Any]]:
        name = "/".join(method)
        known = {"rpc.system": "grpc", "rpc.service": method[0], "rpc.method": method[1]}

        async def call(request: Any, context: Context) -> Any:
            parent = _traceparent_of(context)
            with self._tracer.span(name, known, parent=parent, kind=SpanKind.SERVER):
                began = time.perf_counter()
                self._metrics.call_began(method)
                code = grpc.StatusCode.UNKNOWN
                try:
                    reply = await inner(request, context)
                    code = grpc.StatusCode.OK
                except asyncio.CancelledError:
                    code = _code_of_cancelled(context)
                    raise
                except BaseException:
                    code = _code_of(context)
                    raise
                finally:
                    self._ended(method, code, time.perf_counter() - began)
                return reply

        return call

    def _ended(self, method: tuple[str, str], code: grpc.StatusCode, seconds: float) -> None:
        self._metrics.call_ended(method, code.name, seconds)
        describe({"rpc.grpc.status_code": code.value[0]})
        if code in _FAULTS:
            fail(code.name)
        level = logging.DEBUG if code is grpc.StatusCode.OK else logging.INFO
        _log.log(level, "%s ended with %s after %.3f s", method[1], code.name, seconds)


_CODES = {code.value[0]: code for code in grpc.StatusCode}
_METHODS = {
    f"/{service.full_name}/{method.name}": (service.full_name, method.name)
    for file in (inference_pb2, feedback_pb2, checkpoints_pb2, learning_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def _taken_apart(handler: Any) -> tuple[Callable[..., Handler], Callable[..., Awaitable[Any]]]:
    """What makes a handler of this kind, and the method in it."""
    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler, handler.stream_stream
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler, handler.unary_stream
    return grpc.unary_unary_rpc_method_handler, handler.unary_unary


def _code_of(context: Context) -> grpc.StatusCode:
    """The code that a call was aborted with."""
    code: Any = context.code()  # a number, whatever its type says
    return code if isinstance(code, grpc.StatusCode) else _CODES[code or 2]


def _code_of_cancelled(context: Context) -> grpc.StatusCode:
    """What the caller of a call that was cut off sees: its own doing, or its deadline's."""
    remaining = context.time_remaining()
    if remaining is not None and remaining <= 0:
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return grpc.StatusCode.CANCELLED


def _traceparent_of(context: Context) -> str:
    """The header by which a caller says what the call belongs to; empty if there is none."""
    for key, value in context.invocation_metadata() or ():
        if key == TRACEPARENT:
            return value if isinstance(value, str) else ""
    return ""
