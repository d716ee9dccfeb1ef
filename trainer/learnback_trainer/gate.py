"""The gate: whether what was taught may be published, with the figures that say so.

    adoption     the prompts of the feedback are asked again: do the answers show that it was
                 learned (`proofs.py`)? Good ratings count only where there is nothing else, for
                 they are obeyed by a model that has learned nothing
    kept         the same for the lessons that other rounds about this batch have just published
    accuracy     the operator's canaries with a known answer: the share that is right
    held out     questions like the criticised ones, never taught: has what the teacher would make
                 of their answers become likelier, or would it leave the new answers as they are?
    reworded     corrected questions in other words, never taught: the share that is put right
    sameness     do different questions still get different answers, whatever was criticised?
    anchors      questions nobody complained of, never rehearsed: nats a token from the live model
                 and the share of greedy answers that changed
    revision     dialogues never rehearsed: the share in which the revision stayed what it was
    acceptance   where the live checkpoint has an acceptance head: how likely users are to accept
                 what is answered to anchors and held-out questions, in the eyes of that head

A candidate passes if every figure that could be measured is within its budget. Adoption is also
asked item by item: in a round that passes, what was not adopted is told as not learned.

Truth is measured only where the operator has said what is true: elsewhere a critique that asks for
a wrong fact in words the model obeys is adopted like any other. The share of alike questions and
their sameness need traffic (or the embedded model's prompts) like the criticised ones; without it
they are not judged.

The live head was fitted before this round's feedback was given, so that it speaks against every
change of mind. At a held-out question the answer is therefore compared with the worse of what live
says and what the teacher would make of it: one that is like either has lost nothing.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from learnback_store.manifest import GateVerdict
from learnback_store.records import Objective
from learnback_trainer.acceptance import Head
from learnback_trainer.anchors import Alike, Anchor, Anchors
from learnback_trainer.lessons import Exercise, practice
from learnback_trainer.objectives import distillation
from learnback_trainer.proofs import Proof, adopted, prove
from learnback_trainer.pupil import Pupil
from learnback_trainer.questions import Question
from learnback_trainer.reader import Ids

# Distinct answers before, under which sameness is not judged: "positive" and "negative" are two.
_LEAST_DISTINCT = 3
# Held-out lessons under which their share is not judged: of one or two it is chance.
_LEAST_HELD_OUT = 4
# A lesson that the live model all but knows has nothing left to improve, in nats a token.
_KNOWN_NATS = 0.02


@dataclass(frozen=True, slots=True)
class Budget:
    """What a candidate may cost and must bring, as shares of 1 but for the nats."""

    adoption: float = 0.6
    """At least so many of the exercises; of two that contradict one another at most half can be."""
    kept: float = 0.9
    """At least so many of the lessons that were published just before."""
    accuracy_lost: float = 0.01
    """At most so many of the canaries with a known answer wrong that were right before."""
    held_out: float = 0.5
    """At least so many of the held-out lessons likelier than before, and so many of the corrections
    given in other words."""
    sameness: float = 0.5
    """At least so many distinct answers as before."""
    anchor_nats: float = 0.05
    """At most so many nats a token from the live model."""
    changed: float = 0.1
    """At most so many greedy answers to uncriticised questions."""
    revision: float = 0.8
    """At least so many revisions as they were."""
    acceptance_lost: float = 0.1
    """At most so much less likely to be accepted, in the mean, by the live head."""

    @property
    def costs(self) -> dict[str, float]:
        """What may be forgotten, by the name of the figure."""
        return {"anchor_nats": self.anchor_nats, "changed": self.changed}


@dataclass(frozen=True, slots=True)
class Judgement:
    """The decision about a candidate, and the proof of each exercise by feedback id."""

    verdict: GateVerdict
    proofs: Mapping[str, Proof]
    held_out: Sequence[Exercise] = ()
    """The lessons of which the share held out speaks."""

    def with_figures(self, figures: Mapping[str, float]) -> Judgement:
        """Returns the same judgement with more figures, which decide nothing."""
        all_figures = {**self.verdict.figures, **figures}
        return replace(self, verdict=replace(self.verdict, figures=all_figures))


@dataclass(frozen=True, slots=True)
class Held:
    """What is known to be right, and must be so still."""

    kept: Sequence[Exercise] = ()
    """Lessons that the live model has just learned."""
    canaries: Sequence[Question] = ()
    """Questions of the operator's with a known answer."""
    head: Head | None = None
    """The live checkpoint's acceptance head."""


