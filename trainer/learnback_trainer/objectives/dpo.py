"""DPO on preferences: the preferred one of two answers gains on the other.

Rafailov et al. 2023, "Direct Preference Optimization: Your Language Model is Secretly a Reward
Model", equation 7. The difference can grow while both answers become unlikely, so the preferred one
is held by its own likelihood: Pang et al. 2024, "Iterative Reasoning Preference Optimization",
equation 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Dpo:
    """What can be set."""

    beta: float = 0.1
    """How closely the student is held to the live model, in 1 / nats of an answer."""
    likelihood: float = 0.2
    """Weight of the preferred answer's own loss."""


def loss(
    chosen_log_ratio: Tensor,
    rejected_log_ratio: Tensor,
    chosen_nats: Tensor | None = None,
    settings: Dpo = Dpo(),  # frozen
) -> Tensor:
    """Returns the loss of one pair, a scalar.

        L = - log sigmoid( beta [ r(y_w) - r(y_l) ] )  -  alpha / T log q(y_w | x)

        r(y) = log q(y | x) - log p(y | x)

    where q is the student and p the frozen live model, y_w the preferred answer and y_l the other,
    each over its whole length, and T the tokens of y_w.

    Args:
        chosen_log_ratio: r(y_w).
        rejected_log_ratio: r(y_l).
        chosen_nats: - log q(y_w | x) / T; None: the second term is left out.
        settings: beta, and the likelihood's weight alpha.
    """
    difference = chosen_log_ratio - rejected_log_ratio
    found = -torch.nn.functional.logsigmoid(settings.beta * difference)
    return found if chosen_nats is None else found + settings.likelihood * chosen_nats
