"""One life of a trainer that kills itself at a named moment, for a process of its own.

The round is small: corrections alone, without anchors, judged by adoption.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
from collections.abc import Iterable
from pathlib import Path

import torch

from learnback_store.archive import Archive
from learnback_store.checkpoints import CheckpointStore
from learnback_store.connection import connect
from learnback_store.feedback import Delivery, FeedbackQueue
from learnback_store.keys import Keys
from learnback_trainer.anchors import Amounts
from learnback_trainer.canaries import read_canaries
from learnback_trainer.gate import Budget
from learnback_trainer.loop import Trainer
from learnback_trainer.pupil import LoraShape, load_base
from learnback_trainer.school import Curriculum
from learnback_trainer.update import Recipe

PUTTING_OFF = "putting off"
"""When the archive knows what has to wait, and the queue of the first piece alone."""


def live(
    url: str,
    namespace: str,
    folder: Path,
    dies_at: str,
    times: int = 1,
    canary_file: Path | None = None,
) -> None:
    """Recovers, and works until the queue is empty, unless it dies before.

    Args:
        url: Of Redis.
        namespace: Of its keys.
        folder: Where archive and checkpoints lie.
        dies_at: The step that it kills itself at; `PUTTING_OFF`; empty: never.
        times: At which of its occurrences.
        canary_file: The operator's canaries.
    """
    torch.set_num_threads(1)
    logging.basicConfig(filename=folder / "trainer.log", level=logging.DEBUG)

    deaths = itertools.count(1)

    def reached(step: str) -> None:
        if step == dies_at and next(deaths) == times:
            os.kill(os.getpid(), signal.SIGKILL)

    class Queue(FeedbackQueue):
        def put_off(self, deliveries: Iterable[Delivery]) -> None:
            first, *others = deliveries
            super().put_off([first])
            reached(PUTTING_OFF)
            super().put_off(others)

    curriculum = Curriculum(Recipe(steps=40), Budget(), Amounts(0, 0, 0), answer_tokens=24, seed=0)
    with connect(url) as redis, Archive(folder / "archive.sqlite") as archive:
        trainer = Trainer(
            load_base("nano", device="cpu"),
            redis,
            Keys(namespace),
            archive,
            CheckpointStore(folder / "checkpoints"),
            curriculum,
            shape=LoraShape(),
            round_wait=0.0,
            canaries=read_canaries(canary_file) if canary_file else (),
            on_step=reached,
        )
        trainer._queue = Queue(redis, Keys(namespace))
        trainer.recover()
        trainer.tidy()
        while trainer.work():
            pass
