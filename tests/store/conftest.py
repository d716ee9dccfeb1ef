"""A real Redis for the whole session; each test has keys of its own on it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from learnback_store.archive import Archive
from learnback_store.checkpoints import CheckpointStore, open_checkpoints
from learnback_store.connection import AsyncClient, Client, connect, connect_async
from learnback_store.dead_letters import DeadLetters
from learnback_store.embedded import EmbeddedRedis
from learnback_store.feedback import FeedbackQueue
from learnback_store.gathering import GatheringWriter
from learnback_store.generations import GenerationLog, Traffic
from learnback_store.inbox import FeedbackInbox
from learnback_store.keys import Keys
from learnback_store.live_views import LiveViews
from learnback_store.views import FeedbackViews

_namespaces = itertools.count()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
def redis(redis_url: str) -> Iterator[Client]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture
async def async_redis(redis_url: str) -> AsyncIterator[AsyncClient]:
    client = connect_async(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def keys() -> Keys:
    return Keys(f"test-{next(_namespaces)}")


@pytest.fixture
async def writer(async_redis: AsyncClient) -> AsyncIterator[GatheringWriter]:
    writer = GatheringWriter(async_redis)
    yield writer
    await writer.aclose()


@pytest.fixture
def inbox(writer: GatheringWriter, keys: Keys) -> FeedbackInbox:
    return FeedbackInbox(writer, keys)


@pytest.fixture
def views(async_redis: AsyncClient, keys: Keys) -> FeedbackViews:
    return FeedbackViews(async_redis, keys)


@pytest.fixture
async def log(
    async_redis: AsyncClient, writer: GatheringWriter, keys: Keys
) -> AsyncIterator[GenerationLog]:
    log = GenerationLog(async_redis, writer, keys)
    yield log
    await log.aclose()


@pytest.fixture
def queue(redis: Client, keys: Keys) -> FeedbackQueue:
    return FeedbackQueue(redis, keys)


@pytest.fixture
def dead_letters(redis: Client, keys: Keys) -> DeadLetters:
    return DeadLetters(redis, keys)


@pytest.fixture
def live_views(redis: Client, keys: Keys) -> LiveViews:
    return LiveViews(redis, keys)


@pytest.fixture
def traffic(redis: Client, keys: Keys) -> Traffic:
    return Traffic(redis, keys)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where checkpoints lie."""
    if request.param == "folder":
        return str(tmp_path / "checkpoints")
    return f"{request.getfixturevalue('s3_bucket')}/{next(_namespaces)}"


@pytest.fixture
def opened(place: str, tmp_path: Path) -> Callable[[], CheckpointStore]:
    """Opens the same checkpoints, as one process after the other does."""
    return lambda: open_checkpoints(place, tmp_path / "cache")


@pytest.fixture
def checkpoints(opened: Callable[[], CheckpointStore]) -> CheckpointStore:
    return opened()


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive(tmp_path / "archive.sqlite") as archive:
        yield archive
