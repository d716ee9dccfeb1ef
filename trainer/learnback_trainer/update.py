"""Optimisation: the one place that knows how weights are moved.

AdamW on the adapter alone. A step takes a few exercises and as many anchors; the teacher of both is
the frozen live model, who has read the critique, or for an anchor nothing more than the student.
Every few steps the student answers the criticised prompts anew and the frozen teacher revises
*these* answers, for the same criticism: where two lessons meet, each then sees what the other has
done, and they compose instead of pulling apart. When all are answered as they should be, or near
the last step, the learning rate falls to nothing over some steps, in which what was jolted about
comes to rest where the anchors hold it. (A feasibility study of the recipe: refinements
made once gave both of two lessons together rarely; made again every 10 steps, .56 to 1.00.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar

import torch
from torch import Tensor

from learnback_store.records import Objective
from learnback_trainer.anchors import Anchor
from learnback_trainer.lessons import Exercise, criticised_again, revised
from learnback_trainer.objectives import distillation, sft
from learnback_trainer.pupil import Pupil
from learnback_trainer.reader import Ids

# An answer of the student may be so much longer than the longest one it should give. One that went
# astray would else be decoded to the very limit.
_LONGER = 2
_LONGER_TOKENS = 8
# What the teacher expects is kept for later steps up to this size. Nano needs a tenth of it; of a
# vocabulary of 150,000 it is 900 tokens of answers, so there little is found again.
_REMEMBERED_BYTES = 512 * 1024 * 1024

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an adapter is taught."""

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
    settle_steps: int = 15
    """The last steps, over which the learning rate falls to nothing."""
    max_gradient: float = 1.0
    """Norm to which the gradient is clipped."""

    def learning_rate_at(self, step: int, last: int) -> float:
        """Returns the learning rate of a step, if `last` is the last one."""
        return self.learning_rate * min(1.0, (last - step + 1) / (self.settle_steps + 1))


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the teaching stands."""

    step: int
    steps: int
    lesson_loss: float
    """Nats a token, mean over the exercises of this step."""
    anchor_loss: float
    """Nats a token, mean over the anchors of this step."""


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
    """Teaches the student's adapter in place.

    Args:
        pupil: The model.
        exercises: At least one.
        anchors: What is to stay; may be empty.
        recipe: How.
        rng: Draws what comes in which step.
        watch: Told after each step; what it raises ends the teaching.
    """
    optimiser = torch.optim.AdamW(pupil.weights(), lr=recipe.learning_rate, weight_decay=0.0)
    now, progress = list(exercises), Progress(0, recipe.steps, 0.0, 0.0)
    lessons = _draws(range(len(now)), recipe.lessons, rng)
    rehearsals = _draws(anchors, recipe.anchors, rng)
    teacher = _Teacher(pupil)
    last = recipe.steps
    for step in range(1, recipe.steps + 1):
        optimiser.param_groups[0]["lr"] = recipe.learning_rate_at(step, last)
        losses = _losses(pupil, teacher, [now[i] for i in next(lessons)], next(rehearsals))
        _move(pupil, optimiser, losses[0] + recipe.anchor_weight * losses[1], recipe.max_gradient)
        progress = Progress(step, recipe.steps, losses[0].item(), losses[1].item())
        watch(progress)
        if step == last:
            break
        if step % recipe.renew_steps == 0:
            answers, now = renewed(pupil, now)
            learned = all(a == e.target for a, e in zip(answers, now, strict=True))
            if learned and step >= recipe.least_steps:
                last = min(last, step + recipe.settle_steps)
    return Taught(now, progress.step, progress.lesson_loss, progress.anchor_loss)


class _Teacher:
    """The frozen live model, which need not be asked twice for what it expects.

    Args:
        pupil: The model.
    """

    def __init__(self, pupil: Pupil) -> None:
        self._pupil = pupil
        self._known: dict[tuple[Ids, Ids], Tensor] = {}

    def distributions(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[Tensor]:
        """Returns the log-probabilities at each token of answers, [tokens, vocabulary] each."""
        if sum(one.nbytes for one in self._known.values()) > _REMEMBERED_BYTES:
            self._known.clear()
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if new:
            with self._pupil.as_live():
                self._known |= zip(new, self._pupil.distributions(new), strict=True)
        return [self._known[pair] for pair in pairs]


def renewed(pupil: Pupil, exercises: Sequence[Exercise]) -> tuple[list[Ids], list[Exercise]]:
    """Lets the student answer the criticised prompts, and the frozen teacher revise the answers.

    Returns:
        The student's answers, and the exercises with what the teacher makes of them. Where the
        answer is the target already, or the revision came to no end, the exercise stays.
    """
    longest = _LONGER * max(len(one.target) for one in exercises) + _LONGER_TOKENS
    answers = pupil.answer([one.prompt for one in exercises], longest)
    again = revised(criticised_again(exercises, answers, pupil.reader), pupil, longest)
    room = pupil.reader.context_tokens
    kept = [
        old
        if answer == old.target or not _usable(new, pupil) or len(new.dialogue) + longest > room
        else replace(old, dialogue=new.dialogue, target=new.target)
        for old, new, answer in zip(exercises, again, answers, strict=True)
    ]
    return answers, kept


def _usable(exercise: Exercise, pupil: Pupil) -> bool:
    text = pupil.reader.text(exercise.target)
    return bool(text.strip()) and pupil.reader.ended(exercise.target)


def _losses(
    pupil: Pupil, teacher: _Teacher, exercises: Sequence[Exercise], anchors: Sequence[Anchor]
) -> tuple[Tensor, Tensor]:
    """The mean losses of exercises and anchors, in nats a token, with gradient.

    An exercise of weight w counts w times; light ones do not make the anchors count for more.
    """
    # For every answer: what the student reads before it, and what the teacher does.
    asked = [(one.prompt, one.target) for one in exercises]
    asked += [(one.prompt, one.answer) for one in anchors]
    read = [(one.dialogue or one.prompt, one.target) for one in exercises]
    read += [(one.prompt, one.answer) for one in anchors]
    distributions = teacher.distributions(read)
    student = pupil.logits(asked)
    objectives = [one.objective for one in exercises] + [Objective.DISTILLATION] * len(anchors)
    each = [
        _loss(objective, logits, log_probs, answer)
        for objective, logits, log_probs, (_, answer) in zip(
            objectives, student, distributions, asked, strict=True
        )
    ]
    weighted = [one.weight * loss for one, loss in zip(exercises, each, strict=False)]
    rehearsed = each[len(exercises) :]
    lesson_loss = torch.stack(weighted).mean()
    return lesson_loss, torch.stack(rehearsed).mean() if rehearsed else lesson_loss.new_zeros(())


def _loss(objective: Objective, logits: Tensor, log_probs: Tensor, answer: Ids) -> Tensor:
    if objective is Objective.SFT:
        return sft.loss(logits, torch.tensor(answer, device=logits.device))
    return distillation.loss(logits, log_probs)


def _move(
    pupil: Pupil, optimiser: torch.optim.Optimizer, loss: Tensor, max_gradient: float
) -> None:
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(pupil.weights(), max_gradient)
    optimiser.step()


def _draws(items: Sequence[_Item], count: int, rng: Random) -> Iterator[list[_Item]]:
    """Yields batches without end; every item comes once before any comes again."""
    pool: list[_Item] = []
    while True:
        while len(pool) < min(count, len(items)):
            pool += rng.sample(items, len(items))
        yield pool[:count]
        del pool[:count]
