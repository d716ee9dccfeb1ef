"""Pictures of the figures: compliance by number of critiques, and what it costs beside peers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import matplotlib as mpl

from bench.learn.figures import Figure

mpl.use("Agg")
from matplotlib import pyplot as plt  # after the backend is chosen
from matplotlib.figure import Figure as Canvas

_OURS = "learnback"
_COST = ("other tasks", "worst other task", "revision")


def draw_counts(figures: Sequence[Figure], file: Path) -> None:
    """Draws what critiques bring and cost, by their number: means, with each seed as a point.

    Nothing is drawn of a run that measured none of it; so does `draw_peers`.
    """
    ours = [one for one in figures if one.scenario == "critiques"]
    if not ours:
        return
    canvas, axes = plt.subplots(figsize=(6, 3.6), dpi=100)
    for name in ("compliance", "other tasks", "revision"):
        found = [(_count(one), one.value) for one in ours if one.name == name]
        counts = sorted({count for count, _ in found})
        means = [mean(value for count, value in found if count == one) for one in counts]
        line = axes.plot(counts, means, marker="o", label=name)[0]
        axes.scatter(
            [count for count, _ in found],
            [value for _, value in found],
            s=12,
            alpha=0.5,
            color=line.get_color(),
        )
        axes.set_xticks(counts, labels=[str(one) for one in counts])
    axes.set(xlabel="critiques", ylabel="share", ylim=(0, 1.05))
    axes.legend(loc="lower right")
    _save(canvas, file)


def draw_peers(figures: Sequence[Figure], file: Path) -> None:
    """Draws compliance against what became of everything else, for learnback and its peers."""
    points = [
        (_OURS, one) for one in figures if one.scenario == "critiques" and one.setting in _SHOWN
    ]
    points += [(one.setting.split(",")[0], one) for one in figures if one.scenario == "peers"]
    names = [one for one in dict.fromkeys(name for name, _ in points) if one != "base"]
    if not names:
        return
    canvas, axes = plt.subplots(figsize=(6, 3.6), dpi=100)
    bars = ("compliance", *_COST)
    for place, name in enumerate(names):
        found = [[o.value for who, o in points if who == name and o.name == bar] for bar in bars]
        heights = [mean(values) if values else 0.0 for values in found]
        left = [index + 0.8 * place / len(names) for index in range(len(bars))]
        axes.bar(left, heights, width=0.8 / len(names), align="edge", label=name)
    axes.set_xticks([index + 0.4 for index in range(len(bars))], labels=bars)
    axes.set(ylabel="share", ylim=(0, 1.05))
    axes.legend(fontsize="small", loc="lower left")
    _save(canvas, file)


_SHOWN = ("1 critique", "8 critiques")


def _count(figure: Figure) -> int:
    return int(figure.setting.split()[0])


def _save(canvas: Canvas, file: Path) -> None:
    canvas.tight_layout()
    canvas.savefig(file)
    plt.close(canvas)
