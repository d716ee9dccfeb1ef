"""What must not change: questions nobody complained of, and the skill of revising itself.

Questions come from the service's own traffic (generations without feedback), from a file of the
operator's own canaries, and, while there is little traffic, from prompts shipped with the embedded
model; of each kind one before any has another. Questions like the criticised ones are left out,
for there the lesson may rightly show: most of them are practised on (`lessons.practice`), the
others are for the gate. Dialogues in which an answer is criticised and revised come from feedback
that was learned earlier, from the present round, and from the embedded model's grammar, of the
criticised tasks more than of others; without them the model unlearns, round by round, what teaches
it.

The right answer of an anchor is what the live model answers, and how sure it is of each word. But
where it still answers as the *base model* does, or was never told otherwise about questions of that
kind, the base is the measure, and always in dialogues: what little each round costs must not add up
from round to round. Where answers of a kind were criticised, only those are held that are no longer
the base's, for the others would pull them back. A corrected question in other words is not held
either (`rewordings.py`). Three in four anchors are rehearsed while teaching (`rehearsal.py`); the
fourth is only looked at by the gate.

Another base model than nano has no shipped prompts: until there is traffic, only canaries and the
round's own dialogues hold it.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from learnback_nano import world
from learnback_store.records import Critique, Exchange, FeedbackRecord, GenerationRecord
from learnback_trainer.canaries import Canary, asked
from learnback_trainer.errors import LessonError
from learnback_trainer.lessons import Exercise
from learnback_trainer.likeness import ALIKE, groups, likeness
from learnback_trainer.pupil import Pupil
from learnback_trainer.reader import Ids, Reader
from learnback_trainer.rewordings import Rewordings, rewordings
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
class Question:
    """A prompt that somebody asked or might ask."""

    exchange: Exchange
    """With the answer that was given to it; empty if none was."""
    prompt: Ids
    canary: bool = False
    """Whether the operator wants it held, however like it is to a criticised one."""
    expected: tuple[str, ...] = ()
    """What the operator says is right, each by itself; empty if nothing is said."""
    task: str = ""
    """Which of the embedded model's tasks it is of, if it is shipped with it."""


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
class Told:
    """What the live model and its ancestors have learned about."""

    prompts: Mapping[Ids, bool]
    """Questions, each with whether something was said of its answer in words."""
    all: bool = False
    """Whether there is nothing else."""


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
    """Questions like a corrected one."""
    near: int = 64
    """Dialogues about the embedded model's tasks that are criticised, besides the others."""


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


# Where they come from


def from_traffic(records: Iterable[GenerationRecord], reader: Reader) -> list[Question]:
    """Returns the questions of generations; those that can't be put to the model are left out."""
    exchanges = [record.exchange(0) for record in records if record.candidates]
    return _questions(exchanges, reader)


def from_canaries(canaries: Sequence[Canary], reader: Reader) -> list[Question]:
    """Returns the operator's own questions; those that can't be put to the model are left out."""
    expected = {one.exchange: one.expected for one in canaries}
    questions = _questions(expected, reader)
    return [replace(one, canary=True, expected=expected[one.exchange]) for one in questions]


def shipped_questions(count: int, rng: Random, reader: Reader) -> list[Question]:
    """Returns questions of the embedded model's tasks, evenly."""
    tasks = [world.TASKS[index % len(world.TASKS)] for index in range(count)]
    asking = {asked(world.sample(task, rng, "seen").prompt): task for task in tasks}
    return [replace(one, task=asking[one.exchange]) for one in _questions(asking, reader)]


def shipped_dialogues(
    count: int, rng: Random, reader: Reader, tasks: Sequence[str] = ()
) -> list[Ids]:
    """Returns dialogues with a critique at their end, of the embedded model's kinds, evenly.

    Args:
        count: How many are drawn; a few kinds can't be said of every task.
        rng: Draws them.
        reader: Puts them to the model.
        tasks: What they may be about; none: anything.
    """
    kinds = rng.sample(list(world.KINDS), k=len(world.KINDS))
    found = []
    for index in range(count):
        task = rng.choice(tasks) if tasks else None
        with contextlib.suppress(world.ImpossibleError):
            found.append(world.revision(kinds[index % len(kinds)], rng, task=task))
    return [reader.chat(probe.messages) for probe in found]


