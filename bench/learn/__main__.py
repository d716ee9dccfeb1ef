"""Measures learning: `python -m bench.learn`, or `make bench-learn`.

Scenarios of all seeds are worked on by two processes, each of which runs a server and a trainer on
one thread. Figures are kept as they come, so that a run that is cut off leaves what it has;
`--kept` writes the page from them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

from bench.learn.attacks import contradiction, flood, outvoted, poison, wrong
from bench.learn.erasing import erasure
from bench.learn.figures import Figure, Scenario
from bench.learn.lessons import counts, fact, in_a_row, one_critique, phrasings, together, undo
from bench.learn.peers import peers
from bench.learn.plots import draw_counts, draw_peers
from bench.learn.report import table, write_page

# In the order of the report.
_SCENARIOS: tuple[Scenario, ...] = (
    *(counts, one_critique, phrasings, fact, undo, together, in_a_row),
    *(wrong, contradiction, poison, flood, outvoted, erasure, peers),
)
_BY_NAME = {scenario.__name__: scenario for scenario in _SCENARIOS}
# The longest ones begin first, so that none is left to run alone at the end.
_LONGEST = ("in_a_row", "counts", "poison", "erasure")


def _measure(name: str, seed: int) -> list[Figure]:
    return list(_BY_NAME[name](seed))


def measure(names: Iterable[str], seeds: Iterable[int], processes: int, kept: Path) -> bool:
    """Measures scenarios; what fails is told, and the others go on. Returns whether none did."""
    figures: list[Figure] = []
    began, whole = time.monotonic(), True
    ordered = sorted(names, key=lambda name: name not in _LONGEST)
    with ProcessPoolExecutor(processes, max_tasks_per_child=1) as pool:
        jobs = {
            pool.submit(_measure, name, seed): (name, seed) for name in ordered for seed in seeds
        }
        for job in as_completed(jobs):
            name, seed = jobs[job]
            told = f"{time.monotonic() - began:.0f} s: {name}, seed {seed}"
            if error := job.exception():
                sys.stderr.write(f"{told}, failed: {error!r}\n")
                whole = False
                continue
            figures += job.result()
            sys.stderr.write(f"{told}\n")
            kept.write_text(json.dumps([asdict(one) for one in figures], indent=1) + "\n")
    return whole


def _in_order(figures: Sequence[Figure]) -> list[Figure]:
    """As the report lists them; one scenario's are together, and its seeds side by side."""
    order = {name: place for place, name in enumerate(_TITLES)}
    return sorted(figures, key=lambda one: (order[one.scenario], one.setting))


_TITLES = (
    *("critiques", "unseen phrasings", "correction", "undo", "two kinds", "ten in a row"),
    *("wrong critiques", "contradiction", "poison", "flood", "erasure", "peers"),
)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=list(_BY_NAME), default=list(_BY_NAME))
    parser.add_argument("--figures", type=Path, default=Path("learning-figures.json"))
    parser.add_argument("--kept", action="store_true", help="measure nothing")
    parser.add_argument("--page", type=Path, help="report to write the table and pictures into")
    chosen = parser.parse_args()
    whole = chosen.kept or measure(chosen.only, chosen.seeds, chosen.processes, chosen.figures)
    figures = _in_order([Figure(**one) for one in json.loads(chosen.figures.read_text())])
    sys.stdout.write(table(figures))
    if chosen.page:
        write_page(chosen.page, figures)
        draw_counts(figures, chosen.page.with_name("learning-counts.png"))
        draw_peers(figures, chosen.page.with_name("learning-peers.png"))
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
