"""The blocking client. `aio` has the same face for asyncio."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message

from learnback_client import checkpoint_calls, feedback_calls, generation_calls, learning_calls
from learnback_client.call import Call, Page, next_page
from learnback_client.channel import channel_options, probe_options
from learnback_client.checkpoints import Checkpoint, Move
from learnback_client.connection import Connection
from learnback_client.errors import from_call
from learnback_client.feedback import Erasure, Feedback
from learnback_client.generation import Reply
from learnback_client.health import Health, check_health
from learnback_client.learning import LearningStatus
from learnback_client.options import (
    CallOptions,
    CheckpointFilter,
    FeedbackFilter,
    GenerationOptions,
    MoveOptions,
    PromoteOptions,
    SubmitOptions,
)
from learnback_client.signals import (
    AnswerText,
    Correction,
    Critique,
    Rating,
    Signal,
    Target,
    Thumb,
    compare,
)
from learnback_client.streams import ReplyStream, Stream

ResponseT = TypeVar("ResponseT", bound=Message)
T = TypeVar("T")


class Client(Connection):
    """Speaks to a learnback server; every method blocks. Threads may share one.

    It is constructed as `Connection` says. All methods raise the errors of
    `learnback_client.errors`; their keywords are described in `learnback_client.options`.
    """

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
        """Closes the connection; calls in flight are cancelled."""
        self._channel.close()
        self._probing.close()

    def generate(self, prompt: str | None = None, **options: Unpack[GenerationOptions]) -> Reply:
        """Generates an answer and returns it whole.

        Args:
            prompt: Text that the model continues as it stands. Or give `messages`, or
                `token_ids`.
            **options: See `GenerationOptions`.
        """
        return self._send(generation_calls.generate(prompt, options))

    def stream(
        self, prompt: str | None = None, **options: Unpack[GenerationOptions]
    ) -> ReplyStream:
        """Generates an answer and returns it as it comes.

        Args:
            prompt: As in `generate`.
            **options: See `GenerationOptions`.
        """
        call = generation_calls.stream(prompt, options)
        return ReplyStream(self._open(call), call.read, call.request_id)

    def submit_feedback(
        self, about: Target, signal: Signal, **options: Unpack[SubmitOptions]
    ) -> Feedback:
        """Submits feedback of any kind; returns once it is queued durably.

        Args:
            about: A generation id, a reply, one of its candidates, or a whole `Exchange`.
            signal: What is said of it.
            **options: See `SubmitOptions`.
        """
        return self._send(feedback_calls.submit_feedback(about, signal, options))

    def critique(self, about: Target, text: str, **options: Unpack[SubmitOptions]) -> Feedback:
        """Says in words what is wrong, or right, with an answer."""
        return self.submit_feedback(about, Critique(text), **options)

    def rate(
        self, about: Target, score: float | Thumb | str, **options: Unpack[SubmitOptions]
    ) -> Feedback:
        """Rates an answer from -1 (useless) to 1 (perfect), or by "up" or "down"."""
        return self.submit_feedback(about, Rating(score), **options)

    def correct(self, about: Target, text: str, **options: Unpack[SubmitOptions]) -> Feedback:
        """Gives the answer that should have been given."""
        return self.submit_feedback(about, Correction(text), **options)

    def prefer(
        self,
        better: Target | AnswerText,
        over: Target | AnswerText,
        **options: Unpack[SubmitOptions],
    ) -> Feedback:
        """Says that one answer is better than another to the same input.

        At least one of the two is an answer of the service or an `Exchange`; the other may be any
        `AnswerText`.
        """
        target, preference = compare(better, over)
        return self.submit_feedback(target, preference, **options)

    def get_feedback(self, feedback_id: str, **options: Unpack[CallOptions]) -> Feedback:
        """Tells what became of one piece of feedback."""
        return self._send(feedback_calls.get_feedback(feedback_id, options))

    def list_feedback(self, **options: Unpack[FeedbackFilter]) -> Iterator[Feedback]:
        """Lists feedback, newest first; pages are fetched as the loop reaches them."""
        return self._pages(feedback_calls.list_feedback(options))

    def watch_feedback(self, feedback_id: str, **options: Unpack[CallOptions]) -> Stream[Feedback]:
        """Streams one piece of feedback now and at each change, until its state is final."""
        call = feedback_calls.watch_feedback(feedback_id, options)
        return Stream(self._open(call), call.read, call.request_id)

    def erase_author(self, author: str, **options: Unpack[MoveOptions]) -> Erasure:
        """Erases an author. Called again with the receipt's `request_id`, tells how far it is."""
        return self._send(feedback_calls.erase_author(author, options))

    def list_checkpoints(self, **options: Unpack[CheckpointFilter]) -> Iterator[Checkpoint]:
        """Lists checkpoints, newest first; pages are fetched as the loop reaches them."""
        return self._pages(checkpoint_calls.list_checkpoints(options))

    def get_checkpoint(self, checkpoint: str, **options: Unpack[CallOptions]) -> Checkpoint:
        """Tells all about the checkpoint of this name or alias."""
        return self._send(checkpoint_calls.get_checkpoint(checkpoint, options))

    def watch_checkpoints(self, **options: Unpack[CallOptions]) -> Stream[dict[str, str]]:
        """Streams the checkpoint of each alias now and whenever one moves."""
        call = checkpoint_calls.watch_checkpoints(options)
        return Stream(self._open(call), call.read, call.request_id)

    def promote_checkpoint(self, checkpoint: str, **options: Unpack[PromoteOptions]) -> Move:
        """Points an alias ("live" by default) at a checkpoint."""
        return self._send(checkpoint_calls.promote_checkpoint(checkpoint, options))

    def rollback_checkpoint(
        self, checkpoint: str | None = None, **options: Unpack[MoveOptions]
    ) -> Move:
        """Points "live" back at the checkpoint before, or at the named one."""
        return self._send(checkpoint_calls.rollback_checkpoint(checkpoint, options))

    def get_learning_status(self, **options: Unpack[CallOptions]) -> LearningStatus:
        """Tells what waits, what is being learned now, and how the last round ended."""
        return self._send(learning_calls.get_learning_status(options))

    def watch_learning_status(self, **options: Unpack[CallOptions]) -> Stream[LearningStatus]:
        """Streams how learning stands, now and whenever it changes."""
        call = learning_calls.watch_learning_status(options)
        return Stream(self._open(call), call.read, call.request_id)

    def health(self, service: str = "", **options: Unpack[CallOptions]) -> Health:
        """Asks a service, or (empty) the whole server, whether it serves."""
        return self._send(check_health(service, options), self._probing)

    @cached_property
    def _channel(self) -> grpc.Channel:
        return self._new_channel(channel_options())

    @cached_property
    def _probing(self) -> grpc.Channel:
        return self._new_channel(probe_options())

    def _new_channel(self, options: list[tuple[str, str | int]]) -> grpc.Channel:
        if self._credentials is None:
            return grpc.insecure_channel(self.target, options)
        return grpc.secure_channel(self.target, self._credentials, options)

    def _send(self, call: Call[ResponseT, T], channel: grpc.Channel | None = None) -> T:
        method = (channel or self._channel).unary_unary(
            call.path, type(call.request).SerializeToString, call.response.FromString
        )
        try:
            response = method(
                call.request, timeout=call.deadline(self._timeout), metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise from_call(error, call.request_id) from error
        return call.read(response)

    def _open(self, call: Call[Any, Any]) -> Any:
        method = self._channel.unary_stream(
            call.path, type(call.request).SerializeToString, call.response.FromString
        )
        return method(call.request, timeout=call.deadline(self._timeout), metadata=self._metadata)

    def _pages(self, call: Call[ResponseT, Page[T]]) -> Iterator[T]:
        while True:
            page = self._send(call)
            yield from page.items
            if not page.next_token:
                return
            call = next_page(call, page.next_token)
