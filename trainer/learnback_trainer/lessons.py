"""Feedback to exercises: what is asked, and what should be answered.

    critique     the dialogue [x][y][c] is put before the live model, and its revision r is the
                 answer to learn: the model is its own teacher (`objectives/distillation.py`)
    correction   the correction itself is the answer to learn (`objectives/sft.py`)

One critique alone teaches little about other questions, so it is practised: the live model answers
questions like the criticised one, revises these answers for the same critique, and the revisions
are learned too. Corrections are not: what is right for one question is wrong for the next.

Ratings and preferences say how good an answer was, and not what to say instead: no objective here
learns from them. They are archived, stay QUEUED there, and wait.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from learnback_store.records import (
    Correction,
    Critique,
    Exchange,
    FeedbackRecord,
    FeedbackView,
    Objective,
)
from learnback_trainer.errors import LessonError
from learnback_trainer.pupil import Pupil
from learnback_trainer.reader import Ids, Reader

NOTHING_TO_CHANGE = "shown the criticism, the model gives the same answer again"
NO_REVISION = "shown the criticism, the model gives no answer that comes to an end"
TOO_LONG = "the exchange is too long for the model"


@dataclass(frozen=True, slots=True)
class Exercise:
    """One piece of feedback, made ready to be taught."""

    record: FeedbackRecord
    objective: Objective
    prompt: Ids
    """The input x, as the student sees it."""
    target: Ids
    """The answer to learn, with its end token."""
    dialogue: Ids = ()
    """The input [x][y][c], as the teacher sees it; empty for a correction."""
    weight: float = 1.0
    """How much its loss counts in the round, 0 to 1."""

    @property
    def feedback_id(self) -> str:
        """The id of the feedback."""
        return self.record.feedback_id


@dataclass(slots=True)
class Exercises:
    """What a batch of feedback came to."""

    made: list[Exercise] = field(default_factory=list)
    excused: dict[str, str] = field(default_factory=dict)
    """Feedback that can't be taught, with the reason, by id."""


def is_teachable(record: FeedbackRecord) -> bool:
    """Whether there is an objective for this kind of feedback."""
    return isinstance(record.signal, Critique | Correction)


def make_exercises(views: Iterable[FeedbackView], pupil: Pupil, max_tokens: int) -> Exercises:
    """Turns feedback into exercises; the live model revises what was criticised.

    Args:
        views: Feedback that `is_teachable`.
        pupil: The model.
        max_tokens: Longest revision, in tokens.
    """
    found = Exercises()
    drafts = []
    for view in views:
        try:
            drafts.append(_draft(view.record, pupil.reader, max_tokens))
        except LessonError as error:
            found.excused[view.feedback_id] = str(error)
    for exercise in revised(drafts, pupil, max_tokens):
        reason = _unteachable(exercise, pupil.reader)
        if reason:
            found.excused[exercise.feedback_id] = reason
        else:
            found.made.append(exercise)
    return found


def _draft(record: FeedbackRecord, reader: Reader, max_tokens: int) -> Exercise:
    """An exercise whose revision, if it needs one, is still to be made."""
    signal, exchange = record.signal, record.exchange
    prompt = reader.prompt(exchange, record.prompt_ids)
    if isinstance(signal, Correction):
        exercise = Exercise(record, Objective.SFT, prompt, reader.answer(signal.text))
        longest = len(prompt) + len(exercise.target)
    elif isinstance(signal, Critique):
        dialogue = reader.dialogue(exchange, exchange.answer, signal.text)
        exercise = Exercise(record, Objective.DISTILLATION, prompt, (), dialogue)
        longest = len(dialogue) + max_tokens
    else:
        raise LessonError(f"no objective learns from a {signal.kind}")
    if longest > reader.context_tokens:
        raise LessonError(TOO_LONG)
    return exercise


def revised(drafts: Sequence[Exercise], pupil: Pupil, max_tokens: int) -> list[Exercise]:
    """Returns exercises with the live model's answer to their dialogues as the target."""
    criticised = [one for one in drafts if one.dialogue]
    with pupil.as_live():
        answers = pupil.answer([one.dialogue for one in criticised], max_tokens)
    targets = {one.dialogue: answer for one, answer in zip(criticised, answers, strict=True)}
    return [replace(one, target=targets.get(one.dialogue, one.target)) for one in drafts]


def practice(
    questions: Iterable[tuple[Exchange, Ids, Exercise]], pupil: Pupil, max_tokens: int
) -> list[Exercise]:
    """Returns exercises in which a critique is said of the answers to other questions.

    Args:
        questions: What was asked and answered, the input's tokens, and whose critique applies.
        pupil: The model.
        max_tokens: Longest revision, in tokens.

    Returns:
        Those that the live model can revise, which are fewer.
    """
    drafts = []
    for exchange, prompt, exercise in questions:
        record = replace(exercise.record, exchange=exchange, prompt_ids=prompt)
        if isinstance(record.signal, Critique):
            with contextlib.suppress(LessonError):
                draft = _draft(record, pupil.reader, max_tokens)
                drafts.append(replace(draft, weight=exercise.weight))
    made = revised(drafts, pupil, max_tokens)
    return [one for one in made if not _unteachable(one, pupil.reader)]


def _unteachable(exercise: Exercise, reader: Reader) -> str:
    """Why a revision can't be learned from; empty if it can."""
    if not exercise.dialogue:
        return ""
    text = reader.text(exercise.target)
    if not text.strip() or not reader.ended(exercise.target):
        return NO_REVISION
    return NOTHING_TO_CHANGE if text == exercise.record.exchange.answer else ""


def criticised_again(
    exercises: Sequence[Exercise], answers: Sequence[Ids], reader: Reader
) -> list[Exercise]:
    """Returns the exercises with the same critique said of other answers y to the same prompts.

    Their targets are still those of before; `revised` makes them anew.
    """
    again = []
    for exercise, answer in zip(exercises, answers, strict=True):
        signal = exercise.record.signal
        if isinstance(signal, Critique):
            dialogue = reader.dialogue(exercise.record.exchange, reader.text(answer), signal.text)
            exercise = replace(exercise, dialogue=dialogue)
        again.append(exercise)
    return again
