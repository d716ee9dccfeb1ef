"""Servers that tests share: starting one takes longer than most tests."""

from __future__ import annotations

import pytest

from learnback_server.config import ServerConfig
from learnback_store.embedded import EmbeddedRedis
from tests.server.running import RunningServer, write_long_model
from tests.tiny import write_tiny_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def long_folder(tmp_path_factory):
    return write_long_model(tmp_path_factory.mktemp("long"))


@pytest.fixture(scope="session")
def server(tiny_folder):
    """A server like any other, for tests that leave it as they found it."""
    config = ServerConfig(listen="127.0.0.1:0", model=str(tiny_folder), device="cpu", threads=1)
    running = RunningServer(config)
    yield running
    running.close()


@pytest.fixture(scope="session")
def narrow(long_folder):
    """A server that answers one at a time and lets two wait."""
    config = ServerConfig(
        listen="127.0.0.1:0",
        model=str(long_folder),
        device="cpu",
        threads=1,
        max_running=1,
        max_waiting=2,
        cache_tokens=32768,
    )
    running = RunningServer(config)
    yield running
    running.close()


@pytest.fixture
def doomed(long_folder):
    """A server that the test may end."""
    config = ServerConfig(
        listen="127.0.0.1:0",
        model=str(long_folder),
        device="cpu",
        threads=1,
        max_running=1,
        cache_tokens=32768,
    )
    running = RunningServer(config)
    yield running
    running.close()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    """A Redis that no test ends."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def learning(tiny_folder, redis_server, tmp_path_factory):
    """A server that takes feedback; tests tell theirs apart by author."""
    config = ServerConfig(
        listen="127.0.0.1:0",
        model=str(tiny_folder),
        device="cpu",
        threads=1,
        redis_url=redis_server.url,
        redis_namespace="learning",
        checkpoint_dir=str(tmp_path_factory.mktemp("checkpoints")),
    )
    running = RunningServer(config)
    yield running
    running.close()
