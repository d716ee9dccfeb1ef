"""Optimisation: the one place that knows how weights are moved.

AdamW on the adapter alone, or on all weights. A step takes a few exercises and as many anchors, and
`losses.py` says what it costs; the teacher of a critique is the frozen base model, who has read it,
that of an anchor a frozen model that has read nothing more than the student.
Every few steps the student answers the criticised prompts anew, and other questions like them than
before (`renewing.py`), and all anchors are looked at. When all is answered as it should be, what
was not taught yet as well, and the anchors have come to rest, or near the last step, the learning
rate falls to nothing over some steps, in which what was jolted about settles where the anchors hold
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import mean

import torch
from torch import Tensor

from learnback_trainer.anchors import Anchor
from learnback_trainer.lessons import Exercise
from learnback_trainer.losses import Teacher, step_loss
from learnback_trainer.mixture import Mixture
from learnback_trainer.pupil import Pupil
from learnback_trainer.rehearsal import Rehearsal, by_turns
from learnback_trainer.renewing import in_company, renewed, windows
from learnback_trainer.students import Method


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a student is taught."""

    steps: int = 60
    learning_rate: float = 2e-3
    lessons: int = 8
    """Exercises in a step."""
    anchors: int = 12
    """Anchors in a step."""
    practised: int = 72
    """Questions like the criticised ones that are practised until the next re-answering."""
    anchor_weight: float = 1.0
    """Of the anchors' mean loss, beside 1 for the exercises'."""
    renew_steps: int = 10
    """Steps between two re-answerings."""
    least_steps: int = 20
    """Steps before which it is not over, however well the criticised prompts are answered: the
    lesson has to reach questions like them."""
    reached: float = 0.98
    """It is not over either before so large a share of what comes to be practised is answered as it
    should be, as is all that was criticised."""
    calm_nats: float = 0.003
    """It is not over either while anchors are further from where they were, nats a token in the
    mean of all."""
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
    """What was to be taught, with the targets it has in the end."""
    steps: int
    lesson_loss: float
    anchor_loss: float


def teach(
    pupil: Pupil,
    exercises: Sequence[Exercise],
    practice: Sequence[Exercise],
    anchors: Sequence[Anchor],
    recipe: Recipe,
    rng: Random,
    watch: Callable[[Progress], None] = lambda _: None,
) -> Taught:
    """Teaches the student in place.

    Args:
        pupil: The model.
        exercises: At least one.
        practice: The same lessons on other questions, a few at a time; may be empty.
        anchors: What is to stay; may be empty.
        recipe: How.
        rng: Draws what comes in which step.
        watch: Told after each step; what it raises ends the teaching.
    """
    told, practised = len(exercises), windows(practice, recipe.practised)
    company, progress = in_company([*exercises, *practice]), Progress(0, recipe.steps, 0.0, 0.0)
    now = [*exercises, *next(practised)]
    if company:
        _, now = renewed(pupil, now, company, recipe.mixture.refinements)
    lessons = by_turns(range(len(now)), rng)
    count = min(recipe.lessons, len(now))
    rehearsal = Rehearsal([one.kind for one in anchors], recipe.anchors, rng)
    pupil.together(_begin, recipe)
    last = recipe.steps
    for step in range(1, recipe.steps + 1):
        rate = recipe.learning_rate_at(step, last)
        drawn = [now[next(lessons)] for _ in range(count)]
        places = rehearsal.next()
        loss, nats = pupil.together(_step, drawn, [anchors[one] for one in places], rate)
        progress = Progress(step, recipe.steps, loss, rehearsal.note(places, nats))
        watch(progress)
        if step == last:
            break
        if step % recipe.renew_steps == 0:
            now = [*now[:told], *next(practised)]
            settling = last < recipe.steps
            if settling and not company:
                continue  # how it is answered by now would decide nothing
            answers, now = renewed(pupil, now, company, recipe.mixture.refinements)
            # At first all is in motion, and to know how far would cost as much as it does later.
            if settling or step < recipe.least_steps:
                continue
            pairs = zip(answers, now, strict=True)
            right = [(answer == one.target) == one.good for answer, one in pairs]
            learned = all(right[:told]) and mean([True, *right[told:]]) >= recipe.reached
            strayed = pupil.together(_look, anchors)
            rehearsal.note(range(len(anchors)), strayed)
            if learned and (not strayed or mean(strayed) <= recipe.calm_nats):
                last = min(last, step + recipe.settle_steps)
    pupil.together(_end)
    return Taught(now[:told], progress.step, progress.lesson_loss, progress.anchor_loss)


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

    def look(self, anchors: Sequence[Anchor]) -> list[float]:
        """Returns how far each anchor has moved, in nats a token."""
        own = self._pupil.team.share(anchors)
        with self._pupil.evenly():
            expected = self._teacher.holds(own)
            found = self._pupil.distributions([(one.prompt, one.answer) for one in own])
        nats = [float(one.loss(now)) for one, now in zip(expected, found, strict=True)]
        return list(self._pupil.team.joined(nats))

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


def _look(pupil: Pupil, anchors: Sequence[Anchor]) -> list[float]:
    course: _Course = pupil.course
    return course.look(anchors)


def _end(pupil: Pupil) -> None:
    pupil.course = None
