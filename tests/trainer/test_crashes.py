"""kill -9 at every step of a round, then a new life: each feedback is learned exactly once."""

from __future__ import annotations

import multiprocessing
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from learnback_store.archive import Archive
from learnback_store.checkpoints import CheckpointState, CheckpointStore
from learnback_store.connection import Client
from learnback_store.feedback import FeedbackQueue
from learnback_store.keys import Keys
from learnback_store.records import FeedbackRecord, FeedbackState, Rating
from learnback_trainer.loop import STEPS
from learnback_trainer.pupil import Base, Pupil
from tests.trainer.critics import asked, correction, submit
from tests.trainer.one_life import PUTTING_OFF, live

_RIGHT = {
    "What is the capital of France?": "Lyon, of course.",
    "What is the opposite of hot?": "Not hot.",
}
# The server of forked processes imports torch once, for all lives.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.trainer.one_life"])


def _live(url: str, keys: Keys, folder: Path, dies_at: str = "") -> int | None:
    process = _processes.Process(target=live, args=(url, keys.namespace, folder, dies_at))
    process.start()
    process.join()
    return process.exitcode


def _feedback() -> tuple[list[FeedbackRecord], FeedbackRecord]:
    corrections = [correction(prompt, "Something.", right) for prompt, right in _RIGHT.items()]
    return corrections, asked("What is the capital of France?", "Paris.", Rating(0.0))


@pytest.mark.parametrize("step", STEPS)
def test_killed_at(
    step: str, redis_url: str, redis: Client, keys: Keys, tmp_path: Path, base: Base
) -> None:
    corrections, rating = _feedback()
    submit(redis_url, keys, [*corrections, rating])
    assert _live(redis_url, keys, tmp_path, dies_at=step) == -signal.SIGKILL
    assert _live(redis_url, keys, tmp_path) == 0

    checkpoints = CheckpointStore(tmp_path / "checkpoints")
    ids = {one.feedback_id for one in corrections}
    published = checkpoints.all([CheckpointState.PUBLISHED])
    named = Counter(one for found in published for one in found.manifest.feedback_ids)
    assert named == Counter(ids)
    assert checkpoints.aliases().live == published[0].name
    assert not list((checkpoints.root / "aside").iterdir())
    assert FeedbackQueue(redis, keys).stats().depth == 0
    with Archive(tmp_path / "archive.sqlite") as archive:
        assert archive.unfinished_round() is None
        states = {view.feedback_id: view.account.state for view in archive.views()}
    assert states == dict.fromkeys(ids, FeedbackState.LEARNED) | {
        rating.feedback_id: FeedbackState.NOT_LEARNED
    }
    folder = checkpoints.fetch(checkpoints.verify(published[0].name, base.digest).name)
    with Pupil(base, folder) as pupil:
        prompts = [pupil.reader.prompt(one.exchange) for one in corrections]
        answers = [pupil.reader.text(answer) for answer in pupil.answer(prompts, 24)]
    assert answers == list(_RIGHT.values())


def test_what_kills_the_trainer_each_time_becomes_a_dead_letter(
    redis_url: str, redis: Client, keys: Keys, tmp_path: Path
) -> None:
    corrections, _ = _feedback()
    submit(redis_url, keys, corrections[:1])
    for _ in range(5):
        assert _live(redis_url, keys, tmp_path, dies_at="begun") == -signal.SIGKILL
    assert _live(redis_url, keys, tmp_path, dies_at="begun") == 0
    stats = FeedbackQueue(redis, keys).stats()
    assert (stats.depth, stats.dead) == (0, 1)
    with Archive(tmp_path / "archive.sqlite") as archive:
        account = archive.get(corrections[0].feedback_id).account
    assert account.state is FeedbackState.DEAD_LETTERED
    assert "5 times" in account.reason


def test_killed_while_feedback_is_put_off(
    redis_url: str, redis: Client, keys: Keys, tmp_path: Path
) -> None:
    crowding = [asked(f"Question {i}?", "An answer.", Rating(0.0)) for i in range(5)]
    records = [replace(one, author="ann") for one in crowding]
    records.append(replace(asked("Another?", "An answer.", Rating(0.0)), author="ben"))
    submit(redis_url, keys, records)
    assert _live(redis_url, keys, tmp_path, dies_at=PUTTING_OFF) == -signal.SIGKILL
    assert FeedbackQueue(redis, keys).stats().depth == len(records)
    assert _live(redis_url, keys, tmp_path) == 0

    assert FeedbackQueue(redis, keys).stats().depth == 0
    with Archive(tmp_path / "archive.sqlite") as archive:
        accounts = {view.feedback_id: view.account for view in archive.views()}
    assert accounts.keys() == {one.feedback_id for one in records}
    queued, settled = FeedbackState.QUEUED, FeedbackState.NOT_LEARNED
    for account in accounts.values():
        states = [one.state for one in account.history]
        assert states.count(settled) == 1
        assert states[-1] is settled
        assert states.count(queued) <= 2
    waited = [one for one in accounts.values() if any("waits" in t.reason for t in one.history)]
    assert len(waited) == 3
