"""What each round moved is added up over the line, and from a most on it is said."""

from __future__ import annotations

from pathlib import Path

from learnback_store.archive import Archive
from learnback_store.checkpoints import CheckpointStore
from learnback_store.connection import Client
from learnback_store.keys import Keys
from learnback_store.manifest import GateVerdict
from learnback_store.trainer_status import read_status
from learnback_trainer.anchors import Amounts
from learnback_trainer.drift import Drift, drift_of
from learnback_trainer.gate import Budget
from learnback_trainer.loop import Trainer
from learnback_trainer.metrics import TrainerMetrics
from learnback_trainer.pupil import Base, LoraShape
from learnback_trainer.school import Curriculum
from learnback_trainer.update import Recipe
from tests.store.samples import publish


def _publish(checkpoints: CheckpointStore, name: str, parent: str, nats: float) -> None:
    figures = {"anchor_nats": nats, "changed": 0.125}
    publish(checkpoints, name, parent=parent, gate=GateVerdict(True, figures=figures))
    checkpoints.promote(name)


def test_it_is_told_once_it_is_too_much_and_no_longer_after_a_rollback(
    base: Base, redis: Client, keys: Keys, tmp_path: Path
) -> None:
    checkpoints, metrics = CheckpointStore(tmp_path / "checkpoints"), TrainerMetrics()
    value = metrics.families.registry.get_sample_value
    curriculum = Curriculum(Recipe(), Budget(), Amounts(), answer_tokens=24, seed=0)
    with Archive(tmp_path / "archive.sqlite") as archive:
        trainer = Trainer(
            base, redis, keys, archive, checkpoints, curriculum,
            shape=LoraShape(), metrics=metrics, most_drift=0.5,
        )  # fmt: skip

        def told() -> tuple[float | None, float | None, float, bool]:
            trainer.tidy()
            status = read_status(redis, keys)
            assert status is not None
            alarm = value("learnback_drift_alarm")
            return value("learnback_drift_nats"), alarm, status.drift_nats, status.drift_alarm

        _publish(checkpoints, "ckpt-000001", "base", 0.25)
        assert told() == (0.25, 0, 0.25, False)
        _publish(checkpoints, "ckpt-000002", "ckpt-000001", 0.5)
        assert told() == (0.75, 1, 0.75, True)
        line = checkpoints.lineage("ckpt-000002")
        assert drift_of(line) == Drift(0.75, 0.25, 2)
        checkpoints.promote("ckpt-000001")
        assert told() == (0.25, 0, 0.25, False)


def test_without_a_gate_there_is_none() -> None:
    assert drift_of([]) == Drift()
