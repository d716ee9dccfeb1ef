"""Draws a dashboard from what Prometheus stored: `python -m dashboards.draw learning URL FILE`.

The same expressions that Grafana would send, over the last minutes, as a picture for documents.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from dashboards.pages import PAGES
from dashboards.panels import Line, Page, Panel, resolved

_COLUMNS = 3
_POINTS = 240
_RATE_SECONDS = 15
"""Window of rates: some scrapes of a run that takes minutes."""
_AXES = {"s": "seconds", "percentunit": "share of 1", "bytes": "bytes", "reqps": "a second"}

Series = dict[str, list[tuple[float, float]]]
"""Points of time (seconds since 1970) and value, by legend."""


def ask(url: str, path: str, **parameters: str) -> Any:
    """Returns what Prometheus answers to a query.

    Args:
        url: http://HOST:PORT of Prometheus.
        path: Such as "query_range".
        parameters: Of the query.

    Raises:
        urllib.error.HTTPError: It refuses the query.
    """
    query = urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(f"{url}/api/v1/{path}?{query}") as reply:  # noqa: S310
        return json.load(reply)["data"]


def stored(url: str, panel: Panel, seconds: float) -> Series:
    """Returns what a panel shows of the last seconds."""
    end = time.time()
    step = str(max(1, round(seconds / _POINTS)))
    found: Series = {}
    for line in panel.lines:
        expression = resolved(line.expression, f"{_RATE_SECONDS}s", f"{seconds:.0f}s")
        window = {"start": str(end - seconds), "end": str(end), "step": step}
        for one in ask(url, "query_range", query=expression, **window)["result"]:
            legend = _named(line, one["metric"])
            points = [(at, float(value)) for at, value in one["values"]]
            found[legend] = [(at, value) for at, value in points if value == value]
    return {legend: points for legend, points in found.items() if points}


def _named(line: Line, labels: dict[str, str]) -> str:
    """The legend of a series."""
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), line.legend)


def draw(url: str, page: Page, seconds: float, file: Path) -> int:
    """Draws a dashboard; returns how many of its panels show anything."""
    from matplotlib.figure import Figure

    panels = page.panels
    rows = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(5 * _COLUMNS, 2.8 * rows), layout="constrained")
    begins = _begins(url, page, seconds)
    full, now = 0, time.time()
    for place, panel in enumerate(panels, 1):
        axes = figure.add_subplot(rows, _COLUMNS, place)
        axes.set_title(panel.title, fontsize=10)
        axes.set_ylabel(_AXES.get(panel.unit, ""), fontsize=8)
        series = stored(url, panel, seconds)
        full += bool(series)
        for legend, points in sorted(series.items()):
            axes.plot([at - now for at, _ in points], [value for _, value in points], label=legend)
        if series:
            axes.legend(fontsize=7)
        for at in begins:
            axes.axvline(at - now, color="purple", linewidth=0.8, linestyle=":")
        axes.set_xlim(-seconds, 0)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=7)
    figure.suptitle(f"{page.title} (seconds before now; dotted: a checkpoint becomes live)")
    figure.savefig(file, dpi=80)
    return full


def _begins(url: str, page: Page, seconds: float) -> list[float]:
    """When the events of a dashboard began."""
    found = []
    for event in page.events:
        end = time.time()
        window = {"start": str(end - seconds), "end": str(end), "step": "1"}
        answer = ask(url, "query_range", query=event.expression, **window)
        found += [one["values"][0][0] for one in answer["result"]]
    return found


def main() -> None:
    """Draws what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m dashboards.draw", description=__doc__)
    parser.add_argument("page", choices=sorted(PAGES))
    parser.add_argument("url", help="http://HOST:PORT of Prometheus")
    parser.add_argument("file", type=Path, help="picture to write, .png or .svg")
    parser.add_argument("--seconds", type=float, default=600.0, help="how far back to look")
    arguments = parser.parse_args()
    draw(arguments.url, PAGES[arguments.page], arguments.seconds, arguments.file)


if __name__ == "__main__":
    main()
