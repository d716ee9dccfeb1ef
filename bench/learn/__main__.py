"""Measures learning: `python -m bench.learn`, or `make bench-learn`.

Two scenarios are worked on at once, each with a server and a trainer on one of two cores, but for
one row of ten rounds, which comes last, alone, and is timed. Figures are kept as they come, so that
a run that is cut off leaves what it has; `--kept` writes the page from them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.learn.plots import draw_counts, draw_peers
from bench.learn.report import table, write_page
from bench.learn.running import SCENARIOS, measure, read_figures


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--figures", type=Path, default=Path("learning-figures.json"))
    parser.add_argument("--kept", action="store_true", help="measure nothing")
    parser.add_argument("--page", type=Path, help="report to write the table and pictures into")
    chosen = parser.parse_args()
    if chosen.kept and not chosen.figures.exists():
        parser.error(f"{chosen.figures} is not there; without --kept it is measured and written")
    whole = chosen.kept or measure(chosen.only, chosen.seeds, chosen.processes, chosen.figures)
    figures = read_figures(chosen.figures)
    sys.stdout.write(table(figures))
    if chosen.page:
        write_page(chosen.page, figures)
        draw_counts(figures, chosen.page.with_name("learning-counts.png"))
        draw_peers(figures, chosen.page.with_name("learning-peers.png"))
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
