"""Asking the model about many rows, a few of which go through it at once."""

from __future__ import annotations

from random import Random

import pytest
import torch

from learnback_nano import world
from learnback_trainer import pupil as pupils
from learnback_trainer.pupil import Base, Pupil


@pytest.mark.parametrize("most_logits", [1, 200_000, 10**9])
def test_rows_are_the_same_in_any_company(
    base: Base, monkeypatch: pytest.MonkeyPatch, most_logits: int
) -> None:
    rng = Random(2)
    with Pupil(base, None) as pupil:
        items = [world.sample(rng.choice(world.TASKS), rng, "seen") for _ in range(20)]
        pairs = [
            (
                pupil.reader.chat([{"role": "user", "content": one.prompt}]),
                pupil.reader.answer(world.render(one)),
            )
            for one in items
        ]
        alone = [pupil.distributions([pair])[0] for pair in pairs]
        losses = [pupil.losses([pair])[0] for pair in pairs]
        monkeypatch.setattr(pupils, "_MOST_LOGITS", most_logits)
        for found, wanted in zip(pupil.distributions(pairs), alone, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)
        assert pupil.losses(pairs) == pytest.approx(losses, abs=1e-4)
        assert pupil.losses([]) == pupil.distributions([]) == []
