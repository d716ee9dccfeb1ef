"""Asking the archive.

The same questions are answered to its writer and to readers beside it on the same machine, such as
a server that is asked for feedback whose live view was pruned.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from learnback_store.archive_schema import open_reader
from learnback_store.errors import FeedbackNotFoundError, RoundStateError
from learnback_store.paging import FeedbackFilter, FeedbackPage, last_of, page_token
from learnback_store.records import Account, FeedbackRecord, FeedbackState, FeedbackView
from learnback_store.rounds import Outcome, Round, RoundState

# Rows read at once while walking over all feedback; nothing stays open between two reads.
_CHUNK = 500
# Sorts after every feedback id.
_END = "\x7f"


class ArchiveReader:
    """An open archive. A context manager closes it. Belongs to the thread that opened it.

    Args:
        connection: The open file.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    @classmethod
    def open(cls, path: Path) -> ArchiveReader:
        """Opens the archive for reading, beside its writer.

        Raises:
            ArchiveForeignError: There is none, or not of this version.
        """
        return ArchiveReader(open_reader(path))

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Feedback

    def get(self, feedback_id: str) -> FeedbackView:
        """Returns one piece of feedback and what became of it.

        Raises:
            FeedbackNotFoundError: There is none of this id.
        """
        found = self._find(feedback_id)
        if found is None:
            raise FeedbackNotFoundError("no feedback goes by this id")
        return found[0]

    def page(self, wanted: FeedbackFilter, *, page_size: int = 50, token: str = "") -> FeedbackPage:
        """Returns a page of feedback, newest first.

        Raises:
            PageTokenError: The token is not of this list with these filters.
        """
        last = last_of(token, wanted.scope())
        where, values = _where(wanted, before=last or _END)
        rows = self._db.execute(
            f"SELECT record, account FROM feedback WHERE {where} "  # noqa: S608  # of constants
            "ORDER BY feedback_id DESC LIMIT ?",
            [*values, page_size + 1],
        ).fetchall()
        views = tuple(_view(*row) for row in rows[:page_size])
        more = bool(views) and len(rows) > page_size
        return FeedbackPage(
            views, page_token(views[-1].feedback_id, wanted.scope()) if more else ""
        )

    def views(self) -> Iterator[FeedbackView]:
        """Yields all feedback, newest first."""
        token, first = "", True
        while token or first:
            page = self.page(FeedbackFilter(), page_size=_CHUNK, token=token)
            yield from page.views
            token, first = page.next_token, False

    def learned(self) -> list[FeedbackView]:
        """Returns all feedback that is LEARNED, oldest first."""
        return self.in_state(FeedbackState.LEARNED)

    def in_state(self, state: FeedbackState) -> list[FeedbackView]:
        """Returns all feedback that is in a state, oldest first."""
        wanted = FeedbackFilter(states=frozenset({state}))
        token, first, found = "", True, list[FeedbackView]()
        while token or first:
            page = self.page(wanted, page_size=_CHUNK, token=token)
            found += page.views
            token, first = page.next_token, False
        return found[::-1]

    def waiting(self) -> list[tuple[FeedbackRecord, int]]:
        """Returns all feedback that is not settled, oldest first, each with its attempt."""
        rows = self._db.execute(
            "SELECT record, attempt FROM feedback WHERE state IN (?, ?) ORDER BY feedback_id",
            [FeedbackState.QUEUED, FeedbackState.LEARNING],
        ).fetchall()
        return [(FeedbackRecord.from_json(record), attempt) for record, attempt in rows]

    def counts(self) -> dict[FeedbackState, int]:
        """Returns how much feedback is in each state."""
        rows = self._db.execute("SELECT state, count(*) FROM feedback GROUP BY state").fetchall()
        found = {FeedbackState(state): count for state, count in rows}
        return {state: found.get(state, 0) for state in FeedbackState}

    def _find(self, feedback_id: str) -> tuple[FeedbackView, int] | None:
        row = self._db.execute(
            "SELECT record, account, attempt FROM feedback WHERE feedback_id = ?", [feedback_id]
        ).fetchone()
        return (_view(row[0], row[1]), row[2]) if row else None

    # Rounds

    def round(self, round_id: str) -> Round:
        """Returns one round.

        Raises:
            RoundStateError: There is none of this id.
        """
        row = self._db.execute("SELECT * FROM rounds WHERE round_id = ?", [round_id]).fetchone()
        if row is None:
            raise RoundStateError(f"there is no round {round_id}")
        return self._round(row)

    def rounds(self, count: int = 50) -> list[Round]:
        """Returns the last rounds, newest first."""
        rows = self._db.execute(
            "SELECT * FROM rounds ORDER BY begin_ms DESC, round_id DESC LIMIT ?", [count]
        ).fetchall()
        return [self._round(row) for row in rows]

    def unfinished_round(self) -> Round | None:
        """Returns the round that is open or decided, if there is one."""
        row = self._db.execute(
            "SELECT * FROM rounds WHERE state IN (?, ?)", [RoundState.OPEN, RoundState.DECIDED]
        ).fetchone()
        return self._round(row) if row else None

    def rounds_of(self, feedback_id: str) -> list[Round]:
        """Returns every round that a piece of feedback was in, oldest first."""
        rows = self._db.execute(
            "SELECT rounds.* FROM rounds JOIN round_items USING (round_id) "
            "WHERE feedback_id = ? ORDER BY begin_ms, round_id",
            [feedback_id],
        ).fetchall()
        return [self._round(row) for row in rows]

    def _round(self, row: tuple[str, str, str, str, str, int, int | None, str]) -> Round:
        round_id, state, parent, checkpoint, reason, begin_ms, end_ms, replaces = row
        items = self._db.execute(
            "SELECT feedback_id, outcome FROM round_items WHERE round_id = ? ORDER BY feedback_id",
            [round_id],
        ).fetchall()
        return Round(
            round_id=round_id,
            state=RoundState(state),
            parent=parent,
            checkpoint=checkpoint,
            feedback_ids=tuple(feedback_id for feedback_id, _ in items),
            outcomes=tuple(Outcome.from_json(outcome) for _, outcome in items if outcome),
            reason=reason,
            begin_ms=begin_ms,
            end_ms=end_ms,
            replaces=replaces,
        )


def _view(record: str, account: str) -> FeedbackView:
    return FeedbackView(FeedbackRecord.from_json(record), Account.from_json(account))


def _where(wanted: FeedbackFilter, before: str) -> tuple[str, list[str]]:
    """The condition of a list and the values in it. Its text is of constants only."""
    conditions, values = ["feedback_id < ?"], [before]
    for column, value in (
        ("author", wanted.author),
        ("checkpoint", wanted.checkpoint),
        ("generation_id", wanted.generation_id),
    ):
        if value:
            conditions.append(f"{column} = ?")
            values.append(value)
    if wanted.states:
        conditions.append(f"state IN ({', '.join('?' * len(wanted.states))})")
        values += sorted(wanted.states)
    for label in wanted.labels.items():
        conditions.append(
            "feedback_id IN (SELECT feedback_id FROM labels WHERE name = ? AND value = ?)"
        )
        values += label
    return " AND ".join(conditions), values
