"""What must not change: questions nobody complained of, and the skill of revising itself.

Questions (`questions.py`) come from traffic, from the operator's canaries, and, while there is
little traffic, from prompts shipped with the embedded model; of each kind one before any has
another, and then more of those that a lesson moves first (`sorting.py`). Questions like the
criticised ones are left out, for there the lesson may rightly show: most of them are practised on
(`lessons.practice`), the others are for the gate. Dialogues in which an answer is criticised and
revised come from feedback that was learned earlier, from the present round, and from the embedded
model's grammar, of the criticised tasks more than of others; without them the model unlearns, round
by round, what teaches it.

The right answer of an anchor is what the live model answers, and how sure it is of each word. But
where it still answers as the *base model* does, or was never told otherwise about questions of that
kind, the base is the measure, and always in dialogues: what little each round costs must not add up
from round to round. Where answers of a kind were criticised, only those are held that are no longer
the base's, for the others would pull them back, and that are no slips (`slips.py`). A corrected
question in other words is not held either (`rewordings.py`). Three in four anchors are rehearsed
while teaching (`rehearsal.py`); the fourth is only looked at by the gate.

Another base model than nano has no shipped prompts: until there is traffic, only canaries and the
round's own dialogues hold it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from random import Random

from learnback_store.records import Exchange
from learnback_trainer.lessons import Exercise
from learnback_trainer.pupil import Pupil
from learnback_trainer.questions import Question, Told, shipped_dialogues, shipped_questions
from learnback_trainer.reader import Ids, Reader
from learnback_trainer.rewordings import Rewordings, rewordings
from learnback_trainer.slips import slips
from learnback_trainer.sorting import Sorted, sorted_out
from learnback_trainer.students import Frozen

# Of the questions that should stay as they are, and of the dialogues, one in so many is for the
# gate.
_JUDGED = 4
# The kind of all dialogues; groups of questions count from 0 on.
_REVISING = -1
# Of the questions like criticised ones, one in so many is for the gate, until it has enough.
_ALIKE_JUDGED = 4
# Of the questions like a corrected one whose answer is held by another, one in so many is kept for
# the gate.
_BESIDE_JUDGED = 4


@dataclass(frozen=True, slots=True)
class Anchor:
    """An input with the answer that it should have."""

    prompt: Ids
    answer: Ids
    by: Frozen = Frozen.LIVE
    """Whose answer it is."""
    live: Ids = ()
    """What the live model answers, if that may be something else."""
    kind: int | None = None
    """Number of the group of like questions that it is of; None: it is like no other."""


@dataclass(frozen=True, slots=True)
class Alike:
    """A question like a criticised one, with the live model's own answer."""

    exchange: Exchange
    """With the text of the answer."""
    prompt: Ids
    answer: Ids
    exercises: tuple[Exercise, ...]
    """Those whose critiques hold for it too, the one with the likest prompt first."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """How many of each there should be, where there are so many."""

    questions: int = 288
    dialogues: int = 128
    alike: int = 228
    """Questions like the criticised ones."""
    judged: int = 12
    """How many of these the gate has."""
    beside: int = 128
    """Questions like a corrected one, of each kind: facts of one kind hold none of another."""
    near: int = 64
    """Dialogues about the embedded model's tasks that are criticised, besides the others."""
    exposed: int = 192
    """Questions besides the others, of kinds that a lesson moves first: those that were criticised
    in earlier rounds, for what a few hundred answers have taught is soon gone, and the likest."""


@dataclass(frozen=True, slots=True)
class Anchors:
    """The anchors of a round."""

    rehearsed: list[Anchor]
    """Questions and dialogues that are taught along."""
    questions: list[Anchor]
    """For the gate alone."""
    dialogues: list[Anchor]
    """For the gate alone."""
    practice: list[Alike]
    """Questions like the criticised ones, to practise on."""
    alike: list[Alike]
    """For the gate alone."""
    reworded: Rewordings = field(default_factory=Rewordings)
    """What is asked in the corrected questions' place."""
    mended: list[Exercise] = field(default_factory=list)
    """What would be held, if the live model answered it as it has learned to."""


