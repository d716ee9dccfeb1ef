"""Optimisation: the one place that knows how weights are moved.

AdamW on the adapter alone, or on all weights. A step takes a few exercises and as many anchors, and
`losses.py` says what it costs; the teacher of a critique is the frozen base model, who has read it,
that of an anchor a frozen model that has read nothing more than the student.
Every few steps the student answers the criticised prompts anew and the frozen teacher revises
*these* answers, for the same criticism: where two lessons meet, each then sees what the other has
done, and they compose instead of pulling apart. When all are answered as they should be and the
anchors have come to rest, or near the last step, the learning rate falls to nothing over some
steps, in which what was jolted about settles where the anchors hold it. (A feasibility study of the
recipe: refinements made once gave both of two lessons together rarely; made again every 10 steps,
.56 to 1.00.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from statistics import mean

import torch
from torch import Tensor

from learnback_trainer.anchors import Anchor
from learnback_trainer.lessons import Exercise, criticised_again, next_turn, revised
from learnback_trainer.losses import Teacher, step_loss
from learnback_trainer.mixture import Mixture
from learnback_trainer.pupil import Pupil
from learnback_trainer.reader import Ids
from learnback_trainer.rehearsal import Rehearsal, by_turns
from learnback_trainer.students import Method

# An answer of the student may be so much longer than the longest one it should give. One that went
# astray would else be decoded to the very limit.
_LONGER = 2
_LONGER_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a student is taught."""

    steps: int = 60
    learning_rate: float = 2e-3
    lessons: int = 8
    """Exercises in a step."""
    anchors: int = 12
    """Anchors in a step."""
    anchor_weight: float = 1.0
    """Of the anchors' mean loss, beside 1 for the exercises'."""
    renew_steps: int = 10
    """Steps between two re-answerings."""
    least_steps: int = 20
    """Steps before which it is not over, however well the criticised prompts are answered: the
    lesson has to reach questions like them."""
    calm_nats: float = 0.003
    """It is not over either while anchors are still further from where they were, nats a token in
    the mean since the last re-answering."""
    settle_steps: int = 15
    """The last steps, over which the learning rate falls to nothing."""
    max_gradient: float = 1.0
    """Norm to which the gradient is clipped."""
    mixture: Mixture = field(default_factory=Mixture)
    """What is minimised."""
    method: Method = Method.LORA
    """What is moved."""

    def learning_rate_at(self, step: int, last: int) -> float:
        """Returns the learning rate of a step, if `last` is the last one."""
        return self.learning_rate * min(1.0, (last - step + 1) / (self.settle_steps + 1))


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the teaching stands."""

    step: int
    steps: int
    lesson_loss: float
    """Mean over the exercises of this step; nats a token but for ratings and preferences."""
    anchor_loss: float
    """Nats a token, mean over those anchors of this step that came by turns."""


@dataclass(frozen=True, slots=True)
class Taught:
    """What the teaching came to."""

    exercises: list[Exercise]
    """With the targets they have in the end."""
    steps: int
    lesson_loss: float
    anchor_loss: float


def teach(
    pupil: Pupil,
    exercises: Sequence[Exercise],
    anchors: Sequence[Anchor],
    recipe: Recipe,
    rng: Random,
    watch: Callable[[Progress], None] = lambda _: None,
) -> Taught:
    """Teaches the student in place.

    Args:
        pupil: The model.
        exercises: At least one.
        anchors: What is to stay; may be empty.
        recipe: How.
        rng: Draws what comes in which step.
        watch: Told after each step; what it raises ends the teaching.
    """
    now, progress = list(exercises), Progress(0, recipe.steps, 0.0, 0.0)
    lessons = by_turns(range(len(now)), rng)
    count = min(recipe.lessons, len(now))
    rehearsal = Rehearsal(len(anchors), recipe.anchors, rng)
    pupil.together(_begin, recipe)
    last = recipe.steps
    moved: list[float] = []
    for step in range(1, recipe.steps + 1):
        rate = recipe.learning_rate_at(step, last)
        drawn = [now[next(lessons)] for _ in range(count)]
        places = rehearsal.next()
        loss, nats = pupil.together(_step, drawn, [anchors[one] for one in places], rate)
        progress = Progress(step, recipe.steps, loss, rehearsal.note(places, nats))
        moved.append(progress.anchor_loss)
        watch(progress)
        if step == last:
            break
        if step % recipe.renew_steps == 0:
            answers, now = renewed(pupil, now, recipe.mixture.refinements)
            pairs = zip(answers, now, strict=True)
            learned = all((answer == one.target) == one.good for answer, one in pairs)
            calm = mean(moved) <= recipe.calm_nats
            moved.clear()
            if learned and calm and step >= recipe.least_steps:
                last = min(last, step + recipe.settle_steps)
    pupil.together(_end)
    return Taught(now, progress.step, progress.lesson_loss, progress.anchor_loss)


def renewed(
    pupil: Pupil, exercises: Sequence[Exercise], refinements: int = 1
) -> tuple[list[Ids], list[Exercise]]:
    """Lets the student answer the prompts, and the frozen teacher revise what was criticised.

    What is practised on several critiques is revised for the present one, and for the next. Where
    one critique stands alone there is nothing to compose, and its targets stay: the student's slips
    on the way would be revised along, and become what it should say.

    Returns:
        The student's answers, and the exercises with what the teacher makes of them. Where the
        answer is the target already, or the revision came to no end, the exercise stays.
    """
    longest = _LONGER * max(len(one.target) for one in exercises) + _LONGER_TOKENS
    answers = pupil.answer([one.prompt for one in exercises], longest)
    now = list(exercises)
    places = _in_company(exercises)
    several, given = [exercises[one] for one in places], [answers[one] for one in places]
    shown = _revised_first(pupil, several, given, longest)
    turned = [next_turn(one) for one in several]
    drafts = criticised_again(turned, shown, pupil.reader)
    again = revised(drafts, pupil, longest, refinements)
    for place, old, new, answer in zip(places, turned, again, given, strict=True):
        usable = _changes(old, new, answer) and _usable(new, pupil, longest)
        now[place] = replace(old, dialogue=new.dialogue, target=new.target) if usable else old
    return answers, now


def _in_company(exercises: Sequence[Exercise]) -> list[int]:
    """The places of critiques beside which others may hold for the same questions."""
    practised = [{each.record.signal for each in one.turns} for one in exercises if one.turns]
    critiques = {one.record.signal for one in exercises if one.dialogue}.union(*practised)
    alone = {signal for own in practised if len(own) == 1 for signal in own}
    together = {signal for own in practised if len(own) > 1 for signal in own}
    company = critiques - (alone - together) if len(critiques) > 1 else set()
    return [
        place
        for place, one in enumerate(exercises)
        if one.dialogue and one.record.signal in company
    ]


def _revised_first(
    pupil: Pupil, exercises: Sequence[Exercise], answers: Sequence[Ids], longest: int
) -> list[Ids]:
    """What is practised on several critiques, revised for the present one.

    Revised for the next one too, such an answer obeys both.
    """
    shown = list(answers)
    several = [place for place, one in enumerate(exercises) if len(one.turns) > 1]
    drafts = criticised_again(
        [exercises[place] for place in several], [answers[place] for place in several], pupil.reader
    )
    for place, one in zip(several, revised(drafts, pupil, longest), strict=True):
        if _usable(one, pupil, longest):
            shown[place] = one.target
    return shown


def _changes(old: Exercise, new: Exercise, answer: Ids) -> bool:
    """Whether there is something to learn that was not before."""
    return answer != old.target or (len(old.turns) > 1 and answer != new.target)


def _usable(exercise: Exercise, pupil: Pupil, longest: int) -> bool:
    text = pupil.reader.text(exercise.target)
    fits = len(exercise.dialogue) + longest <= pupil.reader.context_tokens
    return fits and bool(text.strip()) and pupil.reader.ended(exercise.target)


class _Course:
    """What is kept between two steps, by each process that holds the model.

    Args:
        pupil: The model.
        recipe: How it is taught.
    """

    def __init__(self, pupil: Pupil, recipe: Recipe) -> None:
        self._pupil, self._recipe = pupil, recipe
        self._teacher = Teacher(pupil, recipe.mixture)
        self._optimiser = torch.optim.AdamW(
            pupil.weights(), lr=recipe.learning_rate, weight_decay=0.0
        )

    def step(
        self, exercises: Sequence[Exercise], anchors: Sequence[Anchor], learning_rate: float
    ) -> tuple[float, list[float]]:
        """Moves the student once; returns the mean loss of exercises, and that of each anchor."""
        self._optimiser.param_groups[0]["lr"] = learning_rate
        loss = step_loss(self._pupil, self._teacher, exercises, anchors, self._recipe.mixture)
        self._move(loss.lessons + self._recipe.anchor_weight * loss.anchors)
        self._teacher.follow()
        figures = torch.cat([loss.lessons.detach()[None], loss.moved])
        self._pupil.team.add_up([figures])
        lessons, *moved = figures.tolist()
        return lessons, moved

    def _move(self, loss: Tensor) -> None:
        weights = self._pupil.weights()
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._pupil.team.add_up([one.grad for one in weights if one.grad is not None])
        torch.nn.utils.clip_grad_norm_(weights, self._recipe.max_gradient)
        self._optimiser.step()


def _begin(pupil: Pupil, recipe: Recipe) -> None:
    pupil.course = _Course(pupil, recipe)


def _step(
    pupil: Pupil, exercises: Sequence[Exercise], anchors: Sequence[Anchor], learning_rate: float
) -> tuple[float, list[float]]:
    course: _Course = pupil.course
    return course.step(exercises, anchors, learning_rate)


def _end(pupil: Pupil) -> None:
    pupil.course = None
