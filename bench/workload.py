"""What is asked in a measurement: the same prompts and answer lengths of every contender."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Task:
    """One request: greedy, and exactly `new_tokens` long (the end-of-sequence token is ignored)."""

    prompt_ids: tuple[int, ...]
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests that `streams` callers work off, each sending its next when one is answered."""

    streams: int
    tasks: tuple[Task, ...]

    @property
    def new_tokens(self) -> int:
        """Tokens to generate, over all requests."""
        return sum(task.new_tokens for task in self.tasks)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Ranges of lengths, in tokens, both ends included."""

    prompt: tuple[int, int]
    answer: tuple[int, int]


def make_workload(
    streams: int, requests: int, lengths: Lengths, vocab_size: int, seed: int
) -> Workload:
    """Draws a workload of so many requests."""
    tasks = draw_tasks(lengths, vocab_size, seed)
    return Workload(streams, tuple(itertools.islice(tasks, requests)))


def draw_tasks(lengths: Lengths, vocab_size: int, seed: int) -> Iterator[Task]:
    """Draws random prompts: no two begin alike, so that a prefix cache helps nobody."""
    source = random.Random(seed)
    while True:
        prompt = tuple(source.randrange(vocab_size) for _ in range(source.randint(*lengths.prompt)))
        yield Task(prompt, source.randint(*lengths.answer))
