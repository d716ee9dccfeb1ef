"""Muon in float32 goes where torch's goes, as far as bfloat16 lets it."""

import pytest
import torch
from torch import nn

from learnback_nano.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)])
def test_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_nothing_stays_nothing() -> None:
    assert orthogonalised(torch.zeros(4, 6)).abs().max() == 0


def test_steps_are_those_of_torch() -> None:
    torch.manual_seed(0)
    begun = torch.randn(16, 40)
    ours, theirs = nn.Parameter(begun.clone()), nn.Parameter(begun.clone())
    optimisers = [
        Muon([ours], lr=0.02, weight_decay=0.1),
        torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(5):
        gradient = torch.randn(16, 40)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        for optimiser in optimisers:
            optimiser.step()
    moved = (ours - begun).norm().item()
    assert moved > 0.1
    assert (ours - theirs).norm().item() < 0.02 * moved


def test_a_closure_is_refused() -> None:
    with pytest.raises(TypeError, match="no closure"):
        Muon([nn.Parameter(torch.zeros(2, 2))], lr=0.1, weight_decay=0.0).step(lambda: 0.0)
