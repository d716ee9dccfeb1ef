"""URLs of every form, against real servers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from learnback_store.connection import (
    SentinelUrl,
    connect,
    connect_async,
    parse_sentinel_url,
    store_errors,
)
from learnback_store.embedded import EmbeddedRedis, _free_port, find_server
from learnback_store.errors import StoreUnavailableError
from learnback_store.keys import Keys
from tests.store.samples import wait_until
from tests.store.test_inbox import NOWHERE


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("redis://host", None),
        ("unix:///socket", None),
        ("redis+sentinel://a:1,b:2/main", SentinelUrl((("a", 1), ("b", 2)), "main")),
        ("redis+sentinel://a/main/3", SentinelUrl((("a", 26379),), "main", 3)),
        (
            "rediss+sentinel://me:p%40ss@a:1/main",
            SentinelUrl((("a", 1),), "main", 0, "me", "p@ss", True),
        ),
        ("redis+sentinel://:secret@[::1]:5/m", SentinelUrl((("::1", 5),), "m", 0, None, "secret")),
    ],
)
def test_sentinel_urls(url: str, parsed: SentinelUrl | None) -> None:
    assert parse_sentinel_url(url) == parsed


def test_a_password_is_never_shown() -> None:
    assert "secret" not in repr(parse_sentinel_url("redis+sentinel://:secret@a:1/m"))


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://",
        "redis+sentinel://a:1",
        "redis+sentinel:///main",
        "redis+sentinel://a:1/main/zero",
        "redis+sentinel://a:1,:2/main",
        "redis+sentinel://a:b/main",
        "http://host",
        "host:6379",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    for connecting in (connect, connect_async):
        with pytest.raises(ValueError, match=r"."):
            connecting(url)


@contextmanager
def _sentinel(folder: Path, master_port: int, password: str) -> Iterator[int]:
    port = _free_port()
    config = folder / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
        f"sentinel monitor main 127.0.0.1 {master_port} 1\nsentinel auth-pass main {password}\n"
        f"requirepass {password}\n"
    )
    command = [find_server(), config, "--sentinel"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield port
        finally:
            process.terminate()


async def test_through_a_sentinel(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)  # too long for a socket, so it listens on a port
    with EmbeddedRedis(deep) as server:
        credentials, _, place = server.url.removeprefix("redis://:").partition("@")
        master_port = int(place.split("/")[0].split(":")[1])
        with _sentinel(tmp_path, master_port, credentials) as port:
            url = f"redis+sentinel://:{credentials}@127.0.0.1:{port}/main/2"
            await wait_until(lambda: _answers(url))
            with connect(url) as client:
                client.set("key", "value")
            there = connect_async(url)
            assert await there.get("key") == "value"
            await there.aclose()
            with connect(server.url.removesuffix("/0") + "/2") as direct:
                assert direct.get("key") == "value"


def _answers(url: str) -> bool:
    try:
        with connect(url) as client, store_errors():
            return bool(client.ping())
    except StoreUnavailableError:
        return False


def test_redis_away_is_unavailable_and_mistakes_are_not(redis_url: str) -> None:
    with connect(NOWHERE) as client, pytest.raises(StoreUnavailableError), store_errors():
        client.ping()
    with connect(redis_url) as client, pytest.raises(redis.ResponseError), store_errors():
        client.execute_command("NONSENSE")


@pytest.mark.parametrize("namespace", ["", "a:b", "{a}", "a b", "a*"])
def test_a_namespace_is_plain(namespace: str) -> None:
    with pytest.raises(ValueError, match="namespace"):
        Keys(namespace)


def test_all_keys_lie_in_one_slot_and_bear_no_names() -> None:
    keys = Keys("service")
    every = [
        keys.queue, keys.dead, keys.feedback, keys.epoch, keys.aliases, keys.generations,
        keys.view("i"), keys.by_author("ada"), keys.by_generation("g"), keys.by_checkpoint("c"),
        keys.request("ada", "r"), keys.generation("g"), keys.generations_by_author("ada"),
    ]  # fmt: skip
    assert len(set(every)) == len(every)
    assert all(key.startswith("{service}:") and "ada" not in key for key in every)
    assert keys.request("a", "bc") != keys.request("ab", "c")
