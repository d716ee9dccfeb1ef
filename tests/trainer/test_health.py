"""What probes are told of a trainer, over real gRPC, with a real Redis that goes and comes back."""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from learnback_client import Client, Health
from learnback_store.archive import Archive
from learnback_store.checkpoints import CheckpointStore
from learnback_store.connection import connect
from learnback_store.embedded import EmbeddedRedis
from learnback_store.keys import Keys
from learnback_trainer.anchors import Amounts
from learnback_trainer.errors import TrainerError
from learnback_trainer.gate import Budget
from learnback_trainer.health import READY, Pulse, TrainerHealth, served
from learnback_trainer.loop import Trainer
from learnback_trainer.pupil import Base, LoraShape
from learnback_trainer.school import Curriculum
from learnback_trainer.update import Recipe

PATIENCE_SECONDS = 120.0
# Nothing listens there.
NOWHERE = "redis://127.0.0.1:1/0"


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def _told(pulse: Pulse, url: str) -> tuple[Health, Health]:
    """What is said of the loop, and of its readiness."""
    with (
        connect(url) as redis,
        served(TrainerHealth(pulse, redis), "127.0.0.1:0") as port,
        Client(f"127.0.0.1:{port}") as client,
    ):
        return client.health(), client.health(READY)


def test_a_loop_that_moves_beside_its_redis_is_ready(redis_url: str) -> None:
    assert _told(Pulse(math.inf), redis_url) == (Health.SERVING, Health.SERVING)


def test_without_redis_it_lives_and_is_not_ready() -> None:
    assert _told(Pulse(math.inf), NOWHERE) == (Health.SERVING, Health.NOT_SERVING)


def test_a_loop_that_stands_still_is_neither(redis_url: str) -> None:
    assert _told(Pulse(-1), redis_url) == (Health.NOT_SERVING, Health.NOT_SERVING)


def test_a_taken_address_is_told(redis_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, connect(redis_url) as redis:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(TrainerError, match="--health-listen"),
            served(TrainerHealth(Pulse(1), redis), address),
        ):
            pass


def test_the_loop_beats_while_redis_is_away(base: Base, tmp_path: Path) -> None:
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1
        if beats == 2:
            trainer.stop()

    with connect(NOWHERE) as redis, Archive(tmp_path / "archive.sqlite") as archive:
        trainer = Trainer(
            base,
            redis,
            Keys("beating"),
            archive,
            CheckpointStore(tmp_path / "checkpoints"),
            Curriculum(Recipe(), Budget(), Amounts(), answer_tokens=24, seed=0),
            shape=LoraShape(),
            pulse=beat,
        )
        trainer.run()
    assert beats == 2


@pytest.fixture
def program(tmp_path: Path) -> Iterator[tuple[EmbeddedRedis, subprocess.Popen[str]]]:
    """`learnback-trainer` as it is run, and its Redis."""
    with EmbeddedRedis(tmp_path / "redis") as redis:
        flags = [
            "--health-listen=127.0.0.1:0",
            f"--redis-url={redis.url}",
            f"--checkpoint-dir={tmp_path / 'checkpoints'}",
            f"--archive-file={tmp_path / 'archive.sqlite'}",
        ]
        process = subprocess.Popen(
            [sys.executable, "-m", "learnback_trainer", *flags],
            stderr=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if "LEARNBACK" not in name},
        )
        yield redis, process
        process.kill()
        process.communicate()


def test_the_program_serves_it_for_as_long_as_it_runs(
    program: tuple[EmbeddedRedis, subprocess.Popen[str]],
) -> None:
    redis, process = program
    assert process.stderr is not None
    said = (re.search(r"serving health on port (\d+)", line) for line in process.stderr)
    match = next(filter(None, said), None)
    assert match, "it ended before it served"
    with Client(f"127.0.0.1:{match[1]}") as client:
        assert client.health(READY) is Health.SERVING
        redis.stop()
        _wait_until(lambda: client.health(READY) is Health.NOT_SERVING)
        assert client.health() is Health.SERVING
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_SECONDS) == 0
