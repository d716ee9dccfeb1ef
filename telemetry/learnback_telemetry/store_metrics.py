"""What waits in Redis, and how Redis is, read whenever somebody scrapes.

Server and trainer export the same figures, so that those of the queue are there while the trainer
is not. Take the highest of them, not the sum. While Redis is away only
`learnback_redis_up` is told.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from learnback_store.connection import Client, store_errors
from learnback_store.errors import StoreUnavailableError
from learnback_store.feedback import FeedbackQueue
from learnback_store.keys import Keys
from learnback_telemetry.families import PREFIX, Families, Family, Reading

_UP = Family(f"{PREFIX}redis_up", "gauge", "1 if Redis answers, else 0.")
_DEPTH = Family(
    f"{PREFIX}feedback_queue_depth", "gauge", "Feedback in the queue that is not settled yet."
)
_TAKEN = Family(
    f"{PREFIX}feedback_queue_taken", "gauge", "Of the feedback in the queue: what a trainer holds."
)
_OLDEST = Family(
    f"{PREFIX}feedback_oldest_age_seconds",
    "gauge",
    "Age of the oldest feedback in the queue; 0 if there is none.",
)
_DEAD = Family(
    f"{PREFIX}feedback_dead_letters", "gauge", "Feedback that failed repeatedly and was put aside."
)
_USED = Family(f"{PREFIX}redis_memory_used_bytes", "gauge", "Memory that Redis uses.")
_MOST = Family(
    f"{PREFIX}redis_memory_max_bytes", "gauge", "Memory that Redis may use; 0 if unbounded."
)
_AOF = Family(
    f"{PREFIX}redis_aof_enabled", "gauge", "1 if Redis writes an append-only file, else 0."
)
_AOF_OK = Family(
    f"{PREFIX}redis_aof_ok",
    "gauge",
    "1 if the last write and the last rewrite of the append-only file went well, else 0.",
)
_FAMILIES = (_UP, _DEPTH, _TAKEN, _OLDEST, _DEAD, _USED, _MOST, _AOF, _AOF_OK)


class StoreMetrics:
    """Exports the state of one queue and its Redis, once it has been told of them.

    Args:
        families: Where to.
    """

    def __init__(self, families: Families) -> None:
        self._watched: tuple[Client, FeedbackQueue] | None = None
        families.at_scrape(_FAMILIES, self._read)

    def watch(self, redis: Client, keys: Keys) -> None:
        """Reads from here on; the client is used on the threads of those who scrape."""
        self._watched = redis, FeedbackQueue(redis, keys)

    def _read(self) -> Iterable[Reading]:
        if self._watched is None:
            return []
        redis, queue = self._watched
        try:
            stats = queue.stats()
            with store_errors():
                info: dict[str, Any] = {}
                for section in ("memory", "persistence"):
                    info |= redis.info(section)
        except StoreUnavailableError:
            return [(_UP, (), 0.0)]
        aof_ok = {info.get("aof_last_write_status"), info.get("aof_last_bgrewrite_status")}
        figures = {
            _UP: 1,
            _DEPTH: stats.depth,
            _TAKEN: stats.taken,
            _OLDEST: stats.oldest_seconds,
            _DEAD: stats.dead,
            _USED: info["used_memory"],
            _MOST: info["maxmemory"],
            _AOF: info["aof_enabled"],
            _AOF_OK: aof_ok == {"ok"},
        }
        return [(family, (), float(value)) for family, value in figures.items()]
