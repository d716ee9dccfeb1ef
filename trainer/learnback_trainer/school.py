"""One round in memory: from feedback to a taught model and a decision. Nothing here is durable."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from random import Random

from learnback_store.manifest import GateVerdict
from learnback_store.records import FeedbackRecord, FeedbackState, FeedbackView, Lesson, Objective
from learnback_store.rounds import Outcome
from learnback_trainer import questions as asking
from learnback_trainer.acceptance import Fitted, Head, Terms, examples_of, fit_head
from learnback_trainer.anchors import Amounts, Anchor, Anchors, make_anchors
from learnback_trainer.gate import Budget, Held, Judgement, judge
from learnback_trainer.lessons import TAKEN_BACK, Exercise, make_exercises, practice, retold
from learnback_trainer.proofs import Proof
from learnback_trainer.pupil import NANO, Pupil
from learnback_trainer.quarrels import outweighed
from learnback_trainer.questions import Question
from learnback_trainer.reader import Ids, Reader
from learnback_trainer.reconcile import reconcile
from learnback_trainer.screening import Bounds, screen
from learnback_trainer.update import Progress, Recipe, Taught, teach

_log = logging.getLogger(__name__)

# Questions beside which it is seen which of the criticised ones are alike.
_FOR_LIKENESS = 64
# Earlier lessons by which it is told what the live model should answer.
_HEARD = 64
# Shipped questions for each that is to be an anchor.
_SHIPPED = 4


@dataclass(frozen=True, slots=True)
class Curriculum:
    """How rounds are taught and judged."""

    recipe: Recipe
    budget: Budget
    amounts: Amounts
    answer_tokens: int
    seed: int
    scripts: frozenset[str] = frozenset()
    """Scripts that feedback may be written in; empty: any."""
    acceptance: Terms = field(default_factory=Terms)
    """When the candidate gets an acceptance head."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where anchors come from, besides what is shipped."""

    questions: Sequence[Question] = ()
    """From traffic and canaries, in order of preference."""
    shipped: Sequence[Question] | None = None
    """The embedded model's own; None: others are drawn for each round."""
    earlier: Sequence[FeedbackRecord] = ()
    """Feedback that was learned in earlier rounds."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """How much feedback counts beside what else is in the round, by id; 1 if nothing is said."""
    kept: Sequence[Exercise] = ()
    """Lessons that the live model has just learned, which this round must not undo."""
    told: Sequence[FeedbackView] = ()
    """Feedback that the live model or its ancestors have learned, newest first."""
    told_all: bool = False
    """Whether that is all of it."""
    held: Set[str] | None = None
    """Of feedback that was learned before, and is taught anew, what live obeys; no other is."""
    head: Head | None = None
    """The live checkpoint's acceptance head."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a round came to."""

    outcomes: tuple[Outcome, ...]
    verdict: GateVerdict | None
    """None if there was nothing to teach."""
    objectives: tuple[Objective, ...] = ()
    taught: tuple[Exercise, ...] = ()
    """The lessons that were judged."""
    adopted: frozenset[str] = frozenset()
    """Those that the model obeyed, whether or not the round passed, by feedback id."""
    covered: Mapping[str, str] = field(default_factory=dict)
    """What is learned by the lesson of another piece of feedback, and of which, by feedback id."""
    acceptance: Fitted | None = None
    """The acceptance head, if the round passed."""
    held_out: Sequence[Exercise] = ()
    """The same lessons on questions that were never taught."""

    @property
    def learned(self) -> tuple[str, ...]:
        """The feedback that was learned."""
        states = ((one.feedback_id, one.state) for one in self.outcomes)
        return tuple(one for one, state in states if state is FeedbackState.LEARNED)


