"""How learning stands: what waits, what is being learned now, how the last round ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from learnback.v1 import learning_pb2
from learnback_client.protos import read_seconds, read_time


@dataclass(frozen=True, slots=True)
class RoundProgress:
    """A round of training, while it is held."""

    round_id: str
    parent: str
    """The checkpoint that it trains from."""
    reached: str
    """The step of the round that was reached last."""
    feedback_count: int
    step: int
    """Steps of optimisation done."""
    steps: int
    """Most of them; it can end earlier."""
    lesson_loss: float
    """Nats a token, of the last step."""
    anchor_loss: float
    """Nats a token, of the last step."""
    begun: datetime | None


@dataclass(frozen=True, slots=True)
class RoundEnd:
    """How a round ended."""

    round_id: str
    feedback_count: int
    learned_count: int
    checkpoint: str
    """What it published; empty if nothing."""
    reasons: tuple[str, ...]
    """Why nothing was published."""
    begun: datetime | None
    ended: datetime | None


@dataclass(frozen=True, slots=True)
class LearningStatus:
    """How learning stands, as one server sees it."""

    queue_depth: int
    """Feedback that is not settled yet."""
    queue_taken: int
    """Of these, how many the trainer has taken."""
    dead_letters: int
    oldest_age: float
    """Seconds since the oldest feedback that is not settled was queued; 0 if there is none."""
    trainer_seen: datetime | None
    """When the trainer last gave a sign of life; None if it never did."""
    round: RoundProgress | None
    """None between rounds."""
    last_round: RoundEnd | None
    """None before the first."""
    live_checkpoint: str
    live_digest: str
    drift_nats: float
    """Nats a token by which all rounds have moved answers that nobody complained of."""
    drift_alarm: bool
    """Whether that is more than the trainer takes for harmless."""
    raw: learning_pb2.LearningStatus = field(repr=False, compare=False)
    """The message of the contract."""


def read_status(status: learning_pb2.LearningStatus) -> LearningStatus:
    """Reads how learning stands."""
    return LearningStatus(
        queue_depth=status.queue_depth,
        queue_taken=status.queue_taken,
        dead_letters=status.dead_letters,
        oldest_age=read_seconds(status, "oldest_age") or 0.0,
        trainer_seen=read_time(status, "trainer_time"),
        round=_read_progress(status.round) if status.HasField("round") else None,
        last_round=_read_end(status.last_round) if status.HasField("last_round") else None,
        live_checkpoint=status.live_checkpoint,
        live_digest=status.live_digest,
        drift_nats=status.drift_nats,
        drift_alarm=status.drift_alarm,
        raw=status,
    )


def _read_progress(progress: learning_pb2.RoundProgress) -> RoundProgress:
    return RoundProgress(
        round_id=progress.round_id,
        parent=progress.parent,
        reached=progress.reached,
        feedback_count=progress.feedback_count,
        step=progress.step,
        steps=progress.steps,
        lesson_loss=progress.lesson_loss,
        anchor_loss=progress.anchor_loss,
        begun=read_time(progress, "begin_time"),
    )


def _read_end(end: learning_pb2.RoundEnd) -> RoundEnd:
    return RoundEnd(
        round_id=end.round_id,
        feedback_count=end.feedback_count,
        learned_count=end.learned_count,
        checkpoint=end.checkpoint,
        reasons=tuple(end.reasons),
        begun=read_time(end, "begin_time"),
        ended=read_time(end, "end_time"),
    )
