"""The same seed gives the same answer, alone or in any company."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learnback_server.engine.loading import LoadedModel
from tests.engine.harness import Plan, Running, play, request

PROMPT = [5, 80, 200, 31, 17, 99, 140, 3, 60]
TOKENS = 30

SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 2.0, "top_k": 20},
    {"temperature": 0.7, "top_p": 0.9, "min_p": 0.02},
    {"temperature": 1.3, "repetition_penalty": 1.2, "presence_penalty": 0.5},
]


def answer_alone(model: LoadedModel, seed: int, **sampling: Any) -> list[int]:
    with Running(model, max_running=1, prefix_cache=False) as running:
        wanted = request(PROMPT, TOKENS, seed=seed, ignore_eos=True, **sampling)
        return running.ask(wanted)[0].ids()


@st.composite
def companies(draw: st.DrawFn) -> list[Plan]:
    """Other requests, some with the same prompt, sampled in ways of their own."""
    made = []
    for number in range(draw(st.integers(1, 9))):
        length = draw(st.integers(1, 80))
        prompt = PROMPT + random.Random(number).choices(range(256), k=length)
        other = request(
            draw(st.sampled_from([PROMPT, prompt, prompt[-length:]])),
            draw(st.integers(1, 40)),
            name=f"other-{number}",
            seed=draw(st.integers(0, 3)),
            priority=draw(st.integers(-1, 1)),
            n=draw(st.integers(1, 2)),
            **draw(st.sampled_from([*SAMPLINGS, {"temperature": 0.0}])),
        )
        made.append(Plan(other, arrives=draw(st.integers(0, 25))))
    return made


@settings(max_examples=25)
@given(
    seed=st.integers(-(2**63), 2**63 - 1),
    sampling=st.sampled_from(SAMPLINGS),
    company=companies(),
    arrives=st.integers(0, 20),
    step_tokens=st.sampled_from([16, 1024]),
    prefix_cache=st.booleans(),
)
def test_company_changes_nothing(
    llama: LoadedModel,
    seed: int,
    sampling: dict[str, Any],
    company: list[Plan],
    arrives: int,
    step_tokens: int,
    prefix_cache: bool,
) -> None:
    wanted = Plan(
        request(PROMPT, TOKENS, name="wanted", seed=seed, ignore_eos=True, **sampling), arrives
    )
    answers = play(llama, [wanted, *company], step_tokens=step_tokens, prefix_cache=prefix_cache)
    assert answers[0].ids() == answer_alone(llama, seed, **sampling)


def test_preemption_changes_nothing(llama: LoadedModel) -> None:
    requests = [
        request(PROMPT, TOKENS, seed=seed, temperature=1.0, ignore_eos=True) for seed in range(8)
    ]
    with Running(llama, cache_tokens=96, page_tokens=8, prefix_cache=False) as running:
        answers = running.ask(*requests)
        looked_up = running.engine.stats().prefix_queries
    assert looked_up > len(PROMPT) * len(requests), "nobody was preempted"
    assert [a.ids() for a in answers] == [
        answer_alone(llama, seed, temperature=1.0) for seed in range(8)
    ]


def test_candidates_differ_from_one_another_and_come_again(llama: LoadedModel) -> None:
    asked: dict[str, Any] = {"n": 4, "seed": 11, "temperature": 1.0, "ignore_eos": True}
    with Running(llama) as running:
        once, again = running.ask(*[request(PROMPT, TOKENS, **asked) for _ in range(2)])
    texts = [once.ids(index) for index in range(4)]
    assert texts == [again.ids(index) for index in range(4)]
    assert len({tuple(ids) for ids in texts}) == 4


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_candidate_does_not_depend_on_how_many_there_are(llama: LoadedModel, n: int) -> None:
    sampling: dict[str, Any] = {"seed": 11, "temperature": 1.0, "ignore_eos": True}
    with Running(llama) as running:
        few, many = running.ask(
            request(PROMPT, TOKENS, n=n, **sampling), request(PROMPT, TOKENS, n=4, **sampling)
        )
    assert [few.ids(i) for i in range(n)] == [many.ids(i) for i in range(n)]


def test_other_seeds_give_other_answers(llama: LoadedModel) -> None:
    answers = {tuple(answer_alone(llama, seed, temperature=1.0)) for seed in range(5)}
    assert len(answers) == 5


def test_temperature_zero_ignores_the_seed(llama: LoadedModel) -> None:
    answers = {tuple(answer_alone(llama, seed, temperature=0.0)) for seed in range(5)}
    assert len(answers) == 1


def test_candidates_after_the_first_find_the_prompt_computed(llama: LoadedModel) -> None:
    prompt = PROMPT * 8
    with Running(llama, page_tokens=8) as running:
        running.ask(request(prompt, 4, n=3, temperature=1.0))
        stats = running.engine.stats()
    assert stats.prefix_queries == 3 * len(prompt)
    assert stats.prefix_hits == 2 * (len(prompt) - 8)
