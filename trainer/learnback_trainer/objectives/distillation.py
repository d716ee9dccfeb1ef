"""Critique self-distillation: the model that has read the critique teaches the one that has not.

Hübotter et al. 2026, "Reinforcement Learning via Self-Distillation" (SDPO), section on feedback-
conditioned self-teachers, from where the top logits with a tail come too. By default with the
forward divergence of Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2,
because a student that is sure of its old answer has almost no gradient under the reverse one. The
generalised Jensen-Shannon divergence is that of Agarwal et al. 2023, "On-Policy Distillation of
Language Models" (GKD), equation 1.

Of a large vocabulary only the teacher's K likeliest pieces are compared one by one, and all others
as one more, the tail: without it, what the student gives to other pieces would cost nothing.
"""

from __future__ import annotations

import enum
import math

import torch
from torch import Tensor


class Divergence(enum.StrEnum):
    """How far the student is from the teacher."""

    FORWARD_KL = "forward-kl"
    """KL(p || q): the student gives weight to all that the teacher does."""
    REVERSE_KL = "reverse-kl"
    """KL(q || p): the student gives none to what the teacher does not."""
    JSD = "jsd"
    """Both against their mixture; bounded."""


def loss(
    student_logits: Tensor,
    teacher_log_probs: Tensor,
    divergence: Divergence = Divergence.FORWARD_KL,
    teacher_share: float = 0.5,
) -> Tensor:
    """Returns the divergence in nats a token, a scalar.

    With t over the T tokens of the answer r and v over the vocabulary,

        forward KL   L = 1/T  sum_t sum_v  p_t(v) [ log p_t(v) - log q_t(v) ]
        reverse KL   L = 1/T  sum_t sum_v  q_t(v) [ log q_t(v) - log p_t(v) ]
        JSD          L = b KL(p || m) + (1 - b) KL(q || m)        m = b p + (1 - b) q

        p_t(v) = p(v | x, y, c, r_<t)        q_t(v) = q(v | x, r_<t)

    where p is the teacher, who sees the prompt x, the criticised answer y and the critique c, and q
    is the student, who sees the prompt alone. For an anchor, p sees x alone as well.

    Args:
        student_logits: Of shape [T, vocabulary], or what `bucketed` makes of them.
        teacher_log_probs: Of the same shape, normalised, without gradient.
        divergence: Which.
        teacher_share: The b of the JSD, between 0 and 1.
    """
    student = student_logits.log_softmax(dim=-1)
    if divergence is Divergence.FORWARD_KL:
        return _kl(teacher_log_probs, student)
    if divergence is Divergence.REVERSE_KL:
        return _kl(student, teacher_log_probs)
    mixture = torch.logaddexp(
        teacher_log_probs + math.log(teacher_share), student + math.log1p(-teacher_share)
    )
    return teacher_share * _kl(teacher_log_probs, mixture) + (1 - teacher_share) * _kl(
        student, mixture
    )


def _kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second) of log-probabilities, mean over tokens."""
    return (first.exp() * (first - second)).sum(dim=-1).mean()


def likeliest(logits: Tensor, count: int) -> Tensor | None:
    """Returns the teacher's likeliest pieces at each token, [T, count].

    Args:
        logits: Of shape [T, vocabulary], or log-probabilities.
        count: How many; 0: all.

    Returns:
        None if that is the whole vocabulary, which is then compared exactly.
    """
    if not 0 < count < logits.shape[-1]:
        return None
    return logits.topk(count, dim=-1).indices


def bucketed(logits: Tensor, pieces: Tensor | None) -> Tensor:
    """Returns log-probabilities of some pieces and, last, of all others together, [T, K + 1].

    Args:
        logits: Of shape [T, vocabulary], or log-probabilities.
        pieces: What `likeliest` says; None: all log-probabilities are returned, without a tail.
    """
    log_probs = logits.log_softmax(dim=-1)
    if pieces is None:
        return log_probs
    # Summed over what is left, rather than one minus the others: exact where the tail is tiny.
    tail = log_probs.scatter(-1, pieces, -math.inf).logsumexp(dim=-1, keepdim=True)
    return torch.cat([log_probs.gather(-1, pieces), tail], dim=-1)
