"""Streams of the asyncio client; they have the face of those in `streams`, to be awaited.

A loop over a stream that ends early, by `break` or an exception, cancels the call, so that the
server stops working for nobody. `await anext(stream)` steps by hand and cancels nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc
import grpc.aio

from learnback_client.errors import Cancelled, from_call
from learnback_client.gathering import Gathering
from learnback_client.generation import Event, Reply, text_of

T = TypeVar("T")
U = TypeVar("U")


class AsyncStream(Generic[T]):
    """What a call goes on answering."""

    def __init__(self, call: Any, read: Callable[[Any], T | None], request_id: str) -> None:
        self._call = call
        self._read = read
        self._request_id = request_id
        self._closed = False

    def __aiter__(self) -> AsyncIterator[T]:
        """Loops over what comes; leaving the loop early cancels the call."""
        return _Loop(self, lambda item: item)

    async def __anext__(self) -> T:
        """Waits for the next item; leaves the call open.

        Raises:
            LearnbackError: The call failed, or the stream was closed.
            StopAsyncIteration: It has ended.
        """
        item = None
        while item is None:
            item = self._read(await self._receive())
        return item

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancels the call if it has not ended."""
        self._cancel()

    def _cancel(self) -> None:
        self._closed = True
        self._call.cancel()

    async def _receive(self) -> Any:
        if self._closed:
            raise Cancelled("the stream was closed before its end")
        try:
            message = await self._call.read()
        except grpc.RpcError as error:
            raise from_call(error, self._request_id) from error
        except asyncio.CancelledError:
            if self._closed and not _task_is_cancelled():
                raise Cancelled("the stream was closed before its end") from None
            raise
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message


class AsyncReplyStream(AsyncStream[Event]):
    """The events of one generation: `Started`, any number of `Delta`, `Finished`."""

    def __init__(self, call: Any, read: Callable[[Any], Event | None], request_id: str) -> None:
        super().__init__(call, read, request_id)
        self._gathering = Gathering()

    async def __anext__(self) -> Event:
        """Waits for the next event; leaves the call open.

        Raises:
            LearnbackError: The call failed, or the stream was closed.
            StopAsyncIteration: It has ended.
        """
        event = await super().__anext__()
        self._gathering.add(event)
        return event

    @property
    def generation_id(self) -> str:
        """By which feedback names this generation; empty until it has started."""
        return self._gathering.generation_id

    @property
    def text(self) -> AsyncIterator[str]:
        """Loops over the pieces of the first answer as they come."""
        return _Loop(self, text_of)

    async def result(self) -> Reply:
        """Waits for the end and returns the whole reply, also what was read before.

        Raises:
            LearnbackError: The call failed, or the stream was closed before its end.
        """
        while not self._gathering.finished:
            try:
                await anext(self)
            except StopAsyncIteration:
                raise Cancelled("the stream ended without its last event") from None
        return self._gathering.reply()


class _Loop(AsyncIterator[U], Generic[T, U]):
    """One loop over a stream. Only the loop holds it, so it dies, and cancels, when that ends.

    An async generator would not do: asyncio finishes one that was left only some time later.
    """

    def __init__(self, stream: AsyncStream[T], pick: Callable[[T], U | None]) -> None:
        self._stream = stream
        self._pick = pick
        self._ended = False

    async def __anext__(self) -> U:
        picked = None
        while picked is None:
            try:
                picked = self._pick(await anext(self._stream))
            except StopAsyncIteration:
                self._ended = True
                raise
        return picked

    def __del__(self) -> None:
        if not self._ended:
            self._stream._cancel()


def _task_is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
