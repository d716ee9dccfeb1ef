"""Carrying out an erasure, between two rounds: purge, retrain, retire.

    PURGING      the archive leaves of the author's feedback its ids alone; Redis loses entries,
                 views, marks and generations; both write their files anew. Then the tainted
                 checkpoints are listed: those whose round, or whose ancestor's, had the feedback;
                 and what others said is QUEUED again that was not taught for something it
                 contradicted, or that outranked it, in a round with the author's or upon one
    RETRAINING   from the last clean ancestor of `live` that still has its files, what the others
                 said and `live` has learned is taught anew, in rounds through the gate
    RETIRING     `live` goes to the clean checkpoint, the tainted ones lose their files; what the
                 author sent meanwhile is purged too, and last of all their name
    DONE

The archive knows the state, and every step of a state can be repeated, so that a crash costs no
more than the step. Nothing is read from the queue meanwhile. While the retraining goes on the
tainted checkpoint serves; it is the servers that follow `live`, within about a second, and they end
on the old one what they have begun.

Not counted as taint: that a question of the author was an anchor. What an anchor teaches is the
live model's own answer, so that it stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from learnback_store.announcements import announce
from learnback_store.archive import Archive
from learnback_store.archive_erasures import ErasureTask
from learnback_store.checkpoints import CheckpointState, CheckpointStore
from learnback_store.connection import Client
from learnback_store.erasures import Erasure, ErasureState, ErasureTray
from learnback_store.keys import Keys
from learnback_store.live_views import LiveViews
from learnback_store.manifest import BASE
from learnback_store.purging import Purge, scrub_files
from learnback_store.records import FeedbackState, FeedbackView, now_ms
from learnback_store.rounds import RoundState
from learnback_trainer import quarrels, reconcile
from learnback_trainer.lessons import TAKEN_BACK

_log = logging.getLogger(__name__)

ERASURE_STEPS = (
    "erasure taken", "archive purged", "redis purged", "scrubbed", "planned", "retrained",
    "withdrawn", "purged again", "name forgotten", "erasure done", "receipt told",
)  # fmt: skip
"""The steps of an erasure besides those of its rounds, in order."""

# Rounds that are cut off before the feedback in them is taught alone, and before it is given up.
_ALONE_FROM = 2
_MOST_TRIES = 4

HEARD_AGAIN = "what it gave way to may have been feedback that is erased now"

# Why feedback gives way to what others say.
_GAVE_WAY = (
    *(reconcile.OUTWEIGHED, reconcile.CANCELLED),
    *(quarrels.OUTWEIGHED, quarrels.UNDECIDED, TAKEN_BACK),
)

Teach = Callable[[Sequence[FeedbackView], str], str]
"""Holds a round about feedback that is LEARNED, from a checkpoint; returns what it published."""


class Eraser:
    """Carries out erasures.

    Args:
        redis: The client.
        keys: Where everything lies.
        archive: Owns the erasures.
        checkpoints: Where the tainted ones lie.
        teach: Holds a round.
        round_size: Most feedback in a round.
        reached: Told the name of each step of `ERASURE_STEPS` when it is done.
    """

    def __init__(
        self,
        redis: Client,
        keys: Keys,
        archive: Archive,
        checkpoints: CheckpointStore,
        teach: Teach,
        round_size: int,
        reached: Callable[[str], None],
    ) -> None:
        self._redis, self._keys = redis, keys
        self._archive, self._checkpoints = archive, checkpoints
        self._tray, self._views = ErasureTray(redis, keys), LiveViews(redis, keys)
        self._teach, self._round_size, self._reached = teach, round_size, reached

    def is_asked(self) -> bool:
        """Whether an erasure waits, or was begun."""
        return bool(self._tray.open())

    def work(self) -> int:
        """Carries out every erasure that was asked for; returns how many that were.

        No round may be unfinished.
        """
        asked = self._tray.open()
        if asked:
            self._archive.take_erasures(one for one in asked if one.author)
            # What a crash kept from being told.
            self._tray.tell(one.request for one in self._archive.erasures() if one.erasure.done)
            self._reached("erasure taken")
        count = 0
        while (task := self._archive.unfinished_erasure()) is not None:
            self._carry_out(task)
            count += 1
        return count

    def _carry_out(self, task: ErasureTask) -> None:
        _log.info("erasure %s goes on: %s", task.erasure.erasure_id, task.erasure.state)
        if task.erasure.state is ErasureState.PURGING:
            task = self._plan(self._purge(task))
        if task.erasure.state is ErasureState.RETRAINING:
            task = self._retrain(task)
        self._retire(task)

    # PURGING

    def _purge(self, task: ErasureTask) -> ErasureTask:
        """Removes all that there is of the author now; returns the task with its counts."""
        purge = Purge(self._redis, self._keys, task.request.author)
        traces = purge.find()
        task = self._archive.erase_feedback(task, traces.feedback_ids)
        if task.erasure.state is ErasureState.PURGING:
            # Counted before they go, so that a crash between the two costs no count.
            count = max(task.erasure.generations_purged, traces.generations)
            task = self._write(task, replace(task.erasure, generations_purged=count))
        self._reached("archive purged")
        late = purge.remove(traces, [self._archive.get(one) for one in task.feedback_ids])
        self._reached("redis purged")
        if task.erasure.state is ErasureState.PURGING:
            return task
        total = task.erasure.generations_purged + late
        return self._write(task, replace(task.erasure, generations_purged=total))

    def _plan(self, task: ErasureTask) -> ErasureTask:
        self._archive.scrub()
        scrub_files(self._redis)
        self._reached("scrubbed")
        tainted = self._tainted(task)
        live = self._checkpoints.aliases().live
        self._hear_again(task, tainted)
        moved = replace(task.erasure, state=ErasureState.RETRAINING, tainted=tainted)
        planned = replace(task, since=self._checkpoints.new_name(), tip=self._clean(live, tainted))
        task = self._write(planned, moved)
        self._reached("planned")
        return task

    def _tainted(self, task: ErasureTask) -> tuple[str, ...]:
        """Every checkpoint that was taught the author's feedback, or stands on one, oldest first.

        By the rounds that the archive knows, and by manifests, for an archive that was lost.
        """
        ids, rounds = set(task.feedback_ids), self._archive.rounds_with(task.feedback_ids)
        found: list[str] = []
        for one in reversed(self._checkpoints.all()):
            own = one.manifest.round_id in rounds or ids & set(one.manifest.feedback_ids)
            if own or one.manifest.parent in found:
                found.append(one.name)
        return tuple(found)

    def _hear_again(self, task: ErasureTask, tainted: Sequence[str]) -> None:
        """Queues what gave way, perhaps to the author's; if it was to others', it will again."""
        rounds = self._archive.rounds_with(task.feedback_ids)
        again = [
            one.feedback_id
            for one in self._archive.in_state(FeedbackState.NOT_LEARNED)
            if _gave_way(one.account.reason, task.feedback_ids)
            and any(
                held.round_id in rounds or held.parent in tainted
                for held in self._archive.rounds_of(one.feedback_id)
            )
        ]
        self._views.publish(self._archive.move(again, FeedbackState.QUEUED, HEARD_AGAIN))

    def _clean(self, live: str, tainted: Sequence[str]) -> str:
        """The nearest of a checkpoint and its ancestors that is clean and has its files."""
        for manifest in self._checkpoints.lineage(live):
            state = self._checkpoints.get(manifest.name).state
            if manifest.name not in tainted and state is CheckpointState.PUBLISHED:
                return manifest.name
        return BASE

    # RETRAINING

    def _retrain(self, task: ErasureTask) -> ErasureTask:
        if self._checkpoints.aliases().live in task.erasure.tainted:
            while chunk := self._next_chunk(task):
                self._teach(chunk, self._tip(task))
        self._reached("retrained")
        return self._write(task, replace(task.erasure, state=ErasureState.RETIRING))

    def _next_chunk(self, task: ErasureTask) -> list[FeedbackView]:
        """What `live` has learned and the clean line has not, oldest first; a round of it.

        A round moves all of it on: to LEARNED in the clean line, or to another state.
        """
        line = {manifest.name for manifest in self._checkpoints.lineage(self._tip(task))}
        left = [one for one in self._archive.learned() if one.account.checkpoint not in line]
        hopeless = [one for one in left if self._tries(one, task) >= _MOST_TRIES]
        if hopeless:
            reason = f"its round was cut off {_MOST_TRIES} times while an author was erased"
            ids = [one.feedback_id for one in hopeless]
            self._views.publish(self._archive.move(ids, FeedbackState.NOT_LEARNED, reason))
            left = [one for one in left if one not in hopeless]
        alone = [one for one in left if self._tries(one, task) >= _ALONE_FROM]
        return alone[:1] or left[: self._round_size]

    def _tries(self, view: FeedbackView, task: ErasureTask) -> int:
        return sum(
            one.state is RoundState.ABANDONED and one.begin_ms >= task.erasure.create_ms
            for one in self._archive.rounds_of(view.feedback_id)
        )

    def _tip(self, task: ErasureTask) -> str:
        """The newest checkpoint of the clean line; it has grown from the one that was planned."""
        tip = task.tip
        published = self._checkpoints.all([CheckpointState.PUBLISHED])
        own = {one.manifest.parent: one.name for one in published if one.name >= task.since}
        while tip in own:
            tip = own[tip]
        return tip

    # RETIRING

    def _retire(self, task: ErasureTask) -> None:
        tainted, clean = set(task.erasure.tainted), self._tip(task)
        self._checkpoints.withdraw(tainted, clean)
        announce(self._redis, self._keys, self._checkpoints.aliases().serial)
        self._reached("withdrawn")
        # What a round put off, or is heard again, waits in the archive; it is not in the queue.
        self._views.restore(self._archive.waiting())
        if task.request.author:
            task = self._purge(task)
            self._tray.forget_name(task.request.request)
            scrub_files(self._redis)
            self._reached("purged again")
            request = replace(task.request, author="")
            task = self._archive.write_erasure(replace(task, request=request, feedback_ids=()))
        self._archive.scrub()
        self._reached("name forgotten")
        live = self._checkpoints.aliases().live if tainted else ""
        done = replace(task.erasure, state=ErasureState.DONE, clean=live, done_ms=now_ms())
        task = self._archive.write_erasure(
            replace(task, request=replace(task.request, erasure=done))
        )
        self._reached("erasure done")
        self._tray.tell([task.request])
        self._reached("receipt told")
        _log.info("erasure %s is done", done.erasure_id)

    def _write(self, task: ErasureTask, erasure: Erasure) -> ErasureTask:
        """Puts down how far it has come, in the archive first, and tells it."""
        task = replace(task, request=replace(task.request, erasure=erasure))
        self._archive.write_erasure(task)
        self._tray.tell([task.request])
        return task


def _gave_way(reason: str, to: Sequence[str]) -> bool:
    """Whether feedback was not taught because of what others said, or of certain feedback."""
    return reason.startswith(_GAVE_WAY) or any(one in reason for one in to)
