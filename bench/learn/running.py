"""Works through the scenarios of all seeds, in a few processes of its own."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

from bench.learn.attacks import contradiction, flood, outvoted, poison, wrong
from bench.learn.erasing import erasure
from bench.learn.figures import Figure, Scenario
from bench.learn.lessons import (
    counts,
    fact,
    in_a_row,
    one_critique,
    seconds,
    together,
    undo,
)
from bench.learn.peers import peers

_ALL: tuple[Scenario, ...] = (
    *(counts, one_critique, fact, undo, together, in_a_row),
    *(wrong, contradiction, poison, flood, outvoted, erasure, peers, seconds),
)
SCENARIOS = {scenario.__name__: scenario for scenario in _ALL}
# The row of the first seed comes when all others are through, and has all cores: it is timed.
_ROW, _TIMED_ROW = "in_a_row", "seconds"
# These begin first with every seed, in this order, so that none is left to run alone at the end.
_LONGEST = (
    *(_ROW, "counts", "poison", "peers", "erasure"),
    *("one_critique", "wrong", "undo", "together"),
)


def measure(names: Iterable[str], seeds: Iterable[int], processes: int, kept: Path) -> bool:
    """Measures scenarios; what fails is told, and the others go on.

    Args:
        names: Which.
        seeds: Each scenario is measured with each; the row of the first is the one that is timed.
        processes: How many work at once, with as many cores each as that leaves.
        kept: Where the figures are written, after each scenario anew.

    Returns:
        Whether none failed.
    """
    names, seeds, figures = set(names), list(seeds), list[Figure]()
    rest = sorted(names - {_TIMED_ROW, *_LONGEST})
    ordered = [name for name in _LONGEST if name in names] + rest
    asked = [(name, seed) for seed in seeds for name in ordered]
    if _TIMED_ROW not in names:
        return _measure(asked, processes, kept, figures)
    beside = [one for one in asked if one != (_ROW, seeds[0])]
    whole = _measure(beside, processes, kept, figures)
    return _measure([(_TIMED_ROW, seeds[0])], 1, kept, figures) and whole


def _measure(
    asked: list[tuple[str, int]], processes: int, kept: Path, figures: list[Figure]
) -> bool:
    began, whole = time.monotonic(), True
    # Read by services, and by torch, in processes to come.
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // processes))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(_figures, *one): one for one in asked}
        for job in as_completed(jobs):
            told = "{:.0f} s: {}, seed {}".format(time.monotonic() - began, *jobs[job])
            if error := job.exception():
                sys.stderr.write(f"{told}, failed: {error!r}\n")
                whole = False
                continue
            figures += job.result()
            sys.stderr.write(f"{told}\n")
            kept.write_text(json.dumps([asdict(one) for one in figures], indent=1) + "\n")
    return whole


def read_figures(kept: Path) -> list[Figure]:
    """Returns what was measured, in the order of the seeds."""
    figures = [Figure(**one) for one in json.loads(kept.read_text(encoding="utf-8"))]
    return sorted(figures, key=lambda one: one.seed)


def _figures(name: str, seed: int) -> list[Figure]:
    return list(SCENARIOS[name](seed))
