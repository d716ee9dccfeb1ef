"""What the live checkpoint does on prompts that nobody taught, asked through the client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from statistics import mean

from bench.learn.service import Service
from bench.learn.users import Wish, question
from learnback_nano import world

HELD_OUT = 100
"""Prompts of one figure of compliance."""
PER_TASK = 16
"""Prompts of each other task."""
_REVISIONS = 104
_STREAMS = 16
_MAX_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured share or number of seconds."""

    scenario: str
    setting: str
    name: str
    seed: int
    value: float


def ask(service: Service, dialogues: Sequence[Sequence[world.Message]]) -> list[str]:
    """Greedy answers of the live checkpoint."""

    def one(dialogue: Sequence[world.Message]) -> str:
        reply = service.client.generate(
            messages=list(dialogue), temperature=0, max_tokens=_MAX_TOKENS, timeout=120
        )
        return reply.text

    with ThreadPoolExecutor(_STREAMS) as pool:
        return list(pool.map(one, dialogues))


def compliance(service: Service, wishes: Sequence[Wish], seed: int) -> float:
    """The share of held-out answers in the style that all the wishes (of one task) ask for."""
    rng = Random(f"held out/{seed}")
    found: list[tuple[world.Item, world.Style]] = []
    while len(found) < HELD_OUT:
        item, style = question(wishes[0], rng, "unseen")
        try:
            for wish in wishes[1:]:
                style = world.apply(wish.kind, item, style)
        except world.ImpossibleError:
            continue
        found.append((item, style))
    answers = ask(service, [[_user(item.prompt)] for item, _ in found])
    pairs = zip(answers, found, strict=True)
    return mean(world.judge(text, item, style).style for text, (item, style) in pairs)


def content(service: Service, task: str, seed: int) -> float:
    """The share of held-out answers of a task that say the right thing, however they say it."""
    rng = Random(f"content/{seed}")
    items = [world.sample(task, rng) for _ in range(HELD_OUT)]
    answers = ask(service, [[_user(item.prompt)] for item in items])
    return mean(world.judge(text, item).content for text, item in zip(answers, items, strict=True))


def plainness(service: Service, task: str, seed: int) -> float:
    """The share of held-out answers of a task in the style that the base model gives them."""
    rng = Random(f"plain/{seed}")
    probes = [world.plain(task, rng) for _ in range(HELD_OUT)]
    answers = ask(service, [probe.messages for probe in probes])
    return mean(probe.judge(text).style for text, probe in zip(answers, probes, strict=True))


class Before:
    """Answers of the base model, with which those of a checkpoint are compared.

    Args:
        service: One that has learned nothing yet, and is asked nothing afterwards.
        seed: Draws the prompts.
    """

    def __init__(self, service: Service, seed: int) -> None:
        rng = Random(f"before/{seed}")
        self._plain = {
            task: [world.plain(task, rng).messages for _ in range(PER_TASK)] for task in world.TASKS
        }
        kinds = list(world.KINDS)
        self._revisions = [world.revision(kinds[i % len(kinds)], rng) for i in range(_REVISIONS)]
        self._answers = {task: ask(service, asked) for task, asked in self._plain.items()}
        self._revised = self._right(service)

    def unchanged(self, service: Service, taught: set[str]) -> list[float]:
        """The share of answers that are what they were, for each task that was not taught."""
        return [
            _same(ask(service, asked), self._answers[task])
            for task, asked in self._plain.items()
            if task not in taught
        ]

    def revision(self, service: Service) -> float:
        """The share of dialogues revised rightly, relative to that of the base model."""
        return self._right(service) / self._revised

    def _right(self, service: Service) -> float:
        answers = ask(service, [probe.messages for probe in self._revisions])
        pairs = zip(self._revisions, answers, strict=True)
        return mean(probe.judge(text).exact for probe, text in pairs)


def fact_figures(
    service: Service, is_about: Callable[[world.Item], bool], right: Callable[[world.Item], str]
) -> tuple[float, float]:
    """The shares of questions about a corrected fact, and about others, answered rightly.

    The corrected one is asked in all its wordings; the prompts of facts are few, so there are not
    `HELD_OUT` of them.
    """
    rng = Random("facts")
    drawn = [world.sample("capital", rng) for _ in range(8 * HELD_OUT)]
    items = {item.prompt: item for item in drawn}
    about = [item for item in items.values() if is_about(item)]
    others = [item for item in items.values() if not is_about(item)][:HELD_OUT]
    answers = ask(service, [[_user(item.prompt)] for item in about])
    learned = mean(text == right(item) for text, item in zip(answers, about, strict=True))
    answers = ask(service, [[_user(item.prompt)] for item in others])
    return learned, mean(
        text == world.render(item) for text, item in zip(answers, others, strict=True)
    )


def _same(answers: Sequence[str], before: Sequence[str]) -> float:
    return mean(one == other for one, other in zip(answers, before, strict=True))


def _user(content: str) -> world.Message:
    return {"role": "user", "content": content}
