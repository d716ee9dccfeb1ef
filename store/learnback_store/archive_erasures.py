"""Erasures in the archive, which owns them: what was asked for, how far it has come, what remains.

Feedback that was erased leaves its id and nothing else (`FeedbackView.erased`). What was deleted is
overwritten where it stood (`secure_delete`), but SQLite also moves rows about and leaves copies in
the gaps of pages; `scrub` therefore writes the whole file anew. Blocks that the file system has
freed are out of reach.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from learnback_store.archive_reader import ArchiveReader
from learnback_store.archive_schema import transaction
from learnback_store.erasures import Erasure, ErasureRequest
from learnback_store.errors import ArchiveBusyError
from learnback_store.records import FeedbackState, FeedbackView


@dataclass(frozen=True, slots=True)
class ErasureTask:
    """An erasure as the archive knows it."""

    request: ErasureRequest
    feedback_ids: tuple[str, ...] = ()
    """All that was erased; empty once it is done."""
    since: str = ""
    """The first name of a checkpoint that can be one of its own; empty until they are planned."""
    tip: str = ""
    """The clean checkpoint to train from, as it was when that was planned."""

    @property
    def erasure(self) -> Erasure:
        """Its receipt."""
        return self.request.erasure


class ErasureWriter(ArchiveReader):
    """The part of the archive that is about erasures."""

    def take_erasures(self, requests: Iterable[ErasureRequest]) -> None:
        """Puts down erasures that were asked for; what is known already stays as it is."""
        with transaction(self._db):
            self._db.executemany(
                "INSERT OR IGNORE INTO erasures "
                "(request, author, receipt, feedback_ids, since, tip, erasure_id, done) "
                "VALUES (?, ?, ?, '[]', '', '', ?, 0)",
                [
                    (one.request, one.author, one.erasure.to_json(), one.erasure.erasure_id)
                    for one in requests
                ],
            )

    def erasures(self) -> list[ErasureTask]:
        """Returns all erasures, oldest first."""
        rows = self._db.execute(
            "SELECT request, author, receipt, feedback_ids, since, tip FROM erasures "
            "ORDER BY erasure_id"
        ).fetchall()
        return [_task(*row) for row in rows]

    def unfinished_erasure(self) -> ErasureTask | None:
        """Returns the oldest erasure that is not done, if there is one."""
        row = self._db.execute(
            "SELECT request, author, receipt, feedback_ids, since, tip FROM erasures "
            "WHERE done = 0 ORDER BY erasure_id"
        ).fetchone()
        return _task(*row) if row else None

    def write_erasure(self, task: ErasureTask) -> ErasureTask:
        """Puts down how far an erasure has come, and returns it."""
        request, erasure = task.request, task.erasure
        with transaction(self._db):
            self._db.execute(
                "UPDATE erasures SET author = ?, receipt = ?, feedback_ids = ?, since = ?, "
                "tip = ?, done = ? WHERE erasure_id = ?",
                [
                    request.author,
                    erasure.to_json(),
                    json.dumps(task.feedback_ids),
                    task.since,
                    task.tip,
                    erasure.done,
                    erasure.erasure_id,
                ],
            )
        return task

    def erase_feedback(self, task: ErasureTask, found: Iterable[str]) -> ErasureTask:
        """Leaves of an author's feedback its ids alone, and returns the task that knows them.

        Args:
            task: Whose.
            found: Ids of feedback that was found in Redis, known here or not.
        """
        author = task.request.author
        with transaction(self._db):
            own = self._db.execute(
                "SELECT feedback_id FROM feedback WHERE author = ? "
                "OR json_extract(record, '$.body.asked_by') = ?",
                [author, author],
            ).fetchall()
            erased = sorted({one for (one,) in own} | set(found) | set(task.feedback_ids))
            for feedback_id in erased:
                self._erase(feedback_id)
            receipt = replace(task.erasure, feedback_purged=len(erased))
            self._db.execute(
                "UPDATE erasures SET receipt = ?, feedback_ids = ? WHERE erasure_id = ?",
                [receipt.to_json(), json.dumps(erased), receipt.erasure_id],
            )
        request = replace(task.request, erasure=receipt)
        return replace(task, request=request, feedback_ids=tuple(erased))

    def _erase(self, feedback_id: str) -> None:
        known = self._find(feedback_id)
        if known is not None and known[0].account.state is FeedbackState.ERASED:
            return
        view = FeedbackView.erased(feedback_id)
        self._db.execute(
            "INSERT INTO feedback VALUES (?, ?, ?, 0, ?, '', '', '') ON CONFLICT DO UPDATE SET "
            "record = excluded.record, account = excluded.account, attempt = 0, "
            "state = excluded.state, checkpoint = '', author = '', generation_id = ''",
            [feedback_id, view.record.to_json(), view.account.to_json(), FeedbackState.ERASED],
        )
        self._db.execute("DELETE FROM labels WHERE feedback_id = ?", [feedback_id])
        # Outcomes bear the lessons, in words.
        self._db.execute(
            "UPDATE round_items SET outcome = NULL WHERE feedback_id = ?", [feedback_id]
        )

    def rounds_with(self, feedback_ids: Sequence[str]) -> set[str]:
        """Returns the ids of all rounds that any of this feedback was in."""
        rows = self._db.execute(
            "SELECT DISTINCT round_id FROM round_items "
            "WHERE feedback_id IN (SELECT value FROM json_each(?))",
            [json.dumps(list(feedback_ids))],
        ).fetchall()
        return {round_id for (round_id,) in rows}

    def scrub(self) -> None:
        """Writes the file anew, so that nothing that was deleted stands in it or beside it.

        Raises:
            ArchiveBusyError: Somebody reads the archive, for longer than one waits.
        """
        self._db.execute("VACUUM")
        busy, _, _ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise ArchiveBusyError("the archive is being read, so it can't be written anew now")


def _task(
    request: str, author: str, receipt: str, feedback_ids: str, since: str, tip: str
) -> ErasureTask:
    asked = ErasureRequest(request, author, Erasure.from_json(receipt))
    return ErasureTask(asked, tuple(json.loads(feedback_ids)), since, tip)
