"""Computes beside the engine, on threads that end with their work.

Each thread on which torch computes in parallel gets helpers of its own (an OpenMP team), and keeps
them as long as it lives. As soon as a process has more of them than cores, GNU's OpenMP has helpers
sleep where they else wait awake, and a step wakes them hundreds of times: a prompt then takes twice
as long, a token a quarter longer (0.6B shape, two cores, `docs/log.md`). So what loads, merges and
records leaves no helpers behind; only the engine's thread keeps its own.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def aside(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Does the work on a thread of its own and waits for it; returns or raises what it does."""
    with ThreadPoolExecutor(1, "aside") as passing:
        return passing.submit(work, *args, **kwargs).result()
