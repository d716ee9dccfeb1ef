"""learnback as a user has it: Redis, a server and a trainer as processes, on an empty folder.

Each scenario has a service of its own, so that none learns from what another was asked: questions
that the bench puts to the server are traffic to the trainer, who may take them for anchors. For the
same reason a scenario measures only after its last round, and the base model too (it stays in
memory, and is asked for by name).

Server and trainer are forked from a process that has loaded torch and transformers before: doing so
takes each of them longer than the rest of its start.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import runpy
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self
from urllib.request import urlopen

from learnback_client import Client
from learnback_client.feedback import Erasure, ErasureState, Feedback
from learnback_store.embedded import EmbeddedRedis

# Each is many times what an idle machine takes: a busy one should cost patience, not figures.
_START_SECONDS = 600.0
_ROUND_SECONDS = 900.0
_CALL_SECONDS = 600.0
_POLL_SECONDS = 0.05
# An erasure is asked about over the network, and takes as long as a round.
_ERASURE_POLL_SECONDS = 1.0
# Of server and trainer each; whoever starts the scenarios says how many cores a service has.
_THREADS = os.environ.get("OMP_NUM_THREADS", "1")
# A round begins when all that belongs to it was said, however long that takes.
_ALL_SAID = 3600.0
_ANSWER_TOKENS = "64"

_forking = multiprocessing.get_context("forkserver")
_forking.set_forkserver_preload(
    ["learnback_server.engine.loading", "learnback_trainer.loop", "grpc.aio"]
)


class Service:
    """A running service; a context manager ends it.

    Args:
        folder: An empty folder.
        round_size: How many pieces of feedback make a round; 0: there is no trainer.
        round_wait: Seconds after which a round begins with fewer.
    """

    def __init__(self, folder: Path, round_size: int, round_wait: float) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self._round_size, self._round_wait = round_size, round_wait
        self._ends = ExitStack()
        self._shared: tuple[str, ...] = ()
        self._trainer: ForkServerProcess | None = None

    def __enter__(self) -> Self:
        redis = self._ends.enter_context(EmbeddedRedis(self.folder / "redis"))
        shared = ("--redis-url", redis.url, "--checkpoint-dir", str(self.checkpoints))
        self._shared = shared
        try:
            server = self._start(
                "learnback_server", *shared, "--listen", "127.0.0.1:0", "--threads", _THREADS
            )
            if self._round_size:
                self._trainer = self._start_trainer()
            port = self._port_of(server, "learnback_server", "nano")
            self.client = self._ends.enter_context(
                Client(f"127.0.0.1:{port}", timeout=_CALL_SECONDS)
            )
        except BaseException:
            self._ends.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def settled(self, submitted: Sequence[Feedback]) -> list[Feedback]:
        """Waits until feedback has its final state and what was learned of it serves."""
        ended = [self._final(one.feedback_id) for one in submitted]
        learned = {one.checkpoint for one in ended if one.checkpoint}
        if learned:
            self.await_serving(learned)
        return ended

    def round_seconds(self) -> float:
        """How long the last round took, from its beginning to its publication."""
        last = self.client.get_learning_status().last_round
        if last is None or last.begun is None or last.ended is None:
            raise RuntimeError("no round was held")
        return (last.ended - last.begun).total_seconds()

    def taught_seconds(self) -> float:
        """How long all teaching since the trainer's start took, as its metrics tell."""
        if self._trainer is None:
            raise RuntimeError("there is no trainer")
        port = self._port_of(self._trainer, "learnback_trainer", "metrics")
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=_CALL_SECONDS) as page:
            told = page.read().decode()
        phase = re.search(r'round_phase_seconds_sum\{phase="taught"\} (\S+)', told)
        return float(phase[1]) if phase else 0.0

    def erased(self, author: str) -> Erasure:
        """Waits until an author is erased, and what was trained without them serves."""
        request, began = f"erase {author}", time.monotonic()
        while True:
            receipt = self.client.erase_author(author, request_id=request)
            if receipt.state is ErasureState.DONE:
                break
            if time.monotonic() - began > _ROUND_SECONDS:
                raise TimeoutError(f"the erasure has come to {receipt.state}, and no further")
            time.sleep(_ERASURE_POLL_SECONDS)
        if receipt.clean_checkpoint:
            self.await_serving({receipt.clean_checkpoint})
        return receipt

    def consolidate(self) -> bool:
        """Ends the trainer, and has all that is learned learned anew from the base model.

        Returns:
            Whether that was published; it serves then.
        """
        if self._trainer is None:
            raise RuntimeError("there is no trainer")
        _end(self._trainer)
        before = self.client.get_checkpoint("live").name
        consolidating = self._start_trainer("--consolidate")
        consolidating.join(_ROUND_SECONDS)
        if consolidating.exitcode != 0:
            raise RuntimeError("the consolidation failed")
        live = self.client.get_checkpoint("live").name
        self.await_serving({live})
        return live != before

    def await_serving(self, names: set[str]) -> None:
        """Waits until one of these checkpoints is what answers."""
        began = time.monotonic()
        while self._serving() not in names:
            if time.monotonic() - began > _ROUND_SECONDS:
                raise TimeoutError(f"{names} was published and is never served")
            time.sleep(_POLL_SECONDS)

    def _final(self, feedback_id: str) -> Feedback:
        with self.client.watch_feedback(feedback_id, timeout=_ROUND_SECONDS) as changes:
            return list(changes)[-1]

    def _serving(self) -> str:
        message = {"role": "user", "content": "What is the capital of France?"}
        return self.client.generate(messages=[message], temperature=0, max_tokens=1).checkpoint

    def _start_trainer(self, *flags: str) -> ForkServerProcess:
        return self._start(
            "learnback_trainer", *self._shared, *flags,
            "--archive-file", str(self.folder / "archive.sqlite"),
            "--metrics-listen", "127.0.0.1:0",
            "--trainer-threads", _THREADS,
            "--round-wait", str(self._round_wait),
            "--answer-tokens", _ANSWER_TOKENS,
            "--round-size", str(self._round_size),
            # Not by itself: what ten rounds have worn is asked before it is mended.
            "--consolidate-rounds", "0",
        )  # fmt: skip

    def _start(self, module: str, *flags: str) -> ForkServerProcess:
        arguments = ["--model", "nano", "--device", "cpu", *flags]
        process = _forking.Process(
            target=_run, args=(module, arguments, self.folder / f"{module}.log")
        )
        process.start()
        self._ends.callback(_end, process)
        return process

    def _port_of(self, process: ForkServerProcess, module: str, what: str) -> str:
        """The port on which a process says that it serves something."""
        log = self.folder / f"{module}.log"
        give_up = time.monotonic() + _START_SECONDS
        told = ""
        while time.monotonic() < give_up and process.is_alive():
            told = log.read_text(encoding="utf-8") if log.exists() else ""
            if found := re.search(rf"serving {what} on port (\d+)", told):
                return found[1]
            time.sleep(_POLL_SECONDS)
        raise RuntimeError(f"{module} did not start: {told[-500:]}")


@contextmanager
def fresh(round_size: int, round_wait: float = _ALL_SAID) -> Iterator[Service]:
    """A service on a temporary folder; its arguments are those of `Service`."""
    with (
        TemporaryDirectory(prefix="learnback-bench-") as folder,
        Service(Path(folder), round_size, round_wait) as service,
    ):
        yield service


def _run(module: str, arguments: Sequence[str], log: Path) -> None:
    """Becomes a service, as `python -m` would."""
    with log.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    for name in [one for one in os.environ if one.startswith("LEARNBACK_")]:
        del os.environ[name]
    os.environ["OMP_NUM_THREADS"] = _THREADS
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")


def _end(process: ForkServerProcess) -> None:
    process.terminate()
    process.join(_START_SECONDS)
    process.kill()
