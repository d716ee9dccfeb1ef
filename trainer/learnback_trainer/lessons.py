"""Feedback to exercises: what is asked, and what should be answered.

    critique     the dialogue [x][y][c] is put before the base model, and its revision r is the
                 answer to learn: the model is its own teacher (`objectives/distillation.py`, or
                 `objectives/imitation.py`)
    correction   the correction itself is the answer to learn (`objectives/sft.py`)
    preference   the preferred answer gains on the other (`objectives/dpo.py`)
    rating       the rated answer becomes likelier, or less likely (`objectives/kto.py`)

It is the base model that revises, for no lesson should change how that is done: a live model that
has learned to end with an emoji does not leave it out when it is told to. What was learned before
is not lost by that, since it stands in the answer that is revised.

One critique alone teaches little about other questions, so it is practised: the live model answers
questions like the criticised one, these answers are revised for the same critique, and the
revisions are learned too. Where critiques of several kinds hold, one of each is said of every
question, so that they come to be obeyed together (`renewing.py`). Other feedback is not practised:
what is right for one question is wrong for the next.

What several people said of one answer is made into exercises each by itself here; `reconcile.py`
tells which of them are taught.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from learnback_store.records import (
    Correction,
    Critique,
    Exchange,
    FeedbackRecord,
    FeedbackView,
    Objective,
    Preference,
    Preferred,
    Rating,
)
from learnback_trainer.errors import LessonError
from learnback_trainer.mixture import Mixture
from learnback_trainer.objectives import imitation
from learnback_trainer.pupil import Pupil
from learnback_trainer.reader import Ids, Reader
from learnback_trainer.students import Frozen

NOTHING_TO_CHANGE = "shown the criticism, the model gives the same answer again"
NO_REVISION = "shown the criticism, the model gives no answer that comes to an end"
TOO_LONG = "the exchange is too long for the model"
NEITHER = "a rating of 0 says neither good nor bad"
BOTH_THE_SAME = "the preferred answer and the other are the same"
TAKEN_BACK = "live does not answer as it asks any more: it was taken back since, or forgotten"
SWITCHED_OFF = "the trainer is configured to give this kind of feedback no weight"

# Questions on which it is tried which critiques ask for the same.
_TRIED = 2


@dataclass(frozen=True, slots=True)
class Exercise:
    """One piece of feedback, made ready to be taught."""

    record: FeedbackRecord
    objective: Objective
    prompt: Ids
    """The input x, as the student sees it."""
    target: Ids
    """The answer to learn, with its end token; one to avoid unless it is `good`."""
    dialogue: Ids = ()
    """The input [x][y][c], as the teacher sees it; empty unless it is about a critique."""
    good: bool = True
    """Whether the target is to become likelier."""
    rejected: Ids = ()
    """The answer that the target is preferred to; empty unless it is about a preference."""
    weight: float = 1.0
    """How much its loss counts in the round, 0 to 1."""
    turns: tuple[Exercise, ...] = ()
    """Whose critiques it is practised on, the present one first; empty if it is not practice."""

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


def make_exercises(
    views: Iterable[FeedbackView],
    pupil: Pupil,
    max_tokens: int,
    mixture: Mixture = Mixture(),  # noqa: B008  # frozen
) -> Exercises:
    """Turns feedback into exercises; the base model revises what was criticised.

    Args:
        views: Feedback.
        pupil: The model.
        max_tokens: Longest revision, in tokens.
        mixture: Which objectives to use.
    """
    found = Exercises()
    drafts = []
    for view in views:
        try:
            drafts.append(_weighed(_draft(view.record, pupil.reader, max_tokens, mixture), mixture))
        except LessonError as error:
            found.excused[view.feedback_id] = str(error)
    for exercise in revised(drafts, pupil, max_tokens, mixture.refinements):
        reason = _unteachable(exercise, pupil.reader)
        if reason:
            found.excused[exercise.feedback_id] = reason
        else:
            found.made.append(exercise)
    return found


def retold(views: Iterable[FeedbackView], pupil: Pupil, max_tokens: int) -> list[Exercise]:
    """Returns exercises of critiques, without their targets, and of corrections learned earlier.

    What can't be put to the model is left out.

    Args:
        views: Feedback.
        pupil: The model.
        max_tokens: Longest revision, in tokens.
    """
    found = []
    for view in views:
        if isinstance(view.record.signal, Critique | Correction):
            with contextlib.suppress(LessonError):
                found.append(_draft(view.record, pupil.reader, max_tokens, Mixture()))
    return found


def _weighed(exercise: Exercise, mixture: Mixture) -> Exercise:
    weight = mixture.weight(exercise.objective)
    if not weight:
        raise LessonError(SWITCHED_OFF)
    return replace(exercise, weight=weight * exercise.weight)


def _draft(record: FeedbackRecord, reader: Reader, max_tokens: int, mixture: Mixture) -> Exercise:
    """An exercise whose revision, if it needs one, is still to be made."""
    signal, exchange = record.signal, record.exchange
    prompt = reader.prompt(exchange, record.prompt_ids)
    if isinstance(signal, Critique):
        dialogue = reader.dialogue(exchange, exchange.answer, signal.text)
        exercise = Exercise(record, mixture.critiques, prompt, (), dialogue)
    elif isinstance(signal, Correction):
        exercise = Exercise(record, Objective.SFT, prompt, reader.answer(signal.text))
    elif isinstance(signal, Rating):
        exercise = _rated(record, signal, prompt, reader)
    else:
        exercise = _preferred(record, signal, prompt, reader)
    answer = max(len(exercise.target), len(exercise.rejected))
    longest = len(exercise.dialogue) + max_tokens if exercise.dialogue else len(prompt) + answer
    if longest > reader.context_tokens:
        raise LessonError(TOO_LONG)
    return exercise


def _rated(record: FeedbackRecord, rating: Rating, prompt: Ids, reader: Reader) -> Exercise:
    if not rating.score:
        raise LessonError(NEITHER)
    target, good = given(record, reader), rating.score > 0
    return Exercise(
        record, Objective.KTO, prompt, target, weight=min(1.0, abs(rating.score)), good=good
    )


def _preferred(
    record: FeedbackRecord, preference: Preference, prompt: Ids, reader: Reader
) -> Exercise:
    better, worse = given(record, reader), reader.answer(preference.other)
    if better == worse or record.exchange.answer == preference.other:
        raise LessonError(BOTH_THE_SAME)
    if preference.preferred is Preferred.OTHER:
        better, worse = worse, better
    return Exercise(record, Objective.DPO, prompt, better, rejected=worse)


def given(record: FeedbackRecord, reader: Reader) -> Ids:
    """Returns the tokens of the answer as the model gave them, if that is known and whole."""
    known = record.answer_ids
    whole = reader.ended(known) and reader.text(known) == record.exchange.answer
    return known if whole else reader.answer(record.exchange.answer)


def revised(
    drafts: Sequence[Exercise],
    pupil: Pupil,
    max_tokens: int,
    refinements: int = 1,
    likely: Mapping[Ids, Ids] | None = None,
) -> list[Exercise]:
    """Returns exercises with the base model's answer to their dialogues as the target.

    Args:
        drafts: Exercises.
        pupil: The model.
        max_tokens: Longest revision, in tokens.
        refinements: Revisions that the base model makes of each; `imitation.best` chooses.
        likely: What may well be the greedy revisions, by dialogue.
    """
    criticised = list({one.dialogue: one for one in drafts if one.dialogue}.values())
    dialogues = [one.dialogue for one in criticised]
    with pupil.as_frozen(Frozen.BASE):
        rounds = [pupil.answer(dialogues, max_tokens, likely=likely)]
        rounds += [pupil.answer(dialogues, max_tokens, seed=seed) for seed in range(1, refinements)]
        answers = rounds[0] if refinements == 1 else _best_of(criticised, rounds, pupil)
    targets = dict(zip(dialogues, answers, strict=True))
    return [replace(one, target=targets.get(one.dialogue, one.target)) for one in drafts]


def _best_of(
    criticised: Sequence[Exercise], rounds: Sequence[Sequence[Ids]], pupil: Pupil
) -> list[Ids]:
    """Of each exercise the best revision that came to an end and is no repetition."""
    found = []
    for old, *revisions in zip(criticised, *rounds, strict=True):
        drafts = [replace(old, target=one) for one in dict.fromkeys(revisions)]
        usable = [one for one in drafts if not _unteachable(one, pupil.reader)]
        targets = [one.target for one in usable] or [revisions[0]]
        again = criticised_again([old] * len(targets), targets, pupil.reader)
        room = pupil.reader.context_tokens
        fits = all(
            len(one.dialogue) + len(t) <= room for one, t in zip(again, targets, strict=True)
        )
        if len(targets) == 1 or not fits:
            found.append(targets[0])
            continue
        making = pupil.losses([(old.dialogue, target) for target in targets])
        shown = [(one.dialogue, target) for one, target in zip(again, targets, strict=True)]
        found.append(targets[imitation.best(making, pupil.losses(shown))])
    return found


Asked = tuple[Exchange, Ids, Sequence[Exercise]]
"""What was asked and answered, the input's tokens, and whose critiques apply."""

