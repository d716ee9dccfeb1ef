"""Pictures of the figures: compliance by number of critiques, and every share beside its goal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import matplotlib as mpl

from bench.learn.measuring import Figure

mpl.use("Agg")
from matplotlib import pyplot as plt  # after the backend is chosen

_NAMES = ("compliance", "other tasks", "revision")


def draw_counts(figures: Sequence[Figure], file: Path) -> None:
    """Draws what critiques bring and cost, by their number: means, with each seed as a point."""
    ours = [one for one in figures if one.scenario == "critiques" and one.name in _NAMES]
    canvas, axes = plt.subplots(figsize=(6, 3.6), dpi=100)
    for name in _NAMES:
        found = [one for one in ours if one.name == name]
        settings = sorted({int(one.setting) for one in found})
        means = [mean(o.value for o in found if int(o.setting) == n) for n in settings]
        line = axes.plot(settings, means, marker="o", label=name)[0]
        axes.scatter(
            [int(one.setting) for one in found],
            [one.value for one in found],
            s=12,
            alpha=0.5,
            color=line.get_color(),
        )
    axes.set(xscale="log", xlabel="critiques", ylabel="share", ylim=(0, 1.05))
    axes.set_xticks([1, 2, 4, 8, 16], labels=["1", "2", "4", "8", "16"])
    axes.legend()
    canvas.tight_layout()
    canvas.savefig(file)
    plt.close(canvas)
