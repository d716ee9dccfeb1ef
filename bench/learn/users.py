"""Simulated users: they ask, read the answer, and say what nano's world lets them say."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from bench.learn.service import Service
from learnback_client.feedback import Feedback
from learnback_client.signals import Correction, Critique, Signal
from learnback_nano import world

_ATTEMPTS = 400


@dataclass(frozen=True, slots=True)
class Wish:
    """A kind of critique about the answers to one task."""

    kind: str
    task: str


def question(wish: Wish, rng: Random, split: world.Split) -> tuple[world.Item, world.Style]:
    """A prompt of the wish's task for which it can be asked, and the style that it asks for."""
    for _ in range(_ATTEMPTS):
        item = world.sample(wish.task, rng, split)
        try:
            return item, world.apply(wish.kind, item)
        except world.ImpossibleError:
            continue
    raise world.ImpossibleError(f"no answer of {wish.task!r} can be asked for {wish.kind!r}")


def criticise(
    service: Service,
    wish: Wish,
    rng: Random,
    *,
    split: world.Split = "seen",
    words: str = "",
    author: str = "",
) -> Feedback:
    """Asks a question of the wish's task, and says the wish of the answer."""
    item, _ = question(wish, rng, "seen")
    said = words or world.phrase(wish.kind, rng, split, language="en")
    return tell(service, item.prompt, Critique(said), author)


def correct(service: Service, prompt: str, text: str, author: str = "") -> Feedback:
    """Asks a question, and gives the answer that should have been given."""
    return tell(service, prompt, Correction(text), author)


def tell(service: Service, prompt: str, signal: Signal, author: str = "") -> Feedback:
    """Asks, and gives feedback of the answer."""
    message = {"role": "user", "content": prompt}
    reply = service.client.generate(messages=[message], temperature=0)
    return service.client.submit_feedback(reply, signal, author=author or None)
