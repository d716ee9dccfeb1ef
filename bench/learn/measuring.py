"""What a checkpoint does on prompts that nobody taught, asked through the client.

Prompts are drawn from the side of the world's split that no training ever saw: not the base model's
own, nor the trainer's practice. The exceptions are capitals, years and opposites, of which there
are so few that the base model knows them all; the trainer may have practised on them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from statistics import mean

from bench.learn.figures import Figure, Naming
from bench.learn.service import Service
from bench.learn.users import Wish, question
from learnback_nano import world

HELD_OUT = 100
"""Prompts of one figure, and of each other task, unless more are asked for."""
_REVISIONS = 104
"""Dialogues of one figure, likewise: of each kind as many."""
_STREAMS = 32
_MAX_TOKENS = 64
_BASE = "base"

Dialogue = Sequence[world.Message]


def ask(service: Service, dialogues: Sequence[Dialogue], checkpoint: str = "live") -> list[str]:
    """Greedy answers of a checkpoint; the base model, who stays the same, is asked only once."""
    if checkpoint == _BASE:
        new = [one for one in dialogues if _key(one) not in _of_base]
        _of_base.update(zip(map(_key, new), _asked(service, new, _BASE), strict=True))
        return [_of_base[_key(one)] for one in dialogues]
    return _asked(service, dialogues, checkpoint)


_of_base: dict[str, str] = {}
"""What the base model answers, by dialogue."""


def _key(dialogue: Dialogue) -> str:
    return json.dumps(list(dialogue))


def _asked(service: Service, dialogues: Sequence[Dialogue], checkpoint: str) -> list[str]:
    def one(dialogue: Dialogue) -> str:
        reply = service.client.generate(
            messages=list(dialogue),
            temperature=0,
            max_tokens=_MAX_TOKENS,
            checkpoint=checkpoint,
        )
        return reply.text

    with ThreadPoolExecutor(_STREAMS) as pool:
        return list(pool.map(one, dialogues))


def probes(
    wishes: Sequence[Wish], seed: int, times: int = 1
) -> list[tuple[world.Item, world.Style]]:
    """Held-out prompts of the wishes' task, with the style that all of them together ask for."""
    rng = Random(f"held out/{seed}")
    return [question(wishes, rng) for _ in range(times * HELD_OUT)]


def compliance(
    service: Service,
    wishes: Sequence[Wish],
    seed: int,
    checkpoint: str = "live",
    before: Dialogue = (),
    times: int = 1,
) -> float:
    """The share of held-out answers in the style that all the wishes (of one task) ask for.

    Args:
        service: Who is asked.
        wishes: What is wanted.
        seed: Draws the prompts.
        checkpoint: Which answers.
        before: Messages that stand before each prompt.
        times: How many times as many prompts as otherwise.
    """
    found = probes(wishes, seed, times)
    answers = ask(service, [[*before, user(item.prompt)] for item, _ in found], checkpoint)
    pairs = zip(answers, found, strict=True)
    return mean(world.judge(text, item, style).style for text, (item, style) in pairs)


def plainness(service: Service, task: str, seed: int) -> float:
    """The share of held-out answers of a task in the style that is the task's own."""
    rng = Random(f"plain/{seed}")
    asked = [world.plain(task, rng) for _ in range(HELD_OUT)]
    answers = ask(service, [probe.messages for probe in asked])
    return mean(probe.judge(text).style for text, probe in zip(answers, asked, strict=True))


def content_lost(service: Service, task: str, seed: int) -> float:
    """How many answers fewer say the right thing, however they say it, than the base model's."""
    rng = Random(f"content/{seed}")
    items = [world.sample(task, rng) for _ in range(HELD_OUT)]
    dialogues = [[user(item.prompt)] for item in items]
    right = {
        name: mean(
            world.judge(text, item).content
            for text, item in zip(ask(service, dialogues, name), items, strict=True)
        )
        for name in (_BASE, "live")
    }
    return right[_BASE] - right["live"]


def kept(
    named: Naming, service: Service, taught: set[str], seed: int, times: int = 1
) -> Iterator[Figure]:
    """Figures of what should not have changed.

    The share of answers to other tasks that are the base model's to the letter, and the share of
    criticised answers that are revised rightly, beside the base model's share.
    """
    rng = Random(f"kept/{seed}")
    same = []
    for task in world.TASKS:
        asked = [world.plain(task, rng).messages for _ in range(times * HELD_OUT)]
        if task not in taught:
            pairs = zip(ask(service, asked), ask(service, asked, _BASE), strict=True)
            same.append(mean(one == other for one, other in pairs))
    if same:
        yield named("other tasks", mean(same))
        yield named("worst other task", min(same))
    rng, kinds = Random(f"revised/{seed}"), list(world.KINDS)
    criticised = [world.revision(kinds[i % len(kinds)], rng) for i in range(times * _REVISIONS)]
    live, base = (_right(service, criticised, name) for name in ("live", _BASE))
    yield named("revision", live / base)


def _right(service: Service, asked: Sequence[world.Probe], checkpoint: str) -> float:
    answers = ask(service, [probe.messages for probe in asked], checkpoint)
    return mean(probe.judge(text).exact for probe, text in zip(asked, answers, strict=True))


def capitals(service: Service, named: Naming, corrected: dict[str, str]) -> Iterator[Figure]:
    """Figures of facts, asked in all wordings.

    Args:
        service: Who is asked.
        named: Names the figures.
        corrected: The right answer, by country.
    """
    rng = Random("capitals")
    prompts = list(dict.fromkeys(world.sample("capital", rng).prompt for _ in range(8 * HELD_OUT)))
    about = {one: right for one in prompts for name, right in corrected.items() if name in one}
    others = [one for one in prompts if one not in about]
    answers = ask(service, [[user(one)] for one in about])
    yield named(
        "learned, in other words",
        mean(text == right for text, right in zip(answers, about.values(), strict=True)),
    )
    asked = [[user(one)] for one in others]
    pairs = zip(ask(service, asked), ask(service, asked, _BASE), strict=True)
    yield named("other facts", mean(one == other for one, other in pairs))


def user(content: str) -> world.Message:
    """What a user says."""
    return {"role": "user", "content": content}
