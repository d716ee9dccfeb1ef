"""Measures learning: `python -m bench.learn`, or `make bench-learn`.

Scenarios of all seeds are worked on by two processes, each of which runs a server and a trainer on
one thread. Figures are kept as they come, so that a run that is cut off leaves what it has.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

from bench.learn.measuring import Figure
from bench.learn.plots import draw_counts
from bench.learn.report import table
from bench.learn.scenarios import SCENARIOS

_DOCS = Path(__file__).parents[2] / "docs"
_MARKS = ("<!-- figures -->\n", "<!-- end of figures -->")


def _measure(name: str, seed: int) -> list[Figure]:
    return list(SCENARIOS[name](seed))


def measure(names: Sequence[str], seeds: int, processes: int, kept: Path) -> list[Figure]:
    """Measures scenarios; what fails is told, and the others go on."""
    figures: list[Figure] = []
    began = time.monotonic()
    with ProcessPoolExecutor(processes, max_tasks_per_child=1) as pool:
        jobs = {
            pool.submit(_measure, name, seed): (name, seed)
            for seed in range(seeds)
            for name in names
        }
        for job in as_completed(jobs):
            name, seed = jobs[job]
            took = f"{time.monotonic() - began:.0f} s"
            if error := job.exception():
                sys.stderr.write(f"{took}: {name}, seed {seed}, failed: {error!r}\n")
                continue
            figures += job.result()
            sys.stderr.write(f"{took}: {name}, seed {seed}\n")
            kept.write_text(json.dumps([asdict(one) for one in figures], indent=1) + "\n")
    return figures


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--figures", type=Path, default=Path("learning-figures.json"))
    parser.add_argument("--page", type=Path, help="report to write the table and plot into")
    chosen = parser.parse_args()
    figures = measure(chosen.only, chosen.seeds, chosen.processes, chosen.figures)
    figures.sort(key=lambda one: list(_order(figures)).index(one.scenario))
    sys.stdout.write(table(figures))
    if chosen.page:
        before, rest = chosen.page.read_text(encoding="utf-8").split(_MARKS[0])
        after = rest.split(_MARKS[1])[1]
        page = before + _MARKS[0] + table(figures) + _MARKS[1] + after
        chosen.page.write_text(page, encoding="utf-8")
        draw_counts(figures, chosen.page.with_name("learning-counts.png"))
    return 0 if figures else 1


def _order(figures: Sequence[Figure]) -> dict[str, None]:
    return dict.fromkeys(one.scenario for one in figures)


if __name__ == "__main__":
    sys.exit(main())
