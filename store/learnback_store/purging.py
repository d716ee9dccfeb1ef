"""Taking an author out of Redis: entries, views, marks, generations, and the files on its disk.

What is an author's: the feedback that they gave, the generations that were made for them, the
feedback that others gave on those (it bears the author's words as the exchange), and the
generations for nobody in particular that the author gave feedback on.

Every step can be repeated; what points the way to the rest (the author's indices) goes last.

Limits. Only the Redis that is connected to is scrubbed: replicas and backups have files of their
own. Where BGREWRITEAOF or BGSAVE are refused (a managed Redis), what was deleted stays in its files
until Redis writes them anew by itself; the log says so.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

import redis

from learnback_store import scripts
from learnback_store.connection import Client, store_errors
from learnback_store.errors import RecordUnreadableError, StoreUnavailableError
from learnback_store.generations import Traffic
from learnback_store.keys import TRAINER_GROUP, Keys
from learnback_store.records import Account, FeedbackRecord, FeedbackView

_log = logging.getLogger(__name__)

# Entries or keys read at once.
_CHUNK = 500
_POLL_SECONDS = 0.05
# Redis writes some 100 MB a second; longer than this is a disk that is full or stuck.
_REWRITE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Traces:
    """What Redis holds of an author."""

    feedback_ids: frozenset[str]
    generation_ids: frozenset[str]
    generations: int
    """How many of these have not expired."""
    queued: tuple[str, ...]
    """Entries of the queue."""
    dead: tuple[str, ...]
    """Entries of the dead letters."""


class Purge:
    """Finds and removes what Redis holds of an author.

    Every method raises StoreUnavailableError while Redis is away.

    Args:
        redis: The client.
        keys: Where it lies.
        author: Whose.
    """

    def __init__(self, redis: Client, keys: Keys, author: str) -> None:
        self._redis = redis
        self._keys = keys
        self._author = author
        self._traffic = Traffic(redis, keys)

    # Finding

    def find(self) -> Traces:
        """Returns all that is there now."""
        own = set(self._traffic.of_author(self._author))
        with store_errors():
            indices = [self._keys.by_author(self._author), *map(self._keys.by_generation, own)]
            members: Any = [self._redis.zrange(index, 0, -1) for index in indices]
        feedback: set[str] = {one for some in members for one in some}
        queued = list(self._entries(self._keys.queue, own))
        dead = list(self._entries(self._keys.dead, own))
        feedback |= {feedback_id for _, feedback_id in (*queued, *dead) if feedback_id}
        generations = frozenset(own | self._spoken_of(feedback))
        return Traces(
            frozenset(feedback),
            generations,
            len(self._traffic.get(sorted(generations))),
            tuple(entry for entry, _ in queued),
            tuple(entry for entry, _ in dead),
        )

    def _entries(self, stream: str, generations: Set[str]) -> Iterator[tuple[str, str]]:
        """Yields the author's entries of a stream, each with its feedback id."""
        last = "-"
        while True:
            with store_errors():
                entries: Any = self._redis.xrange(stream, min=last, count=_CHUNK)
            for entry, fields in entries:
                if self._is_theirs(fields.get("record", ""), generations):
                    yield entry, fields.get("id", "")
            if len(entries) < _CHUNK:
                return
            last = f"({entries[-1][0]}"

    def _is_theirs(self, text: str, generations: Set[str]) -> bool:
        try:
            record = FeedbackRecord.from_json(text)
        except RecordUnreadableError:
            # Whatever else it is: if it names them, it goes.
            return json.dumps(self._author, ensure_ascii=False)[1:-1] in text
        spoken_of = record.generation.generation_id if record.generation else ""
        return self._author in (record.author, record.asked_by) or spoken_of in generations

    def _spoken_of(self, feedback_ids: Set[str]) -> set[str]:
        """The generations for nobody in particular that the author's feedback is about."""
        records = [view.record for view in self._views(sorted(feedback_ids))]
        ids = {one.generation.generation_id for one in records if one.generation}
        found = self._traffic.get(sorted(ids))
        return {one for one, record in found.items() if record.author in ("", self._author)}

    def _views(self, feedback_ids: Sequence[str]) -> list[FeedbackView]:
        with store_errors(), self._redis.pipeline(transaction=False) as pipeline:
            for feedback_id in feedback_ids:
                pipeline.hmget(self._keys.view(feedback_id), ["record", "account"])
            answers: Any = pipeline.execute()
        return [
            FeedbackView(FeedbackRecord.from_json(record), Account.from_json(account))
            for record, account in answers
            if record and account
        ]

    # Removing

    def remove(self, traces: Traces, erased: Sequence[FeedbackView]) -> int:
        """Removes what was found; returns how many generations there were.

        Args:
            traces: What was found.
            erased: All feedback of the author as the archive tells it now (`FeedbackView.erased`),
                which stands where their views were.
        """
        with store_errors(), self._redis.pipeline(transaction=True) as pipeline:
            if traces.queued:
                pipeline.xack(self._keys.queue, TRAINER_GROUP, *traces.queued)
                pipeline.xdel(self._keys.queue, *traces.queued)
            if traces.dead:
                pipeline.xdel(self._keys.dead, *traces.dead)
            pipeline.execute()
        self._remove_marks({view.feedback_id for view in erased})
        for view in erased:
            self._bury_view(view)
        removed = self._traffic.forget(sorted(traces.generation_ids), self._author)
        with store_errors():
            self._redis.delete(
                self._keys.by_author(self._author), self._keys.generations_by_author(self._author)
            )
        return removed

    def _remove_marks(self, feedback_ids: Set[str]) -> None:
        with store_errors():
            for mark in self._redis.scan_iter(self._keys.requests, count=_CHUNK):
                if self._redis.hget(mark, "id") in feedback_ids:
                    self._redis.delete(mark)

    def _bury_view(self, view: FeedbackView) -> None:
        keys = [self._keys.view(view.feedback_id), self._keys.feedback]
        for old in self._views([view.feedback_id]):
            if old.record.author:
                keys.append(self._keys.by_author(old.record.author))
            if old.record.generation:
                keys.append(self._keys.by_generation(old.record.generation.generation_id))
            if old.account.checkpoint:
                keys.append(self._keys.by_checkpoint(old.account.checkpoint))
        record, account = view.record.to_json(), view.account.to_json()
        moves = str(len(view.account.history))
        with store_errors():
            self._redis.eval(
                scripts.ERASE_VIEW, len(keys), *keys, view.feedback_id, record, account, moves
            )


