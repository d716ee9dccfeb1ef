"""Greedy answers equal those of `generate`, token for token, whatever else the engine does."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from learnback_server.engine.loading import LoadedModel
from learnback_server.engine.messages import FinishReason
from tests.engine.harness import PlainModel, Plan, Running, play, request

EOS = 256
LONGEST_ANSWER = 40


def prompt_of(length: int, seed: int = 0) -> list[int]:
    """Random bytes, the same for the same arguments."""
    return random.Random(seed).choices(range(EOS), k=length)


@st.composite
def plans(draw: st.DrawFn) -> list[Plan]:
    """Up to ten requests, many of which begin alike, at any time and in any order of priority."""
    shared = prompt_of(96, seed=draw(st.integers(0, 2)))
    made = []
    for number in range(draw(st.integers(1, 10))):
        prefix = shared[: draw(st.sampled_from([0, 0, 15, 16, 33, 64, 96]))]
        own = prompt_of(draw(st.integers(1, 60)), seed=draw(st.integers(0, 3)))
        made.append(
            Plan(
                request(
                    prefix + own,
                    max_tokens=draw(st.sampled_from([1, 2, 7, 20, LONGEST_ANSWER])),
                    name=f"request-{number}",
                    priority=draw(st.integers(-1, 1)),
                    ignore_eos=draw(st.booleans()),
                ),
                arrives=draw(st.integers(0, 30)),
            )
        )
    return made


# Pages of 8 or 16 tokens; the smallest cache holds barely one of the longest requests.
engines = st.fixed_dictionaries(
    {
        "max_running": st.sampled_from([1, 2, 3, 64]),
        "step_tokens": st.sampled_from([1, 5, 32, 1024]),
        "cache_tokens": st.sampled_from([208, 256, 480, 8192]),
        "page_tokens": st.sampled_from([8, 16]),
        "prefix_cache": st.booleans(),
    }
)


@settings(max_examples=15)
@given(plans=plans(), options=engines)
def test_equals_generate_in_any_company(
    any_model: LoadedModel, any_plain: PlainModel, plans: list[Plan], options: dict[str, Any]
) -> None:
    for plan, answer in zip(plans, play(any_model, plans, **options), strict=True):
        sampling = plan.request.sampling
        expected = any_plain.greedy(
            plan.request.prompt_ids, sampling.max_tokens, eos=not sampling.ignore_eos
        )
        assert answer.ids() == expected


def test_goes_past_the_sliding_window_of_24_tokens(
    any_model: LoadedModel, any_plain: PlainModel
) -> None:
    prompts = [prompt_of(length, seed=length) for length in (3, 23, 24, 25, 90)]
    with Running(any_model) as running:
        answers = running.ask(*[request(p, 60, ignore_eos=True) for p in prompts])
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.ids() == any_plain.greedy(prompt, 60, eos=False)


def test_fills_the_context_to_its_last_token(any_model: LoadedModel, any_plain: PlainModel) -> None:
    context = any_model.facts.context_tokens
    prompt = prompt_of(context - 5)
    with Running(any_model, step_tokens=100) as running:
        (answer,) = running.ask(request(prompt, 5, ignore_eos=True))
    assert answer.ids() == any_plain.greedy(prompt, 5, eos=False)


def test_ends_at_the_end_token_as_generate_does(
    llama: LoadedModel, plain_llama: PlainModel
) -> None:
    prompts = [prompt_of(12, seed) for seed in range(60)]
    expected = [plain_llama.greedy(prompt, LONGEST_ANSWER) for prompt in prompts]
    assert any(ids[-1] == EOS for ids in expected)
    with Running(llama) as running:
        answers = running.ask(*[request(prompt, LONGEST_ANSWER) for prompt in prompts])
    for ids, answer in zip(expected, answers, strict=True):
        assert answer.ids() == ids
        ended = FinishReason.STOP if ids[-1] == EOS else FinishReason.LENGTH
        assert answer.reason is ended


def test_a_prefix_that_was_computed_before_is_not_computed_again(
    llama: LoadedModel, plain_llama: PlainModel
) -> None:
    prompt = prompt_of(100)
    with Running(llama, page_tokens=16) as running:
        first = running.ask(request(prompt, 4))[0]
        second = running.ask(request(prompt, 4))[0]
        stats = running.engine.stats()
    assert first.finished.cached_tokens == 0
    assert second.finished.cached_tokens == 96
    assert (stats.prefix_queries, stats.prefix_hits) == (200, 96)
    assert second.ids() == first.ids() == plain_llama.greedy(prompt, 4)


def test_nothing_is_shared_when_the_prefix_cache_is_off(llama: LoadedModel) -> None:
    prompt = prompt_of(100)
    with Running(llama, prefix_cache=False) as running:
        running.ask(request(prompt))
        (again,) = running.ask(request(prompt))
    assert again.finished.cached_tokens == 0
