"""The trainer's side of the feedback queue: take a batch, settle it, acknowledge last.

A consumer group on a Redis Stream. What was taken stays the taker's until it is acknowledged, so a
trainer that crashes finds it again under the same consumer name, and another one can claim it once
it is stale. `read_batch` therefore gives back first whatever was taken and not settled: settle one
batch (acknowledge or bury every delivery, or leave it on purpose to be tried again) before reading
the next.

One trainer works on a queue at a time; the lock of its archive sees to that.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from learnback_store import scripts
from learnback_store.connection import Client, store_errors
from learnback_store.errors import RecordUnreadableError
from learnback_store.keys import TRAINER_GROUP, Keys
from learnback_store.records import Account, FeedbackRecord, FeedbackState

_log = logging.getLogger(__name__)

# Longest single wait inside Redis; shorter than the time-out of a reply, and how long a stop takes.
_BLOCK_MS = 500
# After so long without a sign of life (`keep_alive`) a delivery may be claimed by another trainer.
STALE_SECONDS = 120.0

# One entry of a stream as redis-py gives it; None where the entry was deleted (Redis 6.2).
_Entry = tuple[str | None, dict[str, str] | None]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One entry of the queue in the trainer's hands."""

    entry_id: str
    record: FeedbackRecord
    attempt: int
    """0, and 1 more each time it was put back from the dead letters."""
    deliveries: int
    """How often this attempt has been taken, this time included."""

    @property
    def feedback_id(self) -> str:
        """The id of the feedback."""
        return self.record.feedback_id


@dataclass(frozen=True, slots=True)
class QueueStats:
    """How much waits."""

    depth: int
    """Entries that are not settled."""
    taken: int
    """Of these, how many are in a trainer's hands."""
    dead: int
    """Dead letters."""
    oldest_seconds: float
    """Age of the oldest entry that is not settled; 0 if there is none."""

    @classmethod
    def parse(cls, answer: Sequence[int]) -> QueueStats:
        """Reads what the script STATS gave."""
        depth, taken, dead, oldest_ms = answer
        return cls(depth, taken, dead, oldest_ms / 1000)


