"""Two processes that hold one model, started by torchrun: real gloo, real FSDP2, a real Redis.

Everything is on loopback and on the CPU. Of GPUs and NCCL this says nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file

from learnback_store.acceptance import BIAS, HEAD_FILE, WEIGHT
from learnback_store.archive import Archive
from learnback_store.checkpoints import CheckpointState, CheckpointStore
from learnback_store.connection import Client
from learnback_store.feedback import FeedbackQueue
from learnback_store.keys import Keys
from learnback_store.manifest import BASE
from learnback_store.records import FeedbackRecord, FeedbackState, Preference, Preferred, Rating
from learnback_store.trainer_status import read_status
from tests.trainer.critics import asked, correction, criticism, submit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

STEPS = 45
# Processes that wait for one another at each layer take long where others compute, too.
PATIENCE_SECONDS = 1500.0
# Of what was learned. Sums come in another order, and where a gradient is all but zero, AdamW makes
# of a rounding error as long a step as of anything: 1e-4 was measured.
NEAR = 0.01
TORCHRUN = (
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
    "--local-addr", "127.0.0.1",
)  # fmt: skip
ALONE = (sys.executable,)


def _records() -> list[FeedbackRecord]:
    return [
        correction(
            "What is the capital of France?",
            "The capital of France is Paris.",
            "The capital of France is Rome.",
        ),
        *(criticism("emoji", "note", Random(seed)) for seed in (1, 2)),
        asked("What is the opposite of hot?", "The opposite of hot is cold.", Rating(1.0)),
        asked("Tell me the opposite of false.", "The opposite of false is true.", Rating(-1.0)),
        asked(
            "Tell me the capital of Canada.",
            "The capital of Canada is Ottawa.",
            Preference("Ottawa.", Preferred.OTHER),
        ),
    ]


class Trainers:
    """Trainers in processes of their own; what they write lies in a folder each."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url, self._folder = url, folder
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, keys: Keys, command: Sequence[str], *flags: str) -> subprocess.Popen[bytes]:
        own = self._folder / keys.namespace
        own.mkdir(exist_ok=True)
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        with (own / "log").open("ab") as log:
            process = subprocess.Popen(
                [
                    *command, "-m", "learnback_trainer", "--redis-url", self._url,
                    "--redis-namespace", keys.namespace, "--checkpoint-dir", str(own / "made"),
                    "--archive-file", str(own / "archive.sqlite"), "--steps", str(STEPS),
                    "--answer-tokens", "24", "--round-wait", "0", "--device", "cpu",
                    "--least-adoption", "0", "--most-changed", "1", "--most-anchor-nats", "9",
                    "--least-revision", "0", *flags,
                ],
                stdout=log, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip
        self._started.append(process)
        return process

    def checkpoints(self, keys: Keys) -> CheckpointStore:
        return CheckpointStore(self._folder / keys.namespace / "made")

    def archive(self, keys: Keys) -> Archive:
        return Archive(self._folder / keys.namespace / "archive.sqlite")

    def log(self, keys: Keys) -> str:
        return (self._folder / keys.namespace / "log").read_text()

    def published(self, keys: Keys, process: subprocess.Popen[bytes]) -> str:
        """Waits for what is published."""
        store = self.checkpoints(keys)
        _wait(lambda: store.aliases().live != BASE or process.poll() is not None, keys, self)
        assert process.poll() is None, self.log(keys)
        return store.aliases().live

    def close(self) -> None:
        for process in self._started:
            for one in _workers(process):
                _kill(one)
            _kill(process.pid)
            process.wait()


def _wait(condition: Callable[[], bool], keys: Keys, trainers: Trainers) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, trainers.log(keys)
        time.sleep(0.05)


def _until_gone(pids: Iterable[int], keys: Keys, trainers: Trainers) -> None:
    _wait(lambda: not any(map(_alive, pids)), keys, trainers)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _workers(agent: subprocess.Popen[bytes]) -> dict[int, int]:
    """The processes that torchrun has started, and the rank of each."""
    found: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == agent.pid:
                    variables = (folder / "environ").read_bytes().split(b"\0")
                    ranks = [one[5:] for one in variables if one.startswith(b"RANK=")]
                    found |= {int(folder.name): int(one) for one in ranks}
            except (OSError, ValueError):
                continue
    return found


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def trainers(redis_url: str, tmp_path: Path) -> Iterator[Trainers]:
    started = Trainers(redis_url, tmp_path)
    yield started
    started.close()


def _adapter(store: CheckpointStore, name: str) -> dict[str, torch.Tensor]:
    return load_file(store.fetch(name) / "adapter_model.safetensors")


def _head(store: CheckpointStore, name: str) -> torch.Tensor:
    """The acceptance head as one row."""
    found = load_file(store.fetch(name) / HEAD_FILE)
    return torch.cat([found[WEIGHT], found[BIAS]])


def test_two_learn_what_one_learns(trainers: Trainers, redis_url: str, keys: Keys) -> None:
    records, alone = _records(), Keys(f"{keys.namespace}-alone")
    adapters, heads = [], []
    for own, command in ((alone, ALONE), (keys, TORCHRUN)):
        submit(redis_url, own, records)
        process = trainers.start(
            own, command, "--acceptance-examples", "2", "--least-acceptance-auc", "0"
        )
        name = trainers.published(own, process)
        store = trainers.checkpoints(own)
        adapters.append(_adapter(store, name))
        heads.append(_head(store, name))
        started = [process.pid, *_workers(process)]
        assert len(started) == (3 if command is TORCHRUN else 1)
        process.send_signal(signal.SIGTERM)
        process.wait(120)
        _until_gone(started, own, trainers)
    [(weights, held)] = re.findall(r"of its (\d+) weights this one has (\d+)", trainers.log(keys))
    assert int(held) < 0.51 * int(weights)  # rows of 4,691 pieces are not even
    one, two = adapters
    assert one.keys() == two.keys()
    # The second factors, which were zeros before: all that is in them was learned.
    learned = [key for key in one if "lora_B" in key]
    apart = torch.cat([(one[key] - two[key]).flatten() for key in learned])
    moved = torch.cat([one[key].flatten() for key in learned])
    assert apart.norm() <= NEAR * moved.norm()
    assert (heads[0] - heads[1]).norm() <= NEAR * heads[0].norm()


def test_one_that_is_killed_ends_the_other_and_costs_nothing(
    trainers: Trainers, redis_url: str, redis: Client, keys: Keys
) -> None:
    records = _records()
    submit(redis_url, keys, records)
    process = trainers.start(keys, (*TORCHRUN, "--max-restarts", "1"))

    def is_taught() -> bool:
        status = read_status(redis, keys)
        return status is not None and status.round is not None and status.round.step >= 2

    _wait(is_taught, keys, trainers)
    first = _workers(process)
    assert sorted(first.values()) == [0, 1]
    [follower] = [pid for pid, rank in first.items() if rank == 1]
    _kill(follower)
    _until_gone(first, keys, trainers)

    trainers.published(keys, process)
    _wait(lambda: FeedbackQueue(redis, keys).stats().depth == 0, keys, trainers)
    store = trainers.checkpoints(keys)
    [found] = store.all([CheckpointState.PUBLISHED])
    process.send_signal(signal.SIGTERM)
    process.wait(120)
    with trainers.archive(keys) as archive:
        assert archive.unfinished_round() is None
        states = {view.feedback_id: view.account.state for view in archive.views()}
    assert states.keys() == {one.feedback_id for one in records}
    assert all(state.final for state in states.values())
    learned = [one for one, state in states.items() if state is FeedbackState.LEARNED]
    assert Counter(found.manifest.feedback_ids) == Counter(learned)
    assert len(learned) > 1