def make_anchors(
    pupil: Pupil,
    exercises: Sequence[Exercise],
    questions: Sequence[Question],
    dialogues: Mapping[Ids, Ids],
    told: Told | None = None,
    unlike: Sequence[Ids] = (),
    *,
    amounts: Amounts,
    max_tokens: int,
    rng: Random,
) -> Anchors:
    """Sorts questions by their likeness to the criticised ones, and lets the live model answer.

    Args:
        pupil: The model.
        exercises: What is taught.
        questions: Where from, in order of preference.
        dialogues: Likewise, each up to the model's turn to revise, with what the base model may
            well make of the answer; empty if that isn't known.
        told: What the live model has been told about.
        unlike: See `likeness`.
        amounts: How many to take.
        max_tokens: Longest answer.
        rng: Decides which are rehearsed and which are judged.
    """
    told = told or Told({})
    found = sorted_out(pupil, exercises, questions, told, unlike)
    room = pupil.reader.context_tokens - max_tokens
    near, far = (
        [one.prompt for one in some if len(one.prompt) <= room]
        for some in (found.beside, found.apart)
    )
    spoken = [one for one in dialogues if len(one) <= room][: amounts.dialogues]
    # There the lesson would show in revisions, too, where nobody asks for it.
    tasks = sorted({one.task for one, _ in found.alike if one.task})
    besides = shipped_dialogues(amounts.near, rng, pupil.reader, tasks) if tasks else {}
    spoken += [one for one in besides if len(one) <= room]
    likely = {one.prompt: one.likely for one in questions} | besides | dict(dialogues)
    others, revisions, facts = (
        _answered(pupil, some, untold, likely, max_tokens, rng)
        for some, untold in (
            (_with_more_of(found.exposed, far, found.group, amounts), found.untold),
            (spoken, frozenset(spoken)),
            (_first_of_each(near, found.group, amounts.beside), found.untold),
        )
    )
    revisions = [replace(one, kind=_REVISING) for one in revisions]
    others = [
        replace(one, kind=found.group[one.prompt])
        for one in others
        if one.by is Frozen.LIVE or one.prompt not in found.criticised
    ]
    mended = _mended(pupil, others, found, told.lessons, max_tokens)
    others = [one for one in others if one.prompt not in {slip.prompt for slip in mended}]
    answered = [(one.prompt, one.live or one.answer) for one in facts]
    again = rewordings(pupil, exercises, answered, max_tokens)
    rehearsed, judged = _each_held([one for one in facts if one.prompt not in again.prompts])
    alike = found.alike[: amounts.alike]
    if tasks:
        count = amounts.alike - len(alike)
        alike += _more_alike(found.alike, exercises, tasks, count, rng, pupil.reader)
    like = _with_answers(pupil, alike, found.untold, max_tokens)
    kept = range(len(like))[::_ALIKE_JUDGED][: amounts.judged]
    return Anchors(
        rehearsed=[
            one for some in (others, revisions) for place, one in enumerate(some) if place % _JUDGED
        ]
        + rehearsed,
        questions=others[::_JUDGED] + judged,
        dialogues=revisions[::_JUDGED],
        practice=[one for place, one in enumerate(like) if place not in kept],
        alike=[like[place] for place in kept],
        reworded=again,
        mended=mended,
    )


def _with_more_of(
    exposed: Set[int], prompts: Sequence[Ids], group: Mapping[Ids, int], amounts: Amounts
) -> list[Ids]:
    """The first prompts, and further ones of some groups, evenly."""
    taken, rest = list(prompts[: amounts.questions]), prompts[amounts.questions :]
    further = [one for one in rest if group[one] in exposed]
    # They come by turns of their groups.
    return taken + further[: amounts.exposed]


def _first_of_each(prompts: Sequence[Ids], group: Mapping[Ids, int], count: int) -> list[Ids]:
    """The first prompts of each group, so many at most."""
    taken = Counter[int]()
    found = []
    for one in prompts:
        taken[group[one]] += 1
        if taken[group[one]] <= count:
            found.append(one)
    return found