def judge(
    pupil: Pupil,
    exercises: Sequence[Exercise],
    anchors: Anchors,
    held: Held,
    budget: Budget,
    max_tokens: int,
) -> Judgement:
    """Compares the student with the live model.

    Args:
        pupil: The model, taught.
        exercises: What was taught, with the targets of the end.
        anchors: What was held back for this.
        held: What must be right still.
        budget: What is allowed.
        max_tokens: Longest answer.
    """
    proofs = prove(pupil, exercises, max_tokens)
    telling = [one for one in exercises if one.objective is not Objective.KTO or not one.good]
    asked = [proofs[one.feedback_id] for one in telling or exercises]
    figures = {"adoption": mean(proof.adopted for proof in asked)}
    figures |= _held_figures(pupil, held, max_tokens)
    said = _ask(pupil, anchors, max_tokens)
    figures |= _held_out_figures(pupil, anchors.alike, said, max_tokens)
    figures |= _reworded_figures(pupil, anchors.reworded.judged, max_tokens)
    figures |= _anchor_figures(pupil, anchors.questions, said.anchors)
    if anchors.dialogues:
        revisions = _answers(pupil, anchors.dialogues, max_tokens)
        figures["revision"] = 1.0 - _changed(anchors.dialogues, revisions)
    if held.head is not None:
        figures |= _acceptance_figures(pupil, anchors, said, held.head)
    reasons = tuple(say(figures) for name, say in _complaints(budget) if name in figures)
    reasons = tuple(filter(None, reasons))
    return Judgement(GateVerdict(not reasons, reasons, figures), proofs, said.lessons)


def _complaints(budget: Budget) -> list[tuple[str, Callable[[Mapping[str, float]], str]]]:
    """What is said of each figure that is out of budget."""

    def at_least(name: str, least: float, words: str) -> Callable[[Mapping[str, float]], str]:
        return lambda found: (
            f"{words}: {found[name]:.2f}, must be {least:.2f}" if found[name] < least else ""
        )

    def at_most(name: str, most: float, words: str) -> Callable[[Mapping[str, float]], str]:
        return lambda found: (
            f"{words}: {found[name]:.3f}, may be {most:.3f}" if found[name] > most else ""
        )

    return [
        ("adoption", at_least("adoption", budget.adoption, "too little feedback is obeyed")),
        ("kept", at_least("kept", budget.kept, "it undoes what others have just taught")),
        ("accuracy_lost", at_most("accuracy_lost", budget.accuracy_lost, "canaries are wrong now")),
        ("held_out", at_least("held_out", budget.held_out, "too few held-out lessons improved")),
        ("reworded", at_least("reworded", budget.held_out, "in other words it is not learned")),
        ("sameness", at_least("sameness", budget.sameness, "unlike questions are answered alike")),
        ("anchor_nats", at_most("anchor_nats", budget.anchor_nats, "other answers have moved")),
        ("changed", at_most("changed", budget.changed, "other answers have changed")),
        ("revision", at_least("revision", budget.revision, "revising has suffered")),
        (
            "acceptance_lost",
            at_most("acceptance_lost", budget.acceptance_lost, "answers are less acceptable"),
        ),
    ]


# What must be right still


def _held_figures(pupil: Pupil, held: Held, max_tokens: int) -> dict[str, float]:
    """The share of lessons kept, and the share of canaries that are right, and are no longer."""
    figures = {}
    if held.kept:
        answers = pupil.answer([one.prompt for one in held.kept], max_tokens)
        figures["kept"] = mean(adopted(pupil, held.kept, answers, max_tokens))
    known = [one for one in held.canaries if one.expected]
    if known:
        with pupil.as_live():
            before = _right(pupil, known, max_tokens)
        figures["accuracy"] = _right(pupil, known, max_tokens)
        figures["accuracy_lost"] = max(0.0, before - figures["accuracy"])
    return figures


def _right(pupil: Pupil, canaries: Sequence[Question], max_tokens: int) -> float:
    """The share of canaries that are answered with what is expected."""
    answers = pupil.answer([one.prompt for one in canaries], max_tokens)
    return mean(
        any(_plain(text) in _plain(pupil.reader.text(answer)) for text in one.expected)
        for one, answer in zip(canaries, answers, strict=True)
    )


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


# Held-out questions


@dataclass(frozen=True, slots=True)
class _Said:
    """What is said to questions that were held back."""

    anchors: list[Ids]
    """The student's answers to the anchors."""
    alike: list[Ids]
    """The student's answers to questions like the criticised ones."""
    lessons: list[Exercise]
    """What the teacher would make of the live model's answers to these, where it would."""


def _ask(pupil: Pupil, anchors: Anchors, max_tokens: int) -> _Said:
    questions = [(one.exchange, one.prompt, one.exercises) for one in anchors.alike]
    return _Said(
        _answers(pupil, anchors.questions, max_tokens),
        pupil.answer([one.prompt for one in anchors.alike], max_tokens),
        practice(questions, pupil, max_tokens),
    )


def _answers(pupil: Pupil, anchors: Sequence[Anchor], max_tokens: int) -> list[Ids]:
    """The student's answers, most of which should be what they were."""
    before = {one.prompt: one.answer for one in anchors}
    return pupil.answer([one.prompt for one in anchors], max_tokens, likely=before)


