"""The trace of a round: a span that links to the feedback it learns from, and one for each step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from learnback_store.records import FeedbackView
from learnback_store.rounds import Round
from learnback_telemetry.context import note
from learnback_telemetry.tracing import Tracer, fail


class RoundTrace:
    """Traces one round after the other.

    Args:
        tracer: Makes the spans.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._step_began: int | None = None
        """Nanoseconds since 1970; None between rounds."""

    @contextmanager
    def round(self, this: Round, views: Sequence[FeedbackView]) -> Iterator[None]:
        """Opens the span of a round, for as long as the `with` lasts."""
        known = {"learnback.parent": this.parent, "learnback.feedback_ids": this.feedback_ids}
        links = [view.record.traceparent for view in views]
        with self._tracer.span("learnback.round", known, links=links):
            note(round_id=this.round_id)
            self._step_began = time.time_ns()
            try:
                yield
            except Exception as error:
                fail(type(error).__name__)  # its text might bear that of users
                raise
            finally:
                self._step_began = None

    def reached(self, step: str) -> None:
        """Notes that a step of `loop.STEPS` is done; those before and after rounds are no spans."""
        if self._step_began is not None:
            now = time.time_ns()
            self._tracer.past(f"learnback.round.{step.replace(' ', '_')}", self._step_began, now)
            self._step_began = now
