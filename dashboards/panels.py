"""How a dashboard is put together: rows of panels, each of some expressions of PromQL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef

# Three panels a row, of the 24 columns that Grafana has.
_SPAN, _HEIGHT = 8, 8
_SOURCE = DataSourceRef("prometheus", "$datasource")
RATE = "$__rate_interval"
_RANGE = "$__range"


@dataclass(frozen=True, slots=True)
class Line:
    """One expression, and what its series are called ({{label}} stands for a label)."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel over time."""

    title: str
    unit: str
    """One of Grafana's: "s", "short", "percentunit", "bytes", "reqps"."""
    lines: tuple[Line, ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Marks drawn through all panels: whenever a series of an expression begins."""

    name: str
    expression: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Page:
    """One dashboard."""

    uid: str
    title: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]
    events: tuple[Event, ...] = ()

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, in their order."""
        return tuple(panel for _, panels in self.rows for panel in panels)

    @property
    def expressions(self) -> tuple[str, ...]:
        """Everything that is asked of Prometheus."""
        lines = [line.expression for panel in self.panels for line in panel.lines]
        return (*lines, *(event.expression for event in self.events))

    def to_json(self) -> str:
        """Returns the dashboard as Grafana imports it."""
        board = dashboard.Dashboard(self.title).uid(self.uid).tags(["learnback"])
        board = board.time("now-6h", "now").refresh("30s").readonly().timezone("browser")
        board = board.with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
        for title, panels in self.rows:
            board = board.with_row(dashboard.Row(title))
            for panel in panels:
                board = board.with_panel(_drawn(panel))
        made = json.loads(JSONEncoder().encode(board.build()))
        if self.events:
            made["annotations"] = {"list": [_annotation(event) for event in self.events]}
        return json.dumps(made, indent=2, sort_keys=True) + "\n"


def quantiles(name: str, by: str = "", shares: Sequence[float] = (0.5, 0.95, 0.99)) -> list[Line]:
    """Returns the quantiles of a histogram."""
    labels = f"le, {by}" if by else "le"
    return [
        Line(
            f"histogram_quantile({share}, sum by ({labels}) (rate({name}_bucket[{RATE}])))",
            f"p{share * 100:g}" + (f" {{{{{by}}}}}" if by else ""),
        )
        for share in shares
    ]


def resolved(expression: str, rate: str, whole: str) -> str:
    """Returns an expression as Grafana sends it.

    Args:
        expression: With Grafana's variables.
        rate: The window of rates.
        whole: The time that is looked at.
    """
    return expression.replace(RATE, rate).replace(_RANGE, whole)


def _drawn(panel: Panel) -> timeseries.Panel:
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).show_legend(True)
    drawn = timeseries.Panel().title(panel.title).description(panel.text).unit(panel.unit)
    drawn = (
        drawn.span(_SPAN)
        .height(_HEIGHT)
        .datasource(_SOURCE)
        .legend(legend.placement(LegendPlacement.BOTTOM))
        .min(0)
    )
    for place, line in enumerate(panel.lines):
        query = prometheus.Dataquery().expr(line.expression).legend_format(line.legend)
        drawn = drawn.with_target(query.ref_id(chr(ord("A") + place)).exemplar(True))
    return drawn


def _annotation(event: Event) -> dict[str, Any]:
    # The SDK has not all that Grafana's Prometheus source takes here.
    return {
        "name": event.name,
        "datasource": {"type": "prometheus", "uid": "$datasource"},
        "enable": True,
        "iconColor": "purple",
        "expr": event.expression,
        "step": "60s",
        "titleFormat": event.title,
        "textFormat": event.text,
    }
