"""Ratings, preferences, corrections and critiques in one round on the shipped model."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from learnback_nano import world
from learnback_store.records import (
    Correction,
    FeedbackRecord,
    FeedbackState,
    Objective,
    Preference,
    Preferred,
    Rating,
    Signal,
)
from learnback_store.rounds import Outcome
from learnback_trainer.anchors import Amounts
from learnback_trainer.gate import Budget
from learnback_trainer.mixture import Mixture
from learnback_trainer.pupil import Base, Pupil
from learnback_trainer.school import Curriculum, Report, Sources, hold_round
from learnback_trainer.update import Recipe
from tests.trainer.critics import ANSWER_TOKENS, asked, criticism, unchanged, views

AMOUNTS = Amounts(questions=24, dialogues=8, alike=8)


def _hold(pupil: Pupil, records: list[FeedbackRecord], recipe: Recipe = Recipe(steps=40, lessons=5, anchors=8)) -> Report:
    curriculum = Curriculum(recipe, Budget(), AMOUNTS, ANSWER_TOKENS, seed=0)
    return hold_round(pupil, "nano", views(records), Sources(), curriculum)


def _said_of(pupil: Pupil, prompt: str, signal: Signal) -> FeedbackRecord:
    """Feedback on what the model really answers."""
    [answer] = pupil.answer([pupil.reader.chat([{"role": "user", "content": prompt}])], 48)
    return asked(prompt, pupil.reader.text(answer), signal)


def test_one_round_mixes_all_kinds(base: Base) -> None:
    rng = Random(1)
    france, canada, hot, false = (
        "What is the capital of France?", "Tell me the capital of Canada.",
        "What is the opposite of hot?", "Tell me the opposite of false.",
    )  # fmt: skip
    with Pupil(base, None) as pupil:
        good = _said_of(pupil, hot, Rating(1.0))
        bad = _said_of(pupil, false, Rating(-1.0))
        better = _said_of(pupil, canada, Preference("Ottawa.", Preferred.OTHER))
        right = _said_of(pupil, france, Correction("The capital of France is Lyon."))
        critique = criticism("emoji", "note", rng)
        records = [good, bad, better, right, critique]
        report = _hold(pupil, records)
        for one in report.outcomes:
            print(one.state, one.reason, one.lessons)
        print(report.verdict)
    assert set(report.learned) == {one.feedback_id for one in records}
