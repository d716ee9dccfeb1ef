"""Critique self-distillation: the model that has read the critique teaches the one that has not.

Hübotter et al. 2026, "Reinforcement Learning via Self-Distillation" (SDPO), section on feedback-
conditioned self-teachers; with the forward divergence of Hinton et al. 2015, "Distilling the
Knowledge in a Neural Network", section 2, because a student that is sure of its old answer has
almost no gradient under the reverse one.

The whole vocabulary is compared: memory grows with it, at 4 bytes for each token and piece.
"""

from __future__ import annotations

from torch import Tensor


def loss(student_logits: Tensor, teacher_log_probs: Tensor) -> Tensor:
    """Returns the forward KL divergence in nats a token, a scalar.

    With t over the T tokens of the answer r and v over the vocabulary,

        L = 1/T  sum_t sum_v  p_t(v) [ log p_t(v) - log q_t(v) ]
        p_t(v) = p(v | x, y, c, r_<t)        q_t(v) = q(v | x, r_<t)

    where p is the frozen teacher, who sees the prompt x, the criticised answer y and the critique
    c, and q is the student, who sees the prompt alone. For an anchor, p sees x alone as well.

    Args:
        student_logits: Of shape [T, vocabulary].
        teacher_log_probs: Of the same shape, normalised, without gradient.
    """
    student = student_logits.log_softmax(dim=-1)
    per_token = (teacher_log_probs.exp() * (teacher_log_probs - student)).sum(dim=-1)
    return per_token.mean()
