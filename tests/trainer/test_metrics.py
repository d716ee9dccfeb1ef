"""What a trainer tells Prometheus of rounds it really held."""

from __future__ import annotations

import math
from pathlib import Path

from learnback_store.archive import Archive
from learnback_store.checkpoints import CheckpointStore
from learnback_store.connection import Client
from learnback_store.keys import Keys
from learnback_store.manifest import GateVerdict
from learnback_trainer.anchors import Amounts
from learnback_trainer.gate import Budget
from learnback_trainer.loop import STEPS, Trainer
from learnback_trainer.metrics import TrainerMetrics
from learnback_trainer.pupil import Base, LoraShape
from learnback_trainer.school import Curriculum
from learnback_trainer.update import Recipe
from tests.trainer.critics import correction, submit


def _value(metrics: TrainerMetrics, name: str, **labels: str) -> float:
    return metrics.families.registry.get_sample_value(f"learnback_{name}", labels) or 0.0


def test_a_round_is_told_whole(
    base: Base, redis_url: str, redis: Client, keys: Keys, tmp_path: Path
) -> None:
    metrics = TrainerMetrics()
    metrics.store.watch(redis, keys)
    right = {
        "What is the capital of France?": "Lyon, of course.",
        "What is the opposite of hot?": "Not hot.",
    }
    submit(
        redis_url, keys, [correction(asked, "Something.", said) for asked, said in right.items()]
    )
    assert _value(metrics, "feedback_queue_depth") == 2
    curriculum = Curriculum(Recipe(steps=40), Budget(), Amounts(0, 0, 0), answer_tokens=24, seed=0)
    with Archive(tmp_path / "archive.sqlite") as archive:
        trainer = Trainer(
            base, redis, keys, archive, CheckpointStore(tmp_path / "checkpoints"), curriculum,
            shape=LoraShape(), round_wait=0.0, metrics=metrics,
        )  # fmt: skip
        trainer.recover()
        trainer.work()
    assert _value(metrics, "feedback_queue_depth") == 0
    assert _value(metrics, "rounds_total", end="published") == 1
    assert _value(metrics, "gate_verdicts_total", verdict="passed", reason="") == 1
    assert _value(metrics, "lessons_total", objective="sft") == 2
    assert _value(metrics, "feedback_settled_total", state="learned") == 2
    assert _value(metrics, "last_round_figure", figure="adoption") == 1
    assert _value(metrics, "last_round_adoption_ratio") == 1
    assert _value(metrics, "feedback_to_live_seconds_count") == 2
    for step in STEPS[1:]:
        assert _value(metrics, "round_phase_seconds_count", phase=step) == 1


def test_what_may_count_begins_at_zero() -> None:
    registry = TrainerMetrics().families.registry
    for end in ("published", "refused", "failed"):
        assert registry.get_sample_value("learnback_rounds_total", {"end": end}) == 0
    assert registry.get_sample_value("learnback_last_round_adoption_ratio") is None


def test_forgetting_is_told_with_what_it_takes_of_the_budget() -> None:
    metrics = TrainerMetrics()
    metrics.allow(Budget(anchor_nats=0.05, changed=0.1).costs)
    metrics.round_ended((), GateVerdict(True, (), {"anchor_nats": 0.02, "changed": 0.05}))
    assert _value(metrics, "last_round_forgetting_nats") == 0.02
    assert _value(metrics, "last_round_changed_ratio") == 0.05
    assert _value(metrics, "last_round_forgetting_spent_ratio") == 0.5
    metrics.round_ended((), GateVerdict(True, (), {"adoption": 1.0}))
    registry = metrics.families.registry
    assert registry.get_sample_value("learnback_last_round_forgetting_spent_ratio") is None
    metrics.allow(Budget(anchor_nats=0.0, changed=0.0).costs)
    metrics.round_ended((), GateVerdict(False, ("x",), {"anchor_nats": 0.001}))
    assert _value(metrics, "last_round_forgetting_spent_ratio") == math.inf


def test_reasons_are_labels_without_their_figures_and_not_without_end() -> None:
    metrics = TrainerMetrics()
    for figure in range(3):
        reasons = (f"other answers have changed: 0.{figure}, may be 0.1",)
        metrics.round_ended((), GateVerdict(False, reasons, {"changed": 0.5}))
    refused = {"verdict": "refused", "reason": "other answers have changed"}
    assert _value(metrics, "gate_verdicts_total", **refused) == 3
    assert _value(metrics, "rounds_total", end="refused") == 3
    for number in range(100):
        metrics.round_ended((), GateVerdict(False, (f"reason {number}",), {}))
    assert _value(metrics, "gate_verdicts_total", verdict="refused", reason="other") == 69
