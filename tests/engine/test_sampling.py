"""Sampling against independent implementations: the processors of transformers, and arithmetic."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from learnback_server.engine.messages import SamplingParams
from learnback_server.engine.sampling import Choice, choose, draw
from learnback_server.engine.sequence import Generation, Sequence
from learnback_server.engine.text import Vocabulary
from tests.engine.harness import request
from tests.tiny import byte_tokenizer

VOCABULARY = Vocabulary(byte_tokenizer().backend_tokenizer)
SIZE = 50


def row(
    prompt: list[int] | None = None, answer: list[int] | None = None, **sampling: Any
) -> Sequence:
    """A sequence that has come so far, as the engine would hold it."""
    asked = request(prompt or [0], 100, **sampling)
    sequence = Generation(asked, 0, VOCABULARY).sequences[0]
    for token in answer or []:
        sequence.append(token)
    return sequence


def choose_one(logits: torch.Tensor, sequence: Sequence) -> Choice:
    return choose(logits.unsqueeze(0), [sequence], VOCABULARY)[0]


def logits_of(seed: int, *, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed)) * spread


def distribution(probs: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """How often each token is drawn, by drawing with evenly spread uniform numbers."""
    draws = 20_000
    uniform = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    tokens = draw(probs.expand(draws, -1), [params] * draws, uniform)
    return torch.bincount(tokens, minlength=len(probs)) / draws


def by_transformers(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """The probabilities that `generate` would draw from."""
    processors = LogitsProcessorList([TemperatureLogitsWarper(params.temperature)])
    if params.top_k:
        processors.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1.0:
        processors.append(TopPLogitsWarper(params.top_p))
    if params.min_p > 0.0:
        processors.append(MinPLogitsWarper(params.min_p))
    return torch.softmax(processors(None, logits.unsqueeze(0))[0], dim=-1)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    temperature=st.floats(0.2, 2.0),
    top_k=st.integers(0, SIZE + 5),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 1.0)),
    min_p=st.one_of(st.just(0.0), st.floats(0.0, 1.0)),
)
def test_truncates_as_transformers_does(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = logits_of(seed)
    params = SamplingParams(
        max_tokens=1, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
    )
    drawn = distribution(torch.softmax(logits / temperature, dim=-1), params)
    # 20,000 evenly spread numbers meet every probability within one of them at either border.
    torch.testing.assert_close(drawn, by_transformers(logits, params), atol=1.5e-4, rtol=0)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    prompt=st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=20),
    answer=st.lists(st.integers(0, SIZE - 1), max_size=20),
    penalty=st.floats(0.5, 2.0),
)
def test_repetition_penalty_is_that_of_transformers(
    seed: int, prompt: list[int], answer: list[int], penalty: float
) -> None:
    logits = logits_of(seed)
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    expected = processor(torch.tensor([prompt + answer]), logits.unsqueeze(0).clone())
    chosen = choose_one(logits, row(prompt, answer, repetition_penalty=penalty))
    assert chosen.token == int(expected.argmax())


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    prompt=st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=20),
    answer=st.lists(st.integers(0, SIZE - 1), max_size=40),
    presence=st.floats(-2.0, 2.0),
    frequency=st.floats(-2.0, 2.0),
)
def test_presence_and_frequency_penalties_count_the_answer_alone(
    seed: int, prompt: list[int], answer: list[int], presence: float, frequency: float
) -> None:
    logits = logits_of(seed)
    expected = logits.tolist()
    for token in set(answer):
        expected[token] -= presence + frequency * answer.count(token)
    chosen = choose_one(
        logits, row(prompt, answer, presence_penalty=presence, frequency_penalty=frequency)
    )
    assert expected[chosen.token] == pytest.approx(max(expected), abs=1e-5)


def test_penalties_of_one_row_leave_the_others_alone() -> None:
    logits = logits_of(0)
    best = int(logits.argmax())
    penalised = row([best], repetition_penalty=1e6)
    choices = choose(logits.repeat(3, 1), [row(), penalised, row()], VOCABULARY)
    assert [choice.token == best for choice in choices] == [True, False, True]


def test_penalties_do_not_change_the_logits_they_are_given() -> None:
    logits = logits_of(0).unsqueeze(0)
    before = logits.clone()
    choose(logits, [row([1, 2, 3], repetition_penalty=2.0)], VOCABULARY)
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    "sampling",
    [{"temperature": 1.0}, {"temperature": 0.8, "top_k": 12}, {"temperature": 1.5, "top_p": 0.9}],
)
def test_draws_as_often_as_the_probabilities_say(sampling: dict[str, Any]) -> None:
    logits = logits_of(3, spread=1.0)
    draws = 4000
    rows = [row(seed=seed, **sampling) for seed in range(draws)]
    choices = choose(logits.expand(draws, -1), rows, VOCABULARY)
    counts = torch.bincount(torch.tensor([c.token for c in choices]), minlength=SIZE)
    expected = by_transformers(logits, rows[0].sampling) * draws
    possible = expected > 0
    assert not counts[~possible].any()
    chi_squared = float(((counts - expected)[possible] ** 2 / expected[possible]).sum())
    freedom = int(possible.sum()) - 1
    # Mean `freedom`, variance twice that: five deviations off would be an error, not chance.
    assert chi_squared < freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e4, 1e38])
def test_a_temperature_next_to_zero_takes_the_likeliest(size: float) -> None:
    logits = torch.linspace(-1.0, 1.0, SIZE).roll(7) * size
    chosen = [choose_one(logits, row(seed=seed, temperature=1e-38)) for seed in range(20)]
    assert {choice.token for choice in chosen} == {int(logits.argmax())}
    assert all(choice.valid for choice in chosen)


def test_top_k_of_one_takes_the_likeliest_at_any_temperature() -> None:
    logits = logits_of(0)
    for seed in range(20):
        chosen = choose_one(logits, row(seed=seed, temperature=2.0, top_k=1))
        assert chosen.token == int(logits.argmax())


def test_the_first_of_equals_is_taken_greedily() -> None:
    assert choose_one(torch.zeros(SIZE), row()).token == 0


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    logits = torch.full((SIZE,), -math.inf)
    logits[[3, 40]] = 0.0
    drawn = {choose_one(logits, row(seed=s, temperature=1.0)).token for s in range(50)}
    assert drawn == {3, 40}


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
def test_the_ends_of_the_uniform_numbers_draw_possible_tokens(uniform: float) -> None:
    probs = torch.tensor([[0.0, 0.2, 0.3, 0.5, 0.0, 0.0]])
    for params in (SamplingParams(1), SamplingParams(1, top_p=0.99), SamplingParams(1, top_k=3)):
        token = int(draw(probs, [params], torch.tensor([uniform], dtype=torch.float64)))
        assert probs[0, token] > 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"temperature": 1.0},
        {"temperature": 1.0, "top_k": 3},
        {"temperature": 1.0, "top_p": 0.5, "logprobs": 3},
        {"repetition_penalty": 1.5, "logprobs": 0},
    ],
)
def test_logits_that_are_no_numbers_make_the_choice_invalid_and_harm_no_neighbour(
    bad: float, sampling: dict[str, Any]
) -> None:
    logits = torch.stack([logits_of(0), logits_of(1), logits_of(2)])
    logits[1, 4] = bad
    rows = [row(seed=seed, **sampling) for seed in range(3)]
    choices = choose(logits, rows, VOCABULARY)
    assert [choice.valid for choice in choices] == [True, False, True]
    assert all(0 <= choice.token < SIZE for choice in choices)
    assert choices[0].token == choose_one(logits[0], rows[0]).token
    assert choices[2].token == choose_one(logits[2], rows[2]).token


def test_logits_without_any_possible_token_are_invalid() -> None:
    assert not choose_one(torch.full((SIZE,), -math.inf), row(temperature=1.0)).valid


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    sampling=st.fixed_dictionaries(
        {
            "temperature": st.sampled_from([0.0, 0.5, 1.0]),
            "top_k": st.integers(0, 5),
            "top_p": st.sampled_from([0.3, 1.0]),
            "logprobs": st.integers(0, 20),
        }
    ),
)
def test_logprobs_are_those_of_the_model_before_any_sampling(
    seed: int, sampling: dict[str, Any]
) -> None:
    logits = logits_of(seed)
    sequence = row([1, 2], [3], seed=seed, repetition_penalty=1.3, **sampling)
    chosen = choose_one(logits, sequence)
    expected = torch.log_softmax(logits, dim=-1)
    told = chosen.logprob
    assert told is not None
    assert told.token_id == chosen.token
    assert told.token == VOCABULARY.bytes_of(chosen.token)
    assert told.logprob == pytest.approx(float(expected[chosen.token]))
    values, ids = expected.topk(sampling["logprobs"])
    assert [top.token_id for top in told.top] == ids.tolist()
    assert [top.logprob for top in told.top] == pytest.approx(values.tolist())


def test_no_logprobs_unless_asked_for() -> None:
    assert choose_one(logits_of(0), row()).logprob is None
