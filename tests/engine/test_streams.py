"""Many streams at once, some of which are cancelled or overdue: everyone ends, and ends rightly."""

from __future__ import annotations

import gc
import random
import time
from typing import Any

import pytest

from learnback_server.engine.loading import LoadedModel
from learnback_server.engine.messages import Delta, FinishReason, GenerationRequest
from learnback_server.engine.sequence import Generation
from tests.engine.harness import Answer, PlainModel, Plan, Running, play, request

PROMPT = list(b"Once upon a time")
ENDLESS = 30_000
"""More tokens than anyone waits for, and no more than the cache holds."""
LONG_AGO = 0.0
"""A time of `time.monotonic()` that is over."""


def prompt_of(length: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(256), k=length)


def endless(name: str = "", **others: Any) -> GenerationRequest:
    return request(PROMPT, ENDLESS, name=name, ignore_eos=True, **others)


def sixty_four() -> list[Plan]:
    """A quarter runs to its end token, a quarter to its length; the others are cut short."""
    made = []
    for number in range(64):
        prompt = prompt_of(1 + 37 * number % 120, seed=number)
        name = f"stream-{number}"
        arrives = number // 3
        if number % 4 == 0:
            made.append(Plan(request(prompt, 60, name=name), arrives))
        elif number % 4 == 1:
            made.append(Plan(request(prompt, 1 + number // 2, name=name, ignore_eos=True), arrives))
        elif number % 4 == 2:
            own = request(prompt, 300, name=name, ignore_eos=True)
            made.append(Plan(own, arrives, cancelled_after=number % 5 * 3))
        else:
            sampled = request(
                prompt,
                300,
                name=name,
                ignore_eos=True,
                temperature=1.0,
                deadline=LONG_AGO if number % 8 == 3 else time.monotonic() + 0.01 * (number % 7),
            )
            made.append(Plan(sampled, arrives))
    return made


@pytest.mark.parametrize("cache_tokens", [65536, 2048], ids=["roomy", "tight"])
def test_64_streams_end_as_they_should_and_leave_nothing_behind(
    llama: LoadedModel, plain_llama: PlainModel, cache_tokens: int
) -> None:
    plans = sixty_four()
    # `play` holds every answer to the protocol, and the engine to holding no page at the end.
    answers = play(llama, plans, cache_tokens=cache_tokens, step_tokens=64)
    for number, (plan, answer) in enumerate(zip(plans, answers, strict=True)):
        asked = plan.request
        greedy = plain_llama.greedy(
            asked.prompt_ids,
            asked.sampling.max_tokens if number % 4 < 2 else 60,
            eos=not asked.sampling.ignore_eos,
        )
        if number % 4 == 0:
            assert answer.ids() == greedy
            ended = FinishReason.STOP if greedy[-1] == 256 else FinishReason.LENGTH
            assert answer.reason is ended
        elif number % 4 == 1:
            assert answer.ids() == greedy
            assert answer.reason is FinishReason.LENGTH
        elif number % 4 == 2:
            assert answer.reason is FinishReason.CANCELLED
            assert answer.ids()[:60] == greedy[: len(answer.ids())]
        else:
            assert answer.reason is FinishReason.DEADLINE
        if asked.deadline == LONG_AGO:
            assert not answer.started


def test_the_counts_of_the_last_word_are_right(llama: LoadedModel) -> None:
    before = time.monotonic()
    with Running(llama) as running:
        (answer,) = running.ask(request(PROMPT, 7, n=3, temperature=1.0, ignore_eos=True))
    last = answer.finished
    assert (last.prompt_tokens, last.completion_tokens) == (len(PROMPT), 21)
    assert last.started is not None
    assert last.first_token is not None
    assert before <= last.started <= last.first_token <= last.finished <= time.monotonic()
    assert last.error == ""


# Cancelled, overdue: in the queue, in the prompt, while decoding.


def test_cancelled_in_the_queue(llama: LoadedModel) -> None:
    with Running(llama, max_running=1) as running:
        first, waiting = endless(), endless()
        running.engine.submit(first)
        running.wait_until(lambda: running.answers[first.generation_id].started)
        running.engine.submit(waiting)
        running.engine.cancel(waiting.generation_id)
        answer = running.answer(waiting)
        running.engine.cancel(first.generation_id)
        running.answer(first)
    assert answer.reason is FinishReason.CANCELLED
    assert len(answer.events) == 1


def in_its_prompt(answer: Answer) -> bool:
    return answer.started and not answer.ids()


@pytest.mark.parametrize("n", [1, 4])
def test_cancelled_in_the_prompt(llama: LoadedModel, n: int) -> None:
    wanted = request(prompt_of(400, 0), 10, n=n)
    with Running(llama, step_tokens=8) as running:
        answer = running.answers[wanted.generation_id]
        running.on_publish = lambda: (
            running.engine.cancel(wanted.generation_id) if in_its_prompt(answer) else None
        )
        running.ask(wanted)
    assert [end.reason for end in answer.finished.candidates] == [FinishReason.CANCELLED] * n
    assert answer.started
    assert answer.ids() == []


@pytest.mark.parametrize("n", [1, 3])
def test_cancelled_while_decoding(llama: LoadedModel, n: int) -> None:
    wanted = request(PROMPT, ENDLESS, ignore_eos=True, n=n, temperature=1.0)
    (answer,) = play(llama, [Plan(wanted, cancelled_after=5)])
    assert {end.reason for end in answer.finished.candidates} == {FinishReason.CANCELLED}
    assert 5 <= len(answer.ids()) < ENDLESS


def test_overdue_in_the_queue(llama: LoadedModel) -> None:
    with Running(llama, max_running=1) as running:
        first, waiting = endless(), endless(deadline=time.monotonic() + 0.02)
        running.engine.submit(first)
        running.engine.submit(waiting)
        answer = running.answer(waiting)
        running.engine.cancel(first.generation_id)
        running.answer(first)
    assert answer.reason is FinishReason.DEADLINE
    assert not answer.started


def test_overdue_while_decoding_gives_what_there_is(llama: LoadedModel) -> None:
    with Running(llama) as running:
        for patience in (0.05, 0.5, 5.0):  # as long as a busy machine needs to begin
            (answer,) = running.ask(endless(deadline=time.monotonic() + patience))
            assert answer.reason is FinishReason.DEADLINE
            if answer.ids():
                break
    assert answer.ids()


def test_overdue_before_the_first_step_is_never_started(llama: LoadedModel) -> None:
    with Running(llama) as running:
        (answer,) = running.ask(endless(deadline=LONG_AGO))
    assert answer.reason is FinishReason.DEADLINE
    assert len(answer.events) == 1


def test_too_long_in_the_queue(llama: LoadedModel) -> None:
    with Running(llama, max_running=1) as running:
        first, waiting = endless(), endless(queue_deadline=time.monotonic() + 0.02)
        running.engine.submit(first)
        running.engine.submit(waiting)
        answer = running.answer(waiting)
        running.engine.cancel(first.generation_id)
        running.answer(first)
    assert answer.reason is FinishReason.QUEUE_TIMEOUT
    assert not answer.started


def test_the_time_in_the_queue_does_not_count_once_it_is_left(llama: LoadedModel) -> None:
    wanted = request(PROMPT, 300, ignore_eos=True, queue_deadline=time.monotonic() + 0.05)
    with Running(llama) as running:
        (answer,) = running.ask(wanted)
    # Were the machine so slow that it never left the queue, it would say so and be right.
    assert answer.reason is (FinishReason.LENGTH if answer.started else FinishReason.QUEUE_TIMEOUT)


def test_the_same_time_for_both_is_the_deadline(llama: LoadedModel) -> None:
    with Running(llama) as running:
        (answer,) = running.ask(endless(deadline=LONG_AGO, queue_deadline=LONG_AGO))
    assert answer.reason is FinishReason.DEADLINE


def test_a_generation_that_is_over_is_let_go_before_its_deadline(llama: LoadedModel) -> None:
    requests = [request(PROMPT, 2, deadline=time.monotonic() + 3600) for _ in range(20)]
    names = {one.generation_id for one in requests}
    with Running(llama) as running:
        running.ask(*requests[:10])
        for one in requests[10:]:
            running.ask(one)
        gc.collect()
        kept = [
            thing
            for thing in gc.get_objects()
            if type(thing) is Generation and thing.request.generation_id in names
        ]
        assert len(kept) <= 1  # the loop may still have its last step at hand


# Events.


def test_every_token_is_told_in_the_step_that_made_it(llama: LoadedModel) -> None:
    with Running(llama) as running:
        (answer,) = running.ask(request(PROMPT, 30, ignore_eos=True, logprobs=0))
    deltas = answer.deltas()
    assert [len(delta.token_ids) for delta in deltas] == [1] * 30
    assert [len(delta.logprobs) for delta in deltas] == [1] * 30


def test_candidates_are_told_apart(llama: LoadedModel) -> None:
    with Running(llama) as running:
        (answer,) = running.ask(request(PROMPT, 5, n=3, temperature=1.0, ignore_eos=True))
    indices = [event.index for event in answer.events if isinstance(event, Delta)]
    assert sorted(indices) == sorted([0, 1, 2] * 5)


def test_a_candidate_that_ends_early_leaves_the_others_going(llama: LoadedModel) -> None:
    with Running(llama) as running:
        answers = running.ask(
            *[request(prompt_of(9, seed), 60, n=4, temperature=1.5, seed=seed) for seed in range(8)]
        )
    lengths = [[len(answer.ids(index)) for index in range(4)] for answer in answers]
    assert any(len(set(own)) > 1 for own in lengths), "no candidate ended early"
    for answer, own in zip(answers, lengths, strict=True):
        for end, length in zip(answer.finished.candidates, own, strict=True):
            stopped = answer.ids(end.index)[-1] == 256
            assert end.reason is (FinishReason.STOP if stopped else FinishReason.LENGTH)
            assert stopped or length == 60


# Log-probabilities, through the engine.


def test_logprobs_are_those_of_the_plain_model(llama: LoadedModel, plain_llama: PlainModel) -> None:
    with Running(llama, step_tokens=8) as running:
        (answer,) = running.ask(
            request(PROMPT, 25, ignore_eos=True, temperature=1.0, top_p=0.9, logprobs=5, seed=1)
        )
    ids = answer.ids()
    expected = plain_llama.logits(PROMPT + ids).log_softmax(dim=-1)[len(PROMPT) - 1 : -1]
    told = answer.logprobs()
    assert [one.token_id for one in told] == ids
    for one, row in zip(told, expected, strict=True):
        assert one.logprob == pytest.approx(float(row[one.token_id]), abs=1e-3)
        values, top = row.topk(5)
        assert [other.token_id for other in one.top] == top.tolist()
        assert [other.logprob for other in one.top] == pytest.approx(values.tolist(), abs=1e-3)


def test_stats_tell_who_runs_and_who_waits(llama: LoadedModel) -> None:
    with Running(llama, max_running=2, page_tokens=16) as running:
        requests = [endless() for _ in range(5)]
        for one in requests:
            running.engine.submit(one)
        running.wait_until(lambda: running.answers[requests[1].generation_id].started)
        stats = running.engine.stats()
        for one in requests:
            running.engine.cancel(one.generation_id)
        for one in requests:
            running.answer(one)
    assert (stats.running, stats.waiting, stats.pages_total) == (2, 3, 4096)
    assert stats.pages_used > 0
    assert stats.steps > 0
