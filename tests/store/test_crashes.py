"""kill -9 anywhere, then restart: all feedback is learned exactly once or ends for a reason."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from learnback_store.archive import Archive
from learnback_store.checkpoints import CheckpointState, CheckpointStore
from learnback_store.connection import connect
from learnback_store.embedded import EmbeddedRedis
from learnback_store.feedback import FeedbackQueue
from learnback_store.inbox import FeedbackInbox
from learnback_store.keys import Keys
from learnback_store.records import FeedbackState
from learnback_store.views import FeedbackViews
from tests.store.samples import feedback, submit
from tests.store.trainer_round import BAD, STEPS, WEIGHTS

_SCRIPT = Path(__file__).with_name("trainer_round.py")


def _train(url: str, keys: Keys, folder: Path, dies_at: str = "") -> int:
    command = [sys.executable, _SCRIPT, url, keys.namespace, folder, dies_at]
    return subprocess.run(command, check=False).returncode


def _learned(checkpoints: CheckpointStore) -> Counter[str]:
    """How often each feedback stands in the weights that serve."""
    live = checkpoints.aliases().live
    return Counter((checkpoints.fetch(live) / WEIGHTS).read_text().split())


@pytest.mark.parametrize("step", STEPS)
async def test_the_trainer_killed_at_a_step(
    step: str,
    redis_url: str,
    keys: Keys,
    tmp_path: Path,
    inbox: FeedbackInbox,
    views: FeedbackViews,
    queue: FeedbackQueue,
) -> None:
    good = await submit(inbox, 5)
    bad = feedback(BAD)
    await inbox.submit(bad)
    assert _train(redis_url, keys, tmp_path, dies_at=step) == -signal.SIGKILL
    assert _train(redis_url, keys, tmp_path) == 0

    checkpoints = CheckpointStore(tmp_path / "checkpoints")
    assert _learned(checkpoints) == Counter(record.feedback_id for record in good)
    named = Counter(one for found in checkpoints.all() for one in found.manifest.feedback_ids)
    assert named == _learned(checkpoints)
    assert queue.stats().depth == 0
    for record in good:
        account = (await views.get(record.feedback_id)).account
        assert account.state is FeedbackState.LEARNED
        assert record.feedback_id in checkpoints.get(account.checkpoint).manifest.feedback_ids
    assert (await views.get(bad.feedback_id)).account.state is FeedbackState.QUARANTINED
    with Archive(tmp_path / "archive.sqlite") as archive:
        assert archive.unfinished_round() is None
        for view in archive.views():
            assert await views.get(view.feedback_id) == view
    assert not list((checkpoints.root / "aside").iterdir())


async def test_killed_again_and_again(
    redis_url: str, keys: Keys, tmp_path: Path, inbox: FeedbackInbox, queue: FeedbackQueue
) -> None:
    good = await submit(inbox, 3)
    for step in ("taught", "decided", "written", "renamed", "told"):
        assert _train(redis_url, keys, tmp_path, dies_at=step) == -signal.SIGKILL
    assert _train(redis_url, keys, tmp_path) == 0
    learned = _learned(CheckpointStore(tmp_path / "checkpoints"))
    assert learned == Counter(record.feedback_id for record in good)
    assert queue.stats().depth == 0


async def test_the_archive_lost_after_a_publication(
    redis_url: str, keys: Keys, tmp_path: Path, inbox: FeedbackInbox, views: FeedbackViews
) -> None:
    [record] = await submit(inbox, 1)
    assert _train(redis_url, keys, tmp_path, dies_at="alias moved") == -signal.SIGKILL
    _remove_archive(tmp_path)
    assert _train(redis_url, keys, tmp_path) == 0
    assert _learned(CheckpointStore(tmp_path / "checkpoints")) == {record.feedback_id: 1}
    assert (await views.get(record.feedback_id)).account.state is FeedbackState.LEARNED


async def test_an_operator_who_rolled_back_meanwhile_is_heeded(
    redis_url: str, keys: Keys, tmp_path: Path, inbox: FeedbackInbox
) -> None:
    await submit(inbox, 1)
    assert _train(redis_url, keys, tmp_path, dies_at="alias moved") == -signal.SIGKILL
    checkpoints = CheckpointStore(tmp_path / "checkpoints")
    checkpoints.rollback()
    assert _train(redis_url, keys, tmp_path) == 0
    assert checkpoints.aliases().live == "base"


def _remove_archive(folder: Path) -> None:
    for path in folder.glob("archive.sqlite*"):
        path.unlink()


_PUBLISHES_FOR_EVER = """
import sys
from pathlib import Path
from learnback_store.checkpoints import open_checkpoints
from learnback_store.manifest import CheckpointKind, Manifest
store = open_checkpoints(sys.argv[1], Path(sys.argv[2]))
while True:
    name = store.new_name()
    with store.draft() as draft:
        for part in range(5):
            (draft / f"part-{part}.safetensors").write_bytes(name.encode() * 20_000)
        store.publish(draft, Manifest(name, CheckpointKind.FULL, "base", "nano", "sha256:0"))
    store.promote(name)
    store.retain(published=3, rejected=0)
