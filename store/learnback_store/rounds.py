"""A round of training and what it decides about each piece of feedback."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from learnback_store.codec import Record
from learnback_store.records import FeedbackState, Lesson


class RoundState(enum.StrEnum):
    """How far a round has come."""

    OPEN = "open"
    """Lessons are made and taught; nothing of it counts yet."""
    DECIDED = "decided"
    """Outcomes stand in the archive, and count once the checkpoint is published."""
    FINISHED = "finished"
    """Outcomes count."""
    ABANDONED = "abandoned"
    """Came to nothing; its feedback went back to QUEUED."""


# What a round may decide. QUEUED: not now; a later round will take it.
_DECIDABLE = frozenset(
    {
        FeedbackState.LEARNED,
        FeedbackState.NOT_LEARNED,
        FeedbackState.QUARANTINED,
        FeedbackState.QUEUED,
    }
)


@dataclass(frozen=True, slots=True)
class Outcome(Record):
    """What a round decided about one piece of feedback."""

    schema: ClassVar[str] = "learnback.outcome/1"

    feedback_id: str
    state: FeedbackState
    """LEARNED (in the round's checkpoint), NOT_LEARNED, QUARANTINED, or QUEUED for a later one."""
    reason: str = ""
    """Why; needed unless it is LEARNED."""
    lessons: tuple[Lesson, ...] = ()

    def __post_init__(self) -> None:
        if self.state not in _DECIDABLE:
            raise ValueError(f"a round can't decide {self.state}")
        if not self.reason and self.state is not FeedbackState.LEARNED:
            raise ValueError(f"{self.state} needs a reason")


@dataclass(frozen=True, slots=True)
class Round:
    """A round of training, as the archive knows it."""

    round_id: str
    state: RoundState
    parent: str
    """The checkpoint that it trains from."""
    checkpoint: str
    """The checkpoint that it publishes; empty until decided, and if it publishes none."""
    feedback_ids: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    """One for each, once decided."""
    reason: str
    """Why it was abandoned."""
    begin_ms: int
    end_ms: int | None
    replaces: str = ""
    """The checkpoint that `live` must still point at to be moved; empty: the parent."""