def _answered(
    pupil: Pupil,
    inputs: list[Ids],
    untold: Container[Ids],
    likely: Mapping[Ids, Ids],
    max_tokens: int,
    rng: Random,
) -> list[Anchor]:
    """Anchors, of which those `untold` are held where the base model is.

    What the base model may well answer is `likely`.
    """
    rng.shuffle(inputs)
    with pupil.as_frozen(Frozen.BASE):
        base = pupil.answer(inputs, max_tokens, likely=likely)
    if pupil.live_is_base:
        return [
            Anchor(prompt, answer) for prompt, answer in zip(inputs, base, strict=True) if answer
        ]
    with pupil.as_live():
        # What nobody spoke of has hardly ever changed.
        same = {one: first for one, first in zip(inputs, base, strict=True) if one in untold}
        live = pupil.answer(inputs, max_tokens, likely=same)
    anchors = [
        Anchor(prompt, first, Frozen.BASE, now)
        if first == now or prompt in untold
        else Anchor(prompt, now)
        for prompt, first, now in zip(inputs, base, live, strict=True)
    ]
    return [one for one in anchors if one.answer]


def _mended(
    pupil: Pupil,
    anchors: Sequence[Anchor],
    found: Sorted,
    lessons: Sequence[Exercise],
    max_tokens: int,
) -> list[Exercise]:
    """The slips among the anchors of kinds that were criticised in earlier rounds."""
    heard = defaultdict[int, list[Exercise]](list)
    for one in lessons:
        heard[found.group[one.prompt]].append(one)
    exchange = {one.prompt: one.exchange for one in found.apart}
    asked = [
        (
            replace(exchange[one.prompt], answer=pupil.reader.text(one.answer)),
            one.prompt,
            heard[found.group[one.prompt]],
        )
        for one in anchors
        if one.prompt in found.criticised and one.prompt in exchange
    ]
    return slips(pupil, asked, max_tokens)


def _each_held(beside: Sequence[Anchor]) -> tuple[list[Anchor], list[Anchor]]:
    """What to rehearse and what to judge, of questions like a corrected one.

    Each fact has to be held by itself: what holds one capital in place lets the next one go. So of
    the questions with one answer the first is rehearsed, and one in `_BESIDE_JUDGED` of the rest is
    kept for the gate.
    """
    first = {one.answer: one for one in reversed(beside)}.values()
    held = {one.prompt for one in first}
    rest = [one for one in beside if one.prompt not in held]
    judged = rest[::_BESIDE_JUDGED]
    kept = {one.prompt for one in judged}
    return [one for one in beside if one.prompt not in kept], judged


def _more_alike(
    alike: Sequence[tuple[Question, tuple[Exercise, ...]]],
    exercises: Sequence[Exercise],
    tasks: Sequence[str],
    count: int,
    rng: Random,
    reader: Reader,
) -> list[tuple[Question, tuple[Exercise, ...]]]:
    """Further questions of the embedded model's tasks that are criticised, with the critiques."""
    known = {one.prompt for one, _ in alike} | {one.prompt for one in exercises}
    holding = {one.task: critiques for one, critiques in alike}
    drawn = shipped_questions(count, rng, reader, tasks)
    return [(one, holding[one.task]) for one in drawn if one.prompt not in known]


def _with_answers(
    pupil: Pupil,
    alike: Sequence[tuple[Question, tuple[Exercise, ...]]],
    untold: Container[Ids],
    max_tokens: int,
) -> list[Alike]:
    likely = {
        one.prompt: one.likely for one, _ in alike if pupil.live_is_base or one.prompt in untold
    }
    prompts = [one.prompt for one, _ in alike]
    with pupil.as_live():
        answers = pupil.answer(prompts, max_tokens, likely=likely)
    return [
        Alike(
            replace(question.exchange, answer=pupil.reader.text(answer)),
            question.prompt,
            answer,
            exercises,
        )
        for (question, exercises), answer in zip(alike, answers, strict=True)
    ]
