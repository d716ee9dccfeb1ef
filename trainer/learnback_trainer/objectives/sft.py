"""Supervised fine-tuning on a correction: the answer that the user says should have been given.

Ouyang et al. 2022, "Training language models to follow instructions with human feedback", section
3.5: the cross-entropy of demonstrations.
"""

from __future__ import annotations

import torch
from torch import Tensor


def loss(student_logits: Tensor, answer: Tensor) -> Tensor:
    """Returns the cross-entropy in nats a token, a scalar.

        L = - 1/T  sum_t  log q(a_t | x, a_<t)

    over the T tokens of the correction a, its end token included; none of the prompt x.

    Args:
        student_logits: Of shape [T, vocabulary].
        answer: The tokens a, of shape [T].
    """
    return torch.nn.functional.cross_entropy(student_logits, answer)
