"""What people ask and what they want, drawn from the grammar of the embedded model.

All prompts are held out: the names in them were never trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from learnback_client.client import Client
from learnback_client.generation import Reply
from learnback_nano import world

TASK = "note"
"""The task whose answers are criticised."""
KIND = "emoji"
"""The kind of critique."""

_ANSWER_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, and how its answer is judged."""

    item: world.Item
    wanted: world.Style
    """The style that the answer should have."""

    @property
    def prompt(self) -> str:
        """What is asked."""
        return self.item.prompt

    def is_obeyed_by(self, answer: str) -> bool:
        """Whether an answer says the right thing in the style that is wanted."""
        return world.judge(answer, self.item, self.wanted).exact


def criticised(count: int, rng: Random, apart_from: Sequence[Question] = ()) -> list[Question]:
    """Returns questions of the criticised task, wanted as the critique asks."""
    seen = {one.prompt for one in apart_from}
    found: list[Question] = []
    while len(found) < count:
        item = world.sample(TASK, rng, "unseen")
        if item.prompt not in seen:
            seen.add(item.prompt)
            found.append(Question(item, world.apply(KIND, item)))
    return found


def others(count: int, rng: Random) -> list[Question]:
    """Returns questions of all other tasks, evenly, wanted in their default style."""
    tasks = [task for task in world.TASKS if task != TASK]
    items = [world.sample(tasks[index % len(tasks)], rng, "unseen") for index in range(count)]
    return [Question(item, item.default) for item in items]


def critique(rng: Random) -> str:
    """Returns the critique in the words of somebody."""
    return world.phrase(KIND, rng, "seen")


def ask(client: Client, question: Question) -> Reply:
    """Asks a question as it stands, with no critique beside it."""
    return client.generate(
        messages=[("user", question.prompt)], temperature=0, max_tokens=_ANSWER_TOKENS
    )
