"""What must not change: questions nobody complained of, and the skill of revising itself.

Questions come from the service's own traffic (generations without feedback), from a file of the
operator's own canaries, and, while there is little traffic, from prompts shipped with the embedded
model. Questions like the criticised ones are left out, for there the lesson may rightly show: one
half of them is practised on (`lessons.practice`), the other half is for the gate. Dialogues in
which an answer is criticised and revised come from feedback that was learned earlier, from the
present round, and from the embedded model's grammar; without them the model unlearns, round by
round, what teaches it.

The right answer of an anchor is whatever the live model answers. Half of the anchors are rehearsed
while teaching; the other half is only looked at by the gate.

Another base model than nano has no shipped prompts: until there is traffic, only canaries and the
round's own dialogues hold it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from learnback_nano import world
from learnback_store.records import (
    Critique,
    Exchange,
    FeedbackRecord,
    GenerationRecord,
    Message,
    Role,
)
from learnback_trainer.errors import CanaryError, LessonError
from learnback_trainer.lessons import Exercise
from learnback_trainer.likeness import groups, likeness
from learnback_trainer.pupil import Pupil
from learnback_trainer.reader import Ids, Reader

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


@dataclass(frozen=True, slots=True)
class Anchor:
    """An input with the live model's own answer."""

    prompt: Ids
    answer: Ids


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

    questions: int = 144
    dialogues: int = 64
    alike: int = 48
    beside: int = 128
    """Questions like a corrected one."""


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


# Where they come from


def from_traffic(records: Iterable[GenerationRecord], reader: Reader) -> list[Question]:
    """Returns the questions of generations; those that can't be put to the model are left out."""
    exchanges = [record.exchange(0) for record in records if record.candidates]
    return _questions(exchanges, reader)


def from_canaries(file: Path, reader: Reader) -> list[Question]:
    """Returns the operator's own questions: JSON lines, {"prompt": ...} or {"messages": [...]}.

    A "prompt" is a user's message where the model has a chat template. "expected", a text or a list
    of them, is what a right answer holds: one of them, by whatever case and spaces.

    Raises:
        CanaryError: The file can't be read, or a line is something else.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        canaries = [_canary(json.loads(line)) for line in lines if line.strip()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CanaryError(f"the canaries in {file} can't be read: {error}") from error
    expected = dict(canaries)
    questions = _questions(expected, reader)
    return [replace(one, canary=True, expected=expected[one.exchange]) for one in questions]


def _canary(line: dict[str, object]) -> tuple[Exchange, tuple[str, ...]]:
    texts = line.get("expected", [])
    expected = tuple(map(str, texts if isinstance(texts, list) else [texts]))
    if "prompt" in line:
        return _asked(str(line["prompt"])), expected
    messages = line["messages"]
    if not isinstance(messages, list):
        raise TypeError("messages must be a list")
    chat = tuple(Message(Role(m["role"]), str(m["content"])) for m in messages)
    return Exchange("", chat), expected


def shipped_questions(count: int, rng: Random, reader: Reader) -> list[Question]:
    """Returns questions of the embedded model's tasks, evenly."""
    tasks = [world.TASKS[index % len(world.TASKS)] for index in range(count)]
    return _questions((_asked(world.sample(task, rng, "seen").prompt) for task in tasks), reader)


def shipped_dialogues(count: int, rng: Random, reader: Reader) -> list[Ids]:
    """Returns dialogues with a critique at their end, of the embedded model's kinds, evenly."""
    kinds = rng.sample(list(world.KINDS), k=len(world.KINDS))
    probes = [world.revision(kinds[index % len(kinds)], rng) for index in range(count)]
    return [reader.chat(probe.messages) for probe in probes]


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


def _asked(text: str) -> Exchange:
    return Exchange("", (Message(Role.USER, text),))


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
        amounts: How many to take.
        max_tokens: Longest answer.
        rng: Decides which are rehearsed and which are judged.
    """
    apart, beside, alike = _sorted_out(pupil, exercises, questions)
    room = pupil.reader.context_tokens - max_tokens
    near, far = (
        [one.prompt for one in some if len(one.prompt) <= room] for some in (beside, apart)
    )
    told = [one for one in dict.fromkeys(dialogues) if len(one) <= room]
    inputs = (far[: amounts.questions], told[: amounts.dialogues], near[: amounts.beside])
    held = [_answered(pupil, some, max_tokens, rng) for some in inputs]
    rehearsed, judged = _each_held(held[2])
    like = _with_answers(pupil, alike[: amounts.alike], max_tokens)
    return Anchors(
        rehearsed=held[0][::2] + held[1][::2] + rehearsed,
        questions=held[0][1::2] + judged,
        dialogues=held[1][1::2],
        practice=like[::2],
        alike=like[1::2],
    )


def _sorted_out(
    pupil: Pupil, exercises: Sequence[Exercise], questions: Sequence[Question]
) -> tuple[list[Question], list[Question], list[tuple[Question, tuple[Exercise, ...]]]]:
    """Sorts questions into three: others, those like a corrected one, those like a criticised one.

    The first two should stay as they are; the third come with the criticised one. The criticised
    and corrected ones themselves are in none.
    """
    # Of several about one prompt, what was said in words.
    criticised = {one.prompt: one for one in sorted(exercises, key=lambda one: bool(one.dialogue))}
    room = pupil.reader.context_tokens
    others = [one for one in questions if one.prompt not in criticised and len(one.prompt) < room]
    table = likeness(pupil, [*criticised, *(one.prompt for one in others)])
    group = groups(table)
    taught = list(criticised.values())
    # What is right for one question is wrong for the next: a correction reaches no others.
    general = [place for place, one in enumerate(taught) if one.dialogue]
    corrected = {group[place] for place, one in enumerate(taught) if not one.dialogue}
    apart: list[Question] = []
    beside: list[Question] = []
    alike = []
    for place, question in enumerate(others, start=len(taught)):
        near = [one for one in general if group[one] == group[place]]
        if near and not question.canary:
            near.sort(key=table[place].__getitem__, reverse=True)
            alike.append((question, tuple(taught[one] for one in near)))
        else:
            (beside if group[place] in corrected else apart).append(question)
    return apart, beside, alike


def _answered(pupil: Pupil, inputs: list[Ids], max_tokens: int, rng: Random) -> list[Anchor]:
    rng.shuffle(inputs)
    with pupil.as_live():
        answers = pupil.answer(inputs, max_tokens)
    pairs = zip(inputs, answers, strict=True)
    return [Anchor(prompt, answer) for prompt, answer in pairs if answer]


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
