"""One life of a trainer that kills itself at a named step, for a process of its own.

The round is small: corrections alone, without anchors, judged by adoption.
"""

from __future__ import annotations

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
from learnback_trainer.gate import Budget
from learnback_trainer.loop import Trainer
from learnback_trainer.pupil import LoraShape, load_base
from learnback_trainer.school import Curriculum
from learnback_trainer.update import Recipe


def live(url: str, namespace: str, folder: Path, dies_at: str) -> None:
    """Recovers, and works until the queue is empty, unless it dies before."""
    torch.set_num_threads(1)
    logging.basicConfig(filename=folder / "trainer.log", level=logging.DEBUG)

    def reached(step: str) -> None:
        if step == dies_at:
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
            on_step=reached,
        )
        trainer.recover()
        trainer.tidy()
        while trainer.work():
            pass
