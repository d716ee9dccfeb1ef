"""Metrics as they are declared: a registry of the process's own that knows what it will export.

prometheus-client knows the labels of a family only once a sample has been taken. `docs/metrics.md`
and the checks of rules and dashboards need them before that, so declarations are kept here.

One process, one registry: the multiprocess mode of prometheus-client would lose exemplars.
"""

from __future__ import annotations

import importlib.metadata
import platform
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

PREFIX = "learnback_"
BUILD_INFO = f"{PREFIX}build_info"
# What answers and lessons are computed with, so that a dashboard tells one build from another.
_LIBRARIES = ("torch", "transformers")

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric, as it is scraped."""

    name: str
    """With the prefix, and with `_total` if it counts."""
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram."""


Reading = tuple[Family, tuple[str, ...], float]
"""A family, the values of its labels, and its value now."""


class Families:
    """All metrics of a process.

    Args:
        component: What the process is: "server" or "trainer".
    """

    def __init__(self, component: str) -> None:
        self.registry = CollectorRegistry()
        self._declared: dict[str, Family] = {}
        ProcessCollector(registry=self.registry)
        build = self.gauge(
            BUILD_INFO,
            "1, with what runs here as labels.",
            "component", "version", "python", *_LIBRARIES,
        )  # fmt: skip
        versions = [importlib.metadata.version(name) for name in ("learnback", *_LIBRARIES)]
        build.labels(component, versions[0], platform.python_version(), *versions[1:]).set(1)

    def __iter__(self) -> Iterator[Family]:
        """Yields what is declared, by name."""
        return iter(sorted(self._declared.values(), key=lambda family: family.name))

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """Declares a counter, whose name ends with `_total`."""
        self._declare(Family(name, "counter", text, labels))
        return Counter(name, text, labels, registry=self.registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """Declares a gauge."""
        self._declare(Family(name, "gauge", text, labels))
        return Gauge(name, text, labels, registry=self.registry)

    def histogram(
        self, name: str, text: str, *labels: str, buckets: tuple[float, ...]
    ) -> Histogram:
        """Declares a histogram."""
        self._declare(Family(name, "histogram", text, labels, buckets))
        return Histogram(name, text, labels, registry=self.registry, buckets=buckets)

    def bulk_histogram(
        self, name: str, text: str, labels: Mapping[str, str], buckets: tuple[float, ...]
    ) -> BulkHistogram:
        """Declares a histogram of fixed labels that takes many equal observations at once."""
        family = self._declare(Family(name, "histogram", text, tuple(labels), buckets))
        bulk = BulkHistogram(family, tuple(labels.values()))
        self.registry.register(bulk)
        return bulk

    def at_scrape(self, families: Sequence[Family], read: Callable[[], Iterable[Reading]]) -> None:
        """Declares counters and gauges that are read whenever somebody scrapes.

        Args:
            families: What `read` may give. What it does not give is left out of that scrape.
            read: Called on a thread of its own; must not raise, and not take long.
        """
        for family in families:
            self._declare(family)
        self.registry.register(_AtScrape(read))

    def _declare(self, family: Family) -> Family:
        if not family.name.startswith(PREFIX):
            raise ValueError(f"{family.name} does not begin with {PREFIX}")
        if (family.kind == "counter") != family.name.endswith("_total"):
            raise ValueError(f"{family.name}: a counter, and nothing else, ends with _total")
        if family.name in self._declared:
            raise ValueError(f"{family.name} is declared twice")
        self._declared[family.name] = family
        return family


class BulkHistogram(Collector):
    """A histogram for a hot loop: one writer, no lock, many observations for one call.

    A scrape that comes between may miss what is being added, and gets it the next time.

    Args:
        family: What it is called.
        values: The values of its labels.
    """

    def __init__(self, family: Family, values: tuple[str, ...]) -> None:
        self._family = family
        self._values = values
        self._bounds = family.buckets
        self._counts = [0] * (len(family.buckets) + 1)
        self._sum = 0.0

    def add(self, value: float, count: int) -> None:
        """Notes that so many times it was this value."""
        self._counts[bisect_left(self._bounds, value)] += count
        self._sum += value * count

    def collect(self) -> Iterable[Metric]:
        """Yields the histogram."""
        bounds = [*map(str, self._bounds), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(self._counts)), strict=True))
        histogram = HistogramMetricFamily(
            self._family.name, self._family.help, labels=self._family.labels
        )
        histogram.add_metric(self._values, buckets, self._sum)
        yield histogram

    def describe(self) -> Iterable[Metric]:
        """Yields the name alone."""
        yield Metric(self._family.name, self._family.help, "histogram")


class _AtScrape(Collector):
    def __init__(self, read: Callable[[], Iterable[Reading]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        found: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for family, labels, value in self._read():
            if family.name not in found:
                make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
                found[family.name] = make(family.name, family.help, labels=family.labels)
            found[family.name].add_metric(labels, value)
        return found.values()

    def describe(self) -> Iterable[Metric]:
        # Nothing: `Families` has seen to it that no name is taken twice.
        return ()
