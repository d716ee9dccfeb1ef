"""A generation that was answered can be found, from the moment it was kept until it expires."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from learnback_store import generations as module
from learnback_store.connection import AsyncClient, Client, connect, connect_async
from learnback_store.errors import GenerationNotFoundError, StoreUnavailableError
from learnback_store.gathering import GatheringWriter
from learnback_store.generations import KEEP_SECONDS, GenerationLog, Traffic
from learnback_store.inbox import FeedbackInbox
from learnback_store.keys import Keys
from learnback_store.records import GenerationRef
from tests.store.proxy import Proxy
from tests.store.samples import feedback, generation, wait_until
from tests.store.test_inbox import NOWHERE


async def test_what_was_kept_is_found(log: GenerationLog) -> None:
    record = generation(author="ada", labels={"team": "x"})
    assert await log.keep(record)
    assert await log.get("gen-1") == record


async def test_what_was_never_kept_is_not_found(log: GenerationLog) -> None:
    with pytest.raises(GenerationNotFoundError):
        await log.get("gen-1")


async def test_it_is_found_while_it_is_on_its_way(log: GenerationLog) -> None:
    keeping = asyncio.create_task(log.keep(generation()))
    await asyncio.sleep(0)
    assert not keeping.done()
    assert await log.get("gen-1") == generation(create_ms=(await log.get("gen-1")).create_ms)
    assert await keeping


async def test_another_server_finds_it(log: GenerationLog, redis_url: str, keys: Keys) -> None:
    await log.keep(generation())
    client = connect_async(redis_url)
    elsewhere = GenerationLog(client, GatheringWriter(client), keys)
    assert (await elsewhere.get("gen-1")).generation_id == "gen-1"
    await client.aclose()


async def test_it_expires_and_leaves_the_indices(
    async_redis: AsyncClient, writer: GatheringWriter, keys: Keys, redis: Client
) -> None:
    brief = GenerationLog(async_redis, writer, keys, keep_seconds=0.05)
    await brief.keep(generation("gen-1", author="ada"))
    await wait_until(lambda: not redis.exists(keys.generation("gen-1")))
    with pytest.raises(GenerationNotFoundError):
        await brief.get("gen-1")
    await brief.keep(generation("gen-2", author="ada"))
    assert redis.zrange(keys.generations, 0, -1) == ["gen-2"]


async def test_it_lives_a_week_by_default(log: GenerationLog, redis: Client, keys: Keys) -> None:
    await log.keep(generation())
    left = redis.pttl(keys.generation("gen-1"))
    assert KEEP_SECONDS - 60 < left / 1000 <= KEEP_SECONDS == 7 * 24 * 3600


@pytest.fixture
async def cut_off(redis_url: str, keys: Keys) -> AsyncIterator[tuple[GenerationLog, Proxy]]:
    """A log whose Redis can be taken away: connections are refused while the proxy is down."""
    proxy = Proxy(redis_url)
    async with proxy.running() as url:
        pass
    client = connect_async(url)
    log = GenerationLog(client, GatheringWriter(client), keys)
    yield log, proxy
    await log.aclose()
    await client.aclose()


async def test_while_redis_is_away_it_waits_in_memory_and_is_written_later(
    cut_off: tuple[GenerationLog, Proxy], traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    log, proxy = cut_off
    assert not await log.keep(generation("gen-1"))
    assert not await log.keep(generation("gen-2"))
    assert log.backlog == 2
    assert (await log.get("gen-1")).generation_id == "gen-1"
    with pytest.raises(StoreUnavailableError):
        await log.get("gen-other")
    async with proxy.running(proxy.port):
        await wait_until(lambda: not log.backlog)
        assert await log.keep(generation("gen-3"))
        assert set(traffic.get(["gen-1", "gen-2", "gen-3"])) == {"gen-1", "gen-2", "gen-3"}


async def test_the_backlog_is_bounded(
    cut_off: tuple[GenerationLog, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BACKLOG", 2)
    log, _ = cut_off
    for index in range(3):
        await log.keep(generation(f"gen-{index}"))
    assert (log.backlog, log.dropped) == (2, 1)
    assert (await log.get("gen-2")).generation_id == "gen-2"


async def test_the_trainer_samples_what_nobody_criticised(
    log: GenerationLog, traffic: Traffic, inbox: FeedbackInbox
) -> None:
    for index in range(6):
        await log.keep(generation(f"gen-{index}"))
    await inbox.submit(feedback(generation=GenerationRef("gen-0")))
    assert len(traffic.sample(2)) == 2
    sampled = {one.generation_id for one in traffic.sample(100)}
    assert sampled == {f"gen-{index}" for index in range(1, 6)}
    assert traffic.get([]) == {}


async def test_an_author_is_forgotten(
    log: GenerationLog, traffic: Traffic, redis: Client, keys: Keys
) -> None:
    await log.keep(generation("gen-1", author="ada"))
    await log.keep(generation("gen-2", author="ada"))
    await log.keep(generation("gen-3", author="bob"))
    ids = traffic.of_author("ada")
    assert traffic.forget(ids, "ada") == 2
    assert traffic.forget(ids, "ada") == 0
    assert traffic.of_author("ada") == []
    assert set(traffic.get(["gen-1", "gen-2", "gen-3"])) == {"gen-3"}
    assert redis.zrange(keys.generations, 0, -1) == ["gen-3"]


def test_no_traffic_no_sample(traffic: Traffic) -> None:
    assert traffic.sample(3) == []
    with pytest.raises(StoreUnavailableError):
        Traffic(connect(NOWHERE), Keys()).sample(1)