def hold_round(
    pupil: Pupil,
    base_name: str,
    views: Sequence[FeedbackView],
    sources: Sources,
    curriculum: Curriculum,
    *,
    reached: Callable[[str], None] = lambda _: None,
    watch: Callable[[Progress], None] = lambda _: None,
) -> Report:
    """Teaches feedback to a model and judges it.

    Args:
        pupil: The model; taught in place.
        base_name: Name of the base model: "nano" has anchors of its own.
        views: Feedback, in the order in which it was given.
        sources: Where anchors come from.
        curriculum: How.
        reached: Told "lessons", "taught" and "gated" when the round has come so far.
        watch: Told after each step of teaching; what it raises ends the round.
    """
    mixture = curriculum.recipe.mixture
    made = make_exercises(views, pupil, curriculum.answer_tokens, mixture)
    excused = [
        Outcome(feedback_id, FeedbackState.NOT_LEARNED, reason)
        for feedback_id, reason in made.excused.items()
    ]
    # Others are drawn each time, so that not the same few are held round after round.
    rng = Random(f"{curriculum.seed}/{len(sources.told)}")
    shipped = sources.shipped
    if shipped is None:
        shipped = shipped_questions(pupil.reader, base_name, curriculum, rng)
    questions = [*sources.questions, *shipped]
    unlike = [one.prompt for one in shipped]
    others = [one.exchange for one in questions]
    # Nothing is learned from a bad answer but to give another.
    bounds = Bounds(curriculum.answer_tokens, curriculum.scripts)
    harmful = screen(pupil, [one for one in made.made if one.good], others, bounds)
    excused += [
        Outcome(feedback_id, FeedbackState.QUARANTINED, reason)
        for feedback_id, reason in harmful.items()
    ]
    harmless = [one for one in made.made if one.feedback_id not in harmful]
    losers = _taken_back(harmless, sources.held)
    weighed = [
        replace(one, weight=one.weight * sources.weights.get(one.feedback_id, 1.0))
        for one in harmless
        if one.feedback_id not in losers
    ]
    reconciled = reconcile(weighed)
    beside = (unlike or [one.prompt for one in questions])[:_FOR_LIKENESS]
    losers |= outweighed(pupil, reconciled.taught, beside, curriculum.answer_tokens, sources.told)
    lost = [
        Outcome(feedback_id, FeedbackState.NOT_LEARNED, reason)
        for feedback_id, reason in losers.items()
    ]
    taken = [one for one in reconciled.taught if one.feedback_id not in losers]
    if not taken:
        return Report((*excused, *lost, *reconciled.outcomes(lost)), None)
    anchors = _anchors(pupil, base_name, taken, questions, unlike, sources, curriculum, rng)
    practised = practice(
        [(one.exchange, one.prompt, one.exercises) for one in anchors.practice],
        pupil,
        curriculum.answer_tokens,
    )
    practised = [*practised, *anchors.mended]
    lessons = taken + anchors.reworded.taught
    _log.info(
        "%d lessons, %d more to practise, %d anchors",
        len(taken), len(lessons) - len(taken) + len(practised), len(anchors.rehearsed),
    )  # fmt: skip
    reached("lessons")
    kept = [Anchor(one.prompt, one.target) for one in sources.kept if one.good]
    held = anchors.rehearsed + kept
    taught = teach(pupil, lessons, practised, held, curriculum.recipe, rng, watch)
    reached("taught")
    exercises = taught.exercises[: len(taken)]
    known = Held(sources.kept, [one for one in sources.questions if one.canary], sources.head)
    judgement = judge(pupil, exercises, anchors, known, curriculum.budget, curriculum.answer_tokens)
    judgement = judgement.with_figures({"covered": len(reconciled.covered)})
    adopted = frozenset(one for one, proof in judgement.proofs.items() if proof.adopted)
    head = None
    if judgement.verdict.passed and curriculum.acceptance.on:
        obeyed = [one for one in exercises if one.feedback_id in adopted]
        head = _head(pupil, obeyed, anchors.questions, sources.told, curriculum)
        judgement = judgement.with_figures(head.figures)
    _tell(taught, judgement)
    reached("gated")
    outcomes = lost + [_outcome(one, judgement, pupil) for one in exercises]
    outcomes += reconciled.outcomes(outcomes)
    objectives = tuple(sorted({one.objective for one in exercises}))
    covered = {one: how.by for one, how in reconciled.covered.items() if how.by}
    return Report(
        (*excused, *outcomes),
        judgement.verdict,
        objectives,
        tuple(exercises),
        adopted,
        covered,
        head,
        judgement.held_out,
    )


