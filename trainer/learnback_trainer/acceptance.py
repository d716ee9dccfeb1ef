"""The acceptance head: how likely a user is to accept an answer, told from its last hidden state.

A linear layer on the frozen candidate, fitted by cross-entropy in which accepted and criticised
answers count the same as a whole, whatever their numbers:

    criticised   what a critique, a correction or a bad rating was about, and what another answer
                 was preferred to
    accepted     the revisions and corrections that were learned, what was rated good or preferred,
                 and answers to anchors, which nobody complained of; of these as many as criticised
                 ones at most, since they are mostly told apart by their question alone

Only what is learned in the candidate's own line counts, so that an erasure that taints a head finds
its checkpoint. What was said last goes first where there is more than `Terms.most`, and where one
answer was both accepted and criticised.

The probability is calibrated by a line through the log-odds (Platt 1999; Guo et al. 2017, who call
the half of it temperature) of answers to prompts that each fit had not seen (`_FOLDS` of them).
What is measured, AUC and expected calibration error, is measured so too, the calibration being
fitted without the fold that is measured. `learnback_store.acceptance` tells how it is written.

Limits: it knows what users complained of, not what is true. What they asked for and later took
back are both among its examples, until the older ones are too many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from learnback_store.acceptance import (
    BIAS,
    EXAMPLES_FIGURE,
    HEAD_FILE,
    WEIGHT,
    HeadFacts,
    HeadFormatError,
)
from learnback_store.records import (
    Correction,
    Critique,
    FeedbackRecord,
    FeedbackView,
    Preferred,
    Rating,
)
from learnback_trainer.anchors import Anchor
from learnback_trainer.errors import LessonError, ModelError
from learnback_trainer.lessons import Exercise, given
from learnback_trainer.pupil import Pupil
from learnback_trainer.reader import Ids, Reader

_FOLDS = 5
_BINS = 10
"""Of the expected calibration error, equally wide."""
_DECAY = 0.01
"""Weight of half the squared norm beside the mean cross-entropy, for states of unit length."""
_FLAT = 0.01
"""Share of the mean variance that is added to each state's, so that none is blown up."""
_SAID_SHARE = 0.75
"""Of all examples, what feedback may take; anchors have the rest."""


@dataclass(frozen=True, slots=True)
class Terms:
    """When there is a head at all, and how much it may cost."""

    on: bool = True
    examples: int = 8
    """At least so many accepted and so many criticised answers."""
    auc: float = 0.7
    """At least so good on prompts that were not fitted to, 0 to 1."""
    most: int = 256
    """Answers that are put through the model, the newest first."""


@dataclass(frozen=True, slots=True)
class Example:
    """An answer of which it is known whether a user accepts it."""

    prompt: Ids
    answer: Ids
    """With its end token."""
    accepted: bool


@dataclass(frozen=True, eq=False, slots=True)
class Head:
    """A linear layer on last hidden states, with the calibration in it.

    Attributes:
        weight: Float64 on the CPU, of shape (hidden,).
        bias: What is added.
    """

    weight: Tensor
    bias: float

    def scores(self, states: Tensor) -> Tensor:
        """Returns the calibrated probabilities of acceptance, of shape (answers,).

        Args:
            states: As `Pupil.states` returns them, of shape (answers, hidden).
        """
        return (states.double().cpu() @ self.weight + self.bias).sigmoid()

    def save(self, folder: Path, facts: HeadFacts) -> None:
        """Writes it into the folder of a checkpoint."""
        tensors = {WEIGHT: self.weight.float(), BIAS: torch.tensor([self.bias])}
        save_file(tensors, folder / HEAD_FILE, facts.to_metadata())

    @classmethod
    def load(cls, folder: Path) -> Head | None:
        """Reads the head of the checkpoint in a folder; None if it has none.

        Raises:
            ModelError: It can't be read.
        """
        file = folder / HEAD_FILE
        if not file.exists():
            return None
        try:
            with safe_open(file, framework="pt") as tensors:
                HeadFacts.from_metadata(tensors.metadata() or {})
                weight, bias = tensors.get_tensor(WEIGHT), tensors.get_tensor(BIAS)
        except (OSError, SafetensorError, HeadFormatError) as error:
            raise ModelError(
                f"the acceptance head of the live checkpoint can't be read: {error}"
            ) from error
        return cls(weight.double(), float(bias))


@dataclass(frozen=True, slots=True)
class Fitted:
    """What became of fitting a head."""

    figures: dict[str, float]
    """For the verdict."""
    head: Head | None = field(default=None, compare=False)
    """None if it would not be worth its word."""
    facts: HeadFacts | None = None

    def save(self, folder: Path) -> None:
        """Writes the head, if there is one, into the folder of a checkpoint."""
        if self.head is not None and self.facts is not None:
            self.head.save(folder, self.facts)


