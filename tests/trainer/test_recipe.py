"""The course of the learning rate."""

from __future__ import annotations

from learnback_trainer.update import Recipe


def test_the_learning_rate_falls_over_the_last_steps() -> None:
    recipe = Recipe(learning_rate=1.0, settle_steps=4)
    assert [round(recipe.learning_rate_at(step, 10), 1) for step in range(5, 11)] == [
        1.0, 1.0, 0.8, 0.6, 0.4, 0.2,
    ]  # fmt: skip
