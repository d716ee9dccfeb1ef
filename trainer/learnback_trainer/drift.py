"""Drift: how far a line of checkpoints has moved answers that nobody complained of, in all.

Each gate lets a little pass, and measures it from the checkpoint before; over many rounds that adds
up, whatever each round cost. So the figures of all rounds from the base model to `live` are added,
and from a most on it is said: in a metric, in the log, and in the status. Nothing is refused for
it: what helps is consolidation, whose checkpoint stands on the base model, so that the sum begins
anew. Limit: a sum is the most that it can have come to; two rounds may also undo one another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from learnback_store.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Drift:
    """What a line of checkpoints has moved."""

    nats: float = 0.0
    """Nats a token, added over its rounds."""
    changed: float = 0.0
    """Share of answers that changed, likewise; can be above 1."""
    rounds: int = 0


def drift_of(line: Iterable[Manifest]) -> Drift:
    """Returns the drift of a checkpoint.

    Args:
        line: Its manifest and those of its ancestors.
    """
    verdicts = [one.gate for one in line if one.gate]
    return Drift(
        sum(one.figures.get("anchor_nats", 0.0) for one in verdicts),
        sum(one.figures.get("changed", 0.0) for one in verdicts),
        len(verdicts),
    )
