"""The story of the trainer: read, archive, make lessons, teach, judge, publish, acknowledge last.

Every step is one of those that `learnback_store.archive` tells of, in its order, and can be cut
off: at the next start `recover` brings queue, archive and checkpoints to one truth, and the queue
gives back what was not acknowledged. A round counts from the rename of its checkpoint on.

A round that the gate refuses is held again in halves (`bisecting.py`), so that one batch can take
several rounds and publish several checkpoints, one on the other.

Feedback that makes a round fail is tried again. From its third delivery on it is tried alone, so
that it takes no other feedback with it, and after `most_deliveries` it is a dead letter.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random

from learnback_store.announcements import announce
from learnback_store.archive import Archive
from learnback_store.checkpoints import CheckpointStore
from learnback_store.connection import Client
from learnback_store.errors import AliasMovedError, StoreUnavailableError
from learnback_store.feedback import Delivery, FeedbackQueue
from learnback_store.generations import Traffic
from learnback_store.keys import Keys
from learnback_store.live_views import LiveViews
from learnback_store.manifest import BASE, CheckpointKind, Manifest
from learnback_store.paging import FeedbackFilter
from learnback_store.records import FeedbackRecord, FeedbackState, FeedbackView
from learnback_store.rounds import Round
from learnback_store.settlement import follow_live, recover_redis, settle
from learnback_telemetry.context import about
from learnback_telemetry.tracing import Tracer
from learnback_trainer import authors
from learnback_trainer.acceptance import Head
from learnback_trainer.bisecting import UNTRIED, Bisection
from learnback_trainer.board import Board
from learnback_trainer.canaries import Canary
from learnback_trainer.consolidating import compared, live_now, longer
from learnback_trainer.drift import drift_of
from learnback_trainer.erasing import Eraser
from learnback_trainer.errors import MadeWayError, ModelError, RoundStoppedError, TeamError
from learnback_trainer.metrics import TrainerMetrics
from learnback_trainer.publishing import Candidate, open_pupil, publish, put_aside
from learnback_trainer.pupil import Base, LoraShape, Pupil
from learnback_trainer.questions import Question, from_canaries, from_traffic
from learnback_trainer.round_trace import RoundTrace
from learnback_trainer.schedule import Schedule
from learnback_trainer.school import Curriculum, Report, Sources, hold_round, shipped_questions
from learnback_trainer.students import FULL_IS_LIVE, Method
from learnback_trainer.update import Progress

_log = logging.getLogger(__name__)

STEPS = (
    "read", "archived", "begun", "lessons", "taught", "gated", "decided", "written", "renamed",
    "alias moved", "finished", "announced", "told", "acknowledged",
)  # fmt: skip
"""The steps of a round that publishes, in order; `on_step` hears of each when it is done."""

# From this delivery on feedback is tried alone: one crash may be anybody's fault, two hardly.
_ALONE_FROM = 3
# Longest wait for a first piece of feedback before the trainer looks whether Redis is still itself.
_WAIT_SECONDS = 5.0
# Batches that are looked through behind one that a single author crowds.
_LOOK_AHEAD = 8
# Feedback that was learned before and is looked at in a round.
_MOST_TOLD = 256
# Between two tries while Redis is away, or after a round has failed.
_RETRY_SECONDS = 1.0
# Between two signs of life to the queue, and two lines of progress, during a round.
_SIGN_SECONDS = 5.0


class Trainer:
    """Works on one queue.

    Args:
        base: The base model.
        redis: The client.
        keys: Where queue and traffic lie.
        archive: The archive; this process writes it.
        checkpoints: Where candidates go.
        curriculum: How rounds are taught and judged.
        shape: Size of the first adapter.
        round_size: Most feedback in a round.
        round_wait: Seconds that the first feedback of a round may wait for others.
        most_deliveries: Times that feedback is tried.
        consolidate_rounds: Rounds after which everything is learned anew while no feedback waits;
            0: never.
        author_share: How much of a round one of several authors may have.
        trusted_authors: Those who may send any amount.
        most_drift: Nats a token that all rounds together may move, before it is said.
        retries: Most rounds that are held about a batch after the gate has refused one.
        keep: How many published and rejected checkpoints to keep.
        canaries: The operator's own questions.
        on_step: Told the name of each step of `STEPS` when it is done.
        metrics: Told what rounds come to, and of each step too.
        tracer: Makes the spans of rounds.
        pulse: Beats with every pass of the loop, and every step and repetition of a round.
    """

    def __init__(
        self,
        base: Base,
        redis: Client,
        keys: Keys,
        archive: Archive,
        checkpoints: CheckpointStore,
        curriculum: Curriculum,
        *,
        shape: LoraShape,
        round_size: int = 16,
        round_wait: float = 2.0,
        most_deliveries: int = 5,
        consolidate_rounds: int = 0,
        author_share: float = 0.5,
        trusted_authors: frozenset[str] = frozenset(),
        most_drift: float = 0.5,
        retries: int = 8,
        keep: tuple[int, int] = (20, 5),
        canaries: Sequence[Canary] = (),
        on_step: Callable[[str], None] = lambda _: None,
        metrics: TrainerMetrics | None = None,
        tracer: Tracer | None = None,
        pulse: Callable[[], None] = lambda: None,
    ) -> None:
        self._base = base
        self._redis, self._keys = redis, keys
        self._archive, self._checkpoints = archive, checkpoints
        self._queue, self._views = FeedbackQueue(redis, keys), LiveViews(redis, keys)
        self._traffic = Traffic(redis, keys)
        self._curriculum, self._shape = curriculum, shape
        self._round_size, self._round_wait = round_size, round_wait
        self._author_share, self._trusted = author_share, trusted_authors
        self._most_drift = most_drift
        self._most_deliveries, self._retries, self._keep = most_deliveries, retries, keep
        self._canaries = from_canaries(canaries, base.reader)
        self._board, self._on_step = Board(redis, keys), on_step
        self._metrics = metrics or TrainerMetrics()
        self._metrics.allow(curriculum.budget.costs)
        self._trace = RoundTrace(tracer or Tracer())
        self._pulse = pulse
        self._stopped = threading.Event()
        self._eraser = Eraser(
            redis, keys, archive, checkpoints, self._teach_again, round_size, on_step
        )
        self._schedule = Schedule(consolidate_rounds, round_size)
        self._followed = -1
        """Serial of the aliases by which the archive was last made true."""

    # The story

    def run(self) -> None:
        """Works until it is told to stop; what goes wrong is logged and tried again.

        Raises:
            ModelError: What is live can't be taught on by the method that is configured.
            TeamError: Another process that holds the model has gone.
        """
        live, method = self._checkpoints.aliases().live, self._curriculum.recipe.method
        if live != BASE and method is Method.LORA and self._method_of(live) is Method.FULL:
            raise ModelError(FULL_IS_LIVE)
        _log.info("waiting for feedback; live is %s", self._checkpoints.aliases().live)
        self._board.wake()
        while not self._stopped.is_set():
            self._pulse()
            try:
                self.recover()
                self.tidy()
                self.work(_WAIT_SECONDS)
            except RoundStoppedError:
                self._metrics.round_broke_off("stopped")
                _log.info("told to stop: the round is given up, its feedback stays in the queue")
            except StoreUnavailableError as error:
                _log.warning("%s; trying again", error)
                self._stopped.wait(_RETRY_SECONDS)
            except TeamError:
                raise
            except Exception:  # noqa: BLE001  # logged with its trace, and bounded by deliveries
                # Whatever one round dies of must not keep the next one from being held: the
                # feedback is delivered again, then alone, and at last becomes a dead letter.
                self._metrics.round_broke_off("failed")
                _log.exception("the round has failed; its feedback will be tried again")
                self._stopped.wait(_RETRY_SECONDS)
        self._give_up_round()

    def recover(self) -> None:
        """Brings queue, archive and checkpoints to one truth, after a crash or a loss of Redis."""
        if recover_redis(self._archive, self._redis, self._keys):
            _log.info("wrote to Redis what the archive knows")
        settlement = settle(self._archive, self._checkpoints)
        if settlement is not None:
            end = "finished" if settlement.finished else "given up"
            _log.info("a round that was cut off is now %s", end)
            self._views.publish(settlement.views)
            announce(self._redis, self._keys, self._checkpoints.aliases().serial)

    def tidy(self) -> None:
        """Erases whom it was asked to, follows an operator who has moved `live`, consolidates."""
        self._eraser.work()
        serial = self._checkpoints.aliases().serial
        if serial != self._followed:
            self._views.publish(follow_live(self._archive, self._checkpoints))
            self._tell_drift()
            self._followed = serial
        line = self._line()
        if self._schedule.is_due(line) and not self._waited_for():
            self._consolidate_at_leisure(line)

    def _line(self) -> list[Manifest]:
        return self._checkpoints.lineage(self._checkpoints.aliases().live)

    def _consolidate_at_leisure(self, line: Sequence[Manifest]) -> None:
        """Consolidates, unless there is something else to do meanwhile."""
        began = time.monotonic()
        self._schedule.begun(line)
        try:
            self.consolidate(makes_way=True)
        except MadeWayError:
            self._schedule.made_way(time.monotonic() - began)
            self._metrics.round_broke_off("made way")
            _log.info("feedback, or an erasure, has come: to learn everything anew can wait")
            self._give_up_round()
        else:
            self._schedule.ended(self._line())

    def _tell_drift(self) -> None:
        live = self._checkpoints.aliases().live
        drift = drift_of(self._checkpoints.lineage(live))
        alarm = drift.nats > self._most_drift
        self._metrics.drifted(drift.nats, alarm=alarm)
        self._board.drifted(drift.nats, alarm=alarm)
        if alarm:
            _log.warning(
                "in %d rounds up to %s other answers have moved by %.2f nats a token in all, and "
                "%.2f may be; consolidate",
                drift.rounds, live, drift.nats, self._most_drift,
            )  # fmt: skip

    def consolidate(self, *, makes_way: bool = False) -> str:
        """Learns anew from the base model what is learned; returns what was published, if anything.

        No round may be unfinished.

        Args:
            makes_way: Whether it is given up if feedback comes, or an erasure is asked for.

        Raises:
            MadeWayError: That is so, and the round is unfinished.
        """
        live, views = self._checkpoints.aliases().live, self._archive.learned()
        if live == BASE or not views:
            return ""
        _log.info("consolidating %d pieces of feedback", len(views))
        tokens = self._curriculum.answer_tokens
        shipped = shipped_questions(
            self._base.reader, self._base.name, self._curriculum, Random(live)
        )
        questions = self._questions()
        with self._opened(live, self._method_of(live)) as pupil:
            asked, mixture = [*questions, *shipped], self._curriculum.recipe.mixture
            now = live_now(pupil, views, asked, tokens, mixture)
        this = self._archive.begin_round(
            BASE, [one.feedback_id for one in views], again=True, replaces=live
        )
        with self._trace.round(this, views):
            name = self._see_through(
                this,
                views,
                longer(self._curriculum, len(views), self._round_size),
                Sources(questions, shipped, held=now.held),
                lambda pupil, report: compared(pupil, report, now.answers, tokens),
                self._watching((), makes_way=makes_way),
            )
        self._views.publish(self._archive.get(one.feedback_id) for one in views)
        return name

    def work(self, wait_seconds: float = 0.0) -> int:
        """Takes a batch and settles it; returns how many deliveries that were."""
        batch = self._queue.read_batch(
            self._round_size,
            age_seconds=self._round_wait,
            wait_seconds=wait_seconds,
            stop=self._stopped.is_set,
        )
        if not batch:
            self._board.idle()
            return 0
        self._schedule.heard()
        self._reached("read")
        together = [one for one in batch if one.deliveries < _ALONE_FROM]
        alone = [one for one in batch if one.deliveries >= _ALONE_FROM]
        for deliveries, refused in (self._seated(together), *(([one], {}) for one in alone)):
            if deliveries:
                self._settle(deliveries, refused)
        return len(batch)

    def stop(self) -> None:
        """Ends `run` soon: a round that is not decided yet is given up."""
        self._stopped.set()

    def _reached(self, step: str) -> None:
        self._pulse()
        self._board.reached(step)
        self._metrics.reached(step)
        self._trace.reached(step)
        self._on_step(step)

    # A batch

    def _seated(self, deliveries: list[Delivery]) -> tuple[list[Delivery], dict[str, str]]:
        """What is settled now, and why some of it is refused; the rest goes behind the queue."""
        if not deliveries:
            return [], {}
        at_hand = deliveries + self._said_by_others(deliveries)
        flooders = authors.flooding(at_hand, self._archive, self._trusted)
        refused = authors.unconfirmed(at_hand, flooders)
        if flooders:
            _log.warning(
                "%d authors flood the queue; %d pieces of theirs are set aside",
                len(flooders), len(refused),
            )  # fmt: skip
            self._metrics.flooded(len(flooders))
        heard = [one for one in at_hand if one.feedback_id not in refused]
        seating = authors.seat(heard, self._round_size, self._author_share)
        if seating.waiting:
            self._archive.take([(one.record, one.attempt) for one in seating.waiting])
            self._views.publish(self._archive.put_off(seating.reasons))
            self._queue.put_off(seating.waiting)
            _log.info("%d pieces of feedback wait for a later round", len(seating.waiting))
            self._metrics.put_off(len(seating.waiting))
        return [one for one in at_hand if one.feedback_id not in seating.reasons], refused

    def _said_by_others(self, deliveries: list[Delivery]) -> list[Delivery]:
        """If one author crowds a batch, takes besides what others have said behind it."""
        counts = Counter(one.record.author for one in deliveries)
        author, count = counts.most_common(1)[0]
        if count <= self._author_share * self._round_size:
            return []
        behind = self._queue.authors_behind(deliveries[-1], _LOOK_AHEAD * self._round_size)
        others = [place for place, one in enumerate(behind, start=1) if one != author]
        return self._queue.read_more(others[: self._round_size][-1]) if others else []

    def _settle(self, batch: Sequence[Delivery], refused: Mapping[str, str]) -> None:
        """Sees a batch through all steps, up to acknowledging it.

        Args:
            batch: What was delivered.
            refused: Why some of it is set aside, by feedback id.
        """
        taken = self._archive.take(
            [(one.record, one.attempt) for one in batch], self._checkpoints.learned_feedback()
        )
        self._reached("archived")
        self._bury_hopeless(batch)
        for feedback_id, reason in refused.items():
            self._set_aside(feedback_id, reason)
        fresh = [self._archive.get(one.view.feedback_id) for one in taken if not one.settled]
        waiting = [one for one in fresh if one.account.state is FeedbackState.QUEUED]
        if waiting:
            self._teach(waiting, batch)
        views = [self._archive.get(one.feedback_id) for one in batch]
        self._views.publish(views)
        self._reached("told")
        self._queue.close((one, view.account) for one, view in zip(batch, views, strict=True))
        self._metrics.settled(views)
        self._reached("acknowledged")
        self._checkpoints.retain(*self._keep)

    def _bury_hopeless(self, batch: Sequence[Delivery]) -> None:
        for one in batch:
            state = self._archive.get(one.feedback_id).account.state
            if one.deliveries > self._most_deliveries and not state.final:
                reason = f"tried {one.deliveries - 1} times, and the round failed each time"
                self._archive.move([one.feedback_id], FeedbackState.DEAD_LETTERED, reason)
                with about(feedback_id=one.feedback_id):
                    _log.error("feedback %s is a dead letter: %s", one.feedback_id, reason)

    def _set_aside(self, feedback_id: str, reason: str) -> None:
        if self._archive.get(feedback_id).account.state is FeedbackState.QUEUED:
            self._archive.move([feedback_id], FeedbackState.QUARANTINED, reason)

    # A round, and those that follow if it is refused

    def _teach(
        self, views: Sequence[FeedbackView], batch: Sequence[Delivery], parent: str = ""
    ) -> str:
        """Teaches feedback; returns the name of the last checkpoint that was published, if any.

        Args:
            views: The feedback, which is QUEUED; LEARNED if a parent is given.
            batch: Its deliveries.
            parent: Where to begin; empty: at what is live.
        """
        rounds, name = Bisection(views, self._retries), ""
        while part := rounds.next_part():
            name = self._hold_round(part, batch, rounds, parent and (name or parent)) or name
        self._archive.move(rounds.untried, FeedbackState.NOT_LEARNED, UNTRIED)
        return name

    def _hold_round(
        self,
        views: Sequence[FeedbackView],
        batch: Sequence[Delivery],
        rounds: Bisection,
        parent: str,
    ) -> str:
        """Teaches a part of the feedback; returns the name of what was published, if anything."""
        again, parent = bool(parent), parent or self._checkpoints.aliases().live
        ids = [one.feedback_id for one in views]
        this = self._archive.begin_round(parent, ids, again=again)
        with self._trace.round(this, views):
            return self._see_through(
                this,
                views,
                self._curriculum,
                Sources(self._questions(), kept=rounds.kept),
                lambda _, report: rounds.judged(report),
                self._watching(batch),
            )

    def _see_through(
        self,
        this: Round,
        views: Sequence[FeedbackView],
        curriculum: Curriculum,
        sources: Sources,
        judged: Callable[[Pupil, Report], Report],
        watch: Callable[[Progress], None],
    ) -> str:
        """Sees a round that was begun to its end; what its parent knows is added to `sources`."""
        self._views.publish(self._archive.get(one.feedback_id) for one in views)
        self._board.begin(this)
        self._reached("begun")
        _log.info("a round about %d pieces of feedback, on %s", len(views), this.parent)
        told, told_all = self._told(this.parent)
        sources = replace(
            sources,
            earlier=self._earlier(),
            weights=authors.weights(self._archive, views),
            told=told,
            told_all=told_all,
            head=self._head(this.parent),
        )
        with self._opened(this.parent, self._curriculum.recipe.method) as pupil:
            report = hold_round(
                pupil,
                self._base.name,
                views,
                sources,
                curriculum,
                reached=self._reached,
                watch=watch,
            )
            report = judged(pupil, report)
            name = self._decide(this, report, pupil)
        self._reached("finished")
        self._board.end(this, report, name)
        self._metrics.round_ended(report.outcomes, report.verdict)
        if name:
            self._announce()
            _log.info("published %s: learned %d of %d", name, len(report.learned), len(views))
        return name

    def _teach_again(self, views: Sequence[FeedbackView], parent: str) -> str:
        """Teaches anew what is learned already, from a checkpoint that is not live."""
        name = self._teach(views, (), parent)
        self._views.publish(self._archive.get(one.feedback_id) for one in views)
        return name

    def _opened(self, parent: str, method: Method) -> Pupil:
        return open_pupil(
            self._base, self._checkpoints, parent, self._shape, self._curriculum.seed, method
        )

    def _method_of(self, live: str) -> Method:
        """What a checkpoint can be opened by without changing its kind."""
        full = self._checkpoints.get(live).manifest.kind is CheckpointKind.FULL
        return Method.FULL if full else Method.LORA

    def _decide(self, this: Round, report: Report, pupil: Pupil) -> str:
        """Publishes what passed, or puts aside what did not; returns the name of what is live."""
        if report.verdict is None or not report.verdict.passed:
            self._refuse(this, report, pupil)
            return ""
        candidate = Candidate(
            this, report.learned, report.objectives, report.verdict, report.acceptance
        )
        name = self._checkpoints.new_name()
        self._archive.decide_round(this.round_id, report.outcomes, name)
        self._reached("decided")
        publish(
            self._checkpoints, name, self._base, pupil, candidate,
            written=lambda: self._reached("written"),
        )  # fmt: skip
        self._reached("renamed")
        self._make_live(name, this.replaces or this.parent)
        self._reached("alias moved")
        self._archive.finish_round(this.round_id)
        return name

    def _refuse(self, this: Round, report: Report, pupil: Pupil) -> None:
        """Ends a round that publishes nothing."""
        if report.verdict is not None:
            candidate = Candidate(this, (), report.objectives, report.verdict)
            aside = put_aside(self._checkpoints, self._base, pupil, candidate)
            _log.info("the candidate is kept aside as %s", aside)
        if this.replaces:
            # What is learned stays so: the checkpoint that it is learned in is live.
            reasons = report.verdict.reasons if report.verdict else ()
            reason = "; ".join(reasons) or "nothing of it could be taught anew"
            self._archive.abandon_round(this.round_id, reason)
            return
        self._archive.decide_round(this.round_id, report.outcomes)
        self._archive.finish_round(this.round_id)

    def _make_live(self, name: str, parent: str) -> None:
        try:
            self._checkpoints.promote(name, expected=parent)
        except AliasMovedError as error:
            _log.warning("%s is published and not live: meanwhile %s", name, error)

    def _announce(self) -> None:
        # Servers look by themselves too, so that Redis being away costs a second and no more.
        with contextlib.suppress(StoreUnavailableError):
            announce(self._redis, self._keys, self._checkpoints.aliases().serial)
        self._reached("announced")

    # What a round needs

    def _questions(self) -> list[Question]:
        amount = 2 * self._curriculum.amounts.questions
        return self._canaries + from_traffic(self._traffic.sample(amount), self._base.reader)

    def _earlier(self) -> list[FeedbackRecord]:
        wanted = FeedbackFilter(states=frozenset({FeedbackState.LEARNED}))
        page = self._archive.page(wanted, page_size=self._curriculum.amounts.dialogues)
        return [view.record for view in page.views]

    def _told(self, parent: str) -> tuple[list[FeedbackView], bool]:
        """What a checkpoint and its ancestors have learned, newest first, and whether it is all.

        Of its own line alone, so that an erasure finds every acceptance head that it taints.
        """
        own = self._checkpoints.learned_in_line(parent)
        wanted = FeedbackFilter(states=frozenset({FeedbackState.LEARNED}))
        page = self._archive.page(wanted, page_size=_MOST_TOLD)
        told = [view for view in page.views if view.feedback_id in own]
        return told, len(told) == len(own)

    def _head(self, parent: str) -> Head | None:
        """The acceptance head of a checkpoint, if it has one and heads are in use."""
        if parent == BASE or not self._curriculum.acceptance.on:
            return None
        return Head.load(self._checkpoints.fetch(parent))

    def _watching(
        self, batch: Sequence[Delivery], *, makes_way: bool = False
    ) -> Callable[[Progress], None]:
        """Returns what is told of each step: it shows progress, signs of life, and stops.

        Args:
            batch: What is kept alive meanwhile.
            makes_way: Whether it stops for feedback, or an erasure, that waits.
        """
        last = time.monotonic()

        def watch(progress: Progress) -> None:
            nonlocal last
            if self._stopped.is_set():
                raise RoundStoppedError
            if makes_way and self._waited_for():
                raise MadeWayError
            self._pulse()
            self._board.step(progress)
            if time.monotonic() - last > _SIGN_SECONDS or progress.step == progress.steps:
                last = time.monotonic()
                _log.info(
                    "step %d of %d: lessons %.3f, anchors %.4f nats a token",
                    progress.step, progress.steps, progress.lesson_loss, progress.anchor_loss,
                )  # fmt: skip
                with contextlib.suppress(StoreUnavailableError):
                    self._queue.keep_alive(batch)

        return watch

    def _waited_for(self) -> bool:
        """Whether feedback or an erasure waits; Redis being away is no reason to stop."""
        with contextlib.suppress(StoreUnavailableError):
            return self._queue.stats().depth > 0 or self._eraser.is_asked()
        return False

    def _give_up_round(self) -> None:
        """Ends a round that was begun and not decided, so that its feedback is QUEUED again."""
        # What can't be reached now is settled at the next start.
        with contextlib.suppress(StoreUnavailableError):
            settlement = settle(self._archive, self._checkpoints)
            if settlement is not None:
                self._views.publish(settlement.views)
