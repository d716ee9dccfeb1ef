"""Bringing everything to one truth again after a crash, or after Redis has lost its data.

`settle` ends the round that a crash has cut off, as the table in `archive.py` says; `recover_redis`
writes back what an empty Redis should hold; `follow_live` makes what is told of feedback true again
after an operator has moved `live`. All can be repeated, and cut off, at any point.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from learnback_store.archive import Archive
from learnback_store.checkpoints import CheckpointState, CheckpointStore
from learnback_store.connection import Client, store_errors
from learnback_store.erasures import ErasureTray
from learnback_store.errors import (
    AliasMovedError,
    CheckpointNotFoundError,
    FeedbackNotFoundError,
)
from learnback_store.keys import Keys
from learnback_store.live_views import LiveViews
from learnback_store.records import FeedbackState, FeedbackView
from learnback_store.rounds import Round, RoundState


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a round that was cut off has ended."""

    round: Round
    finished: bool
    """Whether it counts; otherwise it was abandoned, and its feedback is QUEUED."""
    views: tuple[FeedbackView, ...]
    """Its feedback as it stands now, to be published."""


def settle(archive: Archive, checkpoints: CheckpointStore) -> Settlement | None:
    """Ends the round that a crash has cut off; for the trainer at its start, before it reads.

    If the checkpoint had been published, `live` is moved to it as the round would have done, unless
    it has been there before (so an operator moved it away) or points elsewhere than it should.

    Returns:
        How it ended; None if there was none.
    """
    checkpoints.sweep()
    cut_off = archive.unfinished_round()
    if cut_off is None:
        return None
    finished = _counts(cut_off, checkpoints)
    if finished:
        if cut_off.checkpoint:
            _make_live(cut_off, checkpoints)
        views = archive.finish_round(cut_off.round_id)
    else:
        views = archive.abandon_round(cut_off.round_id, "the trainer was interrupted")
    return Settlement(archive.round(cut_off.round_id), finished, tuple(views))


def _counts(cut_off: Round, checkpoints: CheckpointStore) -> bool:
    """Whether the round had come to the step from which on it counts."""
    if cut_off.state is not RoundState.DECIDED:
        return False
    if not cut_off.checkpoint:
        return True
    try:
        found = checkpoints.get(cut_off.checkpoint)
    except CheckpointNotFoundError:
        return False
    return found.manifest.round_id == cut_off.round_id


def _make_live(cut_off: Round, checkpoints: CheckpointStore) -> None:
    published = checkpoints.get(cut_off.checkpoint).state is CheckpointState.PUBLISHED
    if published and not checkpoints.aliases().was_live(cut_off.checkpoint):
        with contextlib.suppress(AliasMovedError):
            expected = cut_off.replaces or cut_off.parent
            checkpoints.promote(cut_off.checkpoint, expected=expected)


def follow_live(archive: Archive, checkpoints: CheckpointStore) -> list[FeedbackView]:
    """Makes feedback LEARNED that the live checkpoint or one before it learned, and no other.

    After a rollback, what the checkpoints rolled back had learned is NOT_LEARNED, with the reason;
    it is not learned again by itself. When they are promoted again, it is LEARNED again.

    Returns:
        The feedback that was moved, as it stands now, to be published.

    Raises:
        CheckpointNotFoundError: A manifest between the live checkpoint and the base is missing.
    """
    live = checkpoints.aliases().live
    known = checkpoints.learned_in_line(live)
    moved = []
    for view in archive.learned():
        if view.feedback_id not in known:
            reason = f"{view.account.checkpoint} was rolled back; {live} is live"
            moved += archive.move([view.feedback_id], FeedbackState.NOT_LEARNED, reason)
    for feedback_id, name in known.items():
        with contextlib.suppress(FeedbackNotFoundError):  # an archive that was lost
            account = archive.get(feedback_id).account
            undone = account.state is FeedbackState.NOT_LEARNED
            if undone or (account.state is FeedbackState.LEARNED and account.checkpoint != name):
                reason = f"{name} is in the line of {live}, which is live"
                moved += archive.move([feedback_id], FeedbackState.LEARNED, reason, name)
    return moved


def recover_redis(archive: Archive, redis: Client, keys: Keys) -> bool:
    """Writes back what Redis should hold, if it has lost its data since this archive was with it.

    For the trainer at its start, and after Redis was away. A Redis that is new to the archive (lost
    disk, flushed, replaced) lacks the archive's epoch.

    Returns:
        Whether it had lost its data.

    Raises:
        StoreUnavailableError: Redis is away.
    """
    epoch = archive.epoch()
    with store_errors():
        if redis.get(keys.epoch) == epoch:
            return False
    views = LiveViews(redis, keys)
    views.publish(archive.views())
    views.restore(archive.waiting())
    ErasureTray(redis, keys).tell(task.request for task in archive.erasures())
    with store_errors():
        # Last: cut off before it, all is done again, which is harmless.
        redis.set(keys.epoch, epoch)
    return True
