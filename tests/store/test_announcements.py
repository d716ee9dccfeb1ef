"""Servers follow the aliases: at once by announcement, soon without."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from learnback_store import announcements as module
from learnback_store.announcements import announce, announce_async, watch_aliases
from learnback_store.checkpoints import CheckpointStore
from learnback_store.connection import AsyncClient, Client, connect, connect_async
from learnback_store.errors import StoreUnavailableError
from learnback_store.keys import Keys
from tests.store.samples import publish
from tests.store.test_inbox import NOWHERE

FOREVER = 3600.0


async def test_the_watch_begins_with_what_is(
    checkpoints: CheckpointStore, async_redis: AsyncClient, keys: Keys
) -> None:
    async with aclosing(watch_aliases(checkpoints, async_redis, keys)) as watch:
        assert (await anext(watch)).live == "base"


@pytest.mark.parametrize("by_server", [False, True])
async def test_an_announcement_is_followed_without_polling(
    checkpoints: CheckpointStore,
    async_redis: AsyncClient,
    redis: Client,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
    by_server: bool,
) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", FOREVER)
    publish(checkpoints, "one")
    async with aclosing(watch_aliases(checkpoints, async_redis, keys)) as watch:
        await anext(watch)
        checkpoints.promote("one")
        if by_server:
            await announce_async(async_redis, keys, 1)
        else:
            announce(redis, keys, 1)
        # Whether it came before or after the subscription.
        assert (await anext(watch)).live == "one"
        checkpoints.rollback()
        announce(redis, keys, 2)
        assert (await anext(watch)).live == "base"


async def test_without_redis_it_polls(
    checkpoints: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    publish(checkpoints, "one")
    away = connect_async(NOWHERE)
    async with aclosing(watch_aliases(checkpoints, away, Keys())) as watch:
        await anext(watch)
        checkpoints.promote("one")
        assert (await anext(watch)).live == "one"
    with pytest.raises(StoreUnavailableError):
        await announce_async(away, Keys(), 1)
    await away.aclose()
    with pytest.raises(StoreUnavailableError):
        announce(connect(NOWHERE), Keys(), 1)


@pytest.mark.parametrize("place", ["folder"], indirect=True)
async def test_a_damaged_file_is_survived(
    checkpoints: CheckpointStore,
    async_redis: AsyncClient,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    publish(checkpoints, "one")
    path = checkpoints.root / "aliases.json"
    path.write_text("{")
    async with aclosing(watch_aliases(checkpoints, async_redis, keys)) as watch:
        path.unlink()
        assert (await anext(watch)).live == "base"
        checkpoints.promote("one")
        assert (await anext(watch)).live == "one"
