"""The report: every figure with its mean, its worst case, and whether the goal is met."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

from bench.learn.figures import Figure, goal_of, less_is_better

# In the order of the page.
_SCENARIOS = (
    *("critiques", "unseen phrasings", "correction", "undo", "two kinds", "ten in a row"),
    *("wrong critiques", "contradiction", "poison", "flood", "erasure", "seconds", "peers"),
)
_MARKS = ("<!-- figures -->\n", "<!-- end of figures -->\n")


def table(figures: Sequence[Figure]) -> str:
    """Returns a Markdown table, a line for each figure."""
    lines = [
        "| scenario | setting | figure | mean | worst | n | goal | met |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *_lines(figures)]) + "\n"


def write_page(page: Path, figures: Sequence[Figure]) -> None:
    """Puts the table between the marks of a page, and leaves the rest of it alone."""
    before, rest = page.read_text(encoding="utf-8").split(_MARKS[0])
    after = rest.split(_MARKS[1])[1]
    page.write_text(f"{before}{_MARKS[0]}{table(figures)}{_MARKS[1]}{after}", encoding="utf-8")


def _lines(figures: Sequence[Figure]) -> Iterator[str]:
    ordered = sorted(figures, key=_place)
    for row in dict.fromkeys((one.scenario, one.setting, one.name) for one in ordered):
        found = [one for one in figures if (one.scenario, one.setting, one.name) == row]
        values, goal = [one.value for one in found], goal_of(found[0])
        worst = max(values) if less_is_better(found[0]) else min(values)
        met = "" if goal is None else "yes" if goal.met(mean(values), worst) else "**no**"
        yield (
            f"| {' | '.join(row)} | {mean(values):.3f} | {worst:.3f} | {len(values)} "
            f"| {goal or ''} | {met} |"
        )


def _place(figure: Figure) -> tuple[int, int, str]:
    """Where it stands on the page; what begins with a number goes by that."""
    number = figure.setting.split()[0]
    scenario = _SCENARIOS.index(figure.scenario)
    return scenario, int(number) if number.isdigit() else 0, figure.setting
