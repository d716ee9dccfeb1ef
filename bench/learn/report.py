"""The report: every figure with its mean, its worst case, and whether the goal is met."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean

from bench.learn.measuring import Figure


@dataclass(frozen=True, slots=True)
class Goal:
    """What the mean of a figure, and its worst case, should reach."""

    mean: float
    worst: float = 0.0
    at_most: bool = False
    """Whether less is better."""

    def met(self, average: float, worst: float) -> bool:
        """Whether both are reached."""
        if self.at_most:
            return average <= self.mean
        return average >= self.mean and worst >= self.worst


_GOALS = {
    ("critiques", "other tasks"): Goal(0.995, 0.99),
    ("critiques", "revision"): Goal(0.98),
    ("correction", "learned, in other words"): Goal(0.95),
    ("correction", "other facts"): Goal(1.0),
    ("undo", "plain again"): Goal(0.95),
    ("two kinds", "both obeyed"): Goal(0.95),
    ("wrong critiques", "majority's wish"): Goal(0.95),
    ("poison", "poison learned"): Goal(0.0, at_most=True),
    ("poison", "honest learned"): Goal(1.0),
    ("poison", "content of the target"): Goal(0.99),
    ("ten in a row", "revision"): Goal(0.98),
    ("ten in a row", "other tasks"): Goal(0.995, 0.99),
}
_ONE_CRITIQUE, _MORE_CRITIQUES, _IN_A_ROW = Goal(0.95), Goal(0.99), Goal(0.98, 0.98)


def goal_of(figure: Figure) -> Goal | None:
    """Returns what is wanted of a figure; None if nothing is."""
    if figure.scenario == "critiques" and figure.name == "compliance":
        return _ONE_CRITIQUE if figure.setting == "1" else _MORE_CRITIQUES
    if figure.scenario == "ten in a row" and figure.name.endswith("as told"):
        return _IN_A_ROW
    return _GOALS.get((figure.scenario, figure.name))


def table(figures: Sequence[Figure]) -> str:
    """Returns a Markdown table, a line for each figure."""
    lines = [
        "| scenario | setting | figure | mean | worst | seeds | goal | met |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += list(_lines(figures))
    return "\n".join(lines) + "\n"


def _lines(figures: Sequence[Figure]) -> Iterator[str]:
    rows = dict.fromkeys((one.scenario, one.setting, one.name) for one in figures)
    for row in rows:
        found = [one for one in figures if (one.scenario, one.setting, one.name) == row]
        values = [one.value for one in found]
        goal = goal_of(found[0])
        less_is_better = (goal is not None and goal.at_most) or row[2].startswith("seconds")
        worst = max(values) if less_is_better else min(values)
        wanted, met = "", ""
        if goal:
            wanted = f"{'at most ' if goal.at_most else ''}{goal.mean:g}"
            met = "yes" if goal.met(mean(values), worst) else "**no**"
        yield (
            f"| {' | '.join(row)} | {mean(values):.3f} | {worst:.3f} | {len(values)} "
            f"| {wanted} | {met} |"
        )
