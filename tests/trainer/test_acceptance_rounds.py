"""Rounds in a row by the trainer itself: each writes a head, and the next one asks it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from learnback_store.acceptance import HEAD_FILE
from learnback_store.archive import Archive
from learnback_store.checkpoints import CheckpointStore
from learnback_store.connection import Client
from learnback_store.keys import Keys
from learnback_store.manifest import BASE, GateVerdict
from learnback_trainer.acceptance import Head
from learnback_trainer.anchors import Amounts
from learnback_trainer.gate import Budget
from learnback_trainer.loop import Trainer
from learnback_trainer.pupil import Base, LoraShape
from learnback_trainer.school import Curriculum
from learnback_trainer.update import Recipe
from tests.trainer.critics import correction, submit

ANIMALS = ("horse", "fox", "cat", "dog", "cow", "owl", "pig", "hen")
CURRICULUM = Curriculum(
    Recipe(steps=25, settle_steps=5),
    # What is judged here is that the head is asked, not what corrections of this sort cost.
    Budget(anchor_nats=9, changed=1),
    Amounts(24, 0, 0, 0),
    answer_tokens=24,
    seed=0,
)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive(tmp_path / "archive.sqlite") as opened:
        yield opened


def _verdict(checkpoints: CheckpointStore, name: str) -> GateVerdict:
    verdict = checkpoints.get(name).manifest.gate
    assert verdict is not None
    return verdict


def test_a_head_is_published_and_asked_in_the_next_round(
    base: Base,
    redis: Client,
    redis_url: str,
    keys: Keys,
    archive: Archive,
    checkpoints: CheckpointStore,
) -> None:
    trainer = Trainer(
        base, redis, keys, archive, checkpoints, CURRICULUM, shape=LoraShape(), round_wait=0.0
    )
    trainer.recover()
    names = []
    for verb in ("like", "fear"):
        said = [
            correction(f"Do you {verb} the {one}?", "Something.", f"Yes, the {one}.")
            for one in ANIMALS
        ]
        submit(redis_url, keys, said)
        assert trainer.work() == len(ANIMALS)
        names.append(checkpoints.aliases().live)
    assert BASE not in names
    assert names[0] != names[1]
    first, second = (_verdict(checkpoints, name).figures for name in names)
    for name in names:
        folder = checkpoints.fetch(checkpoints.verify(name, base.digest).name)
        assert HEAD_FILE in {file.name for file in checkpoints.get(name).manifest.files}
        assert Head.load(folder) is not None
    # Corrections and what they correct, and as many anchors as were corrected, at most.
    assert 2 * len(ANIMALS) < first["acceptance_examples"] <= 3 * len(ANIMALS)
    assert second["acceptance_examples"] >= first["acceptance_examples"] + 2 * len(ANIMALS)
    assert "acceptance" not in first
    assert 0 <= second["acceptance"] <= 1
    assert second["acceptance_lost"] <= CURRICULUM.budget.acceptance_lost
    assert trainer._told(BASE) == ([], True)
    for rounds, name in enumerate(names, start=1):
        told, is_all = trainer._told(name)
        assert len(told) == rounds * len(ANIMALS)
        assert is_all