# The files


def scrub_files(client: Client) -> bool:
    """Has Redis write its files anew, so that what was deleted stands in none of them.

    Returns when they are written. The slow log, which remembers arguments, is emptied too.

    Returns:
        False if this Redis does not let us, in which case the log says what to do.

    Raises:
        StoreUnavailableError: Redis is away, or could not write them.
    """
    try:
        with store_errors():
            client.slowlog_reset()
            if _persistence(client)["aof_enabled"]:
                _write_anew(client, "aof_rewrite", "BGREWRITEAOF")
            if client.config_get("save").get("save"):
                _write_anew(client, "rdb_bgsave", "BGSAVE")
    except redis.ResponseError as error:
        _log.warning(
            "Redis does not let its files be written anew (%s): what was deleted stays in them "
            "until it does so by itself; ask its operator for BGREWRITEAOF and BGSAVE", error
        )  # fmt: skip
        return False
    return True


def _write_anew(client: Client, kind: str, command: str) -> None:
    """Runs one of the two commands, after one that had begun before has ended, to its end."""
    _wait_until_written(client)
    client.execute_command(command)  # type: ignore[no-untyped-call]
    state = _wait_until_written(client)
    outcome = "aof_last_bgrewrite_status" if kind == "aof_rewrite" else "rdb_last_bgsave_status"
    if state[outcome] != "ok":
        raise StoreUnavailableError(f"Redis could not write its files anew: {command} failed")


def _wait_until_written(client: Client) -> dict[str, Any]:
    deadline = time.monotonic() + _REWRITE_SECONDS
    while time.monotonic() < deadline:
        state = _persistence(client)
        busy = ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress")
        if not any(state[name] for name in busy):
            return state
        time.sleep(_POLL_SECONDS)
    raise StoreUnavailableError("Redis takes too long to write its files anew")


def _persistence(client: Client) -> dict[str, Any]:
    state: dict[str, Any] = client.info("persistence")
    return state
