"""The loss of a step: every exercise by its objective, and the anchors beside them.

The teacher of critiques is the frozen base model; it can be an average of the student's weights
over the steps instead, as SDPO has it. That of anchors is the base model or the live one
(`anchors.py`). The live model is the reference of KTO and DPO in any case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learnback_store.records import Objective
from learnback_trainer.anchors import Anchor
from learnback_trainer.lessons import Exercise
from learnback_trainer.mixture import Mixture
from learnback_trainer.objectives import distillation, dpo, imitation, kto, sft
from learnback_trainer.objectives.distillation import Divergence, bucketed, likeliest
from learnback_trainer.pupil import Pupil
from learnback_trainer.reader import Ids, Pair
from learnback_trainer.students import Frozen

# What the teacher expects is kept for later steps up to this size. Nano needs a tenth of it; of a
# vocabulary of 150,000 it is 900 tokens of answers, so there little is found again.
_REMEMBERED_BYTES = 512 * 1024 * 1024
# What the live model would say instead of an answer may be so much longer.
_LONGER_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Expected:
    """What a teacher expects at each token of an answer."""

    log_probs: Tensor
    """Of shape [tokens, vocabulary], or of the pieces and the tail."""
    pieces: Tensor | None = None
    """The pieces that are compared one by one; None: all."""

    def loss(self, logits: Tensor, divergence: Divergence = Divergence.FORWARD_KL) -> Tensor:
        """Returns the divergence of a student from it."""
        return distillation.loss(bucketed(logits, self.pieces), self.log_probs, divergence)


@dataclass(frozen=True, slots=True)
class StepLoss:
    """Mean losses with gradient, in nats a token for all but KTO and DPO."""

    lessons: Tensor
    anchors: Tensor
    moved: Tensor
    """Of each anchor, without gradient; 0 for those that another process computes."""


class Teacher:
    """Knows what the student should come to. What is frozen is asked only once.

    Args:
        pupil: The model.
        mixture: Which objectives are used.
    """

    def __init__(self, pupil: Pupil, mixture: Mixture) -> None:
        self._pupil, self._mixture = pupil, mixture
        self._known: dict[tuple[Frozen, Pair], Expected] = {}
        self._likelihoods: dict[Pair, float] = {}
        self._instead: dict[Pair, tuple[Pair, Expected]] = {}
        self._average: list[Tensor] = []
        if mixture.teacher_decay < 1:
            self._average = [weight.detach().clone() for weight in pupil.weights()]

    def follow(self) -> None:
        """Moves the averaged teacher, if there is one, towards the student."""
        for average, weight in zip(self._average, self._pupil.weights(), strict=False):
            average.lerp_(weight.detach(), 1 - self._mixture.teacher_decay)

    def revises(self, pairs: Sequence[Pair]) -> list[Expected]:
        """Returns what the teacher of critiques expects, who has read them."""
        if not self._average:
            return self.expects(pairs, Frozen.BASE)
        with self._pupil.with_weights(self._average):
            return self._asked(pairs)

    def holds(self, anchors: Sequence[Anchor]) -> list[Expected]:
        """Returns what is expected at each anchor by whose answer it is."""
        found: dict[Anchor, Expected] = {}
        for whose in Frozen:
            own = [one for one in anchors if one.by is whose]
            expected = self.expects([(one.prompt, one.answer) for one in own], whose)
            found |= zip(own, expected, strict=True)
        return [found[one] for one in anchors]

    def expects(self, pairs: Sequence[Pair], whose: Frozen = Frozen.LIVE) -> list[Expected]:
        """Returns what a frozen model expects."""
        if sum(one.log_probs.nbytes for one in self._known.values()) > _REMEMBERED_BYTES:
            self._known.clear()
        new = [pair for pair in dict.fromkeys(pairs) if (whose, pair) not in self._known]
        if new:
            with self._pupil.as_frozen(whose):
                asked = self._asked(new)
            self._known |= zip(((whose, pair) for pair in new), asked, strict=True)
        return [self._known[whose, pair] for pair in pairs]

    def _asked(self, pairs: Sequence[Pair]) -> list[Expected]:
        return [self._kept(log_probs) for log_probs in self._pupil.distributions(pairs)]

    def _kept(self, log_probs: Tensor) -> Expected:
        pieces = likeliest(log_probs, self._mixture.teacher_pieces)
        return Expected(bucketed(log_probs, pieces), pieces)

    def log_likelihoods(self, pairs: Sequence[Pair]) -> list[float]:
        """Returns those of whole answers by the live model."""
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._likelihoods]
        if new:
            with self._pupil.as_live():
                self._likelihoods |= zip(new, log_likelihoods(self._pupil, new), strict=True)
        return [self._likelihoods[pair] for pair in pairs]

    def instead(self, pair: Pair) -> tuple[Pair, Expected]:
        """Returns what the live model would answer if it must not answer this, and expects then."""
        if pair not in self._instead:
            with self._pupil.as_live():
                self._instead[pair] = self._struck_out(*pair)
        return self._instead[pair]

    def _struck_out(self, prompt: Ids, answer: Ids) -> tuple[Pair, Expected]:
        [log_probs] = self._pupil.distributions([(prompt, answer)])
        without = kto.struck_out(log_probs, torch.tensor(answer, device=log_probs.device))
        greedy = without.argmax(dim=-1).tolist()
        # The last token is impossible there, so that they do part.
        pairs = zip(greedy, answer, strict=True)
        parted = next(place for place, (one, other) in enumerate(pairs, start=1) if one != other)
        other = (*answer[: parted - 1], greedy[parted - 1])
        room = self._pupil.reader.context_tokens - len(prompt) - len(other)
        if room > 0 and not self._pupil.reader.ended(other):
            longest = min(room, len(answer) + _LONGER_TOKENS)
            other += self._pupil.answer([prompt + other], longest)[0]
        [further] = self._pupil.distributions([(prompt, other)])
        expected = self._kept(torch.cat([without[:parted], further[parted:]]))
        return (prompt, other), expected


def log_likelihoods(pupil: Pupil, pairs: Sequence[Pair]) -> list[float]:
    """Returns those of whole answers, in nats, without gradient."""
    nats = pupil.losses(pairs)
    return [-loss * len(answer) for loss, (_, answer) in zip(nats, pairs, strict=True)]


def step_loss(
    pupil: Pupil,
    teacher: Teacher,
    exercises: Sequence[Exercise],
    anchors: Sequence[Anchor],
    mixture: Mixture,
) -> StepLoss:
    """Returns the mean losses of exercises and anchors.

    An exercise of weight w counts w times; light ones do not make the anchors count for more. Of a
    team each process computes its share, so that the sums over all are the means, and so are the
    gradients'.

    Args:
        pupil: The model.
        teacher: What the student should come to.
        exercises: Those of the step; at least one.
        anchors: Likewise; may be none.
        mixture: How each is learned.
    """
    dealt = pupil.team.share(exercises)
    near = pupil.team.share(anchors, len(exercises))
    # Who has none repeats one that counts nothing, for all must go through the model alike.
    own = dealt or exercises[:1]
    rehearsed = [(one.prompt, one.answer) for one in near]
    apart = _mismatched(exercises, anchors, pupil.reader.context_tokens)
    with pupil.evenly():
        asked = [_asked(one, teacher) for one in own]
        ratios = _log_ratios(pupil, teacher, pupil.team.share(apart))
        revised = _revised(teacher, own)
        expected = teacher.holds(near)
        for one, pairs in zip(own, asked, strict=True):
            teacher.log_likelihoods(_compared(one, pairs))
    point = kto.reference_point(torch.tensor(pupil.team.joined(ratios) if apart else ()))
    step = _Step(teacher, mixture, revised, point)
    logits = iter(pupil.logits([pair for pairs in (*asked, rehearsed) for pair in pairs]))
    lessons = [
        one.weight * step.loss(one, pairs, [next(logits) for _ in pairs])
        for one, pairs in zip(own, asked, strict=True)
    ]
    held = [one.loss(next(logits)) for one in expected]
    total = torch.stack(lessons).mean() * (len(dealt) / len(exercises))
    moved = total.new_zeros(len(anchors))
    if not held:
        return StepLoss(total, total.new_zeros(()), moved)
    own_places = pupil.team.share(range(len(anchors)), len(exercises))
    each = torch.stack(held)
    moved[list(own_places)] = each.detach()
    return StepLoss(total, each.mean() * (len(near) / len(anchors)), moved)


def _asked(exercise: Exercise, teacher: Teacher) -> list[Pair]:
    """What the student reads for an exercise."""
    own = (exercise.prompt, exercise.target)
    if exercise.rejected:
        return [own, (exercise.prompt, exercise.rejected)]
    return [own] if exercise.good else [own, teacher.instead(own)[0]]


def _compared(exercise: Exercise, pairs: Sequence[Pair]) -> Sequence[Pair]:
    """The answers of an exercise whose likelihood is compared with the live model's."""
    if exercise.objective is Objective.KTO:
        return pairs[:1]
    return pairs if exercise.objective is Objective.DPO else ()