"""


@pytest.mark.parametrize("milliseconds", [0, 3, 7, 13, 29])
def test_a_writer_killed_while_publishing_leaves_no_half(
    place: str, opened: Callable[[], CheckpointStore], tmp_path: Path, milliseconds: int
) -> None:
    command = [sys.executable, "-c", _PUBLISHES_FOR_EVER, place, tmp_path / "other-cache"]
    with subprocess.Popen(command) as writer:
        store = opened()
        while not store.all([CheckpointState.PUBLISHED]):
            time.sleep(0.001)
        time.sleep(milliseconds / 1000)
        writer.kill()
    store.sweep()
    aliases = store.aliases()
    for found in store.all([CheckpointState.PUBLISHED]):
        assert store.verify(found.name) == found
    if isinstance(store.root, Path):
        assert {path.name for path in (store.root / "published").iterdir()} == {
            found.name for found in store.all([CheckpointState.PUBLISHED])
        }
        assert not list((store.root / "aside").iterdir())
    for name in {aliases.live, aliases.previous} - {"base", ""}:
        store.verify(name)


_SUBMITS_FOR_EVER = """
import asyncio, sys
from learnback_store.connection import connect_async
from learnback_store.gathering import GatheringWriter
from learnback_store.inbox import FeedbackInbox
from learnback_store.keys import Keys
from learnback_store.errors import StoreUnavailableError
from learnback_store.records import Critique, Exchange, FeedbackRecord, new_feedback_id

async def submit_for_ever(inbox):
    while True:
        record = FeedbackRecord(new_feedback_id(), Exchange("a", prompt="p"), Critique("c"))
        await inbox.submit(record)
        print(record.feedback_id, flush=True)

async def main():
    inbox = FeedbackInbox(GatheringWriter(connect_async(sys.argv[1])), Keys())
    tasks = [asyncio.create_task(submit_for_ever(inbox)) for _ in range(16)]
    await asyncio.wait(tasks, return_when=asyncio.ALL_COMPLETED)
    errors = {type(task.exception()) for task in tasks}
    print("ended by", *{error.__name__ for error in errors}, flush=True)

asyncio.run(main())
"""


def test_redis_killed_under_load_loses_nothing_it_had_answered(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    server.start()
    command = [sys.executable, "-c", _SUBMITS_FOR_EVER, server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as submitter:
        assert submitter.stdout is not None
        answered = [submitter.stdout.readline() for _ in range(200)]
        pid = server.pid
        assert pid is not None
        _kill(pid)
        rest, _ = submitter.communicate()
    *more, end = (*answered, *rest.splitlines())
    assert end == "ended by StoreUnavailableError"
    with EmbeddedRedis(tmp_path) as again, connect(again.url) as client:
        queue = FeedbackQueue(client, Keys())
        kept = {one.feedback_id for one in queue.read_batch(100_000)}
    assert {one.strip() for one in more} <= kept


def _kill(pid: int) -> None:
    subprocess.run(["kill", "-9", str(pid)], check=True)
