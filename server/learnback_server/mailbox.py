"""Hands what the engine publishes, on its thread, to the coroutines that wait for it.

The engine publishes once a step, for all generations; the events of a step cross to the event loop
in one go, and are sorted into mailboxes there. No task, queue or message is made for a token.

Writing to many streams costs more of Python's lock than computing their tokens leaves over. So the
loop's thread works for at most `LOOP_SHARE` of the time: after waking its readers it rests, while
what comes is gathered, and the next pieces are larger. With a few streams the rest is shorter than
a step, so every token goes out at once. The first token and the end of an answer never wait.

A mailbox is never full. Deltas are gathered per candidate, so a reader gets at most one delta per
candidate at a time, and the memory held for a slow one is bounded by the answer itself
(`max_tokens` and `n` of the request).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from learnback_server.engine.messages import Delta, Event, Finished, TokenLogprob

# Share of the time that the loop's thread works, and how long a reader waits at most however busy
# it is (less than a person notices). Against no bound, in three interleaved rounds with a tiny
# model on two cores: 1.5 to 2.5 times the tokens a second at 64 streams, 1.1 to 3.5 times at 16,
# the same at 1. A longest rest of 40 ms made no more tokens than 20, in pieces twice as large.
LOOP_SHARE = 1 / 16
LONGEST_REST_SECONDS = 0.02


@dataclass(slots=True)
class _Gathered:
    """What one candidate has got since its reader last looked."""

    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)


class Mail(NamedTuple):
    """What has come since the reader last looked."""

    deltas: tuple[Delta, ...]
    """At most one per candidate, by index."""
    finished: Finished | None
    """Set on the last mail."""


class WholeMail(NamedTuple):
    """All of a generation at once."""

    deltas: tuple[Delta, ...]
    """At most one per candidate, by index."""
    finished: Finished


class Mailbox:
    """The events of one generation, for one reader. Lives on the event loop.

    Mail may lie in it for a while before the reader is told of it by `ring`.
    """

    def __init__(self, generation_id: str) -> None:
        self.generation_id = generation_id
        self.finished: Finished | None = None
        """Set once the generation is over, whether or not the reader has taken it."""
        self._gathered: dict[int, _Gathered] = {}
        self._has_spoken = False
        self._rung = False
        self._reader: asyncio.Future[None] | None = None
        self._reader_wants_all = False

    def put(self, event: Event) -> bool:
        """Adds an event; returns whether its reader should be told at once."""
        if isinstance(event, Delta):
            gathered = self._gathered.get(event.index)
            if gathered is None:
                gathered = self._gathered[event.index] = _Gathered()
            gathered.texts.append(event.text)
            gathered.token_ids += event.token_ids
            gathered.logprobs += event.logprobs
            is_first, self._has_spoken = not self._has_spoken, True
            return is_first
        if isinstance(event, Finished):
            self.finished = event
        return True

    def ring(self) -> None:
        """Tells the reader that there is mail, unless it waits for all of it."""
        self._rung = True
        if self._reader_wants_all and self.finished is None:
            return
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    async def next(self) -> Mail:
        """Returns what has come, waiting for the next ring if there was none since the last look.

        The first mail comes once the engine has taken the generation, and may hold nothing.
        """
        if not self._rung:
            await self._wait()
        return Mail(self._take(), self.finished)

    async def all(self) -> WholeMail:
        """Returns everything at once, waiting until the generation is over."""
        self._reader_wants_all = True
        while self.finished is None:
            await self._wait()
        return WholeMail(self._take(), self.finished)

    async def _wait(self) -> None:
        self._reader = asyncio.get_running_loop().create_future()
        await self._reader

    def _take(self) -> tuple[Delta, ...]:
        deltas = tuple(
            Delta(
                self.generation_id,
                index,
                "".join(gathered.texts),
                tuple(gathered.token_ids),
                tuple(gathered.logprobs),
            )
            for index, gathered in sorted(self._gathered.items())
        )
        self._rung = False
        self._gathered = {}
        return deltas


class PostOffice:
    """All mailboxes. `publish` may be called from any thread; the rest belongs to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._mailboxes: dict[str, Mailbox] = {}
        self._unrung: dict[str, Mailbox] = {}
        self._rest: asyncio.TimerHandle | None = None
        self._worked_before = 0.0
        """Seconds that the loop's thread had worked when it last rang for everybody."""
        self._rang_at = 0.0

    def publish(self, events: Sequence[Event]) -> None:
        """Takes the events of one step over to the loop. The engine calls this."""
        self._loop.call_soon_threadsafe(self._deliver, events)

    @contextmanager
    def mailbox(self, generation_id: str) -> Iterator[Mailbox]:
        """Opens the mailbox of a generation; what comes after the `with` is thrown away."""
        mailbox = self._mailboxes[generation_id] = Mailbox(generation_id)
        try:
            yield mailbox
        finally:
            del self._mailboxes[generation_id]
            self._unrung.pop(generation_id, None)

    def _deliver(self, events: Sequence[Event]) -> None:
        mailboxes, unrung = self._mailboxes, self._unrung
        for event in events:
            mailbox = mailboxes.get(event.generation_id)
            if mailbox is None:
                continue
            if mailbox.put(event):
                mailbox.ring()
            else:
                unrung[event.generation_id] = mailbox
        if unrung and self._rest is None:
            rest = self._rest_left()
            if rest > 0:
                self._rest = self._loop.call_later(rest, self._ring)
            else:
                self._ring()

    def _rest_left(self) -> float:
        """Seconds until ringing for everybody keeps the loop's thread within its share."""
        worked = time.thread_time() - self._worked_before
        since = self._loop.time() - self._rang_at
        return min(worked / LOOP_SHARE, LONGEST_REST_SECONDS) - since

    def _ring(self) -> None:
        self._rest = None
        self._worked_before = time.thread_time()
        self._rang_at = self._loop.time()
        for mailbox in self._unrung.values():
            mailbox.ring()
        self._unrung.clear()
