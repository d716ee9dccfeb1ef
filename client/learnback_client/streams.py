"""Streams of the blocking client: events of a generation, changes of feedback or checkpoints.

A loop over a stream that ends early, by `break` or an exception, cancels the call, so that the
server stops working for nobody. `next(stream)` steps by hand and cancels nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc

from learnback_client.errors import Cancelled, from_call
from learnback_client.gathering import Gathering
from learnback_client.generation import Event, Reply, text_of

T = TypeVar("T")
U = TypeVar("U")


class Stream(Generic[T]):
    """What a call goes on answering."""

    def __init__(self, call: Any, read: Callable[[Any], T | None], request_id: str) -> None:
        self._call = call
        self._read = read
        self._request_id = request_id
        self._closed = False

    def __iter__(self) -> Iterator[T]:
        """Loops over what comes; leaving the loop early cancels the call."""
        return _Loop(self, lambda item: item)

    def __next__(self) -> T:
        """Waits for the next item; leaves the call open.

        Raises:
            LearnbackError: The call failed, or the stream was closed.
            StopIteration: It has ended.
        """
        item = None
        while item is None:
            item = self._read(self._receive())
        return item

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancels the call if it has not ended."""
        self._closed = True
        self._call.cancel()

    def _receive(self) -> Any:
        if self._closed:
            raise Cancelled("the stream was closed before its end")
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise from_call(error, self._request_id) from error


class ReplyStream(Stream[Event]):
    """The events of one generation: `Started`, any number of `Delta`, `Finished`."""

    def __init__(self, call: Any, read: Callable[[Any], Event | None], request_id: str) -> None:
        super().__init__(call, read, request_id)
        self._gathering = Gathering()

    def __next__(self) -> Event:
        """Waits for the next event; leaves the call open.

        Raises:
            LearnbackError: The call failed, or the stream was closed.
            StopIteration: It has ended.
        """
        event = super().__next__()
        self._gathering.add(event)
        return event

    @property
    def generation_id(self) -> str:
        """By which feedback names this generation; empty until it has started."""
        return self._gathering.generation_id

    @property
    def text(self) -> Iterator[str]:
        """Loops over the pieces of the first answer as they come."""
        return _Loop(self, text_of)

    def result(self) -> Reply:
        """Waits for the end and returns the whole reply, also what was read before.

        Raises:
            LearnbackError: The call failed, or the stream was closed before its end.
        """
        while not self._gathering.finished:
            try:
                next(self)
            except StopIteration:
                raise Cancelled("the stream ended without its last event") from None
        return self._gathering.reply()


class _Loop(Iterator[U], Generic[T, U]):
    """One loop over a stream. Only the loop holds it, so it dies, and cancels, when that ends."""

    def __init__(self, stream: Stream[T], pick: Callable[[T], U | None]) -> None:
        self._stream = stream
        self._pick = pick
        self._ended = False

    def __next__(self) -> U:
        picked = None
        while picked is None:
            try:
                picked = self._pick(next(self._stream))
            except StopIteration:
                self._ended = True
                raise
        return picked

    def __del__(self) -> None:
        if not self._ended:
            self._stream.close()