def dialogues_of(records: Iterable[FeedbackRecord], reader: Reader) -> list[Ids]:
    """Returns the dialogues of critiques; those that can't be put to the model are left out."""
    found = []
    for record in records:
        if isinstance(record.signal, Critique):
            try:
                found.append(
                    reader.dialogue(record.exchange, record.exchange.answer, record.signal.text)
                )
            except LessonError:
                continue
    return found


def told_of(records: Iterable[FeedbackRecord], reader: Reader, *, everything: bool) -> Told:
    """Returns what feedback was about; what can't be put to the model is left out."""
    found: dict[Ids, bool] = {}
    for record in records:
        with contextlib.suppress(LessonError):
            prompt = reader.prompt(record.exchange, record.prompt_ids)
            found[prompt] = found.get(prompt, False) or isinstance(record.signal, Critique)
    return Told(found, everything)


def _questions(exchanges: Iterable[Exchange], reader: Reader) -> list[Question]:
    found = {}
    for exchange in exchanges:
        try:
            prompt = reader.prompt(exchange)
        except LessonError:
            continue
        found[prompt] = Question(exchange, prompt)
    return list(found.values())


# What they are made into


def make_anchors(
    pupil: Pupil,
    exercises: Sequence[Exercise],
    questions: Sequence[Question],
    dialogues: Sequence[Ids],
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
        dialogues: Likewise, each up to the model's turn to revise.
        told: What the live model has been told about.
        unlike: See `likeness`.
        amounts: How many to take.
        max_tokens: Longest answer.
        rng: Decides which are rehearsed and which are judged.
    """
    found = _sorted_out(pupil, exercises, questions, told or Told({}), unlike)
    room = pupil.reader.context_tokens - max_tokens
    near, far = (
        [one.prompt for one in some if len(one.prompt) <= room]
        for some in (found.beside, found.apart)
    )
    spoken = [one for one in dict.fromkeys(dialogues) if len(one) <= room][: amounts.dialogues]
    # There the lesson would show in revisions, too, where nobody asks for it.
    tasks = sorted({one.task for one, _ in found.alike if one.task})
    besides = shipped_dialogues(amounts.near, rng, pupil.reader, tasks) if tasks else []
    spoken += [one for one in besides if len(one) <= room]
    others, revisions, facts = (
        _answered(pupil, some, untold, max_tokens, rng)
        for some, untold in (
            (far[: amounts.questions], found.untold),
            (spoken, frozenset(spoken)),
            (near[: amounts.beside], found.untold),
        )
    )
    revisions = [replace(one, kind=_REVISING) for one in revisions]
    others = [
        replace(one, kind=found.group[one.prompt])
        for one in others
        if one.by is Frozen.LIVE or one.prompt not in found.criticised
    ]
    answered = [(one.prompt, one.live or one.answer) for one in facts]
    again = rewordings(pupil, exercises, answered, max_tokens)
    rehearsed, judged = _each_held([one for one in facts if one.prompt not in again.prompts])
    like = _with_answers(pupil, found.alike[: amounts.alike], max_tokens)
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
    )


@dataclass(slots=True)
class _Sorted:
    """Questions, by what is to become of them. The taught ones themselves are not among them."""

    apart: list[Question] = field(default_factory=list)
    """Like none of the taught ones: should stay as they are."""
    beside: list[Question] = field(default_factory=list)
    """Like a corrected one: likewise, but the correction is near."""
    alike: list[tuple[Question, tuple[Exercise, ...]]] = field(default_factory=list)
    """Like criticised ones, and whose critiques hold for them too."""
    criticised: frozenset[Ids] = frozenset()
    """Those of a kind that was criticised in an earlier round, but for canaries."""
    group: dict[Ids, int] = field(default_factory=dict)
    """Of each question, the number of those like it."""
    untold: frozenset[Ids] = frozenset()
    """Those like nothing that the live model was ever told about, not even by a single pair: what
    was learned must not be undone because its group fell apart."""


def _sorted_out(
    pupil: Pupil,
    exercises: Sequence[Exercise],
    questions: Sequence[Question],
    told: Told,
    unlike: Sequence[Ids],
) -> _Sorted:
    # Of several about one prompt, what was said in words.
    criticised = {one.prompt: one for one in sorted(exercises, key=lambda one: bool(one.dialogue))}
    room = pupil.reader.context_tokens
    others = [one for one in questions if one.prompt not in criticised and len(one.prompt) < room]
    prompts = [*criticised, *(one.prompt for one in others), *told.prompts]
    table = likeness(pupil, prompts, unlike)
    group = groups(table)
    taught = list(criticised.values())
    # What is right for one question is wrong for the next: a correction reaches no others.
    general = [place for place, one in enumerate(taught) if one.dialogue]
    corrected = {group[place] for place, one in enumerate(taught) if not one.dialogue}
    found = _Sorted(group=dict(zip(prompts, group, strict=True)))
    for place, question in _by_turns(others, group[len(taught) :], len(taught)):
        near = [one for one in general if group[one] == group[place]]
        if near and not question.canary:
            near.sort(key=table[place].__getitem__, reverse=True)
            found.alike.append((question, tuple(taught[one] for one in near)))
        else:
            (found.beside if group[place] in corrected else found.apart).append(question)
    held = {one.prompt for one in others if one.canary}
    told_before = _groups_criticised(group[len(prompts) - len(told.prompts) :], told)
    found.criticised = frozenset(
        prompt
        for prompt, own in zip(prompts, group, strict=True)
        if own in told_before and prompt not in held
    )
    if told.all:
        found.untold = _untold(prompts, table, group, len(told.prompts))
    return found


def _groups_criticised(group: Sequence[int], told: Told) -> set[int]:
    """The groups about which something was said in words."""
    pairs = zip(told.prompts.values(), group, strict=True)
    return {own for in_words, own in pairs if in_words}


def _untold(
    prompts: Sequence[Ids], table: Sequence[Sequence[float]], group: Sequence[int], told: int
) -> frozenset[Ids]:
    """Prompts that are like none of the last `told` of them, neither by group nor by pair."""
    first = len(prompts) - told
    known = set(group[first:])
    return frozenset(
        prompt
        for prompt, own, near in zip(prompts, group, table, strict=True)
        if own not in known and max(near[first:], default=-1.0) < ALIKE
    )


def _by_turns(
    questions: Sequence[Question], group: Sequence[int], first: int
) -> list[tuple[int, Question]]:
    """Questions with their places from `first` on, of each group one before any has another.

    Else what is asked most would be all that is held.
    """
    seen = Counter[int]()
    turns = []
    for place, (question, own) in enumerate(zip(questions, group, strict=False), start=first):
        turns.append((seen[own], place, question))
        seen[own] += 1
    turns.sort(key=lambda one: one[:2])
    return [(place, question) for _, place, question in turns]


def _answered(
    pupil: Pupil, inputs: list[Ids], untold: Container[Ids], max_tokens: int, rng: Random
) -> list[Anchor]:
    """Anchors, of which those `untold` are held where the base model is."""
    rng.shuffle(inputs)
    with pupil.as_live():
        live = pupil.answer(inputs, max_tokens)
    if pupil.live_is_base:
        return [
            Anchor(prompt, answer) for prompt, answer in zip(inputs, live, strict=True) if answer
        ]
    with pupil.as_frozen(Frozen.BASE):
        base = pupil.answer(inputs, max_tokens)
    anchors = [
        Anchor(prompt, first, Frozen.BASE, now)
        if first == now or prompt in untold
        else Anchor(prompt, now)
        for prompt, first, now in zip(inputs, base, live, strict=True)
    ]
    return [one for one in anchors if one.answer]


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


def _with_answers(
    pupil: Pupil, alike: Sequence[tuple[Question, tuple[Exercise, ...]]], max_tokens: int
) -> list[Alike]:
    with pupil.as_live():
        answers = pupil.answer([question.prompt for question, _ in alike], max_tokens)
    return [
        Alike(
            replace(question.exchange, answer=pupil.reader.text(answer)),
            question.prompt,
            answer,
            exercises,
        )
        for (question, exercises), answer in zip(alike, answers, strict=True)
    ]
