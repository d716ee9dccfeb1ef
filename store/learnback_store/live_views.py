"""The trainer's side of the live views: written whenever it moves feedback, for servers to tell.

A view never overtakes the archive: it is written after the archive has committed. `views.py` is the
server's side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from learnback_store import scripts
from learnback_store.connection import Client, store_errors
from learnback_store.keys import Keys
from learnback_store.records import Account, FeedbackRecord, FeedbackView, least_feedback_id

# Views read at once while looking for old ones.
_PRUNE_CHUNK = 200

_Call = tuple[str, Sequence[str], Sequence[str | int]]


class LiveViews:
    """Writes live views. Every method raises StoreUnavailableError while Redis is away.

    Args:
        redis: The client.
        keys: Where they go.
    """

    def __init__(self, redis: Client, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    def publish(self, views: Iterable[FeedbackView]) -> None:
        """Writes views; an older account never replaces a newer one."""
        self._run_all(
            [
                (
                    scripts.PUBLISH_VIEW,
                    [self._keys.view(view.feedback_id), *_indices(self._keys, view)],
                    [
                        view.feedback_id,
                        view.record.to_json(),
                        view.account.to_json(),
                        len(view.account.history),
                    ],
                )
                for view in views
            ]
        )

    def restore(self, waiting: Iterable[tuple[FeedbackRecord, int]]) -> None:
        """Queues feedback again that Redis has lost; what still waits here stays as it is.

        Args:
            waiting: Records that are not settled, each with its attempt (`Archive.waiting`).
        """
        keys = self._keys
        self._run_all(
            [
                (
                    scripts.RESTORE,
                    [keys.queue, keys.view(record.feedback_id), keys.dead],
                    [record.feedback_id, record.to_json(), attempt],
                )
                for record, attempt in waiting
            ]
        )

    def prune(self, before_ms: int) -> int:
        """Forgets views that were settled before this time; the archive keeps the feedback.

        Returns:
            How many were forgotten.
        """
        pruned, last = 0, "-"
        # Ids sort by the time of submission, and nothing is settled before it is submitted.
        end = f"({least_feedback_id(before_ms)}"
        while True:
            with store_errors():
                ids: Any = self._redis.zrangebylex(
                    self._keys.feedback, last, end, start=0, num=_PRUNE_CHUNK
                )
            if not ids:
                return pruned
            pruned += self._prune(ids, before_ms)
            last = f"({ids[-1]}"

    def _prune(self, ids: Sequence[str], before_ms: int) -> int:
        with store_errors(), self._redis.pipeline(transaction=False) as pipeline:
            for feedback_id in ids:
                pipeline.hmget(self._keys.view(feedback_id), ["record", "account"])
            answers: Any = pipeline.execute()
        views = [
            FeedbackView(FeedbackRecord.from_json(record), Account.from_json(account))
            for record, account in answers
            if record and account
        ]
        outcomes = self._run_all(
            [
                (
                    scripts.PRUNE_VIEW,
                    [self._keys.view(view.feedback_id), *_indices(self._keys, view)],
                    [view.feedback_id, len(view.account.history)],
                )
                for view in views
                if view.account.state.final and view.account.update_ms < before_ms
            ]
        )
        return sum(outcomes)

    def _run_all(self, calls: Sequence[_Call]) -> list[Any]:
        answers: list[Any] = []
        for start in range(0, len(calls), scripts.BATCH):
            with store_errors(), self._redis.pipeline(transaction=False) as pipeline:
                for script, keys, args in calls[start : start + scripts.BATCH]:
                    pipeline.eval(script, len(keys), *keys, *args)
                answers += pipeline.execute()
        return answers


def _indices(keys: Keys, view: FeedbackView) -> list[str]:
    """Every index that the feedback stands in."""
    record, checkpoint = view.record, view.account.checkpoint
    indices = [keys.feedback]
    if record.author:
        indices.append(keys.by_author(record.author))
    if record.generation:
        indices.append(keys.by_generation(record.generation.generation_id))
    if checkpoint:
        indices.append(keys.by_checkpoint(checkpoint))
    return indices
