"""The trainer on a GPU: a critique is learned there, and an acceptance head fitted."""

from __future__ import annotations

from random import Random

import pytest

from learnback_trainer.pupil import Base, Pupil, load_base
from learnback_trainer.school import Sources, hold_round
from tests.trainer.critics import compliance, criticism, unchanged, views
from tests.trainer.test_acceptance import (
    test_after_a_round_the_asked_for_scores_higher_than_the_criticised as scores_after_a_round,
)
from tests.trainer.test_round import CURRICULUM


@pytest.fixture(scope="module", params=["float32", "auto"])
def base(request: pytest.FixtureRequest) -> Base:
    """In float32, and as it is stored: in bfloat16."""
    return load_base("nano", device="cuda", dtype=request.param)


def test_critiques_are_learned(base: Base) -> None:
    rng = Random(8)
    records = [criticism("emoji", "note", rng) for _ in range(8)]
    with Pupil(base, None) as pupil:
        asked_before, _ = compliance(pupil, "emoji", "note")
        report = hold_round(pupil, "nano", views(records), Sources(), CURRICULUM)
        asked_after, shown = compliance(pupil, "emoji", "note")
        assert unchanged(pupil, "note") >= 0.95
    assert report.verdict is not None
    assert report.verdict.passed, report.verdict
    assert set(report.learned) == {record.feedback_id for record in records}
    assert asked_before <= 0.05
    assert asked_after >= 0.9 * shown


def test_a_head_scores_the_asked_for_higher_than_the_criticised(base: Base) -> None:
    scores_after_a_round(base)
