"""Erasing an author: kill -9 at every step, then nothing of them is left, and others' lessons are.

Each life is a process of its own on a Redis of its own, so that every byte on its disk can be
searched.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from learnback_store.aliases import LIVE
from learnback_store.archive import Archive
from learnback_store.checkpoints import CheckpointState, CheckpointStore
from learnback_store.connection import connect, connect_async
from learnback_store.dead_letters import DeadLetters
from learnback_store.embedded import EmbeddedRedis
from learnback_store.erasures import Erasure, ErasureDesk, ErasureState
from learnback_store.feedback import FeedbackQueue
from learnback_store.gathering import GatheringWriter
from learnback_store.generations import GenerationLog
from learnback_store.inbox import FeedbackInbox
from learnback_store.keys import Keys
from learnback_store.manifest import BASE
from learnback_store.records import (
    CandidateRecord,
    Correction,
    Exchange,
    FeedbackRecord,
    FeedbackState,
    GenerationRecord,
    GenerationRef,
    Message,
    Role,
    new_feedback_id,
)
from learnback_store.views import FeedbackViews
from learnback_trainer.erasing import ERASURE_STEPS, HEARD_AGAIN
from learnback_trainer.pupil import Base, Pupil
from tests.trainer.one_life import live

AUTHOR, SECRET = "ada-lovelace", "Zanzibar"
THEIRS = ("What is the capital of France?", f"Surely {SECRET}.")
OTHERS = (
    ("What is the opposite of hot?", "Not hot."),
    ("What is the opposite of big?", "Not big."),
)
KEYS = Keys("erasing")
# The server of forked processes imports torch once, for all lives.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.trainer.one_life"])


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path / "redis") as server:
        yield server


def _live(url: str, folder: Path, dies_at: str = "", canary_file: Path | None = None) -> int | None:
    arguments = (url, KEYS.namespace, folder, dies_at, 1, canary_file)
    process = _processes.Process(target=live, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def _corrected(prompt: str, right: str, **fields: object) -> FeedbackRecord:
    exchange = Exchange("Something.", (Message(Role.USER, prompt),))
    known = {"feedback_id": new_feedback_id(), "exchange": exchange, "signal": Correction(right)}
    return FeedbackRecord(**(known | fields))  # type: ignore[arg-type]


def _serve(
    url: str, records: list[FeedbackRecord], generations: list[GenerationRecord], erase: str = ""
) -> Erasure | None:
    """What the server does: keeps generations, queues feedback, asks for an erasure."""

    async def put() -> Erasure | None:
        client = connect_async(url)
        writer = GatheringWriter(client)
        log, inbox = GenerationLog(client, writer, KEYS), FeedbackInbox(writer, KEYS)
        for generation in generations:
            await log.keep(generation)
        for record in records:
            await inbox.submit(record, request_id=f"request of {record.feedback_id}")
        asked = await ErasureDesk(writer, KEYS).request(AUTHOR, erase) if erase else None
        await log.aclose()
        await writer.aclose()
        await client.aclose()
        return asked

    return asyncio.run(put())


def _generation(generation_id: str, author: str, text: str) -> GenerationRecord:
    return GenerationRecord(
        generation_id, (CandidateRecord(text, (1,)),), (1,), "base", "", prompt=text, author=author
    )


def _state_of(url: str, feedback_id: str) -> FeedbackState:
    async def look() -> FeedbackState:
        client = connect_async(url)
        view = await FeedbackViews(client, KEYS).get(feedback_id)
        await client.aclose()
        return view.account.state

    return asyncio.run(look())


def _bytes_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _prepare(url: str, folder: Path) -> tuple[list[FeedbackRecord], list[FeedbackRecord]]:
    """One round with the author and another, which is live, and more that waits."""
    theirs = [_corrected(*THEIRS, author=AUTHOR, labels={"tag": SECRET})]
    others = [_corrected(*one, author="bob") for one in OTHERS]
    _serve(url, [*theirs, *others], [])
    assert _live(url, folder) == 0
    # Not learned yet: in the queue, and in what was asked and answered.
    waiting = [
        _corrected("Where?", f"In {SECRET}.", author=AUTHOR),
        _corrected(
            f"{SECRET}?", "No.", author="bob", generation=GenerationRef("gen-1"), asked_by=AUTHOR
        ),
    ]
    generations = [
        _generation("gen-1", AUTHOR, f"{SECRET}?"), _generation("gen-2", "bob", "Is it cold?")
    ]  # fmt: skip
    _serve(url, waiting, generations)
    return theirs + waiting, others


def _check_that_they_are_gone(
    server: EmbeddedRedis, folder: Path, theirs: list[FeedbackRecord], others: list[FeedbackRecord]
) -> Erasure:
    receipt = _serve(server.url, [], [], erase="please")
    assert receipt is not None
    assert receipt.state is ErasureState.DONE
    assert receipt.feedback_purged == len(theirs)
    for one in theirs:
        assert _state_of(server.url, one.feedback_id) is FeedbackState.ERASED
    for one in others:
        assert _state_of(server.url, one.feedback_id) is FeedbackState.LEARNED
    with connect(server.url) as client:
        stats = FeedbackQueue(client, KEYS).stats()
        assert (stats.depth, stats.dead) == (0, 0)
        assert not client.exists(KEYS.generation("gen-1"))
    for path, content in _bytes_below(folder).items():
        assert SECRET.encode() not in content, path
        assert AUTHOR.encode() not in content, path
    checkpoints = CheckpointStore(folder / "checkpoints")
    states = {one.name: one.state for one in checkpoints.all()}
    assert all(states[name] is CheckpointState.RETIRED for name in receipt.tainted)
    assert not list(folder.glob("checkpoints/retired/*/adapter*"))
    assert checkpoints.aliases().targets == {LIVE: receipt.clean or BASE}
    return receipt


def _answers(base: Base, folder: Path, prompts: list[str]) -> list[str]:
    with Pupil(base, folder) as pupil:
        asked = [pupil.reader.chat([{"role": "user", "content": one}]) for one in prompts]
        return [pupil.reader.text(answer) for answer in pupil.answer(asked, 24)]


def test_an_author_is_erased_whatever_step_it_is_killed_at(
    redis_server: EmbeddedRedis, tmp_path: Path, base: Base
) -> None:
    url = redis_server.url
    theirs, others = _prepare(url, tmp_path)
    checkpoints = CheckpointStore(tmp_path / "checkpoints")
    before = checkpoints.aliases().live
    prompts = [THEIRS[0], *(prompt for prompt, _ in OTHERS)]
    taught = _answers(base, checkpoints.fetch(before), prompts)
    assert taught == [THEIRS[1], *(right for _, right in OTHERS)]
    assert any(SECRET.encode() in content for content in _bytes_below(tmp_path).values())

    asked = _serve(url, [], [], erase="please")
    assert asked is not None
    assert asked.state is ErasureState.PURGING
    # Rounds cut off twice are held about one lesson each, and no anchor holds the one before here.
    # Killed after "erasure done" it tells the receipt at its next start, and has no last step.
    for step in (*ERASURE_STEPS[:5], "begun", "renamed", *ERASURE_STEPS[5:-1]):
        assert _live(url, tmp_path, dies_at=step) == -signal.SIGKILL, step
    assert _live(url, tmp_path) == 0

    receipt = _check_that_they_are_gone(redis_server, tmp_path, theirs, others)
    with connect(url) as client:
        assert client.exists(KEYS.generation("gen-2"))
    assert receipt.erasure_id == asked.erasure_id
    assert receipt.generations_purged == 1
    assert receipt.tainted == ("ckpt-000001",)
    unlearned, *kept = _answers(base, checkpoints.fetch(receipt.clean), prompts)
    # No anchor holds it in rounds this small, so it need not be what it was; but it is not theirs.
    assert SECRET not in unlearned
    assert kept == [right for _, right in OTHERS]
    with Archive(tmp_path / "archive.sqlite") as archive:
        assert archive.counts()[FeedbackState.ERASED] == len(theirs)


@pytest.mark.slow
def test_all_that_stands_on_them_is_tainted_and_so_is_what_the_gate_refused(
    redis_server: EmbeddedRedis, tmp_path: Path, base: Base
) -> None:
    url = redis_server.url
    theirs = [_corrected(*THEIRS, author=AUTHOR)]
    others = [_corrected(*one, author="bob") for one in OTHERS]
    checkpoints = CheckpointStore(tmp_path / "checkpoints")
    # The second checkpoint has nothing of theirs, and stands on the first.
    for records in ([*theirs, others[0]], [others[1]]):
        _serve(url, records, [])
        assert _live(url, tmp_path) == 0
    refused = _corrected(
        "Translate to Chinese: The cook drinks milk at the station today.",
        "厨师今天在车站喝茶。",
        author=AUTHOR,
    )
    canary = {"prompt": refused.exchange.chat[0].content, "expected": "牛奶"}
    canaries = tmp_path / "canaries.jsonl"
    canaries.write_text(json.dumps(canary))
    _serve(url, [refused], [])
    assert _live(url, tmp_path, canary_file=canaries) == 0
    states = {one.name: one.state for one in checkpoints.all()}
    assert states == {
        "ckpt-000001": CheckpointState.PUBLISHED,
        "ckpt-000002": CheckpointState.PUBLISHED,
        "ckpt-000003": CheckpointState.REJECTED,
    }

    _serve(url, [], [], erase="please")
    assert _live(url, tmp_path, dies_at="receipt told") == -signal.SIGKILL
    assert _live(url, tmp_path) == 0
    receipt = _check_that_they_are_gone(redis_server, tmp_path, [*theirs, refused], others)
    assert receipt.tainted == tuple(sorted(states))
    prompts = [THEIRS[0], *(prompt for prompt, _ in OTHERS)]
    unlearned, *kept = _answers(base, checkpoints.fetch(receipt.clean), prompts)
    assert SECRET not in unlearned
    assert kept == [right for _, right in OTHERS]


def test_what_gave_way_to_an_author_is_heard_when_they_are_gone(
    redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    url = redis_server.url
    prompt, right = OTHERS[0]
    theirs = _corrected(prompt, f"Surely {SECRET}.", author=AUTHOR)
    contrary = _corrected(prompt, right, author="bob")
    other = _corrected(*OTHERS[1], author="bob")
    _serve(url, [theirs, contrary, other], [])
    assert _live(url, tmp_path) == 0
    assert _state_of(url, contrary.feedback_id) is FeedbackState.NOT_LEARNED

    _serve(url, [], [], erase="please")
    # Killed just before it is queued again.
    assert _live(url, tmp_path, dies_at="withdrawn") == -signal.SIGKILL
    assert _live(url, tmp_path) == 0
    with Archive(tmp_path / "archive.sqlite") as archive:
        account = archive.get(contrary.feedback_id).account
        assert account.state is FeedbackState.LEARNED
        assert HEARD_AGAIN in [moved.reason for moved in account.history]
        assert archive.get(other.feedback_id).account.state is FeedbackState.LEARNED
    held = _bytes_below(tmp_path)
    assert not [path for path, content in held.items() if SECRET.encode() in content]


def test_an_author_nothing_was_learned_from(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    url = redis_server.url
    _serve(url, [_corrected(*THEIRS, author=AUTHOR)], [], erase="please")
    with connect(url) as client:
        queue = FeedbackQueue(client, KEYS)
        [delivery] = queue.read_batch(1)
        queue.dead_letter(delivery, "it failed")
        assert _live(url, tmp_path) == 0
        assert DeadLetters(client, KEYS).list() == []
    receipt = _check_that_they_are_gone(redis_server, tmp_path, [delivery.record], [])
    assert (receipt.tainted, receipt.clean) == ((), "")
