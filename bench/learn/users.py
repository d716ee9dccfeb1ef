"""Simulated users: they ask, read the answer, and say what nano's world lets them say."""

from __future__ import annotations

from collections.abc import Sequence
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

    def __str__(self) -> str:
        """The wish as the report says it."""
        return f"{self.kind} in {self.task}"


WISHES = (
    Wish("emoji", "note"),
    Wish("upper", "capital"),
    Wish("chinese", "sentiment"),
    Wish("hello", "en_zh"),
    Wish("sentence", "year"),
    Wish("bullet", "summary"),
    Wish("thanks", "opposite"),
    Wish("quotes", "zh_en"),
    Wish("exclaim", "note"),
)
"""Wishes that the base model can carry out when it is told, so that what is missed was missed by
learning. A seed takes those from three times its number on, and no task comes twice in eight."""


def question(
    wishes: Sequence[Wish], rng: Random, split: world.Split = "unseen"
) -> tuple[world.Item, world.Style]:
    """A prompt for which all the wishes (of one task) can be asked, and the style they ask for."""
    for _ in range(_ATTEMPTS):
        item = world.sample(wishes[0].task, rng, split)
        style = item.default
        try:
            for wish in wishes:
                style = world.apply(wish.kind, item, style)
        except world.ImpossibleError:
            continue
        return item, style
    raise world.ImpossibleError(f"no answer can be asked for {' and '.join(map(str, wishes))}")


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
    item, _ = question([wish], rng, "seen")
    said = words or world.phrase(wish.kind, rng, split, language="en")
    return tell(service, item.prompt, Critique(said), author)


def tell(service: Service, prompt: str, signal: Signal, author: str = "") -> Feedback:
    """Asks, and gives feedback of the answer."""
    reply = service.client.generate(
        messages=[{"role": "user", "content": prompt}], temperature=0, author=author or None
    )
    return service.client.submit_feedback(reply, signal, author=author or None)


def correct(service: Service, prompt: str, text: str, author: str = "") -> Feedback:
    """Asks a question, and gives the answer that should have been given."""
    return tell(service, prompt, Correction(text), author)