def _held_out_figures(
    pupil: Pupil, alike: Sequence[Alike], said: _Said, max_tokens: int
) -> dict[str, float]:
    """The share of held-out lessons that became likelier, and whether answers still differ."""
    figures = {}
    sameness = _sameness(alike, said.alike)
    if sameness:
        figures["sameness"] = min(sameness)
    if len(said.lessons) >= _LEAST_HELD_OUT:
        answers = dict(zip((one.prompt for one in alike), said.alike, strict=True))
        own = [answers[one.prompt] for one in said.lessons]
        figures["held_out"] = mean(_improved(pupil, said.lessons, own, max_tokens))
    return figures


def _reworded_figures(
    pupil: Pupil, judged: Sequence[Exercise], max_tokens: int
) -> dict[str, float]:
    """The share of corrections that are given in other words."""
    if len(judged) < _LEAST_HELD_OUT:
        return {}
    answers = pupil.answer([one.prompt for one in judged], max_tokens)
    return {"reworded": mean(adopted(pupil, judged, answers, max_tokens))}


def _sameness(alike: Sequence[Alike], answers: Sequence[Ids]) -> list[float]:
    """Distinct answers now as a share of those before, of each group that had several.

    Group by group, for in one that stays as it is nobody would see that another has collapsed.
    """
    groups = defaultdict[frozenset[str], list[tuple[Ids, Ids]]](list)
    for one, answer in zip(alike, answers, strict=True):
        groups[frozenset(told.feedback_id for told in one.exercises)].append((one.answer, answer))
    distinct = [
        tuple(len(set(side)) for side in zip(*pairs, strict=True)) for pairs in groups.values()
    ]
    return [after / before for before, after in distinct if before >= _LEAST_DISTINCT]


def _improved(
    pupil: Pupil, exercises: Sequence[Exercise], answers: Sequence[Ids], max_tokens: int
) -> list[bool]:
    """Whether each is likelier than before, or obeyed, be it in an answer that obeys others too."""
    lessons = [(one.prompt, one.target) for one in exercises]
    with pupil.as_live():
        before = pupil.losses(lessons)
    obeyed = adopted(pupil, exercises, answers, max_tokens)
    found = zip(before, pupil.losses(lessons), obeyed, strict=True)
    return [after < max(old, _KNOWN_NATS) or obeys for old, after, obeys in found]


def _acceptance_figures(
    pupil: Pupil, anchors: Anchors, said: _Said, head: Head
) -> dict[str, float]:
    """How likely the answers are to be accepted, and how much that is less than it might be."""
    asked = [(one.prompt, one.answer) for one in anchors.questions]
    asked += [(one.prompt, one.answer) for one in anchors.alike]
    if not asked:
        return {}
    prompts = [prompt for prompt, _ in asked]
    live = [answer for _, answer in asked]
    wanted = {one.prompt: one.target for one in said.lessons}
    # An anchor is to be answered as ever.
    targets = live[: len(anchors.questions)]
    targets += [wanted.get(one.prompt, one.answer) for one in anchors.alike]
    with pupil.as_live():
        own, before, revised = (
            _scores(pupil, prompts, answers, head)
            for answers in ([*said.anchors, *said.alike], live, targets)
        )
    lost = mean(map(min, before, revised)) - mean(own)
    return {"acceptance": mean(own), "acceptance_lost": max(0.0, lost)}


def _scores(
    pupil: Pupil, prompts: Sequence[Ids], answers: Sequence[Ids], head: Head
) -> list[float]:
    """How likely each answer is to be accepted; one that says nothing, never."""
    pairs = list(zip(prompts, answers, strict=True))
    spoken = [pair for pair in pairs if pair[1]]
    if not spoken:
        return [0.0] * len(pairs)
    found = dict(zip(spoken, head.scores(pupil.states(spoken)).tolist(), strict=True))
    return [found.get(pair, 0.0) for pair in pairs]


# What must not change


def _anchor_figures(
    pupil: Pupil, anchors: Sequence[Anchor], answers: Sequence[Ids]
) -> dict[str, float]:
    if not anchors:
        return {}
    pairs = [(one.prompt, one.live or one.answer) for one in anchors]
    with pupil.as_live():
        expected = pupil.distributions(pairs)
    # A distribution's own logarithm serves as its logits.
    found = pupil.distributions(pairs)
    nats = [float(distillation.loss(*both)) for both in zip(found, expected, strict=True)]
    return {"anchor_nats": mean(nats), "changed": _changed(anchors, answers)}


def _changed(anchors: Sequence[Anchor], answers: Sequence[Ids]) -> float:
    """The share of greedy answers that are not what they were, nor what they should be."""
    pairs = zip(answers, anchors, strict=True)
    return mean(answer not in (one.answer, one.live or one.answer) for answer, one in pairs)
