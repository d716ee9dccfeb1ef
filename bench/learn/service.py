"""learnback as a user has it: Redis, a server and a trainer as processes, on an empty folder.

Each scenario has a service of its own, so that none learns from what another was asked: questions
that the bench puts to the server are traffic to the trainer, who may take them for anchors. For the
same reason a scenario measures only after its last round.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from learnback_client import Client
from learnback_client.feedback import Feedback
from learnback_store.embedded import EmbeddedRedis

# The first start of torch on a busy machine takes a while.
_START_SECONDS = 120.0
# A round takes some 20 seconds on an idle machine.
_ROUND_SECONDS = 600.0
# The server looks at the aliases at least once a second.
_POLL_SECONDS = 0.05
_THREADS = "1"
# So long the first critique waits for others of its round: they are all submitted within it.
_ROUND_WAIT = "1.0"
_ANSWER_TOKENS = "64"


class Service:
    """A running service; a context manager ends it.

    Args:
        folder: An empty folder.
        options: More flags for the trainer.
    """

    def __init__(self, folder: Path, options: Sequence[str] = ()) -> None:
        self._folder, self._options = folder, options
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        redis = self._ends.enter_context(EmbeddedRedis(self._folder / "redis"))
        shared = ("--redis-url", redis.url, "--checkpoint-dir", str(self._folder / "checkpoints"))
        try:
            server = self._start(
                "learnback_server", *shared, "--listen", "127.0.0.1:0", "--threads", _THREADS
            )
            self._start(
                "learnback_trainer", *shared,
                "--archive-file", str(self._folder / "archive.sqlite"),
                "--trainer-threads", _THREADS,
                "--round-wait", _ROUND_WAIT,
                "--answer-tokens", _ANSWER_TOKENS,
                *self._options,
            )  # fmt: skip
            port = self._port_of(server)
            self.client = self._ends.enter_context(Client(f"127.0.0.1:{port}"))
        except BaseException:
            self._ends.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def settled(self, submitted: Sequence[Feedback]) -> tuple[list[Feedback], float]:
        """Waits until feedback has its final state and what was learned serves.

        Returns:
            The feedback, and the seconds since the call.
        """
        began = time.monotonic()
        ended = [self._final(one.feedback_id) for one in submitted]
        learned = {one.checkpoint for one in ended if one.checkpoint}
        while learned and self._serving() not in learned:
            if time.monotonic() - began > _ROUND_SECONDS:
                raise TimeoutError(f"{learned} was published and is never served")
            time.sleep(_POLL_SECONDS)
        return ended, time.monotonic() - began

    def _final(self, feedback_id: str) -> Feedback:
        with self.client.watch_feedback(feedback_id, timeout=_ROUND_SECONDS) as changes:
            return list(changes)[-1]

    def _serving(self) -> str:
        message = {"role": "user", "content": "What is the capital of France?"}
        return self.client.generate(messages=[message], temperature=0, max_tokens=1).checkpoint

    def _start(self, module: str, *flags: str) -> subprocess.Popen[bytes]:
        log = self._ends.enter_context((self._folder / f"{module}.log").open("wb"))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LEARNBACK_")}
        process = subprocess.Popen(
            [sys.executable, "-m", module, "--model", "nano", "--device", "cpu", *flags],
            stdout=log,
            stderr=log,
            env=environment | {"OMP_NUM_THREADS": _THREADS},
        )
        self._ends.callback(_end, process)
        return process

    def _port_of(self, server: subprocess.Popen[bytes]) -> str:
        log = self._folder / "learnback_server.log"
        give_up = time.monotonic() + _START_SECONDS
        while time.monotonic() < give_up and server.poll() is None:
            if found := re.search(r"on port (\d+)", log.read_text(encoding="utf-8")):
                return found[1]
            time.sleep(_POLL_SECONDS)
        raise RuntimeError(f"the server did not start: {log.read_text(encoding='utf-8')[-500:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    reaper = threading.Timer(_START_SECONDS, process.kill)
    reaper.start()
    process.wait()
    reaper.cancel()