# What it learns from


def examples_of(
    taught: Iterable[Exercise],
    earlier: Iterable[FeedbackView],
    anchors: Sequence[Anchor],
    reader: Reader,
    most: int,
) -> list[Example]:
    """Returns what is known to be accepted and criticised, each answer once.

    Args:
        taught: The exercises of this round that were adopted, with the targets of the end.
        earlier: What was learned before in the same line, newest first.
        anchors: Questions nobody complained of, with their answers.
        reader: The model's.
        most: How many to take.
    """
    said: dict[tuple[Ids, Ids], Example] = {}
    for record, revision in _told(taught, earlier):
        try:
            prompt = reader.prompt(record.exchange, record.prompt_ids)
        except LessonError:
            continue
        for answer, accepted in _judged(record, revision, reader):
            if answer and len(prompt) + len(answer) <= reader.context_tokens:
                said.setdefault((prompt, answer), Example(prompt, answer, accepted))
    found = list(said.values())[: int(most * _SAID_SHARE)]
    room = min(sum(not one.accepted for one in found), most - len(found))
    fresh = [one for one in anchors if (one.prompt, one.answer) not in said]
    return found + [Example(one.prompt, one.answer, accepted=True) for one in fresh[:room]]


def _told(
    taught: Iterable[Exercise], earlier: Iterable[FeedbackView]
) -> Iterator[tuple[FeedbackRecord, Ids | str]]:
    """Feedback with the revision that it was learned by, newest first."""
    for exercise in taught:
        yield exercise.record, exercise.target
    for view in earlier:
        lessons = view.account.lessons
        yield view.record, lessons[-1].refinement if lessons else ""


def _judged(record: FeedbackRecord, revision: Ids | str, reader: Reader) -> list[tuple[Ids, bool]]:
    """The answers that a piece of feedback speaks of, and whether it accepts them."""
    signal, own = record.signal, given(record, reader)
    if isinstance(signal, Rating):
        return [(own, signal.score > 0)] if signal.score else []
    if isinstance(signal, (Critique, Correction)):
        better = signal.text if isinstance(signal, Correction) else revision
        better = reader.answer(better) if isinstance(better, str) else better
        # Of what came to nothing it is not known what is better.
        worth = bool(reader.text(better).strip()) and better != own
        return [(own, False), (better, True)] if worth else []
    other = reader.answer(signal.other)
    first = signal.preferred is Preferred.TARGET
    return [(own, first), (other, not first)]


# Fitting


def fit_head(pupil: Pupil, examples: Sequence[Example], terms: Terms, seed: int = 0) -> Fitted:
    """Fits a head to the student's states, if it can be trusted.

    Args:
        pupil: The model, taught.
        examples: What is known.
        terms: When there is a head.
        seed: Of the order in which prompts are dealt out.
    """
    accepted = sum(one.accepted for one in examples)
    counted: dict[str, float] = {EXAMPLES_FIGURE: len(examples)}
    folds = folds_of(examples, Random(seed))
    if min(accepted, len(examples) - accepted) < terms.examples or max(folds, default=0) < 1:
        return Fitted(counted)
    # A copy outside of inference mode, so that it can be differentiated through.
    states = pupil.states([(one.prompt, one.answer) for one in examples]).double().cpu()
    labels = torch.tensor([float(one.accepted) for one in examples], dtype=torch.float64)
    head, facts = fitted(states, labels, torch.tensor(folds))
    if facts.auc < terms.auc:
        return Fitted(facts.figures)
    return Fitted(facts.figures, head, facts)


def folds_of(examples: Sequence[Example], rng: Random) -> list[int]:
    """Deals prompts out, so that no prompt is in two folds and each fold can be measured.

    Returns:
        The fold of each example; all 0 if there are too few prompts for two.
    """
    rejected = {one.prompt for one in examples if not one.accepted}
    accepted = {one.prompt for one in examples if one.accepted}
    count = min(_FOLDS, len(rejected), len(accepted))
    if count < 2:
        return [0] * len(examples)
    both = _shuffled(rejected & accepted, rng)
    fold = {prompt: place % count for place, prompt in enumerate(both)}
    for rest in (rejected - accepted, accepted - rejected):
        for place, prompt in enumerate(_shuffled(rest, rng), start=len(both)):
            fold[prompt] = place % count
    return [fold[one.prompt] for one in examples]


