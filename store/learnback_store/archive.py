"""The durable log of all feedback, owned by the trainer; why nothing is lost or learned twice.

Three things are durable: the queue in Redis (synced at each write), this archive (SQLite, synced at
each commit) and the checkpoint folder (one rename a checkpoint). A round of training walks through
them in this order, and each step can be repeated without harm:

     1 read         queue.read_batch          taken, and still in the queue until step 12
     2 archive      archive.take              one row for each feedback id, however often delivered
     3 begin        archive.begin_round       QUEUED -> LEARNING
     4 lessons, 5 teach, 6 gate               in memory only
     7 decide       archive.decide_round      what became of each, and the name of the checkpoint
     8 publish      checkpoints.publish       the rename: THE ROUND COUNTS FROM HERE ON
     9 alias        checkpoints.promote       only if `live` is still the parent
    10 finish       archive.finish_round      LEARNING -> LEARNED, NOT_LEARNED, QUARANTINED, QUEUED
    11 tell         announce, views.publish   servers look at the aliases; live views
    12 acknowledge  queue.acknowledge         out of the queue

What a restart finds after kill -9, and what `settlement.settle` and the next `read_batch` make of
it (the queue gives back everything that was taken and not acknowledged):

    before 2      taken, unknown here    -> delivered again, taken for the first time
    before 3      QUEUED here            -> delivered again, `take` changes nothing; taught
    before 7      open round             -> abandoned (its weights were in memory); taught anew
    before 8      decided, no checkpoint -> abandoned likewise; `aside/` is swept
    before 9      decided, published     -> promoted unless an operator moved `live`, finished
    before 10     the same               -> `live` is there already, finished
    before 11     finished               -> delivered again; final, so only told and acknowledged
    before 12     the same

So feedback is learned exactly by those checkpoints whose manifests name it, one of them: it can be
in a second round only if the first one's checkpoint was never renamed. A round that publishes
nothing (the gate refused all of it) counts from step 7 on.

Between Redis and here: feedback that Redis acknowledged to a user is in the queue until it stands
here. If Redis loses its data (`sync_epoch` tells), what stands here and is not settled is queued
again and all views are written back; what had not been taken yet is lost, which is why Redis syncs
at each write. If the archive is lost, `take` is told what published checkpoints have learned
(`CheckpointStore.learned_feedback`), so that redelivery is not learned twice.

An archive object belongs to the thread that opened it.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from learnback_store.archive_erasures import ErasureWriter
from learnback_store.archive_schema import open_writer, transaction
from learnback_store.errors import RoundStateError
from learnback_store.records import (
    Account,
    FeedbackRecord,
    FeedbackState,
    FeedbackView,
    new_round_id,
    now_ms,
)
from learnback_store.rounds import Outcome, Round, RoundState

_EPOCH_BYTES = 8
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Taken:
    """One piece of feedback as the archive knows it, now that it was taken."""

    view: FeedbackView
    attempt: int

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do but to tell and to acknowledge."""
        return self.view.account.state.final


