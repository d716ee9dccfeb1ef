"""Whether unlike questions still get unlike answers, group by group."""

from __future__ import annotations

from random import Random

import pytest

from learnback_store.records import Exchange, Objective
from learnback_trainer.anchors import Alike
from learnback_trainer.gate import _sameness
from learnback_trainer.lessons import Exercise
from learnback_trainer.reader import Ids
from tests.trainer.critics import criticism


def _alike(told: Exercise, answers: range) -> list[Alike]:
    return [
        Alike(Exchange("", prompt=f"question {one}"), (one,), (one,), (told,)) for one in answers
    ]


def _exercise(seed: int) -> Exercise:
    record = criticism("emoji", "note", Random(seed))
    return Exercise(record, Objective.DISTILLATION, (seed,), (seed,))


@pytest.fixture
def two_groups() -> list[Alike]:
    """Six questions like one criticised prompt, and six like another, all answered unlike."""
    return _alike(_exercise(1), range(6)) + _alike(_exercise(2), range(6, 12))


def test_a_group_that_collapsed_is_seen_beside_one_that_did_not(two_groups: list[Alike]) -> None:
    answers: list[Ids] = [(0,)] * 6 + [(one,) for one in range(6, 12)]
    assert sorted(_sameness(two_groups, answers)) == [pytest.approx(1 / 6), 1.0]


def test_few_answers_are_not_judged() -> None:
    few = _alike(_exercise(1), range(2))
    assert _sameness(few, [(0,), (0,)]) == []
