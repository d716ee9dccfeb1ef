"""Stands before every method of ours: lets callers in, bounds and decodes, makes errors statuses.

gRPC itself answers a request that is too large, can't be decoded or names an unknown method with a
bare status, and an exception with its text. Here each of them becomes an error of our own
(`errors.py`), and what nobody expected becomes INTERNAL with a reference into the log.

Health and reflection pass untouched. Requests beyond gRPC's own limit (`app.py`) never come here:
gRPC refuses them with RESOURCE_EXHAUSTED and no ErrorInfo.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, aclosing, nullcontext
from functools import partial
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from learnback_server.auth import Gatekeeper
from learnback_server.errors import (
    CallError,
    InternalError,
    InvalidFieldError,
    MessageTooLargeError,
    UnimplementedError,
    Violation,
    clipped,
    to_trailing_metadata,
)

_log = logging.getLogger(__name__)

OUR_SERVICES = "/learnback."
_REFERENCE_BYTES = 8
# Longer than any of ours.
_MAX_METHOD_CHARS = 100

# Any: what goes through here is of as many types as there are methods.
Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Decode = Callable[[bytes], Any]
UnaryMethod = Callable[[Any, Context], Awaitable[Any]]
StreamMethod = Callable[[Any, Context], AsyncGenerator[Any, None]]
Enter = Callable[[Context], AbstractContextManager[None]]


class Guard(grpc.aio.ServerInterceptor):
    """The interceptor.

    Args:
        max_message_bytes: Largest request.
        hints: How to have a service that is switched off, by its full name.
        refused: Told of each error that a call ends with.
        gatekeeper: Lets callers in; None lets everyone in.
    """

    def __init__(
        self,
        max_message_bytes: int,
        hints: Mapping[str, str] | None = None,
        refused: Callable[[CallError], None] = lambda _: None,
        gatekeeper: Gatekeeper | None = None,
    ) -> None:
        self._max_message_bytes = max_message_bytes
        self._hints = hints or {}
        self._refused = refused
        self._gatekeeper = gatekeeper

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Returns the method with the guard before it."""
        method = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None:
            hint = self._hints.get(method.strip("/").partition("/")[0], "")
            return self._unimplemented(method, hint)
        if not method.startswith(OUR_SERVICES):
            return handler
        # Typed as of synchronous servers, so Any. Without a deserializer, bytes come here as they
        # are.
        method_of: Any = handler
        enter = partial(self._entering, method)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(enter, method_of.unary_stream, method_of.request_deserializer),
                None,
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(enter, method_of.unary_unary, method_of.request_deserializer),
            None,
            handler.response_serializer,
        )

    def _entering(self, method: str, context: Context) -> AbstractContextManager[None]:
        if self._gatekeeper is None:
            return nullcontext()
        return self._gatekeeper.entering(method, context.invocation_metadata() or ())

    def _unary(
        self, enter: Enter, method: UnaryMethod, decode: Decode
    ) -> Callable[..., Awaitable[Any]]:
        async def call(raw: bytes, context: Context) -> Any:
            try:
                with enter(context):
                    return await method(self._decoded(raw, decode), context)
            except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets a status
                await self._abort(context, error)

        return call

    def _streaming(
        self, enter: Enter, method: StreamMethod, decode: Decode
    ) -> Callable[..., Awaitable[None]]:
        async def call(raw: bytes, context: Context) -> None:
            try:
                with enter(context):
                    # Closed here and now when the call is cancelled, not whenever it is collected.
                    async with aclosing(method(self._decoded(raw, decode), context)) as replies:
                        async for reply in replies:
                            await context.write(reply)
            except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets a status
                await self._abort(context, error)

        return call

    def _decoded(self, raw: bytes, decode: Decode) -> Any:
        if len(raw) > self._max_message_bytes:
            raise MessageTooLargeError(
                f"the request has {len(raw)} bytes; at most {self._max_message_bytes} are taken",
                message_bytes=len(raw),
                max_message_bytes=self._max_message_bytes,
            )
        try:
            return decode(raw)
        except DecodeError as error:
            raise InvalidFieldError(
                [Violation("", f"the request is malformed: {error}")]
            ) from error

    def _unimplemented(self, method: str, hint: str) -> Handler:
        message = f"this server does not offer {clipped(method, _MAX_METHOD_CHARS)}"

        async def call(_: object, context: Context) -> None:
            error = UnimplementedError(f"{message}; {hint}" if hint else message, method=method)
            await self._abort(context, error)

        # Streaming both ways, it answers every kind of call before its request has come.
        return grpc.stream_stream_rpc_method_handler(call)

    async def _abort(self, context: Context, error: Exception) -> NoReturn:
        """Ends the call with the status that tells of the error."""
        known = error if isinstance(error, CallError) else _logged(error)
        self._refused(known)
        await context.abort(known.code, known.message, to_trailing_metadata(known))


def _logged(error: Exception) -> InternalError:
    reference = f"err-{secrets.token_hex(_REFERENCE_BYTES)}"
    _log.error("a call failed unexpectedly (%s)", reference, exc_info=error)
    return InternalError(reference)