def _revised(teacher: Teacher, exercises: Sequence[Exercise]) -> dict[Pair, Expected]:
    """What the teacher of critiques expects."""
    told = [one for one in exercises if one.objective is Objective.DISTILLATION]
    read = [(one.dialogue, one.target) for one in told]
    return dict(zip(read, teacher.revises(read), strict=True))


def _log_ratios(pupil: Pupil, teacher: Teacher, pairs: Sequence[Pair]) -> list[float]:
    """How much likelier whole answers are to the student than to the live model, in nats."""
    own, live = log_likelihoods(pupil, pairs), teacher.log_likelihoods(pairs)
    ratios: list[float] = (torch.tensor(own) - torch.tensor(live)).tolist()
    return ratios


def _mismatched(exercises: Sequence[Exercise], anchors: Sequence[Anchor], room: int) -> list[Pair]:
    """Rated answers, each after the next prompt that is not its own, where there is one."""
    prompts = [one.prompt for one in exercises] + [one.prompt for one in anchors]
    found = []
    for place, one in enumerate(exercises):
        if one.objective is Objective.KTO:
            others = (*prompts[place + 1 :], *prompts[:place])
            fitting = [other for other in others if len(other) + len(one.target) <= room]
            found += [(other, one.target) for other in fitting if other != one.prompt][:1]
    return found


