"""All kinds of feedback in one round over Redis, each with its proof; then one author is erased."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from learnback_store.archive import Archive
from learnback_store.checkpoints import CheckpointState, CheckpointStore
from learnback_store.connection import Client, connect_async
from learnback_store.erasures import ErasureDesk
from learnback_store.gathering import GatheringWriter
from learnback_store.keys import Keys
from learnback_store.records import (
    Correction,
    Critique,
    Exchange,
    FeedbackRecord,
    FeedbackState,
    FeedbackView,
    Message,
    Objective,
    Preference,
    Preferred,
    Rating,
    Role,
    Signal,
    new_feedback_id,
)
from learnback_store.views import FeedbackViews
from learnback_trainer.anchors import Amounts
from learnback_trainer.gate import Budget
from learnback_trainer.loop import Trainer
from learnback_trainer.pupil import Base, LoraShape, Pupil
from learnback_trainer.school import Curriculum
from learnback_trainer.update import Recipe
from tests.trainer.critics import criticism, submit

# So few questions are held out for the gate that one which changes is a quarter of them.
CURRICULUM = Curriculum(
    Recipe(steps=32, lessons=6, anchors=4),
    Budget(changed=0.25, anchor_nats=0.1),
    Amounts(12, 0, 0),
    answer_tokens=24,
    seed=0,
)
HOT, FALSE, CANADA, FRANCE = (
    "What is the opposite of hot?", "Tell me the opposite of false.",
    "Tell me the capital of Canada.", "What is the capital of France?",
)  # fmt: skip
OF_HOT, OF_FALSE = "The opposite of hot is cold.", "The opposite of false is true."


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive(tmp_path / "archive.sqlite") as opened:
        yield opened


def _said(prompt: str, answer: str, signal: Signal, author: str) -> FeedbackRecord:
    exchange = Exchange(answer, (Message(Role.USER, prompt),))
    return FeedbackRecord(new_feedback_id(), exchange, signal, author=author)


def _told(url: str, keys: Keys, records: list[FeedbackRecord]) -> list[FeedbackView]:
    """What GetFeedback tells."""

    async def look() -> list[FeedbackView]:
        client = connect_async(url)
        views = [await FeedbackViews(client, keys).get(one.feedback_id) for one in records]
        await client.aclose()
        return views

    return asyncio.run(look())


def _ask_to_erase(url: str, keys: Keys, author: str) -> None:
    async def ask() -> None:
        client = connect_async(url)
        writer = GatheringWriter(client)
        await ErasureDesk(writer, keys).request(author, "please")
        await writer.aclose()
        await client.aclose()

    asyncio.run(ask())


def test_all_kinds_are_learned_and_one_is_erased(
    base: Base,
    redis: Client,
    redis_url: str,
    keys: Keys,
    archive: Archive,
    checkpoints: CheckpointStore,
) -> None:
    good = _said(HOT, OF_HOT, Rating(1.0), "ada")
    bad = _said(FALSE, OF_FALSE, Rating(-1.0), "bob")
    better = _said(
        CANADA, "The capital of Canada is Ottawa.", Preference("Ottawa.", Preferred.OTHER), "cleo"
    )
    right = _said(
        FRANCE, "The capital of France is Paris.", Correction("The capital of France is Rome."), ""
    )
    critique = criticism("emoji", "note", Random(1))
    outranked = _said(FRANCE, right.exchange.answer, Critique("Too long."), "")
    agreeing = _said(HOT, OF_HOT, Rating(0.5), "dora")
    taught = [good, bad, better, right, critique]
    submit(redis_url, keys, [*taught, outranked, agreeing])
    trainer = Trainer(
        base, redis, keys, archive, checkpoints, CURRICULUM, shape=LoraShape(), round_wait=0.0
    )
    trainer.recover()
    assert trainer.work() == 7
    trainer.tidy()

    up, down, preferred, corrected, criticised, less, along = _told(
        redis_url, keys, [*taught, outranked, agreeing]
    )
    live = checkpoints.aliases().live
    for view in (up, down, preferred, corrected, criticised, along):
        assert view.account.state is FeedbackState.LEARNED, view.account.reason
        assert view.account.checkpoint == live
    [lesson] = up.account.lessons
    assert lesson.objective is Objective.KTO
    assert lesson.answer_before == lesson.answer_after == lesson.refinement == OF_HOT
    [lesson] = down.account.lessons
    assert lesson.answer_before == lesson.refinement == OF_FALSE
    assert lesson.answer_after not in ("", OF_FALSE)
    assert (lesson.loss_before or 0.0) < (lesson.loss_after or 0.0)
    [lesson] = preferred.account.lessons
    assert (lesson.margin_before or 0.0) < 0 < (lesson.margin_after or 0.0)
    [lesson] = corrected.account.lessons
    assert lesson.answer_after == "The capital of France is Rome."
    [lesson] = criticised.account.lessons
    assert lesson.answer_after == lesson.refinement != lesson.answer_before

    assert less.account.state is FeedbackState.NOT_LEARNED
    assert less.account.reason == f"a correction of the same answer was taught: {right.feedback_id}"
    assert along.account.reason.startswith(f"taught along with {good.feedback_id}")
    assert (less.account.lessons, along.account.lessons) == ((), ())
    manifest = checkpoints.get(live).manifest
    assert set(manifest.objectives) == {
        Objective.KTO, Objective.DPO, Objective.SFT, Objective.DISTILLATION
    }  # fmt: skip
    assert set(manifest.feedback_ids) == {one.feedback_id for one in (*taught, agreeing)}
    assert manifest.gate is not None
    assert manifest.gate.figures["covered"] == 2

    # The one whose rating was learned along takes the place of the one who is erased.
    _ask_to_erase(redis_url, keys, "ada")
    trainer.tidy()
    gone, *kept = _told(redis_url, keys, [good, bad, better, right, critique, agreeing])
    assert gone.account.state is FeedbackState.ERASED
    assert {one.account.state for one in kept} == {FeedbackState.LEARNED}
    assert kept[-1].account.lessons[0].refinement == OF_HOT
    assert checkpoints.get(live).state is CheckpointState.RETIRED
    with Pupil(base, checkpoints.fetch(checkpoints.aliases().live)) as pupil:
        asked = [pupil.reader.chat([{"role": "user", "content": one}]) for one in (FRANCE, FALSE)]
        rome, changed = (pupil.reader.text(one) for one in pupil.answer(asked, 24))
    assert rome == "The capital of France is Rome."
    assert changed != OF_FALSE