def _taken_back(exercises: Sequence[Exercise], held: Set[str] | None) -> dict[str, str]:
    """Why lessons that were learned before are not taught anew, by feedback id."""
    ids = [one.feedback_id for one in exercises]
    return {} if held is None else {one: TAKEN_BACK for one in ids if one not in held}


def _head(
    pupil: Pupil,
    obeyed: Sequence[Exercise],
    anchors: Sequence[Anchor],
    told: Sequence[FeedbackView],
    curriculum: Curriculum,
) -> Fitted:
    terms = curriculum.acceptance
    examples = examples_of(obeyed, told, anchors, pupil.reader, terms.most)
    return fit_head(pupil, examples, terms, curriculum.seed)


def shipped_questions(
    reader: Reader, base_name: str, curriculum: Curriculum, rng: Random
) -> list[Question]:
    """Returns the embedded model's own questions, about all its tasks evenly.

    Another model has none.
    """
    if base_name != NANO:
        return []
    # More than anchors, for those like the criticised ones are practised on, others each time; and
    # where facts are corrected, others like them must be held one by one.
    count = _SHIPPED * curriculum.amounts.questions
    return asking.shipped_questions(count, rng, reader)


def _anchors(
    pupil: Pupil,
    base_name: str,
    exercises: Sequence[Exercise],
    questions: Sequence[Question],
    unlike: Sequence[Ids],
    sources: Sources,
    curriculum: Curriculum,
    rng: Random,
) -> Anchors:
    reader, amounts = pupil.reader, curriculum.amounts
    # With what the base model, who is the teacher, makes of the answer.
    dialogues = {one.dialogue: one.target for one in exercises if one.dialogue}
    earlier = asking.dialogues_of(sources.earlier, reader)
    if base_name == NANO:
        # What was said so far is about few things; revising is to be held for all.
        dialogues |= dict.fromkeys(earlier[: amounts.dialogues // 4], ())
        dialogues |= asking.shipped_dialogues(amounts.dialogues, rng, reader)
    dialogues |= dict.fromkeys(earlier, ())
    told = asking.told_of([one.record for one in sources.told], reader, everything=sources.told_all)
    heard = retold(reversed(sources.told[:_HEARD]), pupil, curriculum.answer_tokens)
    told = replace(told, lessons=[one for one in heard if one.dialogue])
    return make_anchors(
        pupil,
        exercises,
        questions,
        dialogues,
        told,
        unlike,
        amounts=amounts,
        max_tokens=curriculum.answer_tokens,
        rng=rng,
    )


def _outcome(exercise: Exercise, judgement: Judgement, pupil: Pupil) -> Outcome:
    proof = judgement.proofs[exercise.feedback_id]
    if not judgement.verdict.passed:
        state, reason = FeedbackState.NOT_LEARNED, "; ".join(judgement.verdict.reasons)
    elif not proof.adopted:
        state, reason = FeedbackState.NOT_LEARNED, proof.refusal
    else:
        state, reason = FeedbackState.LEARNED, ""
    return Outcome(exercise.feedback_id, state, reason, (_lesson(exercise, proof, pupil),))


def _lesson(exercise: Exercise, proof: Proof, pupil: Pupil) -> Lesson:
    return Lesson(
        objective=exercise.objective,
        refinement=pupil.reader.text(exercise.target),
        weight=exercise.weight,
        loss_before=proof.loss_before,
        loss_after=proof.loss_after,
        answer_before=proof.answer_before,
        answer_after=proof.answer_after,
        margin_before=proof.margin_before,
        margin_after=proof.margin_after,
    )


def _tell(taught: Taught, judgement: Judgement) -> None:
    verdict = judgement.verdict
    figures = ", ".join(f"{name} {value:.3f}" for name, value in verdict.figures.items())
    _log.info("taught in %d steps; %s", taught.steps, figures)
    for reason in verdict.reasons:
        _log.warning("the gate refuses: %s", reason)
