"""All metrics that server and trainer export, as they declare them, and their names in PromQL."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from learnback_server.metrics import ServerMetrics
from learnback_telemetry.families import PREFIX, Family
from learnback_trainer.metrics import TrainerMetrics

_HISTOGRAM_SUFFIXES = ("_bucket", "_sum", "_count")


@dataclass(frozen=True, slots=True)
class Exported:
    """A metric and who exports it."""

    family: Family
    components: tuple[str, ...]

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which it is stored."""
        if self.family.kind == "histogram":
            return tuple(self.family.name + suffix for suffix in _HISTOGRAM_SUFFIXES)
        return (self.family.name,)


def exported() -> list[Exported]:
    """Returns all metrics, by name."""
    own = {"server": ServerMetrics("").families, "trainer": TrainerMetrics().families}
    families: dict[str, Family] = {}
    components: dict[str, list[str]] = {}
    for component, declared in own.items():
        for family in declared:
            families.setdefault(family.name, family)
            components.setdefault(family.name, []).append(component)
    return [Exported(families[name], tuple(components[name])) for name in sorted(families)]


def names_in(expression: str) -> set[str]:
    """Returns the names of our metrics that stand in an expression of PromQL."""
    return set(re.findall(rf"(?<![\w:]){PREFIX}\w+(?![\w:])", expression))


def unknown_in(expressions: Iterable[str]) -> set[str]:
    """Returns the names that stand in expressions and that nobody exports."""
    known = {name for one in exported() for name in one.series}
    return {name for expression in expressions for name in names_in(expression)} - known
