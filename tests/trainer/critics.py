"""Users of nano: what they say, drawn from its world, and how the model does on new questions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from statistics import mean

from learnback_nano import world
from learnback_store.connection import connect_async
from learnback_store.erasures import ErasureDesk
from learnback_store.gathering import GatheringWriter
from learnback_store.inbox import FeedbackInbox
from learnback_store.keys import Keys
from learnback_store.records import (
    Account,
    Correction,
    Critique,
    Exchange,
    FeedbackRecord,
    FeedbackView,
    Message,
    Role,
    Signal,
    new_feedback_id,
)
from learnback_trainer.pupil import Pupil

ANSWER_TOKENS = 48


def asked(prompt: str, answer: str, signal: Signal) -> FeedbackRecord:
    exchange = Exchange(answer, (Message(Role.USER, prompt),))
    return FeedbackRecord(new_feedback_id(), exchange, signal)


def criticism(kind: str, task: str, rng: Random, words: str = "") -> FeedbackRecord:
    """A critique of this kind, about the right answer to a question of the task."""
    item, _ = criticisable(kind, task, rng, "seen")
    said = words or world.phrase(kind, rng, "seen", language="en")
    return asked(item.prompt, world.render(item), Critique(said))


def correction(prompt: str, answer: str, right: str) -> FeedbackRecord:
    return asked(prompt, answer, Correction(right))


def criticisable(
    kind: str, task: str, rng: Random, split: world.Split
) -> tuple[world.Item, world.Style]:
    while True:
        item = world.sample(task, rng, split)
        try:
            return item, world.apply(kind, item)
        except world.ImpossibleError:
            continue


def views(records: Sequence[FeedbackRecord]) -> list[FeedbackView]:
    return [FeedbackView(record, Account.queued(record)) for record in records]


def compliance(pupil: Pupil, kind: str, task: str, count: int = 40) -> tuple[float, float]:
    """Shares of unseen questions answered as the critique wants: without it, and with it in
    context by the live model (which no student can be expected to surpass)."""
    rng = Random(7)
    drawn = [criticisable(kind, task, rng, "unseen") for _ in range(count)]
    reader = pupil.reader
    bare = [reader.chat([_user(item.prompt)]) for item, _ in drawn]
    told = [
        reader.chat(
            [
                _user(item.prompt),
                {"role": "assistant", "content": world.render(item)},
                _user(world.phrase(kind, rng, "seen", language="en")),
            ]
        )
        for item, _ in drawn
    ]
    answers = pupil.answer(bare, ANSWER_TOKENS)
    with pupil.as_live():
        revisions = pupil.answer(told, ANSWER_TOKENS)
    shares = [
        mean(
            world.judge(reader.text(text), item, style).style
            for text, (item, style) in zip(found, drawn, strict=True)
        )
        for found in (answers, revisions)
    ]
    return shares[0], shares[1]


def unchanged(pupil: Pupil, task: str, count: int = 6) -> float:
    """The share of unseen questions of all other tasks that are answered as by the live model."""
    rng = Random(8)
    tasks = [other for other in world.TASKS if other != task]
    probes = [world.plain(other, rng) for other in tasks for _ in range(count)]
    prompts = [pupil.reader.chat(probe.messages) for probe in probes]
    answers = pupil.answer(prompts, ANSWER_TOKENS)
    with pupil.as_live():
        before = pupil.answer(prompts, ANSWER_TOKENS)
    return mean(one == other for one, other in zip(answers, before, strict=True))


def submit(url: str, keys: Keys, records: Sequence[FeedbackRecord]) -> None:
    """Puts feedback into the queue as the server does."""

    async def put() -> None:
        client = connect_async(url)
        writer = GatheringWriter(client)
        for record in records:
            await FeedbackInbox(writer, keys).submit(record)
        await writer.aclose()
        await client.aclose()

    asyncio.run(put())


def erase(url: str, keys: Keys, author: str) -> None:
    """Asks for an erasure as the server does."""

    async def ask() -> None:
        client = connect_async(url)
        writer = GatheringWriter(client)
        await ErasureDesk(writer, keys).request(author, f"erase {author}")
        await writer.aclose()
        await client.aclose()

    asyncio.run(ask())


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}
