"""What teaching did about each piece of feedback: its prompt is asked before and after.

    critique     the frozen teacher, shown the new answer and the critique, would leave it as it is
    correction   the new answer is the correction
    preference   the preferred answer is the likelier one now, and has gained on the other
    good rating  the rated answer is still given; if it was not, it has become likelier
    bad rating   another answer is given, which makes sense to the live model

What a preference and a rating ask for is less than what to say, so that less can be proven of them.
Whether a new answer makes sense is told by its likelihood under the frozen live model, which knows
its language but not what is true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from learnback_store.records import Objective
from learnback_trainer.lessons import Exercise, criticised_again, revised
from learnback_trainer.losses import log_likelihoods
from learnback_trainer.pupil import Pupil
from learnback_trainer.reader import Ids
from learnback_trainer.students import Frozen

NOT_ADOPTED = "asked again without the criticism, the model does not answer as it asks"
NOT_PREFERRED = "the other answer is still the likelier one"
NO_GAIN = "the preferred answer has not gained on the other"
NOT_KEPT = "the answer rated as good is less likely than before"
STILL_GIVEN = "the answer rated as bad is still given"
NO_SENSE = "what is answered instead of the answer rated as bad makes no sense to the model"

# The teacher finds an answer as good as its own revision if it is so little less likely to it, in
# nats a token. One wrong token among ten costs about 1.
_AS_GOOD_NATS = 0.3
# A preference is learned from this gain of the preferred answer on, in nats of whole answers.
_GAIN_NATS = 1.0
# An answer makes sense up to this share of the nats a token of pieces drawn blindly. Other answers
# of nano had .1 to .3 of them, broken ones .4 and more.
_SENSE_SHARE = 0.35


@dataclass(frozen=True, slots=True)
class Proof:
    """What teaching did about one piece of feedback."""

    loss_before: float
    """Of the target, without any critique, in nats a token."""
    loss_after: float
    answer_before: str
    answer_after: str
    refusal: str = ""
    """Why it is not adopted; empty if it is."""
    margin_before: float | None = None
    """Nats by which the preferred answer is likelier than the other, before."""
    margin_after: float | None = None

    @property
    def adopted(self) -> bool:
        """Whether the feedback is learned."""
        return not self.refusal


@dataclass(frozen=True, slots=True)
class _State:
    """How the student, or the live model, stands to some exercises."""

    answers: list[Ids]
    losses: list[float]
    margins: dict[str, float]
    """By feedback id; of preferences alone."""


def prove(pupil: Pupil, exercises: Sequence[Exercise], max_tokens: int) -> dict[str, Proof]:
    """Asks the prompts of feedback again, before and after, without any critique.

    Args:
        pupil: The model, taught.
        exercises: What was taught.
        max_tokens: Longest answer.

    Returns:
        The proof of each, by feedback id.
    """
    with pupil.as_live():
        before = _state(pupil, exercises, max_tokens)
    after = _state(pupil, exercises, max_tokens)
    obeyed = adopted(pupil, exercises, after.answers, max_tokens)
    found = {}
    for index, one in enumerate(exercises):
        proof = Proof(
            before.losses[index],
            after.losses[index],
            pupil.reader.text(before.answers[index]),
            pupil.reader.text(after.answers[index]),
            "",
            before.margins.get(one.feedback_id),
            after.margins.get(one.feedback_id),
        )
        refusal = _refusal(one, proof, obeyed[index], pupil.reader.text(one.target))
        found[one.feedback_id] = replace(proof, refusal=refusal)
    return found


def _state(pupil: Pupil, exercises: Sequence[Exercise], max_tokens: int) -> _State:
    answers = pupil.answer([one.prompt for one in exercises], max_tokens)
    losses = pupil.losses([(one.prompt, one.target) for one in exercises])
    compared = [one for one in exercises if one.rejected]
    chosen = log_likelihoods(pupil, [(one.prompt, one.target) for one in compared])
    rejected = log_likelihoods(pupil, [(one.prompt, one.rejected) for one in compared])
    margins = {
        one.feedback_id: better - worse
        for one, better, worse in zip(compared, chosen, rejected, strict=True)
    }
    return _State(answers, losses, margins)


def _refusal(exercise: Exercise, proof: Proof, obeyed: bool, target: str) -> str:
    if exercise.objective is Objective.DPO:
        return _not_preferred(proof)
    if exercise.objective is not Objective.KTO:
        return "" if obeyed else NOT_ADOPTED
    if exercise.good:
        likelier = proof.answer_before != target and proof.loss_after < proof.loss_before
        return "" if obeyed or likelier else NOT_KEPT
    if proof.answer_after == target:
        return STILL_GIVEN
    return "" if obeyed else NO_SENSE


def _not_preferred(proof: Proof) -> str:
    before, after = proof.margin_before or 0.0, proof.margin_after or 0.0
    if after <= 0:
        return NOT_PREFERRED
    return "" if after - before >= _GAIN_NATS else NO_GAIN


def adopted(
    pupil: Pupil, exercises: Sequence[Exercise], answers: Sequence[Ids], max_tokens: int
) -> list[bool]:
    """Returns whether answers to the prompts of exercises are as their feedback wants them.

    Args:
        pupil: The model; those judge that it comes from.
        exercises: What was asked for.
        answers: One to each prompt.
        max_tokens: Longest revision.
    """
    again = revised(criticised_again(exercises, answers, pupil.reader), pupil, max_tokens)
    losses = _nats(pupil, exercises, answers)
    own = _nats(pupil, exercises, [old.target for old in exercises])
    found = []
    for index, (old, new, answer) in enumerate(zip(exercises, again, answers, strict=True)):
        if old.dialogue:
            as_good = losses[index] - own[index] <= _AS_GOOD_NATS
            said_before = pupil.reader.text(answer) == old.record.exchange.answer
            fits = bool(answer) and not said_before and (as_good or answer == new.target)
            found.append(fits or answer == old.target)
        else:
            found.append(_fits(pupil, old, answer, losses[index]))
    return found


def _nats(pupil: Pupil, exercises: Sequence[Exercise], answers: Sequence[Ids]) -> list[float]:
    """What answers cost the model that revises, having read the critique; else the live one."""
    pairs = [
        (old.dialogue or old.prompt, answer or old.target)
        for old, answer in zip(exercises, answers, strict=True)
    ]
    found: dict[int, float] = {}
    for whose in Frozen:
        own = [
            place
            for place, one in enumerate(exercises)
            if bool(one.dialogue) == (whose is Frozen.BASE)
        ]
        with pupil.as_frozen(whose):
            found |= zip(own, pupil.losses([pairs[place] for place in own]), strict=True)
    return [found[place] for place in range(len(pairs))]


def _fits(pupil: Pupil, exercise: Exercise, answer: Ids, live_nats: float) -> bool:
    """Whether an answer is as feedback without a critique wants it."""
    text = pupil.reader.text(answer)
    if exercise.rejected:
        return text != pupil.reader.text(exercise.rejected)
    same = text == pupil.reader.text(exercise.target)
    if exercise.good:
        return same
    sense = live_nats <= _SENSE_SHARE * pupil.blind_nats and pupil.reader.ended(answer)
    return sense and not same
