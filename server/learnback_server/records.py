"""Records what was asked and answered, so that feedback can speak of it by id alone.

A record is on its way before the final message of an answer goes out, so feedback that follows on
an answer finds it here at once. It is also given `PATIENCE_SECONDS` to arrive in Redis, so that
every other server finds it too; with Redis well, that is the time of one fsync, and no token before
the final message waits for it.

An answer never fails for want of a record. While Redis is slow or away, records wait in memory
(bounded, `learnback_store.generations`) and are written when it is back; feedback can't be queued
meanwhile either. One that is lost all the same (the server ended, or more waited than may) is told
as GENERATION_NOT_FOUND; the caller can send the exchange along instead.

A stream that is cut off after its first message (cancelled, disconnected, out of time) is recorded
with what was sent until then: whoever presses "stop" may well say why. Not recorded is what gave no
answer at all: refused, failed, or ended in the queue.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from learnback.v1 import inference_pb2 as pb
from learnback_server.engine.messages import Delta, Finished, FinishReason
from learnback_server.intake import Asked
from learnback_store.generations import GenerationLog
from learnback_store.protos import chat_from_proto
from learnback_store.records import CandidateRecord, GenerationRecord, Message
from learnback_telemetry.tracing import traceparent

_log = logging.getLogger(__name__)

# Longest that a final message waits for Redis. An fsync takes milliseconds, on a busy disk some
# hundred; a person takes longer to read the last word.
PATIENCE_SECONDS = 0.5

TextOf = Callable[[tuple[int, ...]], Awaitable[str]]


class Recording:
    """What a caller has been told of one generation so far. Made by `GenerationRecorder`."""

    def __init__(self, keep: Callable[[tuple[CandidateRecord, ...]], asyncio.Task[None]]) -> None:
        self._keep = keep
        self._texts: dict[int, list[str]] = {}
        self._token_ids: dict[int, list[int]] = {}
        self._completed = False

    def add(self, deltas: Iterable[Delta]) -> None:
        """Notes what the caller is told next."""
        for delta in deltas:
            self._texts.setdefault(delta.index, []).append(delta.text)
            self._token_ids.setdefault(delta.index, []).extend(delta.token_ids)

    async def complete(self, finished: Finished) -> None:
        """Records the answer; returns when its end may be told. Never raises."""
        self._completed = True
        ends = {end.index: end.reason for end in finished.candidates}
        await asyncio.wait([self._keep(self._candidates(ends))], timeout=PATIENCE_SECONDS)

    def leave(self) -> None:
        """Records, in the background, what was told of an answer that was cut off."""
        if self._texts and not self._completed:
            self._keep(self._candidates(dict.fromkeys(self._texts, FinishReason.CANCELLED)))

    def _candidates(self, ends: Mapping[int, FinishReason]) -> tuple[CandidateRecord, ...]:
        return tuple(
            CandidateRecord(
                "".join(self._texts.get(index, ())),
                tuple(self._token_ids.get(index, ())),
                ends[index].name if index in ends else FinishReason.CANCELLED.name,
            )
            for index in range(max(ends) + 1)
        )


class GenerationRecorder:
    """Records generations. Lives on the event loop.

    Args:
        log: Where they go; None: nothing is recorded.
        text_of: Tells the text of token ids, for inputs that came as such.
        log_texts: Whether to log what was asked and answered.
    """

    def __init__(
        self, log: GenerationLog | None, text_of: TextOf, *, log_texts: bool = False
    ) -> None:
        self._log = log
        self._text_of = text_of
        self._log_texts = log_texts
        self._writing: set[asyncio.Task[None]] = set()

    @contextmanager
    def recording(self, asked: Asked) -> Iterator[Recording]:
        """Gives the recording of one answer; leaving the `with` early cuts it off."""
        recording = Recording(functools.partial(self._begin, asked))
        try:
            yield recording
        finally:
            recording.leave()

    async def aclose(self) -> None:
        """Waits until every record is with Redis or waits for it."""
        while self._writing:
            await asyncio.wait(self._writing)

    def _begin(self, asked: Asked, candidates: tuple[CandidateRecord, ...]) -> asyncio.Task[None]:
        # A task of its own: a caller who leaves now must not take the record along.
        writing = asyncio.create_task(self._write(asked, candidates))
        self._writing.add(writing)
        writing.add_done_callback(self._end)
        return writing

    async def _write(self, asked: Asked, candidates: tuple[CandidateRecord, ...]) -> None:
        if self._log is None and not self._log_texts:
            return
        chat, prompt = await self._input(asked.spec, asked.request.prompt_ids)
        if self._log_texts:
            question = [f"{turn.role}: {turn.content}" for turn in chat] or prompt
            _log.info("asked %r, answered %r", question, [one.text for one in candidates])
        if self._log is None:
            return
        await self._log.keep(
            GenerationRecord(
                generation_id=asked.request.generation_id,
                candidates=candidates,
                prompt_ids=asked.request.prompt_ids,
                checkpoint=asked.checkpoint.name,
                checkpoint_digest=asked.checkpoint.digest,
                chat=chat,
                prompt=prompt,
                sampling={**dataclasses.asdict(asked.request.sampling), "n": asked.request.n},
                author=asked.spec.author,
                labels=dict(asked.spec.labels),
                request_id=asked.request_id,
                traceparent=traceparent(),
            )
        )

    async def _input(
        self, spec: pb.GenerationSpec, prompt_ids: tuple[int, ...]
    ) -> tuple[tuple[Message, ...], str]:
        """Returns the conversation and the plain text that was asked; one of them is empty."""
        kind = spec.WhichOneof("input")
        if kind == "chat":
            return chat_from_proto(spec.chat), ""
        return (), spec.prompt if kind == "prompt" else await self._text_of(prompt_ids)

    def _end(self, writing: asyncio.Task[None]) -> None:
        self._writing.discard(writing)
        if not writing.cancelled() and writing.exception() is not None:
            _log.error("a generation could not be recorded", exc_info=writing.exception())
