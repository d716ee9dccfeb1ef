"""Consolidation: everything that is learned is learned anew, in one round from the base model.

Round by round an adapter fills up, and small losses that each gate lets pass add up. So what the
archive says is LEARNED is taught again together, and the candidate is compared with `live`: it is
published only if it passes the gate, whose anchors are then the *base model's* answers, and if it
holds about as much of what was learned as `live` does: where it was said, and at other questions
like those, which nobody has criticised. Otherwise nothing changes, and it is kept aside. A round of
n times as many lessons may take n times as many steps, and has up to four times as many questions
to practise and to be judged by, of which up to twice as many are practised now: they are about more
kinds, each of which needs some, and it is over only when all of those are answered as they should
be, for the few that are not might be a whole kind.

What `live` does not do any more is not taught again: a wish that was taken back would come back,
for in one round neither it nor what took it back is the later. It is told so.

Limits: what `live` has forgotten is left out like what was taken back; and a critique of what only
a later checkpoint said can find nothing to change in what the base model says, which counts against
the candidate.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from learnback_store.records import FeedbackView
from learnback_trainer.errors import LessonError
from learnback_trainer.lessons import TAKEN_BACK, Exercise, make_exercises
from learnback_trainer.mixture import Mixture
from learnback_trainer.proofs import adopted
from learnback_trainer.pupil import Pupil
from learnback_trainer.questions import Question
from learnback_trainer.reader import Ids
from learnback_trainer.school import Curriculum, Report

# So much less of what was learned than `live` a candidate may hold.
_LESS = 0.05
# Questions of a consolidation like the criticised ones, in those of a round: all are answered.
_MOST_QUESTIONS = 4
# Questions of a consolidation that are practised until the next re-answering, likewise.
_AT_ONCE = 2


def longer(curriculum: Curriculum, lessons: int, round_size: int) -> Curriculum:
    """Returns a curriculum that has as much more of all as there are more lessons than in a round.

    Args:
        curriculum: That of a round.
        lessons: How many there are to be taught.
        round_size: How many a round has.
    """
    rounds = math.ceil(lessons / round_size)
    recipe, amounts = curriculum.recipe, curriculum.amounts
    more = min(rounds, _MOST_QUESTIONS)
    return replace(
        curriculum,
        recipe=replace(
            recipe,
            steps=recipe.steps * rounds,
            practised=recipe.practised * min(more, _AT_ONCE),
            reached=recipe.reached if rounds == 1 else 1.0,
        ),
        amounts=replace(
            amounts,
            alike=amounts.alike * more,
            judged=amounts.judged * more,
            near=amounts.near * more,
        ),
    )


@dataclass(frozen=True, slots=True)
class Live:
    """What the live model does, beside which a candidate must hold its own."""

    answers: Mapping[Ids, Ids]
    """Its answers to the prompts of feedback, and to other questions."""
    held: frozenset[str]
    """The feedback that it obeys."""


def live_now(
    pupil: Pupil,
    views: Sequence[FeedbackView],
    questions: Sequence[Question],
    max_tokens: int,
    mixture: Mixture,
) -> Live:
    """Looks at what the live model does.

    Args:
        pupil: The model, as it lives.
        views: What it has learned.
        questions: What else it is asked.
        max_tokens: Longest answer.
        mixture: How feedback is learned.
    """
    prompts = [one.prompt for one in questions]
    for view in views:
        with contextlib.suppress(LessonError):
            prompts.append(pupil.reader.prompt(view.record.exchange, view.record.prompt_ids))
    with pupil.as_live():
        answers = dict(zip(prompts, pupil.answer(prompts, max_tokens), strict=True))
    lessons = make_exercises(views, pupil, max_tokens, mixture).made
    obeyed = adopted(pupil, lessons, [answers[one.prompt] for one in lessons], max_tokens)
    pairs = zip(lessons, obeyed, strict=True)
    return Live(answers, frozenset(one.feedback_id for one, does in pairs if does))


def compared(pupil: Pupil, report: Report, answers: Mapping[Ids, Ids], max_tokens: int) -> Report:
    """Returns the report of a candidate, refused if it holds less of what was learned than `live`.

    Args:
        pupil: The candidate.
        report: How it was judged by itself.
        answers: What `live` answers.
        max_tokens: Longest answer.
    """
    if report.verdict is None:
        return report
    known = [one for one in report.taught if one.prompt in answers]
    held = sum(_obeyed(pupil, known, answers, max_tokens))
    # What could not be made a lesson of is held by `live`, for all that is known.
    total = sum(one.reason != TAKEN_BACK for one in report.outcomes)
    left_out = total - len(report.taught)
    live, own = (held + left_out) / total, len(report.learned) / total
    figures = {**report.verdict.figures, "held": own, "held_by_live": live}
    reasons = report.verdict.reasons
    if own < live - _LESS:
        reasons += (f"it holds less of what was learned than live: {own:.2f}, not {live:.2f}",)
    unseen = [one for one in report.held_out if one.prompt in answers]
    if unseen:
        prompts = [one.prompt for one in unseen]
        given = dict(zip(prompts, pupil.answer(prompts, max_tokens), strict=True))
        live, own = (mean(_obeyed(pupil, unseen, some, max_tokens)) for some in (answers, given))
        figures |= {"reached": own, "reached_by_live": live}
        if own < live - _LESS:
            reasons += (f"it carries less of it to other questions: {own:.2f}, not {live:.2f}",)
    verdict = replace(report.verdict, passed=not reasons, reasons=reasons, figures=figures)
    return replace(report, verdict=verdict)


def _obeyed(
    pupil: Pupil, exercises: Sequence[Exercise], answers: Mapping[Ids, Ids], max_tokens: int
) -> list[bool]:
    return adopted(pupil, exercises, [answers[one.prompt] for one in exercises], max_tokens)
