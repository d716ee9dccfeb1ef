"""One life of a trainer that kills itself at a named step, for a process of its own.

The round is small: corrections alone, without anchors, judged by adoption.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
from pathlib import Path

import torch

from learnback_store.archive import Archive
from learnback_store.checkpoints import CheckpointStore
from learnback_store.connection import connect
from learnback_store.keys import Keys
from learnback_trainer.anchors import Amounts
from learnback_trainer.canaries import read_canaries
from learnback_trainer.gate import Budget
from learnback_trainer.loop import Trainer
from learnback_trainer.pupil import LoraShape, load_base
from learnback_trainer.school import Curriculum
from learnback_trainer.update import Recipe


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
        dies_at: The step that it kills itself at; empty: none.
        times: At which of its occurrences.
        canary_file: The operator's canaries.
    """
    torch.set_num_threads(1)
    logging.basicConfig(filename=folder / "trainer.log", level=logging.DEBUG)

    deaths = itertools.count(1)

    def reached(step: str) -> None:
        if step == dies_at and next(deaths) == times:
            os.kill(os.getpid(), signal.SIGKILL)

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
        trainer.recover()
        trainer.tidy()
        while trainer.work():
            pass