@dataclass(frozen=True, slots=True)
class _Step:
    """The losses of single exercises."""

    teacher: Teacher
    mixture: Mixture
    revised: Mapping[Pair, Expected]
    """What the teacher of critiques expects."""
    point: Tensor
    """The z of KTO."""

    def loss(self, exercise: Exercise, pairs: Sequence[Pair], logits: Sequence[Tensor]) -> Tensor:
        """Returns the loss of an exercise of weight 1."""
        if exercise.objective is Objective.DISTILLATION:
            expected = self.revised[exercise.dialogue, exercise.target]
            return expected.loss(logits[0], self.mixture.divergence)
        if exercise.objective is Objective.KTO:
            return self._kto(exercise.good, pairs, logits)
        if exercise.objective is Objective.DPO:
            return self._dpo(pairs, logits)
        target = _tensor(exercise.target, logits[0])
        if exercise.objective is Objective.IMITATION:
            return imitation.loss(logits[0], target)
        return sft.loss(logits[0], target)

    def _kto(self, good: bool, pairs: Sequence[Pair], logits: Sequence[Tensor]) -> Tensor:
        [ratio] = self._log_ratios(pairs[:1], logits[:1])
        found = kto.loss(ratio, self.point.to(ratio), good=good, settings=self.mixture.kto)
        return found if good else found + self.teacher.instead(pairs[0])[1].loss(logits[1])

    def _dpo(self, pairs: Sequence[Pair], logits: Sequence[Tensor]) -> Tensor:
        chosen, rejected = self._log_ratios(pairs, logits)
        own = sft.loss(logits[0], _tensor(pairs[0][1], logits[0]))
        return dpo.loss(chosen, rejected, own, self.mixture.dpo)

    def _log_ratios(self, pairs: Sequence[Pair], logits: Sequence[Tensor]) -> list[Tensor]:
        known = self.teacher.log_likelihoods(pairs)
        return [
            -sft.loss(one, _tensor(answer, one)) * len(answer) - live
            for one, (_, answer), live in zip(logits, pairs, known, strict=True)
        ]


def _tensor(answer: Ids, beside: Tensor) -> Tensor:
    return torch.tensor(answer, device=beside.device)
