"""The engine: one thread that answers many requests at once, a step at a time.

Each step takes what has arrived, ends what is overdue, computes one forward pass over everyone who
is being answered, chooses a token for each, and tells the edge. Requests join and leave at any
step. A request that makes a step fail ends with an error of its own; the others go on.
"""

from __future__ import annotations

import dataclasses
import heapq
import logging
import math
import threading
import time
from collections.abc import Callable, Collection

from transformers import PreTrainedModel

from learnback_server.engine.acceptance import AcceptanceHead
from learnback_server.engine.adapter import Adapter, UnusualAdapterError
from learnback_server.engine.attention import IMPLEMENTATION, KeyValueCache
from learnback_server.engine.bank import BankRunner
from learnback_server.engine.batch import StepRow
from learnback_server.engine.graphs import Limits
from learnback_server.engine.loading import LoadedModel
from learnback_server.engine.messages import (
    CandidateEnd,
    Delta,
    EngineStats,
    EngineStoppedError,
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    QueueFullError,
    Started,
)
from learnback_server.engine.options import EngineOptions
from learnback_server.engine.pages import PagePool
from learnback_server.engine.runner import ModelRunner
from learnback_server.engine.sampling import Choice, choose
from learnback_server.engine.scheduler import Scheduler
from learnback_server.engine.sequence import Generation, Sequence
from learnback_server.engine.slots import CheckpointSlots, Lane, Runner
from learnback_server.engine.traced import StepTrace, StepTraces
from learnback_server.engine.watch import EngineWatch, Unwatched

logger = logging.getLogger(__name__)

MERGED = "+merged"
"""Ends the name of the lane of a checkpoint whose adapter has been merged. No checkpoint's name has
a plus in it."""

Publish = Callable[[list[Event]], None]