class Archive(ErasureWriter):
    """The archive, open for writing: one at a time. A context manager closes it.

    Args:
        path: The file; made if missing, beside it `.lock`, `-wal` and `-shm`.

    Raises:
        ArchiveLockedError: Another process writes it.
        ArchiveForeignError: The file is no archive of this version.
    """

    def __init__(self, path: Path) -> None:
        connection, self._lock = open_writer(path)
        super().__init__(connection)

    def close(self) -> None:
        """Closes the file and lets go of its lock."""
        super().close()
        self._lock.close()

    # Feedback

    def take(
        self,
        delivered: Iterable[tuple[FeedbackRecord, int]],
        learned: Mapping[str, str] = _NOTHING,
    ) -> list[Taken]:
        """Puts down feedback that was delivered; what is known already stays as it is.

        Args:
            delivered: Records, each with its attempt. One with a later attempt than known was put
                back from the dead letters, and is queued again.
            learned: The checkpoint that learned it, by feedback id, as published manifests say
                (`CheckpointStore.learned_feedback`). They know better than an archive that was
                lost or restored from a backup, and does not know that it was ever learned.

        Returns:
            Each of them once, in order, as it stands now.
        """
        taken: dict[str, Taken] = {}
        with transaction(self._db):
            for record, attempt in delivered:
                taken[record.feedback_id] = self._take(record, attempt, learned)
        return list(taken.values())

    def _take(self, record: FeedbackRecord, attempt: int, learned: Mapping[str, str]) -> Taken:
        feedback_id = record.feedback_id
        known = self._find(feedback_id)
        if known is None:
            view = FeedbackView(record, Account.queued(record))
            self._insert(view, attempt)
        else:
            view, known_attempt = known
            if attempt > known_attempt and view.account.state is FeedbackState.DEAD_LETTERED:
                view = self._write(view, view.account.moved(FeedbackState.QUEUED, "put back"))
            attempt = max(attempt, known_attempt)
            self._db.execute(
                "UPDATE feedback SET attempt = ? WHERE feedback_id = ?", [attempt, feedback_id]
            )
        # What the archive knows to have been learned, and queued again since, it knows better.
        again = any(one.state is FeedbackState.LEARNED for one in view.account.history)
        if feedback_id in learned and view.account.state is FeedbackState.QUEUED and not again:
            account = view.account.moved(
                FeedbackState.LEARNED,
                "found in the manifest of the checkpoint",
                checkpoint=learned[feedback_id],
            )
            view = self._write(view, account)
        return Taken(view, attempt)

    def move(
        self, feedback_ids: Iterable[str], state: FeedbackState, reason: str, checkpoint: str = ""
    ) -> list[FeedbackView]:
        """Moves feedback to another state, outside any round; what is there already stays.

        Raises:
            FeedbackNotFoundError: There is none of one of these ids; nothing was moved.
        """
        with transaction(self._db):
            return [self._move(one, state, reason, checkpoint) for one in feedback_ids]

    def put_off(self, reasons: Mapping[str, str]) -> list[FeedbackView]:
        """Says why feedback that is QUEUED has to wait; told once, however often it has to.

        Args:
            reasons: Why, by feedback id; what stands before a colon says whether it is told yet.

        Raises:
            FeedbackNotFoundError: There is none of one of these ids; nothing was written.
        """
        with transaction(self._db):
            return [self._put_off(*one) for one in reasons.items()]

    def _put_off(self, feedback_id: str, reason: str) -> FeedbackView:
        view = self.get(feedback_id)
        told = view.account.reason.partition(":")[0] == reason.partition(":")[0]
        if told or view.account.state is not FeedbackState.QUEUED:
            return view
        return self._write(view, view.account.moved(FeedbackState.QUEUED, reason))

    def _move(
        self, feedback_id: str, state: FeedbackState, reason: str, checkpoint: str = ""
    ) -> FeedbackView:
        view = self.get(feedback_id)
        if view.account.state is state and view.account.checkpoint == checkpoint:
            return view
        return self._write(view, view.account.moved(state, reason, checkpoint=checkpoint))

    def _insert(self, view: FeedbackView, attempt: int) -> None:
        record, account = view.record, view.account
        generation_id = record.generation.generation_id if record.generation else ""
        self._db.execute(
            "INSERT INTO feedback VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                record.feedback_id,
                record.to_json(),
                account.to_json(),
                attempt,
                account.state,
                account.checkpoint,
                record.author,
                generation_id,
            ],
        )
        self._db.executemany(
            "INSERT INTO labels VALUES (?, ?, ?)",
            [(record.feedback_id, name, value) for name, value in record.labels.items()],
        )

    def _write(self, view: FeedbackView, account: Account) -> FeedbackView:
        self._db.execute(
            "UPDATE feedback SET account = ?, state = ?, checkpoint = ? WHERE feedback_id = ?",
            [account.to_json(), account.state, account.checkpoint, view.feedback_id],
        )
        return FeedbackView(view.record, account)

    # Rounds

    def begin_round(
        self, parent: str, feedback_ids: Sequence[str], *, again: bool = False, replaces: str = ""
    ) -> Round:
        """Begins a round about feedback that is QUEUED, and moves it to LEARNING.

        Args:
            parent: The checkpoint that it trains from.
            feedback_ids: The feedback.
            again: It is about feedback that is LEARNED, which it stays until the round is finished.
            replaces: The checkpoint that `live` must still point at to be moved; empty: `parent`.

        Raises:
            RoundStateError: Another round is unfinished, or some of it is in another state.
            FeedbackNotFoundError: There is none of one of these ids.
        """
        round_id = new_round_id()
        with transaction(self._db):
            try:
                self._db.execute(
                    "INSERT INTO rounds VALUES (?, ?, ?, '', '', ?, NULL, ?)",
                    [round_id, RoundState.OPEN, parent, now_ms(), replaces],
                )
            except sqlite3.IntegrityError as error:
                raise RoundStateError("another round is unfinished; settle it first") from error
            for feedback_id in feedback_ids:
                self._join(round_id, feedback_id, again=again)
        return self.round(round_id)

    def _join(self, round_id: str, feedback_id: str, *, again: bool) -> None:
        state = self.get(feedback_id).account.state
        if state is not (FeedbackState.LEARNED if again else FeedbackState.QUEUED):
            raise RoundStateError(f"{feedback_id} is {state}, so no round can begin with it")
        if not again:
            self._move(feedback_id, FeedbackState.LEARNING, "")
        self._db.execute("INSERT INTO round_items VALUES (?, ?, NULL)", [round_id, feedback_id])

    def decide_round(
        self, round_id: str, outcomes: Sequence[Outcome], checkpoint: str = ""
    ) -> Round:
        """Puts down what a round decided. It counts once `checkpoint` is published.

        Args:
            round_id: The round.
            outcomes: One for each of its feedback.
            checkpoint: Name of the checkpoint about to be published, in whose manifest this round
                stands; empty if the round publishes none, and so learned nothing.

        Raises:
            RoundStateError: It is not open, or the outcomes do not fit it.
        """
        decided = {outcome.feedback_id: outcome for outcome in outcomes}
        with transaction(self._db):
            now = self.round(round_id)
            if now.state is not RoundState.OPEN:
                raise RoundStateError(f"{round_id} is {now.state}, so it can't decide")
            if decided.keys() != set(now.feedback_ids) or len(decided) != len(outcomes):
                raise RoundStateError(f"{round_id} needs one outcome for each of its feedback")
            if not checkpoint and any(one.state is FeedbackState.LEARNED for one in outcomes):
                raise RoundStateError(f"{round_id} can't have learned without a checkpoint")
            self._db.executemany(
                "UPDATE round_items SET outcome = ? WHERE round_id = ? AND feedback_id = ?",
                [(one.to_json(), round_id, one.feedback_id) for one in outcomes],
            )
            self._db.execute(
                "UPDATE rounds SET state = ?, checkpoint = ? WHERE round_id = ?",
                [RoundState.DECIDED, checkpoint, round_id],
            )
        return self.round(round_id)

    def finish_round(self, round_id: str) -> list[FeedbackView]:
        """Makes the outcomes of a decided round count. Its checkpoint must have been published.

        Returns:
            Its feedback as it stands now; also when it was finished before.

        Raises:
            RoundStateError: It is open or was abandoned.
        """
        with transaction(self._db):
            now = self.round(round_id)
            if now.state is RoundState.DECIDED:
                for outcome in now.outcomes:
                    self._apply(outcome, now.checkpoint)
                self._end(round_id, RoundState.FINISHED, "")
            elif now.state is not RoundState.FINISHED:
                raise RoundStateError(f"{round_id} is {now.state}, so it can't be finished")
            return [self.get(feedback_id) for feedback_id in now.feedback_ids]

    def abandon_round(self, round_id: str, reason: str) -> list[FeedbackView]:
        """Ends a round that came to nothing; its feedback goes back to where it was.

        Returns:
            Its feedback as it stands now; also when it was abandoned before.

        Raises:
            RoundStateError: It is finished.
        """
        with transaction(self._db):
            now = self.round(round_id)
            if now.state is RoundState.FINISHED:
                raise RoundStateError(f"{round_id} is finished, so it can't be abandoned")
            if now.state is not RoundState.ABANDONED:
                for feedback_id in now.feedback_ids:
                    if self.get(feedback_id).account.state is FeedbackState.LEARNING:
                        self._move(feedback_id, FeedbackState.QUEUED, reason)
                self._end(round_id, RoundState.ABANDONED, reason)
            return [self.get(feedback_id) for feedback_id in now.feedback_ids]

    def _apply(self, outcome: Outcome, checkpoint: str) -> None:
        view = self.get(outcome.feedback_id)
        if outcome.state is FeedbackState.QUEUED and view.account.state is FeedbackState.LEARNED:
            return  # What is taught again stays learned until a later round has decided.
        learned = outcome.state is FeedbackState.LEARNED
        account = view.account.moved(
            outcome.state,
            outcome.reason,
            checkpoint=checkpoint if learned else "",
            lessons=outcome.lessons,
        )
        self._write(view, account)

    def _end(self, round_id: str, state: RoundState, reason: str) -> None:
        self._db.execute(
            "UPDATE rounds SET state = ?, reason = ?, end_ms = ? WHERE round_id = ?",
            [state, reason, now_ms(), round_id],
        )

    # The epoch

    def epoch(self) -> str:
        """Returns the mark of this archive, made at its first use; `settlement` tells what for."""
        with transaction(self._db):
            self._db.execute(
                "INSERT OR IGNORE INTO facts VALUES ('epoch', ?)",
                [secrets.token_hex(_EPOCH_BYTES)],
            )
        (epoch,) = self._db.execute("SELECT value FROM facts WHERE name = 'epoch'").fetchone()
        return str(epoch)
