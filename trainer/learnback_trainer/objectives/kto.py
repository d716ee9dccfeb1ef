"""KTO on ratings: a good answer becomes likelier, a bad one less likely, each by itself.

Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization", equations 7, 8.

The loss of a bad answer has enough only some 40 nats below (beta is 0.1), and does not say where
the probability should go: driven down alone, nano's answers fell apart in all of four tries. So a
bad answer has a guard beside it: `struck_out` says what the live model expects if it is known that
this answer is wrong, and nothing else, and the student is held to that by the divergence of
`distillation.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Log-probability of what can't be. Not minus infinity, which times 0 is no number.
_IMPOSSIBLE = -1e4


@dataclass(frozen=True, slots=True)
class Kto:
    """What can be set."""

    beta: float = 0.1
    """How soon the loss has had enough, in 1 / nats of an answer."""
    desirable: float = 1.0
    """Lambda_D: weight of good answers."""
    undesirable: float = 1.0
    """Lambda_U: weight of bad answers."""


def loss(log_ratio: Tensor, reference_point: Tensor, *, good: bool, settings: Kto) -> Tensor:
    """Returns the loss of one rated answer, a scalar between 0 and its lambda.

        L = lambda_D ( 1 - sigmoid( beta (r - z) ) )        for a good answer
        L = lambda_U ( 1 - sigmoid( beta (z - r) ) )        for a bad one

        r = log q(y | x) - log p(y | x)

    where q is the student and p the frozen live model, both over the whole answer y.

    Args:
        log_ratio: r.
        reference_point: z, what `reference_point` returns.
        good: Whether the rating is positive.
        settings: beta and lambdas.
    """
    if good:
        return settings.desirable * (1 - (settings.beta * (log_ratio - reference_point)).sigmoid())
    return settings.undesirable * (1 - (settings.beta * (reference_point - log_ratio)).sigmoid())


def reference_point(mismatched_log_ratios: Tensor) -> Tensor:
    """Returns the KL divergence of student and live model as far as a batch tells it, in nats.

        z = max( 0,  mean_i [ log q(y_i | x_j) - log p(y_i | x_j) ] ),   j != i

    Args:
        mismatched_log_ratios: Of rated answers under prompts that are not theirs, without gradient;
            may be empty, and z is then 0.
    """
    if not len(mismatched_log_ratios):
        return torch.zeros((), device=mismatched_log_ratios.device)
    return mismatched_log_ratios.mean().clamp(min=0)


def struck_out(log_probs: Tensor, answer: Tensor) -> Tensor:
    """Returns what a model expects at each token of an answer, if it must not be this answer.

        p(v | x, y_<t, not y)  ~  p(v | x, y_<t)  ( 1 - [v = y_t] p(y_>t | x, y_<=t) )

    Args:
        log_probs: What it expects without that, of shape [T, vocabulary].
        answer: The tokens y, of shape [T].

    Returns:
        Normalised log-probabilities of the same shape; the last token of y is impossible there.
    """
    own = log_probs.gather(-1, answer[:, None])
    rest = own.flip(0).cumsum(0).flip(0) - own
    spared = (own + torch.log(-torch.expm1(rest.clamp(max=0)))).clamp(min=_IMPOSSIBLE)
    return log_probs.scatter(-1, answer[:, None], spared).log_softmax(dim=-1)