def _shuffled(prompts: Iterable[Ids], rng: Random) -> list[Ids]:
    return rng.sample(ordered := sorted(prompts), len(ordered))


def fitted(states: Tensor, labels: Tensor, folds: Tensor) -> tuple[Head, HeadFacts]:
    """Fits a head to all examples, and measures such heads on folds that they were not fitted to.

    Args:
        states: Float64, of shape (examples, hidden).
        labels: 1 for accepted, 0 for criticised; float64, of shape (examples,).
        folds: Whole numbers, of shape (examples,); each fold leaves both sorts to the others.
    """
    unseen = torch.empty_like(labels)
    for fold in range(int(folds.max()) + 1):
        weight, bias = linear(states[folds != fold], labels[folds != fold])
        unseen[folds == fold] = states[folds == fold] @ weight + bias
    calibrated = torch.empty_like(labels)
    for fold in range(int(folds.max()) + 1):
        slope, offset = platt(unseen[folds != fold], labels[folds != fold])
        calibrated[folds == fold] = slope * unseen[folds == fold] + offset
    facts = HeadFacts(
        len(labels), auc(calibrated, labels), calibration_error(calibrated.sigmoid(), labels)
    )
    weight, bias = linear(states, labels)
    slope, offset = platt(unseen, labels)
    return Head(slope * weight, slope * bias + offset), facts


def linear(states: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """Returns weight and bias of the log-odds that minimise `loss` on states of unit length."""
    mean, variance = states.mean(dim=0), states.var(dim=0, correction=0)
    scale = (variance + _FLAT * variance.mean()).sqrt().clamp(min=1e-12)
    scale = scale * states.shape[1] ** 0.5
    found = _minimised(
        lambda parameters: loss(parameters, (states - mean) / scale, labels, _DECAY),
        states.new_zeros(states.shape[1] + 1),
    )
    weight = found[:-1] / scale
    return weight, float(found[-1] - weight @ mean)


def loss(parameters: Tensor, states: Tensor, targets: Tensor, decay: float) -> Tensor:
    """Returns the cross-entropy, in nats, with equal weight for both sorts, and the decay.

    Args:
        parameters: The weight and behind it the bias, of shape (hidden + 1,).
        states: Of shape (examples, hidden).
        targets: Probabilities; over .5 is accepted.
        decay: Weight of half the squared norm of the weight.
    """
    logits = states @ parameters[:-1] + parameters[-1]
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, targets, reduction="none"
    )
    return balance(targets) @ entropy + decay / 2 * parameters[:-1].square().sum()


def balance(targets: Tensor) -> Tensor:
    """Returns weights that add up to 1, half of it for each sort."""
    accepted = (targets > 0.5).to(targets.dtype)
    return accepted / (2 * accepted.sum()) + (1 - accepted) / (2 * (1 - accepted).sum())


def platt(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Returns slope and offset of the log-odds by which both sorts come true as often as told.

    The targets are Platt's, a little off 0 and 1, so that nothing is ever certain.
    """
    accepted, rejected = labels.sum(), (1 - labels).sum()
    targets = torch.where(labels > 0.5, (accepted + 1) / (accepted + 2), 1 / (rejected + 2))
    # Around 0 and of unit spread, where the search is as easy whatever they were.
    centre, spread = logits.mean(), logits.std(correction=0).clamp(min=1e-12)
    found = _minimised(
        lambda parameters: loss(parameters, ((logits - centre) / spread)[:, None], targets, 0.0),
        logits.new_zeros(2),
    )
    slope = found[0] / spread
    return float(slope), float(found[1] - slope * centre)


def _minimised(objective: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Where a smooth convex function is least, by L-BFGS."""
    parameters = torch.nn.Parameter(start.clone())
    search = torch.optim.LBFGS(
        [parameters],
        max_iter=500,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        search.zero_grad()
        value = objective(parameters)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    search.step(closure)  # type: ignore[no-untyped-call]
    return parameters.detach()


# Measuring


def auc(scores: Tensor, labels: Tensor) -> float:
    """Returns the share of pairs of both sorts in which the accepted one scores higher."""
    ahead = scores[labels > 0.5][:, None] - scores[labels < 0.5][None]
    return float(((ahead > 0).double() + 0.5 * (ahead == 0)).mean())


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Returns the expected calibration error, both sorts weighing the same.

    The mean over bins, each by its weight, of how far its mean probability is from its share of
    accepted ones.
    """
    bins = (probabilities * _BINS).long().clamp(max=_BINS - 1)
    gaps = balance(labels) * (probabilities - labels)
    return float(torch.zeros(_BINS, dtype=gaps.dtype).index_add(0, bins, gaps).abs().sum())
