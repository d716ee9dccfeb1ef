"""What the trainer does now: a sign of life, the round that it holds, how the last one ended.

One record under one key, which the trainer overwrites and servers read. It is there to be looked at
and nothing depends on it: what a round decided stands in the archive and in manifests. After a loss
of Redis it is back at the trainer's next sign of life, a few seconds later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from learnback_store.codec import Record, Strict, require_finite
from learnback_store.connection import AsyncClient, Client, store_errors
from learnback_store.keys import Keys
from learnback_store.records import now_ms


@dataclass(frozen=True, slots=True)
class RoundProgress(Strict):
    """A round while it is held. Names equal those of `learnback.v1.RoundProgress`."""

    round_id: str
    parent: str
    feedback_count: int
    reached: str = ""
    """The last of `learnback_trainer.loop.STEPS` that is done."""
    step: int = 0
    steps: int = 0
    lesson_loss: float = 0.0
    """Nats a token."""
    anchor_loss: float = 0.0
    """Nats a token."""
    begin_ms: int = field(default_factory=now_ms)

    def __post_init__(self) -> None:
        require_finite("a round", [self.lesson_loss, self.anchor_loss])


@dataclass(frozen=True, slots=True)
class RoundEnd(Strict):
    """How a round ended. Names equal those of `learnback.v1.RoundEnd`."""

    round_id: str
    feedback_count: int
    learned_count: int
    checkpoint: str
    """Empty if nothing was published."""
    reasons: tuple[str, ...]
    """Why nothing was."""
    begin_ms: int
    end_ms: int = field(default_factory=now_ms)


@dataclass(frozen=True, slots=True)
class TrainerStatus(Record):
    """What the trainer does now."""

    schema: ClassVar[str] = "learnback.trainer/1"

    round: RoundProgress | None = None
    """None between rounds."""
    last_round: RoundEnd | None = None
    """None before the first one."""
    drift_nats: float = 0.0
    """Nats a token by which all rounds of the live checkpoint's line have moved other answers."""
    drift_alarm: bool = False
    """Whether that is more than it may be."""
    seen_ms: int = field(default_factory=now_ms)

    def __post_init__(self) -> None:
        require_finite("a status", [self.drift_nats])


def write_status(redis: Client, keys: Keys, status: TrainerStatus) -> None:
    """Lets servers see what the trainer does.

    Raises:
        StoreUnavailableError: Redis is away.
    """
    with store_errors():
        redis.set(keys.trainer, status.to_json())


def read_status(redis: Client, keys: Keys) -> TrainerStatus | None:
    """Returns what was written last; None if nothing was.

    Raises:
        StoreUnavailableError: Redis is away.
        RecordUnreadableError: Another version has written it.
    """
    with store_errors():
        text = redis.get(keys.trainer)
    return TrainerStatus.from_json(text) if isinstance(text, str) else None


async def read_status_async(redis: AsyncClient, keys: Keys) -> TrainerStatus | None:
    """As `read_status`, on the event loop."""
    with store_errors():
        text = await redis.get(keys.trainer)
    return TrainerStatus.from_json(text) if isinstance(text, str) else None
