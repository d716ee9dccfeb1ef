"""The archive: taken once, moved by rounds, and every step can be repeated."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from learnback_store.archive import Archive
from learnback_store.archive_reader import ArchiveReader
from learnback_store.checkpoints import CheckpointStore
from learnback_store.connection import Client
from learnback_store.erasures import ErasureRequest, new_erasure
from learnback_store.errors import (
    ArchiveForeignError,
    ArchiveLockedError,
    FeedbackNotFoundError,
    RoundStateError,
)
from learnback_store.feedback import FeedbackQueue
from learnback_store.inbox import FeedbackInbox
from learnback_store.keys import Keys
from learnback_store.paging import FeedbackFilter
from learnback_store.records import (
    Account,
    FeedbackRecord,
    FeedbackState,
    Lesson,
    Objective,
)
from learnback_store.rounds import Outcome, RoundState
from learnback_store.settlement import follow_live, recover_redis, settle
from learnback_store.views import FeedbackViews
from tests.store.samples import feedback, publish, submit, taken_texts

LESSON = Lesson(Objective.DISTILLATION, "Paris", 1.0, 2.5, 0.1, "Paris.", "Paris")


def _taken(archive: Archive, count: int) -> list[FeedbackRecord]:
    records = [feedback(f"critique {index}") for index in range(count)]
    archive.take([(record, 0) for record in records])
    return records


def _ids(records: list[FeedbackRecord]) -> list[str]:
    return [record.feedback_id for record in records]


def test_what_was_taken_is_there_once(archive: Archive) -> None:
    record = feedback(author="ada", labels={"team": "x"})
    [taken] = archive.take([(record, 0), (record, 0)])
    assert archive.take([(record, 0)]) == [taken]
    assert not taken.settled
    assert taken.view.account == Account.queued(record)
    assert archive.get(record.feedback_id) == taken.view
    assert archive.counts()[FeedbackState.QUEUED] == 1
    assert archive.waiting() == [(record, 0)]


def test_it_is_there_after_reopening(tmp_path: Path) -> None:
    with Archive(tmp_path / "a.sqlite") as archive:
        [record] = _taken(archive, 1)
        epoch = archive.epoch()
    with Archive(tmp_path / "a.sqlite") as archive:
        assert archive.get(record.feedback_id).record == record
        assert archive.epoch() == epoch


def test_every_commit_is_synced(archive: Archive) -> None:
    def setting(name: str) -> object:
        return archive._db.execute(f"PRAGMA {name}").fetchone()[0]

    full = 2
    assert (setting("journal_mode"), setting("synchronous")) == ("wal", full)


def test_one_trainer_at_a_time_and_readers_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with Archive(path) as archive:
        with pytest.raises(ArchiveLockedError):
            Archive(path)
        [record] = _taken(archive, 1)
        with ArchiveReader.open(path) as reader:
            assert reader.get(record.feedback_id).record == record
            with pytest.raises(sqlite3.OperationalError):
                reader._db.execute("DELETE FROM feedback")
    Archive(path).close()


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with pytest.raises(ArchiveForeignError):
        ArchiveReader.open(path)
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(ArchiveForeignError):
        Archive(path)
    path.unlink()
    with Archive(path) as archive:
        archive._db.execute("UPDATE facts SET value = '99' WHERE name = 'version'")
    with pytest.raises(ArchiveForeignError):
        Archive(path)


def test_a_round_from_begin_to_end(archive: Archive) -> None:
    learned, failed, bad, later = _ids(_taken(archive, 4))
    this = archive.begin_round("base", [learned, failed, bad, later])
    assert (this.state, this.parent, this.checkpoint) == (RoundState.OPEN, "base", "")
    assert archive.counts()[FeedbackState.LEARNING] == 4
    outcomes = [
        Outcome(learned, FeedbackState.LEARNED, lessons=(LESSON,)),
        Outcome(failed, FeedbackState.NOT_LEARNED, "the gate refused it"),
        Outcome(bad, FeedbackState.QUARANTINED, "gibberish"),
        Outcome(later, FeedbackState.QUEUED, "its author's share of this round is spent"),
    ]
    archive.decide_round(this.round_id, outcomes, "ckpt-1")
    assert archive.counts()[FeedbackState.LEARNING] == 4
    views = archive.finish_round(this.round_id)
    assert archive.finish_round(this.round_id) == views
    by_id = {view.feedback_id: view.account for view in views}
    assert (by_id[learned].checkpoint, by_id[learned].lessons) == ("ckpt-1", (LESSON,))
    assert [by_id[one].state for one in (failed, bad, later)] == [
        FeedbackState.NOT_LEARNED, FeedbackState.QUARANTINED, FeedbackState.QUEUED,
    ]  # fmt: skip
    assert by_id[bad].reason == "gibberish"
    assert archive.unfinished_round() is None
    assert [one.round_id for one in archive.rounds_of(learned)] == [this.round_id]
    assert archive.rounds()[0].outcomes == tuple(sorted(outcomes, key=lambda one: one.feedback_id))
    found = archive.page(FeedbackFilter(checkpoint="ckpt-1")).views
    assert [view.feedback_id for view in found] == [learned]


def test_an_abandoned_round_changes_nothing_but_the_history(archive: Archive) -> None:
    [one] = _ids(_taken(archive, 1))
    this = archive.begin_round("base", [one])
    [view] = archive.abandon_round(this.round_id, "told to stop")
    assert archive.abandon_round(this.round_id, "again") == [view]
    assert [step.state.value for step in view.account.history] == ["queued", "learning", "queued"]
    assert view.account.reason == "told to stop"
    again = archive.begin_round("base", [one])
    assert again.round_id != this.round_id
    assert archive.round(this.round_id).state is RoundState.ABANDONED


def test_steps_that_do_not_fit_are_refused_and_change_nothing(archive: Archive) -> None:
    one, two = _ids(_taken(archive, 2))
    this = archive.begin_round("base", [one])
    learned = Outcome(one, FeedbackState.LEARNED)

    def begin_another() -> None:
        archive.begin_round("base", [two])

    def finish_undecided() -> None:
        archive.finish_round(this.round_id)

    def decide_nothing() -> None:
        archive.decide_round(this.round_id, [])

    def decide_about_others() -> None:
        archive.decide_round(this.round_id, [learned, Outcome(two, FeedbackState.QUEUED, "x")])

    def decide_twice_about_one() -> None:
        archive.decide_round(this.round_id, [learned, learned], "ckpt-1")

    def learn_without_checkpoint() -> None:
        archive.decide_round(this.round_id, [learned])

    def unknown() -> None:
        archive.round("round-unknown")

    for step in (begin_another, finish_undecided, decide_nothing, decide_about_others,
                 decide_twice_about_one, learn_without_checkpoint, unknown):  # fmt: skip
        with pytest.raises(RoundStateError):
            step()
    assert archive.unfinished_round() == this
    archive.decide_round(this.round_id, [learned], "ckpt-1")
    with pytest.raises(RoundStateError):
        archive.decide_round(this.round_id, [learned], "ckpt-1")
    archive.finish_round(this.round_id)
    for step in (lambda: archive.abandon_round(this.round_id, "x"),
                 lambda: archive.begin_round("base", [one])):  # fmt: skip
        with pytest.raises(RoundStateError):
            step()
    with pytest.raises(FeedbackNotFoundError):
        archive.begin_round("base", [two, "fb-unknown"])
    assert archive.get(two).account.state is FeedbackState.QUEUED


@pytest.mark.parametrize("state", [FeedbackState.LEARNING, FeedbackState.ERASED])
def test_a_round_can_not_decide_everything(state: FeedbackState) -> None:
    with pytest.raises(ValueError, match="decide"):
        Outcome("fb-1", state, "because")
    with pytest.raises(ValueError, match="reason"):
        Outcome("fb-1", FeedbackState.NOT_LEARNED)


def test_a_dead_letter_comes_back_only_by_being_put_back(archive: Archive) -> None:
    [record] = _taken(archive, 1)
    archive.move([record.feedback_id], FeedbackState.DEAD_LETTERED, "failed 5 times")
    [redelivered] = archive.take([(record, 0)])
    assert redelivered.view.account.state is FeedbackState.DEAD_LETTERED
    assert archive.waiting() == []
    [put_back] = archive.take([(record, 1)])
    assert (put_back.view.account.state, put_back.attempt) == (FeedbackState.QUEUED, 1)
    archive.begin_round("base", [record.feedback_id])
    [again] = archive.take([(record, 1)])
    assert again.view.account.state is FeedbackState.LEARNING
    assert archive.waiting() == [(record, 1)]


def test_moving_is_done_once_and_wholly(archive: Archive) -> None:
    one, two = _ids(_taken(archive, 2))
    [view] = archive.move([one], FeedbackState.NOT_LEARNED, "rolled back")
    assert archive.move([one], FeedbackState.NOT_LEARNED, "again") == [view]
    with pytest.raises(FeedbackNotFoundError):
        archive.move([two, "fb-unknown"], FeedbackState.QUARANTINED, "x")
    assert archive.get(two).account.state is FeedbackState.QUEUED


def test_why_it_has_to_wait_is_told_once(archive: Archive) -> None:
    records = _taken(archive, 2)
    one, other = _ids(records)
    archive.begin_round("base", [other])
    for count in range(3):
        reasons = {one: f"it waits: {count} others", other: f"it waits: {count} others"}
        views = archive.put_off(reasons)
    assert [len(view.account.history) for view in views] == [2, 2]
    assert (views[0].account.state, views[0].account.reason) == (
        FeedbackState.QUEUED, "it waits: 0 others",
    )  # fmt: skip
    assert views[1].account.state is FeedbackState.LEARNING


def test_what_is_taught_again_stays_learned_until_it_is_decided(archive: Archive) -> None:
    [feedback_id] = _ids(_taken(archive, 1))
    archive.move([feedback_id], FeedbackState.LEARNED, "", "ckpt-1")
    again = archive.begin_round("base", [feedback_id], again=True)
    archive.decide_round(
        again.round_id, [Outcome(feedback_id, FeedbackState.QUEUED, "tried again with fewer")]
    )
    [view] = archive.finish_round(again.round_id)
    assert (view.account.state, view.account.checkpoint) == (FeedbackState.LEARNED, "ckpt-1")


def test_manifests_know_better_than_a_lost_archive(archive: Archive) -> None:
    known, unknown = feedback("known"), feedback("unknown")
    archive.take([(known, 0)])
    learned = {known.feedback_id: "ckpt-1", unknown.feedback_id: "ckpt-2"}
    taken = archive.take([(known, 0), (unknown, 0)], learned)
    assert [one.view.account.checkpoint for one in taken] == ["ckpt-1", "ckpt-2"]
    assert all(one.settled for one in taken)


def test_an_author_is_forgotten_to_the_last_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with Archive(path) as archive:
        theirs = feedback("my-secret-words", author="ada", labels={"tag": "my-secret-label"})
        archive.take([(theirs, 0), (feedback("kept", author="bob"), 0)])
        this = archive.begin_round("base", [theirs.feedback_id])
        outcome = Outcome(theirs.feedback_id, FeedbackState.NOT_LEARNED, "my-secret-reason")
        archive.decide_round(this.round_id, [outcome])
        archive.finish_round(this.round_id)
        asked = ErasureRequest("request", "ada", new_erasure("ada"))
        archive.take_erasures([asked, asked])
        task = archive.unfinished_erasure()
        assert task is not None
        task = archive.erase_feedback(task, ["fb-known-to-redis-alone"])
        assert archive.erase_feedback(task, []) == task
        assert task.erasure.feedback_purged == len(task.feedback_ids) == 2
        erased = FeedbackFilter(states=frozenset({FeedbackState.ERASED}))
        gone = [view.feedback_id for view in archive.page(erased).views]
        assert sorted(gone) == list(task.feedback_ids)
        assert archive.rounds_with(task.feedback_ids) == {this.round_id}
        archive.scrub()
        content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        assert b"my-secret" not in content
        assert b"kept" in content


def test_what_was_learned_follows_live(archive: Archive, checkpoints: CheckpointStore) -> None:
    first, second = _ids(_taken(archive, 2))
    parent = "base"
    for name, one in (("ckpt-1", first), ("ckpt-2", second)):
        publish(checkpoints, name, parent=parent, feedback_ids=(one,))
        checkpoints.promote(name)
        archive.move([one], FeedbackState.LEARNED, "", name)
        parent = name
    assert follow_live(archive, checkpoints) == []
    checkpoints.rollback()
    [undone] = follow_live(archive, checkpoints)
    assert (undone.feedback_id, undone.account.state) == (second, FeedbackState.NOT_LEARNED)
    assert undone.account.reason == "ckpt-2 was rolled back; ckpt-1 is live"
    assert follow_live(archive, checkpoints) == []
    checkpoints.promote("ckpt-2")
    [redone] = follow_live(archive, checkpoints)
    assert (redone.account.state, redone.account.checkpoint) == (FeedbackState.LEARNED, "ckpt-2")


def test_an_archive_of_the_version_before_is_brought_up(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with Archive(path) as archive:
        [record] = _taken(archive, 1)
        archive._db.execute("ALTER TABLE rounds DROP COLUMN replaces")
        archive._db.execute("DROP TABLE erasures")
        archive._db.execute("UPDATE facts SET value = '1' WHERE name = 'version'")
    with pytest.raises(ArchiveForeignError):
        ArchiveReader.open(path)
    with Archive(path) as archive:
        assert archive.begin_round("base", [record.feedback_id]).replaces == ""
        assert archive.erasures() == []


def test_settling_when_nothing_was_cut_off(archive: Archive, checkpoints: CheckpointStore) -> None:
    assert settle(archive, checkpoints) is None


def test_a_round_without_a_checkpoint_counts_once_decided(
    archive: Archive, checkpoints: CheckpointStore
) -> None:
    [one] = _ids(_taken(archive, 1))
    this = archive.begin_round("base", [one])
    archive.decide_round(this.round_id, [Outcome(one, FeedbackState.NOT_LEARNED, "refused")])
    settled = settle(archive, checkpoints)
    assert settled is not None
    assert settled.finished
    assert settled.views[0].account.state is FeedbackState.NOT_LEARNED


def test_a_checkpoint_of_another_round_does_not_count(
    archive: Archive, checkpoints: CheckpointStore
) -> None:
    [one] = _ids(_taken(archive, 1))
    publish(checkpoints, "ckpt-000001", round_id="round-other")
    this = archive.begin_round("base", [one])
    archive.decide_round(this.round_id, [Outcome(one, FeedbackState.LEARNED)], "ckpt-000001")
    settled = settle(archive, checkpoints)
    assert settled is not None
    assert not settled.finished
    assert settled.round.state is RoundState.ABANDONED
    assert checkpoints.aliases().live == "base"


async def test_a_redis_that_lost_everything_gets_it_back(
    archive: Archive,
    redis: Client,
    keys: Keys,
    inbox: FeedbackInbox,
    queue: FeedbackQueue,
    views: FeedbackViews,
) -> None:
    learned, waiting = await submit(inbox, 2)
    assert recover_redis(archive, redis, keys)  # new to each other
    assert not recover_redis(archive, redis, keys)
    archive.take([(one.record, one.attempt) for one in queue.read_batch(10)])
    archive.move([learned.feedback_id], FeedbackState.LEARNED, "", "ckpt-1")
    before = [archive.get(one.feedback_id) for one in (learned, waiting)]
    redis.delete(*redis.scan_iter(f"{{{keys.namespace}}}:*"))
    assert recover_redis(archive, redis, keys)
    assert [await views.get(one.feedback_id) for one in before] == before
    assert (await views.page(FeedbackFilter(checkpoint="ckpt-1"))).views == (before[0],)
    assert taken_texts(queue) == ["critique 1"]
    # Cut off before the epoch was written: all is done again, and nothing twice.
    redis.delete(keys.epoch)
    assert recover_redis(archive, redis, keys)
    assert queue.stats().depth == 1
