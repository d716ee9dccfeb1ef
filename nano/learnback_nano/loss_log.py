"""The loss of each step, kept in a file, and drawn."""

import csv
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # no screen is needed
from matplotlib import pyplot as plt

_WINDOW = 50


class LossLog:
    """The loss of each step, in a file and as a picture."""

    def __init__(self, file: Path, first_step: int) -> None:
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        old = _read_losses(file) if file.exists() else {}
        kept = {step: loss for step, loss in old.items() if step < first_step}
        self._began = min(kept, default=first_step)
        self._losses = list(kept.values())
        with file.open("w", newline="") as sink:
            csv.writer(sink).writerows(kept.items())

    @property
    def recent(self) -> float:
        """The mean of the last hundred steps."""
        last = self._losses[-100:]
        return sum(last) / max(len(last), 1)

    def add(self, step: int, loss: float) -> None:
        """Note one step."""
        self._losses.append(loss)
        with self._file.open("a", newline="") as sink:
            csv.writer(sink).writerow((step, f"{loss:.5f}"))

    def plot(self, picture: Path) -> None:
        """Draw the curve, smoothed over fifty steps, on a logarithmic scale."""
        starts = range(0, len(self._losses) - _WINDOW, _WINDOW)
        smooth = [sum(self._losses[n : n + _WINDOW]) / _WINDOW for n in starts]
        figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
        axes.semilogy([self._began + start for start in starts], smooth)
        axes.set(xlabel="step", ylabel="weighted cross-entropy", title="nano: training loss")
        axes.grid(visible=True, alpha=0.3)
        figure.savefig(picture, dpi=120)


def _read_losses(file: Path) -> dict[int, float]:
    with file.open(newline="") as source:
        return {int(step): float(loss) for step, loss in csv.reader(source)}
