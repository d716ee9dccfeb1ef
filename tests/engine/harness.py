"""Runs an engine in a test: sends it requests, gathers what it says, and holds it to its protocol.

What happens when is decided by counting events, never by the clock: a `Plan` says after how many
publications of the engine a request arrives, and after how many of its own tokens it is cancelled.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from learnback_server.engine.engine import Engine
from learnback_server.engine.loading import LoadedModel
from learnback_server.engine.messages import (
    CandidateEnd,
    Delta,
    EngineStoppedError,
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    SamplingParams,
    Started,
    TokenLogprob,
)
from learnback_server.engine.options import EngineOptions
from learnback_server.engine.traced import StepTrace

PATIENCE_S = 120.0
"""How long a test waits before it says that the engine hangs."""

_names = (f"generation-{number}" for number in itertools.count())


def request(
    prompt: Iterable[int],
    max_tokens: int = 8,
    *,
    name: str = "",
    n: int = 1,
    scored: bool = False,
    priority: int = 0,
    checkpoint: str = "base",
    queue_deadline: float | None = None,
    deadline: float | None = None,
    **sampling: Any,
) -> GenerationRequest:
    """A request, greedy unless `sampling` has another temperature."""
    return GenerationRequest(
        generation_id=name or next(_names),
        prompt_ids=tuple(prompt),
        sampling=SamplingParams(**{"max_tokens": max_tokens, "temperature": 0.0} | sampling),
        checkpoint=checkpoint,
        n=n,
        scored=scored,
        priority=priority,
        queue_deadline=queue_deadline,
        deadline=deadline,
    )


@dataclass
class Answer:
    """All that the engine said of one generation."""

    events: list[Event] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether the last word has been said."""
        return any(isinstance(event, Finished) for event in self.events)

    @property
    def started(self) -> bool:
        return any(isinstance(event, Started) for event in self.events)

    @property
    def finished(self) -> Finished:
        (last,) = [event for event in self.events if isinstance(event, Finished)]
        return last

    @property
    def end(self) -> CandidateEnd:
        """How the only candidate ended."""
        (end,) = self.finished.candidates
        return end

    @property
    def reason(self) -> FinishReason:
        """Why the only candidate ended."""
        return self.end.reason

    def deltas(self, index: int = 0) -> list[Delta]:
        return [event for event in self.events if isinstance(event, Delta) and event.index == index]

    def ids(self, index: int = 0) -> list[int]:
        return [token for delta in self.deltas(index) for token in delta.token_ids]

    def text(self, index: int = 0) -> str:
        return "".join(delta.text for delta in self.deltas(index))

    def logprobs(self, index: int = 0) -> list[TokenLogprob]:
        return [logprob for delta in self.deltas(index) for logprob in delta.logprobs]

    def check_protocol(self) -> None:
        """Asserts what `messages.py` promises about the order and number of events."""
        kinds = [type(event) for event in self.events]
        assert kinds.count(Finished) == 1
        assert kinds[-1] is Finished
        assert kinds.count(Started) <= 1
        assert Started not in kinds[1:]
        if len(kinds) > 1:
            assert kinds[0] is Started
        finished = self.finished
        assert (finished.started is not None) == self.started
        indices = [end.index for end in finished.candidates]
        assert indices == list(range(len(indices)))
        assert sum(len(self.ids(index)) for index in indices) == finished.completion_tokens
        assert (finished.first_token is not None) == (finished.completion_tokens > 0)


RECORDS: list[StepTrace] = []
"""Recorded steps of all engines here; each network is compared with them all the same."""


class _Answers(dict[str, Answer]):
    """Answers by generation; whoever asks for one first makes it, be it the engine's thread."""

    def __missing__(self, generation_id: str) -> Answer:
        # A defaultdict may keep the one answer and hand out the other; this keeps the first.
        return self.setdefault(generation_id, Answer())


