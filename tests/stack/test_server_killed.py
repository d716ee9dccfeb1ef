"""kill -9 of the server: what it had acknowledged is learned once, and its next life serves it."""

from __future__ import annotations

import multiprocessing
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from learnback_client import Client, FeedbackState, LearnbackError
from learnback_store.checkpoints import CheckpointState, CheckpointStore
from learnback_store.embedded import EmbeddedRedis

pytest.importorskip("torch", reason="the server and the trainer need it")

QUESTION = "What is the capital of France?"
CORRECT = "Lyon, of course."
PATIENCE_SECONDS = 280.0


class Server:
    """A server process, as long as it lives."""

    def __init__(self, redis_url: str, checkpoints: Path, log: Path) -> None:
        flags = ["--listen", "127.0.0.1:0", "--checkpoint-dir", str(checkpoints)]
        command = [sys.executable, "-m", "learnback_server", "--redis-url", redis_url, *flags]
        with log.open("wb") as said:
            self.process = subprocess.Popen(command, stderr=said)
        try:
            self.client = Client(f"127.0.0.1:{self._port(log)}")
        except AssertionError:
            self.process.kill()
            raise

    def _port(self, log: Path) -> str:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while (port := re.search(r"on port (\d+)", log.read_text())) is None:
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < give_up, log.read_text()
            time.sleep(0.05)
        return port[1]

    def kill(self) -> None:
        self.process.kill()
        assert self.process.wait() == -signal.SIGKILL
        self.client.close()


def _learn(url: str, folder: Path) -> None:
    from tests.trainer.one_life import live

    life = multiprocessing.get_context("spawn").Process(
        target=live, args=(url, "learnback", folder, "")
    )
    life.start()
    life.join()
    assert life.exitcode == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_while_it_answers_takes_feedback_and_swaps(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    with EmbeddedRedis(tmp_path / "redis") as redis:
        first = Server(redis.url, checkpoints, tmp_path / "first.log")
        reply = first.client.generate(messages=[("user", QUESTION)], temperature=0)
        sent = first.client.correct(reply, CORRECT, author="ada", request_id="the-correction")
        stream = first.client.stream(messages=[("user", QUESTION)], ignore_eos=True)
        next(stream)
        first.kill()
        with pytest.raises(LearnbackError):
            stream.result()

        _learn(redis.url, tmp_path)
        store = CheckpointStore(checkpoints)
        learned = store.aliases().live
        second = Server(redis.url, checkpoints, tmp_path / "second.log")
        again = second.client.generate(messages=[("user", QUESTION)], temperature=0)
        assert (again.checkpoint, again.text) == (learned, CORRECT)
        assert again.checkpoint_digest == store.get(learned).digest
        found = second.client.get_feedback(sent.feedback_id)
        assert (found.state, found.checkpoint) == (FeedbackState.LEARNED, learned)
        # The first life took it: a client that never saw the answer, and asks again, is told so.
        repeated = second.client.correct(reply, CORRECT, author="ada", request_id="the-correction")
        assert repeated.feedback_id == sent.feedback_id

        # Killed as soon as the move is acknowledged, before or while it is taken up.
        second.client.promote_checkpoint("base")
        second.kill()
        third = Server(redis.url, checkpoints, tmp_path / "third.log")
        base = third.client.generate(messages=[("user", QUESTION)], temperature=0)
        assert (base.checkpoint, base.text) == ("base", reply.text)
        third.kill()

        _learn(redis.url, tmp_path)  # there is nothing left to learn
    published = store.all([CheckpointState.PUBLISHED])
    taught = Counter(one for each in published for one in each.manifest.feedback_ids)
    assert taught == {sent.feedback_id: 1}