class FeedbackQueue:
    """The queue as the trainer sees it.

    Every method raises StoreUnavailableError while Redis is away.

    Args:
        redis: The client.
        keys: Where the queue lies.
        consumer: This trainer's name. The same after a restart, so that it finds what it had taken.
    """

    def __init__(self, redis: Client, keys: Keys, consumer: str = "trainer") -> None:
        self._redis = redis
        self._keys = keys
        self._consumer = consumer

    # Taking

    def read_batch(
        self,
        count: int,
        *,
        age_seconds: float = 0.0,
        wait_seconds: float = 0.0,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[Delivery]:
        """Takes a batch: what was taken before and not settled, else what is stale, else new ones.

        Args:
            count: Most deliveries.
            age_seconds: How long the first new one may wait for others to come.
            wait_seconds: How long to wait for a first one.
            stop: Asked about every half second; True ends the waiting.

        Returns:
            At most `count` deliveries, oldest first; empty if nothing came.
        """
        batch = self._read_own(count) or self.claim_stale(count)
        if batch:
            return batch + self._read_new(count - len(batch), 0)
        batch = self._gather([], count, time.monotonic() + wait_seconds, stop, enough=1)
        if not batch:
            return batch
        until = time.monotonic() + age_seconds - self._age_seconds(batch[0])
        return self._gather(batch, count, until, stop, enough=count)

    def read_more(self, count: int) -> list[Delivery]:
        """Takes up to so many more that nobody has taken, besides a batch; does not wait."""
        return self._read_new(count, 0)

    def authors_behind(self, last: Delivery, count: int) -> list[str]:
        """Returns who has said what comes behind a delivery, in order; takes nothing.

        Args:
            last: The last one that was taken.
            count: Most entries to look at.
        """
        with store_errors():
            entries: Any = self._redis.xrange(
                self._keys.queue, min=f"({last.entry_id}", count=count
            )
        found = []
        for _, fields in entries:
            try:
                found.append(FeedbackRecord.from_json(fields["record"]).author)
            except (RecordUnreadableError, KeyError):
                found.append("")
        return found

    def claim_stale(self, count: int, idle_seconds: float = STALE_SECONDS) -> list[Delivery]:
        """Takes over what another trainer took and has not touched for so long."""
        with store_errors():
            # Two elements from 6.2, three from 7.0 on; both begin alike.
            answer = self._in_group(
                lambda: self._redis.xautoclaim(
                    self._keys.queue,
                    TRAINER_GROUP,
                    self._consumer,
                    int(idle_seconds * 1000),
                    count=count,
                )
            )
        return self._deliveries(answer[1])

    def keep_alive(self, deliveries: Iterable[Delivery]) -> None:
        """Says that these are being worked on; call it more often than each `STALE_SECONDS`."""
        ids: list[Any] = [delivery.entry_id for delivery in deliveries]
        if ids:
            with store_errors():
                # JUSTID: this is no delivery, so it does not count as one.
                self._redis.xclaim(
                    self._keys.queue, TRAINER_GROUP, self._consumer, 0, ids, justid=True
                )

    def _gather(
        self,
        batch: list[Delivery],
        count: int,
        until: float,
        stop: Callable[[], bool],
        enough: int,
    ) -> list[Delivery]:
        """Adds new ones until there are enough, the time is over, or it is told to stop."""
        batch = batch + self._read_new(count - len(batch), 0)
        while len(batch) < enough and not stop() and (left := until - time.monotonic()) > 0:
            batch += self._read_new(count - len(batch), min(_BLOCK_MS, int(left * 1000) + 1))
        return batch

    def _read_own(self, count: int) -> list[Delivery]:
        return self._read("0", count, None)

    def _read_new(self, count: int, block_ms: int) -> list[Delivery]:
        """Takes what nobody has taken; waits for a first one if `block_ms` is not 0."""
        return self._read(">", count, block_ms or None) if count > 0 else []

    def _read(self, after: str, count: int, block_ms: int | None) -> list[Delivery]:
        with store_errors():
            answer: list[Any] = self._in_group(
                lambda: self._redis.xreadgroup(
                    TRAINER_GROUP,
                    self._consumer,
                    {self._keys.queue: after},
                    count=count,
                    block=block_ms,
                )
            )
        return self._deliveries(answer[0][1]) if answer else []

    def _in_group(self, command: Callable[[], Any]) -> Any:
        """Runs a command of the group; makes the group first where there is none yet."""
        try:
            return command()
        except redis.ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
        try:
            self._redis.xgroup_create(self._keys.queue, TRAINER_GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        return command()

    def _deliveries(self, entries: Iterable[_Entry]) -> list[Delivery]:
        """Reads entries; buries those that are unreadable, for they would be so for ever."""
        present = []
        for entry_id, fields in entries:
            if entry_id and fields:
                present.append((entry_id, fields))
            elif entry_id:  # deleted by hand, but still in our list
                self._redis.xack(self._keys.queue, TRAINER_GROUP, entry_id)
        counts = self._delivery_counts([entry_id for entry_id, _ in present])
        deliveries = []
        for entry_id, fields in present:
            try:
                record = FeedbackRecord.from_json(fields["record"])
                attempt = int(fields["attempt"])
            except (RecordUnreadableError, KeyError, ValueError) as error:
                _log.error("entry %s of the queue is unreadable: %s", entry_id, error)
                self._bury_unreadable(entry_id, fields, f"unreadable: {error}", counts)
                continue
            deliveries.append(Delivery(entry_id, record, attempt, counts.get(entry_id, 1)))
        return deliveries

    def _delivery_counts(self, entry_ids: Sequence[str]) -> dict[str, int]:
        if not entry_ids:
            return {}
        with store_errors():
            pending: Any = self._redis.xpending_range(
                self._keys.queue, TRAINER_GROUP, min=entry_ids[0], max=entry_ids[-1],
                count=len(entry_ids), consumername=self._consumer,
            )  # fmt: skip
        return {one["message_id"]: one["times_delivered"] for one in pending}

    def _age_seconds(self, delivery: Delivery) -> float:
        """Since it was queued, by the clock of Redis."""
        with store_errors():
            seconds, microseconds = self._redis.time()
        queued_ms = int(delivery.entry_id.partition("-")[0])
        return float(seconds + microseconds / 1e6 - queued_ms / 1000)

    # Settling

    def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """Removes entries from the queue. The very last step: what became of them is durable."""
        ids = [delivery.entry_id for delivery in deliveries]
        if not ids:
            return
        with store_errors(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.xack(self._keys.queue, TRAINER_GROUP, *ids)
            pipeline.xdel(self._keys.queue, *ids)
            pipeline.execute()

    def put_off(self, deliveries: Iterable[Delivery]) -> None:
        """Moves deliveries to the end of the queue, untried. Put them down in the archive first."""
        for one in deliveries:
            with store_errors():
                self._redis.eval(
                    scripts.PUT_OFF, 2, self._keys.queue, self._keys.view(one.feedback_id),
                    TRAINER_GROUP, one.entry_id, one.feedback_id, one.record.to_json(),
                    str(one.attempt),
                )  # fmt: skip

    def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Moves a delivery to the dead letters. Put it down in the archive first."""
        fields = {
            "id": delivery.feedback_id,
            "record": delivery.record.to_json(),
            "attempt": str(delivery.attempt),
        }
        self._bury(delivery.entry_id, fields, reason, delivery.deliveries)

    def close(self, settled: Iterable[tuple[Delivery, Account]]) -> None:
        """Removes entries whose feedback the archive says is settled, each to where it belongs.

        For what is delivered again after a crash: a dead letter that had not been moved yet goes to
        the dead letters, everything else is acknowledged.
        """
        done = []
        for delivery, account in settled:
            if account.state is FeedbackState.DEAD_LETTERED:
                self.dead_letter(delivery, account.reason)
            else:
                done.append(delivery)
        self.acknowledge(done)

    def _bury(self, entry_id: str, fields: dict[str, str], reason: str, deliveries: int) -> None:
        feedback_id = fields.get("id", "")
        with store_errors():
            self._redis.eval(
                scripts.BURY, 3, self._keys.queue, self._keys.dead, self._keys.view(feedback_id),
                TRAINER_GROUP, entry_id, feedback_id, fields.get("record", ""),
                fields.get("attempt", "0"), reason, str(deliveries),
            )  # fmt: skip

    def _bury_unreadable(
        self, entry_id: str, fields: dict[str, str], reason: str, counts: dict[str, int]
    ) -> None:
        """Buries what the archive never sees; so its view is moved here, if that can be read."""
        self._bury(entry_id, fields, reason, counts.get(entry_id, 1))
        view = self._keys.view(fields.get("id", ""))
        with store_errors(), contextlib.suppress(RecordUnreadableError):
            known: Any = self._redis.hget(view, "account")
            if known:
                account = Account.from_json(known).moved(FeedbackState.DEAD_LETTERED, reason)
                moved: dict[Any, Any] = {
                    "account": account.to_json(),
                    "moves": len(account.history),
                }
                self._redis.hset(view, mapping=moved)

    # Telling

    def stats(self) -> QueueStats:
        """Tells how much waits, and for how long."""
        with store_errors():
            answer: Any = self._redis.eval(
                scripts.STATS, 2, self._keys.queue, self._keys.dead, TRAINER_GROUP
            )
        return QueueStats.parse(answer)
