"""Checkpoints move while clients stream: nobody fails, and every answer is one checkpoint's own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from learnback_client import Client, Reply
from learnback_server.config import ServerConfig
from learnback_store.checkpoints import CheckpointStore
from learnback_store.digests import model_digest
from learnback_store.embedded import EmbeddedRedis
from tests.server.running import RunningServer
from tests.server.test_hot_swap import PROMPT, publish_adapter
from tests.server.weights_trace import WeightsTrace

STREAMS = 8
SHORT, LONG = 12, 300
"""Tokens of an answer that is compared, and of one that outlives several swaps."""

PATIENCE_S = 60.0


@pytest.fixture
def checkpoints(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


@pytest.fixture
def client(
    tiny_folder: Path, redis_server: EmbeddedRedis, checkpoints: CheckpointStore
) -> Iterator[Client]:
    config = ServerConfig(
        listen="127.0.0.1:0",
        model=str(tiny_folder),
        device="cpu",
        threads=1,
        redis_url=redis_server.url,
        redis_namespace="swapping",
        checkpoint_dir=str(checkpoints.root),
    )
    running = RunningServer(config)
    with Client(f"127.0.0.1:{running.port}") as client:
        yield client
    running.close()


def _tokens(reply: Reply) -> tuple[int, ...]:
    (candidate,) = reply.candidates
    return candidate.token_ids


def _wait_until(true: Callable[[], bool]) -> None:
    """Waits for what the server or a stream brings about."""
    give_up = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < give_up, "it never came about"
        time.sleep(0.01)


def test_streams_go_on_through_promotions_and_a_rollback(
    client: Client,
    checkpoints: CheckpointStore,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digest = model_digest(tiny_folder)
    expected = {"base": _tokens(client.generate(token_ids=PROMPT, temperature=0, max_tokens=SHORT))}
    trace = WeightsTrace(tiny_folder, monkeypatch)
    names = []
    for seed in (1, 2):
        name, tokens = publish_adapter(checkpoints, tiny_folder, seed, digest)
        names.append(name)
        expected[name] = tuple(tokens)
        trace.know(name, checkpoints.fetch(name))
    assert len(set(expected.values())) == len(expected)
    done = threading.Event()

    answers: list[Reply] = []

    def stream(tokens: int, *, to_the_end: bool) -> None:
        while not done.is_set():
            reply = client.stream(
                token_ids=PROMPT, temperature=0, max_tokens=tokens, ignore_eos=to_the_end
            ).result()
            answers.append(reply)

    def wait_for_answers_by(name: str) -> None:
        since = len(answers)
        _wait_until(lambda: any(one.checkpoint == name for one in answers[since:]))

    with ThreadPoolExecutor(STREAMS) as pool:
        streams = [pool.submit(stream, SHORT, to_the_end=False) for _ in range(STREAMS // 2)]
        streams += [pool.submit(stream, LONG, to_the_end=True) for _ in range(STREAMS // 2)]
        try:
            for name in names:
                client.promote_checkpoint(name)
                wait_for_answers_by(name)
            move = client.rollback_checkpoint()
            wait_for_answers_by(names[0])
        finally:
            done.set()
    assert move.checkpoint.name == names[0]
    for one in streams:
        one.result()  # raises if a call failed
    assert {one.checkpoint for one in answers} == set(expected)
    for one in answers:
        greedy = expected[one.checkpoint]
        assert _tokens(one)[: len(greedy)] == greedy
        assert trace.by[one.generation_id] == {one.checkpoint}
        assert trace.tokens[one.generation_id] == len(_tokens(one))


def test_a_server_that_starts_serves_the_live_checkpoint_from_its_first_answer(
    tiny_folder: Path, redis_server: EmbeddedRedis, checkpoints: CheckpointStore
) -> None:
    name, tokens = publish_adapter(checkpoints, tiny_folder, 3, model_digest(tiny_folder))
    checkpoints.promote(name)
    config = ServerConfig(
        listen="127.0.0.1:0",
        model=str(tiny_folder),
        threads=1,
        redis_url=redis_server.url,
        checkpoint_dir=str(checkpoints.root),
    )
    running = RunningServer(config)
    with Client(f"127.0.0.1:{running.port}") as client:
        reply = client.generate(token_ids=PROMPT, temperature=0, max_tokens=12)
    running.close()
    assert reply.checkpoint == name
    assert reply.checkpoint_digest == checkpoints.get(name).digest
    assert _tokens(reply) == tuple(tokens)
