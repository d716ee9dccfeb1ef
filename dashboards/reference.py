"""`docs/metrics.md`: the table of all metrics."""

from __future__ import annotations

from itertools import groupby

from dashboards.exported import Exported, exported
from learnback_telemetry.families import PREFIX

# By the end of the name, as Prometheus recommends it; the first that fits.
_UNITS = (
    ("_timestamp_seconds", "seconds since 1970"),
    ("_seconds", "seconds"),
    ("_bytes", "bytes"),
    ("_nats", "nats a token"),
    ("_perc", "share of 1"),
    ("_ratio", "share of 1"),
    ("tokens_total", "tokens"),
    ("_info", ""),
    ("_up", "0 or 1"),
    ("_ok", "0 or 1"),
    ("_enabled", "0 or 1"),
    ("", "number"),
)

_HEAD = f"""\
# Metrics

Made from the code by `make dashboards`; do not edit.

`--metrics-listen HOST:PORT` (server and trainer, off by default) serves these to Prometheus, with
those of the process (`process_*`) that prometheus-client adds. Names are vLLM's where it has such a
metric, with `{PREFIX}` for `vllm:`; [rules/vllm.yaml](../rules/vllm.yaml) gives vLLM's own names.

Exemplars (OpenMetrics) bear the `trace_id` of a call, where there is a trace: start Prometheus with
`--enable-feature=exemplar-storage`. Figures of the queue and of Redis come from server and trainer
alike: take the highest, not the sum.
"""


def document() -> str:
    """Returns the text of the document."""
    parts = [_HEAD]
    everything = sorted(exported(), key=lambda one: one.components)
    for components, own in groupby(everything, key=lambda one: one.components):
        parts += [_title(components), _table(list(own))]
    parts += ["## Buckets", _buckets(everything)]
    return "\n".join(parts)


def _title(components: tuple[str, ...]) -> str:
    return f"## {' and '.join(components).capitalize()}\n"


def _table(metrics: list[Exported]) -> str:
    rows = ["| name | type | unit | labels | |", "|---|---|---|---|---|"]
    for one in metrics:
        family = one.family
        labels = ", ".join(f"`{label}`" for label in family.labels)
        text = family.help.replace("|", "\\|")
        unit = next(unit for end, unit in _UNITS if family.name.endswith(end))
        rows.append(f"| `{family.name}` | {family.kind} | {unit} | {labels} | {text} |")
    return "\n".join(rows) + "\n"


def _buckets(metrics: list[Exported]) -> str:
    """The upper bounds of histograms, those that share them together; each ends with +Inf."""
    rows = ["", "Upper bounds of the histograms, in seconds; above them comes `+Inf`.", ""]
    alike: dict[tuple[float, ...], list[str]] = {}
    for one in metrics:
        if one.family.buckets:
            alike.setdefault(one.family.buckets, []).append(f"`{one.family.name}`")
    for bounds, names in alike.items():
        rows.append(f"- {', '.join(names)}: {', '.join(f'{bound:g}' for bound in bounds)}")
    return "\n".join(rows) + "\n"
