"""The trainer's notice board: what it does now, for whoever asks a server.

Nothing depends on it, so Redis being away is passed over in silence: the rest of the loop will say
so. A round's steps are put up a few times a second at most.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

from learnback_store.connection import Client
from learnback_store.errors import RecordUnreadableError, StoreUnavailableError
from learnback_store.keys import Keys
from learnback_store.records import now_ms
from learnback_store.rounds import Round
from learnback_store.trainer_status import (
    RoundEnd,
    RoundProgress,
    TrainerStatus,
    read_status,
    write_status,
)
from learnback_trainer.school import Report
from learnback_trainer.update import Progress

# Between two notices about steps of optimisation.
_STEP_SECONDS = 0.2


class Board:
    """Puts up notices. How the last round ended stays up over a restart.

    Args:
        redis: The client.
        keys: Where the notice hangs.
    """

    def __init__(self, redis: Client, keys: Keys) -> None:
        self._redis, self._keys = redis, keys
        self._round: RoundProgress | None = None
        self._last: RoundEnd | None = None
        self._drift, self._alarm = 0.0, False
        self._step_told = 0.0

    def wake(self) -> None:
        """Takes over what hangs there from an earlier life, and says that this one has begun."""
        with contextlib.suppress(StoreUnavailableError, RecordUnreadableError):
            found = read_status(self._redis, self._keys)
            self._last = found.last_round if found else None
        self.idle()

    def idle(self) -> None:
        """Says that no round is held, and that the trainer is there."""
        self._round = None
        self._put_up()

    def begin(self, this: Round) -> None:
        """Says that a round has begun."""
        self._round = RoundProgress(
            this.round_id, this.parent, len(this.feedback_ids), begin_ms=this.begin_ms
        )
        self._put_up()

    def reached(self, step: str) -> None:
        """Says how far the round has come; nothing between rounds."""
        if self._round is not None:
            self._round = replace(self._round, reached=step)
            self._put_up()

    def step(self, progress: Progress) -> None:
        """Says how the teaching goes on."""
        over = progress.step == progress.steps
        if self._round is None or (time.monotonic() - self._step_told < _STEP_SECONDS and not over):
            return
        self._step_told = time.monotonic()
        self._round = replace(
            self._round,
            step=progress.step,
            steps=progress.steps,
            lesson_loss=progress.lesson_loss,
            anchor_loss=progress.anchor_loss,
        )
        self._put_up()

    def end(self, this: Round, report: Report, checkpoint: str) -> None:
        """Says how the round has ended.

        Args:
            this: The round.
            report: What it came to.
            checkpoint: What it published; empty if nothing.
        """
        self._last = RoundEnd(
            this.round_id,
            len(this.feedback_ids),
            len(report.learned) if checkpoint else 0,
            checkpoint,
            () if checkpoint else _reasons(report),
            this.begin_ms,
            now_ms(),
        )
        self.idle()

    def drifted(self, nats: float, *, alarm: bool) -> None:
        """Says how far the live checkpoint's line has drifted."""
        self._drift, self._alarm = nats, alarm
        self._put_up()

    def _put_up(self) -> None:
        with contextlib.suppress(StoreUnavailableError):
            status = TrainerStatus(self._round, self._last, self._drift, self._alarm)
            write_status(self._redis, self._keys, status)


def _reasons(report: Report) -> tuple[str, ...]:
    """Why nothing was published: what the gate said, else what was said of each piece."""
    if report.verdict is not None:
        return report.verdict.reasons
    return tuple(dict.fromkeys(one.reason for one in report.outcomes))
