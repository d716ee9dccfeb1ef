"""What is tried after the gate has refused a round: its halves, until what can be learned is.

A refused round decides nothing about what it taught: that is QUEUED again, and each half becomes a
round of its own, the likelier one first and the other on top of what the first has published. A
lesson that is refused by itself is a culprit, and NOT_LEARNED with the gate's reasons. What one
half has learned the next one must keep (`Sources.kept`), so that of two that contradict one another
the second is the culprit.

Nothing of this is durable, and need not be: after a crash what is still QUEUED is delivered again
and taught together again; what was published or refused by itself is settled.

Limits: each try costs a round, so there is a most; what it leaves untried is NOT_LEARNED. To find
one culprit among n lessons takes about 2 log2(n) rounds besides the first.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from learnback_store.records import FeedbackState, FeedbackView
from learnback_store.rounds import Outcome
from learnback_trainer.lessons import Exercise
from learnback_trainer.school import Report

_log = logging.getLogger(__name__)

HALVED = "the gate refused it together with others, so it is tried again with fewer"
UNTRIED = (
    "the gate refused it together with others, and no more rounds are spent on finding out why"
)


class Bisection:
    """The rounds that some feedback takes.

    Args:
        views: The feedback.
        retries: Most rounds besides the first.
    """

    def __init__(self, views: Sequence[FeedbackView], retries: int) -> None:
        self._views = {one.feedback_id: one for one in views}
        self._parts = [list(self._views)]
        self._left = retries + 1
        self._kept: list[Exercise] = []

    @property
    def kept(self) -> Sequence[Exercise]:
        """What was learned in the rounds so far."""
        return self._kept

    @property
    def untried(self) -> list[str]:
        """The feedback that no round is left for."""
        return [one for part in self._parts for one in part]

    def next_part(self) -> list[FeedbackView]:
        """Returns what the next round is about; empty if there is none."""
        if not self._parts or not self._left:
            return []
        self._left -= 1
        return [self._views[one] for one in self._parts.pop()]

    def judged(self, report: Report) -> Report:
        """Takes note of how a round was judged, before it is decided.

        Returns:
            What it decides: if there are halves to be tried, what was refused waits for them.
        """
        if report.verdict is None:
            return report
        if report.verdict.passed:
            learned = set(report.learned)
            self._kept += [one for one in report.taught if one.feedback_id in learned]
            return report
        if len(report.taught) == 1 or not self._left:
            return report
        first, second = (_with_covered(half, report) for half in _halves(report))
        self._parts += [second, first]
        _log.info("refused; %d and %d lessons are tried apart", len(first), len(second))
        again = {*first, *second}
        return replace(
            report,
            outcomes=tuple(
                Outcome(one.feedback_id, FeedbackState.QUEUED, HALVED)
                if one.feedback_id in again
                else one
                for one in report.outcomes
            ),
        )


def _halves(report: Report) -> tuple[list[str], list[str]]:
    """Splits what was taught where the culprits may be: what was adopted and what was not.

    Where that tells nothing, in the middle, with authors side by side and the weightiest first, for
    poison comes from few.
    """
    adopted = [one for one in report.taught if one.feedback_id in report.adopted]
    others = [one for one in report.taught if one.feedback_id not in report.adopted]
    if adopted and others:
        return _ids(adopted), _ids(others)
    ordered = sorted(report.taught, key=lambda one: (-one.weight, one.record.author))
    middle = (len(ordered) + 1) // 2
    return _ids(ordered[:middle]), _ids(ordered[middle:])


def _with_covered(half: list[str], report: Report) -> list[str]:
    """Besides, what their lessons cover."""
    return half + [one for one, by in report.covered.items() if by in half]


def _ids(exercises: Sequence[Exercise]) -> list[str]:
    return [one.feedback_id for one in exercises]
