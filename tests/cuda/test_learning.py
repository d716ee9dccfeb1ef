"""The trainer on a GPU: a critique is learned there, and an acceptance head fitted."""

from __future__ import annotations

import pytest

from learnback_trainer.pupil import Base, load_base
from tests.trainer.test_acceptance import (
    test_after_a_round_the_asked_for_scores_higher_than_the_criticised as scores_after_a_round,
)
from tests.trainer.test_round import test_critiques_are_learned as critiques_are_learned


@pytest.fixture(scope="module", params=["float32", "auto"])
def base(request: pytest.FixtureRequest) -> Base:
    """In float32, and as it is stored: in bfloat16."""
    return load_base("nano", device="cuda", dtype=request.param)


def test_critiques_are_learned(base: Base) -> None:
    critiques_are_learned(base, count=8, least=0.9)


def test_a_head_scores_the_asked_for_higher_than_the_criticised(base: Base) -> None:
    scores_after_a_round(base)