Kinds = Mapping[frozenset[str], Sequence[Sequence[Exercise]]]
"""For the ids of critiques that hold for some questions, the critiques of each kind."""


def practice(questions: Iterable[Asked], pupil: Pupil, max_tokens: int) -> list[Exercise]:
    """Returns exercises in which a critique is said of the answers to other questions.

    Args:
        questions: With the critique that is said first before the others.
        pupil: The model.
        max_tokens: Longest revision, in tokens.

    Returns:
        Those that the base model can revise, which are fewer.
    """
    asked = list(questions)
    drafts = drafted(asked, kinds_of(asked, pupil, max_tokens), pupil, max_tokens)
    made = revised(drafts, pupil, max_tokens)
    return [one for one in made if not _unteachable(one, pupil.reader)]


def drafted(
    questions: Iterable[Asked], kinds: Kinds, pupil: Pupil, max_tokens: int
) -> list[Exercise]:
    """Returns the exercises of `practice` before anything is revised.

    One critique of each kind is said of a question, by turns, in the order in which the kinds come.

    Args:
        questions: As `practice` has them.
        kinds: Which of their critiques ask for the same.
        pupil: The model.
        max_tokens: Longest revision, in tokens.
    """
    drafts = []
    for place, (exchange, prompt, exercises) in enumerate(questions):
        same = kinds[_names(exercises)]
        turns = tuple(members[place % len(members)] for members in same)
        drafts += _said_of(exchange, prompt, turns, pupil.reader, max_tokens)
    return drafts


