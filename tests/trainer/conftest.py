"""The shipped model, once for the folder, and a real Redis with keys of each test's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from learnback_store.checkpoints import CheckpointStore
from learnback_store.connection import Client, connect
from learnback_store.embedded import EmbeddedRedis
from learnback_store.keys import Keys
from learnback_trainer.pupil import Base, load_base

_namespaces = itertools.count()


@pytest.fixture(scope="session")
def base(request: pytest.FixtureRequest) -> Base:
    return load_base("nano", device=request.config.getoption("--device"), dtype="float32")


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
def redis(redis_url: str) -> Iterator[Client]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def keys() -> Keys:
    return Keys(f"trainer-{next(_namespaces)}")


@pytest.fixture
def checkpoints(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")
