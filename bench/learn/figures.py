"""What was measured, and what was wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured share or number of seconds."""

    scenario: str
    setting: str
    name: str
    seed: int
    value: float


Naming = Callable[[str, float], Figure]
"""Makes a figure out of its name and value."""

Scenario = Callable[[int], Iterator[Figure]]
"""Measures with one seed."""


def naming(scenario: str, setting: str, seed: int) -> Naming:
    """Returns what names the figures of one setting."""
    return lambda name, value: Figure(scenario, setting, name, seed, value)


@dataclass(frozen=True, slots=True)
class Goal:
    """What the mean of a figure, and its worst case, should reach."""

    mean: float
    worst: float | None = None
    at_most: bool = False
    """Whether less is better."""

    def met(self, average: float, worst: float) -> bool:
        """Whether both are reached."""
        sign = -1 if self.at_most else 1
        bounds = [(average, self.mean)]
        if self.worst is not None:
            bounds.append((worst, self.worst))
        return all(sign * (value - bound) >= 0 for value, bound in bounds)

    def __str__(self) -> str:
        """The goal as the report says it."""
        least = "at most" if self.at_most else "at least"
        worst = "" if self.worst is None else f", worst {self.worst:g}"
        return f"{least} {self.mean:g}{worst}"


_KEPT = {
    "other tasks": Goal(0.995),
    "worst other task": Goal(0.99),
    "revision": Goal(0.98),
}
_HARMLESS = {
    "content lost": Goal(0.01, 0.01, at_most=True),
    "honest feedback learned": Goal(1.0),
    "honest wish": Goal(0.95),
}
_GOALS: dict[str, dict[str, Goal]] = {
    "critiques": {"compliance": Goal(0.99)} | _KEPT,
    "unseen phrasings": {"less than seen": Goal(0.05, at_most=True)},
    "correction": {"learned, in other words": Goal(0.95), "other facts": Goal(1.0)},
    "seconds": {"of training in it": Goal(20.0, 20.0, at_most=True)},
    "undo": {"plain again": Goal(0.95)},
    "two kinds": {"both obeyed": Goal(0.95)},
    "ten in a row": {"as told": Goal(0.98, 0.98)} | _KEPT,
    "wrong critiques": {"majority's wish": Goal(0.95)},
    "contradiction": {"content lost": Goal(0.01, 0.01, at_most=True)},
    "poison": _HARMLESS,
    "flood": _HARMLESS,
    "erasure": {
        "their wish": Goal(0.05, at_most=True),
        "others' wish": Goal(0.95),
        "files with their words": Goal(0.0, 0.0, at_most=True),
    },
}
_ONE_CRITIQUE = Goal(0.95)


def less_is_better(figure: Figure) -> bool:
    """Whether the largest value of a figure is its worst: times, and what should not be learned."""
    goal = goal_of(figure)
    if goal is not None:
        return goal.at_most
    return figure.name.startswith(
        ("seconds", "of a whole round", "from question", "poison learned", "told as learned")
    )


def goal_of(figure: Figure) -> Goal | None:
    """Returns what is wanted of a figure; None if nothing is."""
    if (figure.setting, figure.name) == ("1 critique", "compliance"):
        return _ONE_CRITIQUE
    return _GOALS.get(figure.scenario, {}).get(figure.name)
