"""Feedback is queued once, whole, and before the caller is answered."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from redis.exceptions import ResponseError

from learnback_store import connection
from learnback_store.connection import AsyncClient, Client, connect_async
from learnback_store.errors import RequestIdReusedError, StoreUnavailableError
from learnback_store.feedback import FeedbackQueue
from learnback_store.gathering import MAX_PIPELINE, GatheringWriter
from learnback_store.inbox import FeedbackInbox
from learnback_store.keys import Keys
from learnback_store.paging import FeedbackFilter
from learnback_store.records import FeedbackState, GenerationRef
from learnback_store.views import FeedbackViews
from tests.store.proxy import Proxy
from tests.store.samples import feedback

# Nothing listens here; connecting is refused at once.
NOWHERE = "redis://127.0.0.1:1/0"


async def test_submitted_feedback_waits_and_can_be_asked_about(
    inbox: FeedbackInbox, queue: FeedbackQueue, views: FeedbackViews
) -> None:
    record = feedback(author="ada", generation=GenerationRef("gen-1"))
    submission = await inbox.submit(record)
    assert not submission.repeated
    assert submission.view.record == record
    assert submission.view.account.state is FeedbackState.QUEUED
    assert await views.get(record.feedback_id) == submission.view
    for wanted in (FeedbackFilter(author="ada"), FeedbackFilter(generation_id="gen-1")):
        assert (await views.page(wanted)).views == (submission.view,)
    [delivery] = queue.read_batch(10)
    assert (delivery.record, delivery.attempt, delivery.deliveries) == (record, 0, 1)


async def test_a_repeat_gets_the_first_answer(inbox: FeedbackInbox, queue: FeedbackQueue) -> None:
    record = feedback()
    first = await inbox.submit(record, request_id="r")
    again = await inbox.submit(replace(record, feedback_id="fb-other"), request_id="r")
    assert again.repeated
    assert again.view == first.view
    assert queue.stats().depth == 1


async def test_a_request_id_with_other_content_is_refused(
    inbox: FeedbackInbox, queue: FeedbackQueue
) -> None:
    await inbox.submit(feedback("one"), request_id="r")
    with pytest.raises(RequestIdReusedError):
        await inbox.submit(feedback("two"), request_id="r")
    assert queue.stats().depth == 1


async def test_request_ids_belong_to_their_caller_and_may_be_absent(
    inbox: FeedbackInbox, queue: FeedbackQueue
) -> None:
    await inbox.submit(feedback("one"), request_id="r", caller="a")
    await inbox.submit(feedback("two"), request_id="r", caller="b")
    await inbox.submit(feedback("three"))
    await inbox.submit(feedback("three"))
    assert queue.stats().depth == 4


async def test_one_of_many_at_once_is_the_first(
    inbox: FeedbackInbox, queue: FeedbackQueue, redis_url: str, keys: Keys
) -> None:
    other = connect_async(redis_url)
    elsewhere = FeedbackInbox(GatheringWriter(other), keys)
    answers = await asyncio.gather(
        *(
            place.submit(feedback("same"), request_id="r")
            for place in (inbox, elsewhere)
            for _ in range(50)
        )
    )
    await other.aclose()
    assert len({answer.view.feedback_id for answer in answers}) == 1
    assert sum(not answer.repeated for answer in answers) == 1
    assert queue.stats().depth == 1


async def test_of_many_at_once_with_other_content_one_wins(
    inbox: FeedbackInbox, queue: FeedbackQueue
) -> None:
    outcomes = await asyncio.gather(
        *(inbox.submit(feedback(f"{index}"), request_id="r") for index in range(30)),
        return_exceptions=True,
    )
    refused = [one for one in outcomes if isinstance(one, RequestIdReusedError)]
    assert len(refused) == 29
    assert queue.stats().depth == 1


async def test_a_request_mark_expires(
    writer: GatheringWriter, keys: Keys, redis: Client, queue: FeedbackQueue
) -> None:
    inbox = FeedbackInbox(writer, keys, request_seconds=100)
    await inbox.submit(feedback("one"), request_id="r")
    assert 0 < redis.pttl(keys.request("", "r")) <= 100_000
    redis.delete(keys.request("", "r"))
    await inbox.submit(feedback("two"), request_id="r")
    assert queue.stats().depth == 2


async def test_calls_at_the_same_time_share_pipelines(
    async_redis: AsyncClient, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    class Counting(GatheringWriter):
        async def _send(self, batch: list) -> None:  # type: ignore[type-arg]
            sizes.append(len(batch))
            await super()._send(batch)

    inbox = FeedbackInbox(Counting(async_redis), keys)
    await asyncio.gather(*(inbox.submit(feedback()) for _ in range(300)))
    assert sizes == [MAX_PIPELINE, MAX_PIPELINE, 300 - 2 * MAX_PIPELINE]


async def test_one_bad_script_fails_alone(writer: GatheringWriter) -> None:
    good = writer.run("return 1", [], [])
    bad = writer.run("return redis.call('NONSENSE')", [], [])
    outcomes = await asyncio.gather(good, bad, good_again(writer), return_exceptions=True)
    assert outcomes[0] == outcomes[2] == 1
    assert isinstance(outcomes[1], Exception)


async def good_again(writer: GatheringWriter) -> object:
    return await writer.run("return 1", [], [])


async def test_a_cancelled_caller_disturbs_nobody(
    inbox: FeedbackInbox, queue: FeedbackQueue
) -> None:
    cancelled = asyncio.create_task(inbox.submit(feedback("gone")))
    await asyncio.sleep(0)
    cancelled.cancel()
    await inbox.submit(feedback("here"))
    assert cancelled.cancelled() or cancelled.cancelling()
    assert queue.stats().depth in (1, 2)


async def test_redis_away_is_unavailable() -> None:
    client = connect_async(NOWHERE)
    inbox = FeedbackInbox(GatheringWriter(client), Keys())
    outcomes = await asyncio.gather(
        *(inbox.submit(feedback()) for _ in range(5)), return_exceptions=True
    )
    await client.aclose()
    assert all(isinstance(one, StoreUnavailableError) for one in outcomes)


async def test_a_connection_that_breaks_after_the_write_writes_once(
    redis_url: str, keys: Keys, queue: FeedbackQueue
) -> None:
    proxy = Proxy(redis_url)
    async with proxy.running() as url:
        client = connect_async(url)
        inbox = FeedbackInbox(GatheringWriter(client), keys)
        proxy.cut_after_request = 1
        submission = await inbox.submit(feedback())
        await client.aclose()
    assert not submission.repeated
    assert queue.stats().depth == 1


async def test_a_redis_that_does_not_answer_is_unavailable_and_a_repeat_is_safe(
    redis_url: str, keys: Keys, queue: FeedbackQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "REPLY_SECONDS", 0.2)
    proxy = Proxy(redis_url)
    async with proxy.running() as url:
        client = connect_async(url)
        inbox = FeedbackInbox(GatheringWriter(client), keys)
        await inbox.submit(feedback("warm"), request_id="w")
        proxy.deaf = True
        with pytest.raises(StoreUnavailableError):
            await inbox.submit(feedback("lost"), request_id="r")
        proxy.deaf = False
        again = await inbox.submit(feedback("lost"), request_id="r")
        await client.aclose()
    assert queue.stats().depth == 2
    assert again.view.feedback_id in {one.feedback_id for one in queue.read_batch(10)}


@pytest.mark.parametrize(
    "refusal", ["OOM no memory", "MISCONF disk", "READONLY replica", "LOADING now", "NOAUTH who"]
)
async def test_a_redis_that_can_not_write_is_unavailable(
    writer: GatheringWriter, refusal: str
) -> None:
    with pytest.raises(StoreUnavailableError):
        await writer.run(f"return redis.error_reply('{refusal}')", [], [])


async def test_a_redis_that_misses_its_replicas_is_unavailable(
    redis: Client, inbox: FeedbackInbox, queue: FeedbackQueue
) -> None:
    redis.config_set("min-replicas-to-write", 1)
    try:
        with pytest.raises(StoreUnavailableError, match="NOREPLICAS"):
            await inbox.submit(feedback("one"), request_id="r")
    finally:
        redis.config_set("min-replicas-to-write", 0)
    await inbox.submit(feedback("one"), request_id="r")
    assert queue.stats().depth == 1


@pytest.mark.parametrize("said", ["NOREPLICAS too few", "READONLY a replica", "OOM no memory"])
def test_what_an_old_redis_says_to_a_script_counts(said: str) -> None:
    wrapped = f"Error running script (call to f_db72): @user_script:15: @user_script: 15: -{said}"
    assert connection.is_unavailable(ResponseError(wrapped))
    ours = wrapped.replace(f"-{said}", "Script attempted to access a READONLY nonexistent global")
    assert not connection.is_unavailable(ResponseError(ours))
