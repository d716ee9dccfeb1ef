"""Feedback that failed repeatedly: looked at, and put back once its cause is mended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from learnback_store import scripts
from learnback_store.connection import Client, store_errors
from learnback_store.keys import Keys
from learnback_store.live_views import LiveViews
from learnback_store.records import Account, FeedbackRecord, FeedbackState, FeedbackView


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One entry of the dead letters."""

    entry_id: str
    feedback_id: str
    record_json: str
    """FeedbackRecord, or what could not be read as one."""
    attempt: int
    """How often it had been put back before."""
    reason: str
    deliveries: int
    """How often this attempt was tried."""


class DeadLetters:
    """The dead letters of a queue. `feedback.FeedbackQueue` puts them there.

    Every method raises StoreUnavailableError while Redis is away.

    Args:
        redis: The client.
        keys: Where they lie.
    """

    def __init__(self, redis: Client, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    def list(self, count: int = 100) -> list[DeadLetter]:
        """Returns the oldest so many, oldest first."""
        with store_errors():
            entries: Any = self._redis.xrange(self._keys.dead, count=count)
        return [
            DeadLetter(
                entry_id=entry_id,
                feedback_id=fields["id"],
                record_json=fields["record"],
                attempt=int(fields["attempt"]),
                reason=fields["reason"],
                deliveries=int(fields["deliveries"]),
            )
            for entry_id, fields in entries
        ]

    def put_back(self, letter: DeadLetter) -> bool:
        """Queues a dead letter again, as a new attempt; the archive learns of it when it is taken.

        Returns:
            Whether it was put back; False if it is no dead letter any more.

        Raises:
            RecordUnreadableError: It is no feedback, and would come back at once.
        """
        record = FeedbackRecord.from_json(letter.record_json)
        keys = self._keys
        with store_errors():
            moved: Any = self._redis.eval(
                scripts.PUT_BACK,
                3,
                keys.dead,
                keys.queue,
                keys.view(letter.feedback_id),
                letter.entry_id,
                letter.feedback_id,
                letter.record_json,
                str(letter.attempt + 1),
            )
            account: Any = self._redis.hget(keys.view(letter.feedback_id), "account")
        if moved and account:
            queued = Account.from_json(account).moved(FeedbackState.QUEUED, "put back")
            LiveViews(self._redis, keys).publish([FeedbackView(record, queued)])
        return bool(moved)
