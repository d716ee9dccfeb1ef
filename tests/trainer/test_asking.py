"""Asking the model about many rows, a few of which go through it at once."""

from __future__ import annotations

from random import Random

import pytest
import torch

from learnback_nano import world
from learnback_trainer import pupil as pupils
from learnback_trainer.pupil import Base, Pupil
from learnback_trainer.students import Frozen


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


def test_an_adapter_at_rest_says_the_same_and_leaves_the_base_as_it_was(
    base: Base,
) -> None:
    pair = (
        base.reader.chat([{"role": "user", "content": "What is the capital of France?"}]),
        base.reader.answer("The capital of France is Paris."),
    )
    with Pupil(base, None) as pupil:
        weights = [one for one in base.network.parameters() if not one.requires_grad]
        before = [one.clone() for one in weights]
        [of_base] = pupil.distributions([pair])
        torch.manual_seed(0)
        for weight in pupil.weights():
            torch.nn.init.normal_(weight, std=0.05)
        [merged] = pupil.distributions([pair])
        [logits] = pupil.logits([pair])
        with pupil.as_frozen(Frozen.BASE):
            [frozen] = pupil.distributions([pair])
        assert all(torch.equal(*both) for both in zip(before, weights, strict=True))
    # What is learned from goes through the adapter beside the weights.
    torch.testing.assert_close(merged, logits.detach().log_softmax(dim=-1), atol=1e-3, rtol=1e-3)
    assert torch.equal(frozen, of_base)
    assert not torch.allclose(merged, of_base, atol=0.1)