class Running:
    """An engine, started on entry and stopped on exit, with everything that it has said."""

    def __init__(
        self, model: LoadedModel, records: list[StepTrace] | None = None, **options: Any
    ) -> None:
        """With records of other engines, unless a test brings its own."""
        records = RECORDS if records is None else records
        self.engine = Engine(model, EngineOptions(**options), self._publish, records=records)
        self.answers = _Answers()
        self.on_publish: Callable[[], None] = lambda: None
        self._said = threading.Condition()

    def __enter__(self) -> Running:
        self.engine.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.engine.stop()
        if error is None:
            for answer in self.answers.values():
                answer.check_protocol()
            self.check_at_rest()

    def check_at_rest(self) -> None:
        """Asserts that nothing is held when nothing is left to do."""
        stats = self.engine.stats()
        assert (stats.running, stats.waiting, stats.pages_used) == (0, 0, 0)

    def answer(self, request: GenerationRequest) -> Answer:
        """Waits for the answer to a request that has been submitted."""
        answer = self.answers[request.generation_id]
        self.wait_until(lambda: answer.over)
        return answer

    def ask(self, *requests: GenerationRequest) -> list[Answer]:
        """Submits requests and waits for all answers."""
        for one in requests:
            self.engine.submit(one)
        return [self.answer(one) for one in requests]

    def wait_until(self, true: Callable[[], bool]) -> None:
        """Waits until something holds; it is looked at whenever the engine has spoken."""
        with self._said:
            assert self._said.wait_for(true, PATIENCE_S), "the engine hangs"

    def _publish(self, events: list[Event]) -> None:
        with self._said:
            for event in events:
                self.answers[event.generation_id].events.append(event)
            self._said.notify_all()
        self.on_publish()


@dataclass(frozen=True)
class Plan:
    """When a request comes, and when its client goes."""

    request: GenerationRequest
    arrives: int = 0
    """After how many publications of the engine it is submitted."""
    cancelled_after: int | None = None
    """After how many of its own tokens it is cancelled."""


def play(
    model: LoadedModel,
    plans: Iterable[Plan],
    ready: Callable[[Running], None] = lambda _: None,
    **options: Any,
) -> list[Answer]:
    """Lets requests come and go as planned; the answers, in the order of the plans.

    `ready` gets the engine before the first request. A request whose time has not come when the
    engine has nothing left to do comes at once.
    """
    plans = list(plans)
    waiting = sorted(plans, key=lambda plan: plan.arrives)
    running = Running(model, **options)
    ready(running)
    answers = [running.answers[plan.request.generation_id] for plan in plans]
    submitted: list[Answer] = []
    publications = itertools.count(1)
    cancelled: set[str] = set()

    def submit_due(now: int) -> None:
        while waiting and (waiting[0].arrives <= now or all(one.over for one in submitted)):
            own = waiting.pop(0).request
            try:
                running.engine.submit(own)
            except EngineStoppedError:  # only if a failed test is leaving
                return
            submitted.append(running.answers[own.generation_id])

    def cancel_due() -> None:
        for plan, answer in zip(plans, answers, strict=True):
            own = plan.request.generation_id
            if plan.cancelled_after is None or own in cancelled or not answer.started:
                continue
            if len(answer.ids()) >= plan.cancelled_after:
                cancelled.add(own)
                running.engine.cancel(own)

    def on_publish() -> None:
        submit_due(next(publications))
        cancel_due()

    running.on_publish = on_publish
    submit_due(0)
    with running:
        running.wait_until(lambda: all(answer.over for answer in answers))
    return answers


class PlainModel:
    """The model as transformers runs it, one prompt at a time: what the engine must agree with."""

    def __init__(self, folder: Path) -> None:
        self.network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._greedy = functools.cache(self._generate)

    def greedy(self, prompt: Iterable[int], max_tokens: int, *, eos: bool = True) -> list[int]:
        """The greedy answer of `generate`, its end token included."""
        ids: list[int] = self._greedy(tuple(prompt), max_tokens, eos)
        return ids

    def _generate(self, prompt: tuple[int, ...], max_tokens: int, eos: bool) -> list[int]:
        config = self.network.generation_config
        output = self.network.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=max_tokens,
            eos_token_id=config.eos_token_id if eos else None,
            pad_token_id=0,
        )
        ids: list[int] = output[0, len(prompt) :].tolist()
        return ids

    @torch.inference_mode()
    def logits(self, ids: Iterable[int]) -> torch.Tensor:
        """Logits after each token of `ids`, of shape (tokens, vocabulary)."""
        logits: torch.Tensor = self.network(torch.tensor([list(ids)])).logits[0]
        return logits

    @torch.inference_mode()
    def last_state(self, ids: Iterable[int]) -> torch.Tensor:
        """The last hidden state at the end of `ids`, of shape (hidden,)."""
        output = self.network(torch.tensor([list(ids)]), output_hidden_states=True)
        state: torch.Tensor = output.hidden_states[-1][0, -1]
        return state
