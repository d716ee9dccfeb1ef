"""Figures of one measurement, and how they are put together."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

P99 = 0.99


@dataclass(frozen=True, slots=True)
class Trace:
    """When one request was sent, and when each of its tokens came, in seconds of one clock.

    Tokens that came together (in one message, or one step of a batch) share their time.
    """

    sent: float
    tokens: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """What a contender did with a workload."""

    requests_per_second: float
    tokens_per_second: float
    ttft_p50: float
    """Seconds from sending to the first token."""
    itl_p50: float
    """Seconds between two tokens of a request."""
    itl_p99: float


def figures(traces: Sequence[Trace]) -> Figures:
    """Sums up the traces of a whole workload, which took from the first sent to the last token."""
    seconds = max(trace.tokens[-1] for trace in traces) - min(trace.sent for trace in traces)
    gaps = [
        later - earlier
        for trace in traces
        for earlier, later in zip(trace.tokens, trace.tokens[1:], strict=False)
    ]
    return Figures(
        requests_per_second=len(traces) / seconds,
        tokens_per_second=sum(len(trace.tokens) for trace in traces) / seconds,
        ttft_p50=statistics.median(trace.tokens[0] - trace.sent for trace in traces),
        itl_p50=statistics.median(gaps),
        itl_p99=sorted(gaps)[int(P99 * (len(gaps) - 1))],
    )


def median_of(rounds: Sequence[Figures]) -> Figures:
    """The median of each figure over several rounds."""
    return Figures(
        *(
            statistics.median(getattr(one, name) for one in rounds)
            for name in Figures.__dataclass_fields__
        )
    )
