"""Questions that somebody asked or might ask, and what the live model has been told of.

They come from the service's own traffic (generations without feedback), from a file of the
operator's own canaries, and from prompts shipped with the embedded model. Dialogues in which an
answer is criticised come from feedback and from the embedded model's grammar. What can't be put to
the model, being too long or of a role that its template does not know, is left out.

Limits: another base model than nano has no shipped prompts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from learnback_nano import world
from learnback_store.records import Critique, Exchange, FeedbackRecord, GenerationRecord
from learnback_trainer.canaries import Canary, asked
from learnback_trainer.errors import LessonError
from learnback_trainer.lessons import Exercise
from learnback_trainer.reader import Ids, Reader


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
    likely: Ids = ()
    """What the base model may well answer; empty if that isn't known."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the live model and its ancestors have learned about."""

    prompts: Mapping[Ids, bool]
    """Questions, each with whether something was said of its answer in words."""
    all: bool = False
    """Whether there is nothing else."""
    lessons: Sequence[Exercise] = ()
    """The critiques among it, the oldest first."""


def from_traffic(records: Iterable[GenerationRecord], reader: Reader) -> list[Question]:
    """Returns the questions of generations; those that can't be put to the model are left out."""
    exchanges = [record.exchange(0) for record in records if record.candidates]
    return _questions(exchanges, reader)


def from_canaries(canaries: Sequence[Canary], reader: Reader) -> list[Question]:
    """Returns the operator's own questions; those that can't be put to the model are left out."""
    expected = {one.exchange: one.expected for one in canaries}
    questions = _questions(expected, reader)
    return [replace(one, canary=True, expected=expected[one.exchange]) for one in questions]


def shipped_questions(
    count: int, rng: Random, reader: Reader, about: Sequence[str] = world.TASKS
) -> list[Question]:
    """Returns questions of the embedded model's tasks, evenly; of some there are few."""
    tasks = [about[index % len(about)] for index in range(count)]
    items = [(task, world.sample(task, rng, "seen")) for task in tasks]
    asking = {asked(item.prompt): (task, world.render(item)) for task, item in items}
    found = []
    for one in _questions(asking, reader):
        task, right = asking[one.exchange]
        found.append(replace(one, task=task, likely=reader.answer(right)))
    return found


def shipped_dialogues(
    count: int, rng: Random, reader: Reader, tasks: Sequence[str] = ()
) -> dict[Ids, Ids]:
    """Returns dialogues with a critique at their end, of the embedded model's kinds, evenly.

    Each comes with what the base model may well make of the answer.

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
    return {reader.chat(probe.messages): reader.answer(probe.expected) for probe in found}


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
    """Returns what feedback was about; what can't be put to the model is left out.

    Args:
        records: What was learned, newest first.
        reader: Puts it to the model.
        everything: Whether that is all.
    """
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