class Engine:
    """Answers generation requests on a thread of its own.

    `submit`, `cancel` and `stats` may be called from any thread. Events go to `publish`, which is
    called on the engine's thread, mostly once a step, and must return at once. What a step has
    brought is told when the next one is about to compute: whom that wakes would else contend with
    the engine for Python's lock just when it needs it most. (With nano, 16 streams and two cores
    that is worth a twentieth of all tokens, at 4 a twelfth.)
    """

    def __init__(
        self,
        model: LoadedModel,
        options: EngineOptions,
        publish: Publish,
        watch: EngineWatch | None = None,
        records: list[StepTrace] | None = None,
    ) -> None:
        """Prepares to answer with `model`; nothing runs until `start`.

        Args:
            model: Answers until another is served.
            options: How much at a time, and the like.
            publish: Gets the events.
            watch: Told what it does.
            records: See `StepTraces`.
        """
        self._model = model
        self._options = options
        self._publish = publish
        self._watch = watch or Unwatched()
        self._vocabulary = model.vocabulary
        self._eos = frozenset(model.facts.eos_ids)
        page_tokens = options.page_tokens or model.page_tokens
        self._pages = PagePool(
            options.cache_tokens // page_tokens, page_tokens, prefix_cache=options.prefix_cache
        )
        self._cache = KeyValueCache(self._pages.total, page_tokens)
        self._traces = StepTraces(self._cache, records)
        self._largest = Limits(
            options.max_running, options.step_tokens, model.facts.context_tokens, page_tokens
        )
        self._slots = CheckpointSlots(self._note_released)
        base = self.prepare(model.network)
        self._slots.add(model.facts.checkpoint, Lane(model.facts.checkpoint, base))
        self._bank = BankRunner(
            model.network,
            self._cache,
            lambda row: self._slots.lane(row.sequence.lane).member,
        )
        self._scheduler = Scheduler(options, self._pages)
        self._generations: dict[str, Generation] = {}
        self._due: list[tuple[float, str]] = []  # ids alone: a deadline outlives most generations
        self._order = 0
        self._steps = 0
        self._events: list[Event] = []
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        # Shared with other threads, under the condition's lock:
        self._wake = threading.Condition()
        self._arrivals: list[tuple[GenerationRequest, str]] = []  # with the lane of each
        self._cancelled: list[str] = []
        self._released: list[str] = []
        self._waiting = 0
        self._stopping = False

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def submit(self, request: GenerationRequest) -> None:
        """Queues a request.

        Raises:
            QueueFullError: So many wait already that this one was not queued.
            CheckpointGoneError: The checkpoint was retired.
            EngineStoppedError: The engine has stopped.
        """
        with self._wake:
            if self._stopping:
                raise EngineStoppedError
            if self._waiting >= self._options.max_waiting:
                raise QueueFullError
            lane = self._slots.pin(request.checkpoint)
            self._waiting += 1
            self._arrivals.append((request, lane))
            self._wake.notify()

    def cancel(self, generation_id: str) -> None:
        """Ends a generation at the next step; nothing happens if it is over or unknown."""
        with self._wake:
            self._cancelled.append(generation_id)
            self._wake.notify()

    def prepare(self, network: PreTrainedModel) -> ModelRunner:
        """Makes another checkpoint ready, beside the running steps; may be called on any thread.

        Args:
            network: A model of the same shape as the first, on the same device.
        """
        network.set_attn_implementation(IMPLEMENTATION)
        runner = ModelRunner(network, self._cache)
        runner.warm_up(self._traces, self._largest)
        return runner

    def serve(
        self, checkpoint: str, runner: ModelRunner, head: AcceptanceHead | None = None
    ) -> None:
        """Lets a prepared checkpoint answer, beside the others, from the next step on.

        Args:
            checkpoint: Its name.
            runner: From `prepare`.
            head: Scores its answers where that is asked for.
        """
        self._slots.add(checkpoint, Lane(checkpoint, runner, head=head))

    def adapt(self, checkpoint: str, adapter: Adapter, head: AcceptanceHead | None = None) -> None:
        """Lets an adapter answer, unmerged, beside the others, from the next step on.

        Args:
            checkpoint: Its name.
            adapter: As it was read.
            head: Scores its answers where that is asked for.

        Raises:
            UnusualAdapterError: The network can't be computed with it.
        """
        member = self._bank.admit(adapter.beside(self._model.network), self._traces)
        self._slots.add(checkpoint, Lane(checkpoint, self._bank, member, head))

    def expect_adapters(self) -> None:
        """Records now what any adapter needs, so that the first one comes no slower than others."""
        try:
            self._bank.admit(self._bank.blank(), self._traces)
        except UnusualAdapterError as error:
            logger.info("adapters of this model can be served merged only: %s", error)

    def replace(
        self, checkpoint: str, runner: ModelRunner, head: AcceptanceHead | None = None
    ) -> None:
        """Answers new requests of an adapter's checkpoint by its merged network.

        Those that have begun end as they began. Nothing happens if the checkpoint was retired.
        """
        self._slots.replace(checkpoint, Lane(checkpoint + MERGED, runner, head=head))

    @property
    def traces(self) -> StepTraces:
        """The recorded steps that networks share."""
        return self._traces

    @property
    def lanes(self) -> tuple[str, ...]:
        """The ways of computing that are held, by name."""
        return self._slots.lanes

    def wait_until_gone(self, checkpoints: Collection[str]) -> None:
        """Blocks until nothing is held any more of these, which have been retired."""
        self._slots.wait_until_gone({*checkpoints, *(name + MERGED for name in checkpoints)})

    def retire(self, checkpoint: str) -> None:
        """Takes no new generations for a checkpoint, and frees it when its last one has ended."""
        self._slots.retire(checkpoint)

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """The checkpoints that take new generations."""
        return self._slots.names

    def stop(self) -> None:
        """Ends everything that is still being answered as ABORTED, and waits for the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.ident is None:  # never started
            self._abort_all()
        else:
            self._thread.join()

    def stats(self) -> EngineStats:
        """How busy the engine is."""
        return EngineStats(
            running=len(self._scheduler.running),
            waiting=self._waiting,
            pages_used=self._pages.used,
            pages_total=self._pages.total,
            prefix_queries=self._scheduler.prefix_queries,
            prefix_hits=self._scheduler.prefix_hits,
            steps=self._steps,
        )

    def _loop(self) -> None:
        """The life of the thread: step while there is work, sleep while there is none."""
        try:
            while self._take_messages():
                self._end_overdue(time.monotonic())
                rows = self._scheduler.schedule()
                if rows:
                    self._step(rows)
                if not rows or self._scheduler.idle:
                    self._tell()
        except Exception:
            logger.exception("the engine's thread died")
            raise
        finally:
            self._abort_all()

    def _step(self, rows: list[StepRow]) -> None:
        """Computes one pass and gives each completing sequence its token."""
        self._steps += 1
        self._announce(rows)
        scoring = [row for row in rows if row.scores]
        for runner, own in self._passes([row for row in rows if not row.scores]):
            chosen = self._compute(own, runner)
            for sequence, choice in chosen:
                self._extend(sequence, choice)
            self._time_tokens(chosen)
        for runner, own in self._passes([row for row in scoring if not row.sequence.ended]):
            self._score(own, runner)

    def _passes(self, rows: list[StepRow]) -> list[tuple[Runner, list[StepRow]]]:
        """The rows of each forward pass; those of one lane lie next to one another."""
        lanes: dict[str, list[StepRow]] = {}
        for row in rows:
            lanes.setdefault(row.sequence.lane, []).append(row)
        passes: dict[int, tuple[Runner, list[StepRow]]] = {}
        for name, own in lanes.items():
            runner = self._slots.lane(name).runner
            passes.setdefault(id(runner), (runner, []))[1].extend(own)
        return list(passes.values())

    def _compute(self, rows: list[StepRow], runner: Runner) -> list[tuple[Sequence, Choice]]:
        """The token of each row that completes.

        If the pass fails, each row is tried alone: whoever fails again is ended, nobody else.
        """
        completing = [row.sequence for row in rows if row.completes]
        try:
            choices = choose(runner.run(rows, self._tell), completing, self._vocabulary)
        except Exception as error:
            if len(rows) == 1:
                logger.exception("a step failed")
                self._fail(rows[0].sequence, error)
                return []
            logger.warning("a step of %d rows failed; trying each alone", len(rows))
            return [
                pair
                for row in rows
                if not row.sequence.ended  # with a candidate of its generation that failed here
                for pair in self._compute([row], runner)
            ]
        for row in rows:
            self._scheduler.advance(row)
        return list(zip(completing, choices, strict=True))

    def _score(self, rows: list[StepRow], runner: Runner) -> None:
        """Computes the last tokens of complete answers, which no other token needed, and ends them.

        An answer never fails for want of its score: what can't be computed ends without.
        """
        try:
            states = runner.states(rows)
        except Exception:
            if len(rows) > 1:
                logger.warning("scoring %d answers failed; trying each alone", len(rows))
                for row in rows:
                    self._score([row], runner)
            else:
                logger.exception("an answer can't be scored")
                self._end_unscored(rows[0].sequence)
            return
        for row, state in zip(rows, states, strict=True):
            sequence = row.sequence
            head, end = self._slots.lane(sequence.lane).head, sequence.complete
            if head is None or end is None:  # neither row would be here
                continue
            score = head.score(state)
            if math.isfinite(score):
                self._scheduler.advance(row)
                self._end(sequence, dataclasses.replace(end, acceptance=score))
            else:
                logger.error("an answer can't be scored: its last state is not finite")
                self._end_unscored(sequence)

    def _end_unscored(self, sequence: Sequence) -> None:
        """Ends a complete answer whose last token can't be computed; clears as `_fail` does."""
        if sequence.complete is not None:
            self._cache.clear(self._pages.discard(sequence.pages))
            self._end(sequence, sequence.complete)

    def _extend(self, sequence: Sequence, choice: Choice) -> None:
        """Appends a token to a candidate, tells it, and ends the candidate if it is complete."""
        if sequence.ended:  # with another candidate of its generation that failed in this step
            return
        if not choice.valid:
            self._fail(sequence, ArithmeticError("the model's logits are not finite numbers"))
            return
        if not sequence.generated:
            self._note_first_token(sequence)
        match = sequence.append(choice.token)
        reason = self._finish_reason(sequence, choice.token, match.stop)
        text = match.text
        if reason is not None and not match.stop:
            text += sequence.flush()
        logprobs = () if choice.logprob is None else (choice.logprob,)
        generation_id = sequence.generation.request.generation_id
        self._events.append(Delta(generation_id, sequence.index, text, (choice.token,), logprobs))
        if reason is not None:
            self._complete(sequence, CandidateEnd(sequence.index, reason, match.stop))

    def _complete(self, sequence: Sequence, end: CandidateEnd) -> None:
        """Ends a candidate, in the next step if its last token has to be computed for a score."""
        request = sequence.generation.request
        if request.scored and self._slots.lane(sequence.lane).head is not None:
            sequence.complete = end
        else:
            self._end(sequence, end)

    def _time_tokens(self, chosen: list[tuple[Sequence, Choice]]) -> None:
        """Tells how long after their tokens before the answers went on: mostly one time for all."""
        now = time.monotonic()
        counts: dict[float, int] = {}
        for sequence, _ in chosen:
            before, sequence.extended = sequence.extended, now
            if before is not None:
                counts[before] = counts.get(before, 0) + 1
        for before, count in counts.items():
            self._watch.between_tokens(now - before, count)

    def _finish_reason(self, sequence: Sequence, token: int, stop: str) -> FinishReason | None:
        """Why the candidate is complete with this token, or None if it is not."""
        sampling = sequence.sampling
        if stop or (token in self._eos and not sampling.ignore_eos):
            return FinishReason.STOP
        if sequence.generated >= sampling.max_tokens:
            return FinishReason.LENGTH
        return None

    def _note_first_token(self, sequence: Sequence) -> None:
        """Starts the other candidates, whose prompt is in the prefix cache from here on."""
        generation = sequence.generation
        if generation.first_token is None:
            generation.first_token = time.monotonic()
            self._watch.first_token(generation.request, generation.first_token)
            for other in generation.sequences[1:]:
                self._scheduler.add(other)

    def _take_messages(self) -> bool:
        """Takes arrivals and cancellations, sleeping while there is nothing to do.

        Returns:
            False when the engine is to stop.
        """
        with self._wake:
            while self._scheduler.idle and not self._has_messages():
                self._wake.wait()
            arrivals, self._arrivals = self._arrivals, []
            cancelled, self._cancelled = self._cancelled, []
            released, self._released = self._released, []
            stopping = self._stopping
        for request, lane in arrivals:
            self._enter(request, lane)
        for lane in released:
            self._pages.forget(lane)
        for generation_id in cancelled:
            if generation_id in self._generations:
                self._end_generation(self._generations[generation_id], FinishReason.CANCELLED)
        return not stopping

    def _has_messages(self) -> bool:
        return bool(self._arrivals or self._cancelled or self._released or self._stopping)

    def _note_released(self, lane: str) -> None:
        """Has the engine's thread forget the pages of a lane that is gone."""
        with self._wake:
            self._released.append(lane)
            self._wake.notify()

    def _enter(self, request: GenerationRequest, lane: str) -> None:
        """Puts a request into the queue and its deadlines into the diary."""
        generation = Generation(request, self._order, self._vocabulary, lane)
        self._order += 1
        self._generations[request.generation_id] = generation
        self._scheduler.add(generation.sequences[0])
        for due in (request.queue_deadline, request.deadline):
            if due is not None:
                heapq.heappush(self._due, (due, request.generation_id))

    def _end_overdue(self, now: float) -> None:
        """Ends the generations whose queue time or whose whole time is over."""
        while self._due and self._due[0][0] <= now:
            due, generation_id = heapq.heappop(self._due)
            generation = self._generations.get(generation_id)
            if generation is None:  # over
                continue
            if due == generation.request.deadline:
                self._end_generation(generation, FinishReason.DEADLINE)
            elif generation.started is None:
                self._end_generation(generation, FinishReason.QUEUE_TIMEOUT)

    def _announce(self, rows: list[StepRow]) -> None:
        """Tells of the generations that leave the queue with this step."""
        now = time.monotonic()
        for row in rows:
            generation = row.sequence.generation
            if generation.started is None:
                generation.started = now
                self._leave_queue()
                self._events.append(Started(generation.request.generation_id, now))

    def _leave_queue(self) -> None:
        with self._wake:
            self._waiting -= 1

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        """Ends the whole generation of a sequence that can't be computed.

        Its pages may hold what are no numbers, and even keys that are masked out spread those.
        """
        generation = sequence.generation
        generation.error = f"{type(error).__name__}: {error}"
        for own in generation.sequences:
            self._cache.clear(self._pages.discard(own.pages))
            self._scheduler.release(own)
        self._end_generation(generation, FinishReason.ERROR)

    def _end_generation(self, generation: Generation, reason: FinishReason) -> None:
        """Ends every candidate that has not ended yet; a complete one as it is, without a score."""
        for sequence in generation.sequences:
            if sequence.complete is not None and not sequence.ended:
                self._end(sequence, sequence.complete)
            elif not sequence.ended:
                held = sequence.flush()
                if held:
                    self._events.append(
                        Delta(generation.request.generation_id, sequence.index, held, ())
                    )
                self._end(sequence, CandidateEnd(sequence.index, reason))

    def _end(self, sequence: Sequence, end: CandidateEnd) -> None:
        """Ends one candidate and frees its pages; the last one ends the generation."""
        generation = sequence.generation
        generation.ends[sequence.index] = end
        self._scheduler.release(sequence)
        if generation.over:
            self._close(generation)

    def _close(self, generation: Generation) -> None:
        """Says the last word on a generation."""
        request = generation.request
        del self._generations[request.generation_id]
        if generation.started is None:
            self._leave_queue()
        self._slots.unpin(generation.lane)
        finished = Finished(
            generation_id=request.generation_id,
            candidates=tuple(generation.ends[index] for index in range(request.n)),
            prompt_tokens=len(request.prompt_ids),
            completion_tokens=sum(s.generated for s in generation.sequences),
            cached_tokens=generation.cached_tokens,
            started=generation.started,
            first_token=generation.first_token,
            finished=time.monotonic(),
            error=generation.error,
        )
        self._events.append(finished)
        self._watch.finished(request, finished)

    def _tell(self) -> None:
        if self._events:
            events, self._events = self._events, []
            self._publish(events)

    def _abort_all(self) -> None:
        """Ends all that is left, those included that arrived too late to be queued."""
        with self._wake:
            self._stopping = True
            arrivals, self._arrivals = self._arrivals, []
        for request, lane in arrivals:
            self._enter(request, lane)
        for generation in list(self._generations.values()):
            self._end_generation(generation, FinishReason.ABORTED)
        self._tell()
