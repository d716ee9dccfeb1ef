"""DPO on preferences: the preferred one of two answers gains on the other.

Rafailov et al. 2023, "Direct Preference Optimization: Your Language Model is Secretly a Reward
Model", equation 7.
"""

from __future__ import annotations

import torch
from torch import Tensor


def loss(chosen_log_ratio: Tensor, rejected_log_ratio: Tensor, beta: float) -> Tensor:
    """Returns the loss of one pair, a scalar.

        L = - log sigmoid( beta [ r(y_w) - r(y_l) ] )        r(y) = log q(y | x) - log p(y | x)

    where q is the student and p the frozen live model, y_w the preferred answer and y_l the other,
    each over its whole length.

    Args:
        chosen_log_ratio: r(y_w).
        rejected_log_ratio: r(y_l).
        beta: How closely the student is held to the live model, in 1 / nats of an answer.
    """
    return -torch.nn.functional.logsigmoid(beta * (chosen_log_ratio - rejected_log_ratio))
