"""What the trainer tells Prometheus. `docs/metrics.md` lists it, and is made from here.

How long the phases of a round take is told by the steps of `loop.STEPS`: each is observed under the
name of the step that ends it, and the wait for feedback, which ends with "read", is not.

Limit: why the gate refuses is known in words only. The words before the figures are the label, and
after so many different ones it is "other", so that no text can make labels without end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping

from learnback_store.manifest import GateVerdict
from learnback_store.records import FeedbackState, FeedbackView, Objective, feedback_time_ns
from learnback_store.rounds import Outcome
from learnback_telemetry.context import exemplar, exemplar_of
from learnback_telemetry.families import PREFIX, Families, Family, Reading
from learnback_telemetry.store_metrics import StoreMetrics
from learnback_telemetry.tracing import trace_id_of

_MOST_REASONS = 32
_FIRST_STEP = "read"
# Nano's rounds take seconds, those of a large model hours.
_PHASE_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
_LEARNING_BUCKETS = (
    1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 21600.0,
    86400.0,
)  # fmt: skip

# All ends there are. What may count is there from the start, with 0: Prometheus sees no increase in
# a first sample.
_ENDS = ("published", "refused", "nothing to teach", "stopped", "failed", "made way")

_FIGURE = Family(
    f"{PREFIX}last_round_figure", "gauge", "The gate's figures of the last round.", ("figure",)
)
_ADOPTION = Family(
    f"{PREFIX}last_round_adoption_ratio",
    "gauge",
    "Adoption: share of the last round's lessons that were obeyed without the critique.",
)
_FORGETTING = Family(
    f"{PREFIX}last_round_forgetting_nats",
    "gauge",
    "Forgetting: how far the last round moved answers that nobody complained of, a token.",
)
_CHANGED = Family(
    f"{PREFIX}last_round_changed_ratio",
    "gauge",
    "Forgetting: share of greedy answers nobody complained of that the last round changed.",
)
_SPENT = Family(
    f"{PREFIX}last_round_forgetting_spent_ratio",
    "gauge",
    "What the last round took of the gate's budgets for forgetting, the fullest of them; above 1 "
    "it was refused for that.",
)
_MEASURED = {"adoption": _ADOPTION, "anchor_nats": _FORGETTING, "changed": _CHANGED}
"""The figures of the gate that have a metric of their own; absent while not measured."""


class TrainerMetrics:
    """All metrics of a trainer."""

    def __init__(self) -> None:
        families = self.families = Families("trainer")
        self.store = StoreMetrics(families)
        self._reasons: set[str] = set()
        self._step_began: float | None = None
        self._last: Mapping[str, float] = {}
        self._costs: Mapping[str, float] = {}
        self._rounds = families.counter(
            f"{PREFIX}rounds_total",
            "Rounds that ended: published, refused by the gate, with nothing to teach, stopped, "
            "failed, or a consolidation that made way for feedback.",
            "end",
        )
        self._phases = families.histogram(
            f"{PREFIX}round_phase_seconds",
            "How long the phases of a round took, by the step that ends each.",
            "phase",
            buckets=_PHASE_BUCKETS,
        )
        self._lessons = families.counter(
            f"{PREFIX}lessons_total", "Lessons that were taught, by objective.", "objective"
        )
        self._settled = families.counter(
            f"{PREFIX}feedback_settled_total", "Feedback that came to a final state.", "state"
        )
        self._verdicts = families.counter(
            f"{PREFIX}gate_verdicts_total",
            "Verdicts of the gate, by verdict and, if it refused, each reason.",
            "verdict",
            "reason",
        )
        families.at_scrape((_FIGURE, *_MEASURED.values(), _SPENT), self._read_last)
        self._put_off = families.counter(
            f"{PREFIX}feedback_put_off_total",
            "Feedback that had to wait for a later round, because its author had their share.",
        )
        self._flooding = families.counter(
            f"{PREFIX}authors_flooding_total",
            "Authors found to flood the queue, each time that a batch was taken.",
        )
        self._drift = families.gauge(
            f"{PREFIX}drift_nats",
            "How far all rounds since the base model, or since the last consolidation, have moved "
            "answers that nobody complained of, a token.",
        )
        self._drift_alarm = families.gauge(
            f"{PREFIX}drift_alarm", "1 if that is more than --most-drift, else 0."
        )
        self._last_end = families.gauge(
            f"{PREFIX}last_round_end_timestamp_seconds", "When the last round ended."
        )
        self._to_live = families.histogram(
            f"{PREFIX}feedback_to_live_seconds",
            "From a piece of feedback to the end of the round that learned it.",
            buckets=_LEARNING_BUCKETS,
        )
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        for end in _ENDS:
            self._rounds.labels(end)
        for objective in Objective:
            self._lessons.labels(objective.value)
        for state in FeedbackState:
            if state.final:
                self._settled.labels(state.value)
        self._verdicts.labels("passed", "")

    def allow(self, costs: Mapping[str, float]) -> None:
        """Notes how much forgetting the gate allows, by the figure that it is measured by."""
        self._costs = costs

    def reached(self, step: str) -> None:
        """Notes that a step of `loop.STEPS` is done."""
        now = time.monotonic()
        if step != _FIRST_STEP and self._step_began is not None:
            self._phases.labels(step).observe(now - self._step_began, exemplar())
        self._step_began = now

    def round_ended(self, outcomes: Iterable[Outcome], verdict: GateVerdict | None) -> None:
        """Notes what a round came to."""
        if verdict is None:
            self._end("nothing to teach")
            return
        self._end("published" if verdict.passed else "refused")
        self._judged(verdict)
        for outcome in outcomes:
            for lesson in outcome.lessons:
                self._lessons.labels(lesson.objective.value).inc()

    def round_broke_off(self, end: str) -> None:
        """Notes that a round was stopped or has failed."""
        self._end(end)

    def settled(self, views: Iterable[FeedbackView]) -> None:
        """Notes what became of feedback that is about to leave the queue."""
        now = time.time_ns()
        for view in views:
            state = view.account.state
            if state.final:
                self._settled.labels(state.value).inc()
            if state is FeedbackState.LEARNED:
                example = exemplar_of(trace_id_of(view.record.traceparent))
                self._to_live.observe((now - feedback_time_ns(view.feedback_id)) / 1e9, example)

    def put_off(self, count: int) -> None:
        """Notes that feedback has to wait for a later round."""
        self._put_off.inc(count)

    def flooded(self, authors: int) -> None:
        """Notes that authors flood the queue."""
        self._flooding.inc(authors)

    def drifted(self, nats: float, *, alarm: bool) -> None:
        """Notes how far the live checkpoint's line has drifted."""
        self._drift.set(nats)
        self._drift_alarm.set(alarm)

    def _end(self, end: str) -> None:
        self._rounds.labels(end).inc()
        self._last_end.set_to_current_time()

    def _judged(self, verdict: GateVerdict) -> None:
        self._last = verdict.figures
        if verdict.passed:
            self._verdicts.labels("passed", "").inc()
        for reason in verdict.reasons:
            self._verdicts.labels("refused", self._label(reason)).inc()

    def _read_last(self) -> Iterable[Reading]:
        last, costs = self._last, self._costs
        for name, value in last.items():
            yield _FIGURE, (name,), value
            if name in _MEASURED:
                yield _MEASURED[name], (), value
        spent = [_share(last[name], most) for name, most in costs.items() if name in last]
        if spent:
            yield _SPENT, (), max(spent)

    def _label(self, reason: str) -> str:
        words = reason.partition(":")[0]
        if words not in self._reasons and len(self._reasons) >= _MOST_REASONS:
            return "other"
        self._reasons.add(words)
        return words


def _share(cost: float, most: float) -> float:
    """What a cost takes of its budget; of none at all, any cost takes all and more."""
    if most:
        return cost / most
    return math.inf if cost else 0.0
