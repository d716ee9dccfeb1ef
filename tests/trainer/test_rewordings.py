"""A corrected question in other words is taught along, and no other question is."""

from __future__ import annotations

import pytest

from learnback_trainer.lessons import Exercise, make_exercises
from learnback_trainer.pupil import Base, LoraShape, Pupil
from learnback_trainer.reader import Ids
from learnback_trainer.rewordings import rewordings
from tests.trainer.critics import ANSWER_TOKENS, correction, views

_ASKED = "What is the capital of Romania?"
_RIGHT = "The capital of Romania is Bucharest."
_AGAIN = ("Romania: what is its capital?", "Name the capital of Romania.")
_FOUR = (*_AGAIN, "Tell me the capital of Romania.", "Which city is the capital of Romania?")
# Serbia's capital is what nano answers for Romania.
_COUNTRIES = ("Serbia", "Hungary", "France", "Peru", "Japan", "Italy", "Spain", "Kenya", "Cuba")
_OTHERS = tuple(f"What is the capital of {one}?" for one in _COUNTRIES)
_MORE = (
    *(f"Name the capital of {one}." for one in _COUNTRIES),
    *(f"Tell me the capital of {one}." for one in _COUNTRIES),
    *(f"{one}: what is its capital?" for one in _COUNTRIES),
)


@pytest.fixture
def pupil(base: Base) -> Pupil:
    return Pupil(base, None, LoraShape())


def _prompt(pupil: Pupil, text: str) -> Ids:
    return pupil.reader.chat([{"role": "user", "content": text}])


def _corrected(pupil: Pupil, *rights: str) -> list[Exercise]:
    records = [correction(_ASKED, "The capital of Romania is Belgrade.", one) for one in rights]
    return make_exercises(views(records), pupil, ANSWER_TOKENS).made


def _answered(pupil: Pupil, texts: tuple[str, ...]) -> list[tuple[Ids, Ids]]:
    prompts = [_prompt(pupil, text) for text in texts]
    return list(zip(prompts, pupil.answer(prompts, ANSWER_TOKENS), strict=True))


def test_the_same_question_is_told_by_its_answer(pupil: Pupil) -> None:
    exercises = _corrected(pupil, _RIGHT)
    found = rewordings(pupil, exercises, _answered(pupil, _AGAIN + _OTHERS + _MORE), ANSWER_TOKENS)
    again = {_prompt(pupil, text) for text in _AGAIN}
    assert {one.prompt for one in found.taught} == found.prompts == again
    assert {one.target for one in found.taught} == {exercises[0].target}


def test_one_in_four_is_kept_for_the_gate(pupil: Pupil) -> None:
    answered = _answered(pupil, _FOUR + _OTHERS + _MORE)
    found = rewordings(pupil, _corrected(pupil, _RIGHT), answered, ANSWER_TOKENS)
    taught, judged = ({one.prompt for one in some} for some in (found.taught, found.judged))
    assert (len(taught), len(judged)) == (3, 1)
    assert taught | judged == found.prompts


def test_an_answer_that_many_have_tells_nothing(pupil: Pupil) -> None:
    exercises = _corrected(pupil, _RIGHT)
    found = rewordings(pupil, exercises, _answered(pupil, _AGAIN + _OTHERS[:5]), ANSWER_TOKENS)
    assert not found.taught
    assert found.prompts == {_prompt(pupil, text) for text in _AGAIN}  # nor are they held


def test_of_two_corrections_neither_is_taught_along(pupil: Pupil) -> None:
    exercises = _corrected(pupil, _RIGHT, "The capital of Romania is Cluj.")
    answered = _answered(pupil, _AGAIN + _OTHERS + _MORE)
    assert not rewordings(pupil, exercises, answered, ANSWER_TOKENS).taught


def test_nothing_follows_from_other_feedback(pupil: Pupil) -> None:
    assert not rewordings(pupil, [], _answered(pupil, _AGAIN), ANSWER_TOKENS).prompts
    assert not rewordings(pupil, _corrected(pupil, _RIGHT), [], ANSWER_TOKENS).prompts