def kinds_of(questions: Iterable[Asked], pupil: Pupil, max_tokens: int) -> Kinds:
    """Returns which critiques ask for the same: those that two answers are revised alike for.

    Args:
        questions: With answers that do not keep to the critiques yet.
        pupil: The model.
        max_tokens: Longest revision, in tokens.
    """
    tried: dict[frozenset[str], list[Asked]] = defaultdict(list)
    for question in questions:
        tried[_names(question[2])].append(question)
    drafts = {
        (one.feedback_id, prompt): draft
        for some in tried.values()
        for exchange, prompt, exercises in some[:_TRIED]
        for one in exercises
        for draft in _said_of(exchange, prompt, [one], pupil.reader, max_tokens)
    }
    made = dict(zip(drafts, revised(list(drafts.values()), pupil, max_tokens), strict=True))
    found = {}
    for names, some in tried.items():
        kinds = defaultdict[tuple[Ids, ...], list[Exercise]](list)
        for one in some[0][2]:
            seen = [made.get((one.feedback_id, prompt)) for _, prompt, _ in some[:_TRIED]]
            kinds[tuple(each.target if each else () for each in seen)].append(one)
        found[names] = list(kinds.values())
    return found


def _names(exercises: Sequence[Exercise]) -> frozenset[str]:
    return frozenset(one.feedback_id for one in exercises)


def _said_of(
    exchange: Exchange,
    prompt: Ids,
    turns: Sequence[Exercise],
    reader: Reader,
    max_tokens: int,
) -> list[Exercise]:
    """The exercise in which the first critique is said of another answer, if there is room."""
    record = replace(turns[0].record, exchange=exchange, prompt_ids=prompt)
    if isinstance(record.signal, Critique):
        with contextlib.suppress(LessonError):
            draft = _draft(record, reader, max_tokens, Mixture(turns[0].objective))
            return [replace(draft, weight=turns[0].weight, turns=tuple(turns))]
    return []


def _unteachable(exercise: Exercise, reader: Reader) -> str:
    """Why a revision can't be learned from; empty if it can."""
    if not exercise.dialogue:
        return ""
    text = reader.text(exercise.target)
    if not text.strip() or not reader.ended(exercise.target):
        return NO_REVISION
    return NOTHING_TO_CHANGE if text == exercise.record.exchange.answer else ""


def turned(exercise: Exercise, count: int) -> Exercise:
    """Returns an exercise with the critique that comes so many turns later as the present one.

    Its dialogue and target are still those of before.
    """
    turns = exercise.turns
    if len(turns) < 2 or not count % len(turns):
        return exercise
    count %= len(turns)
    turns = (*turns[count:], *turns[:count])
    record = replace(exercise.record, signal=turns[0].record.signal)
    return replace(exercise, record=record, weight=turns[0].weight, turns=turns)


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
