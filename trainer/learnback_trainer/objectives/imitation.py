"""Imitation of refinements: the best of several revisions is learned as if it were a correction.

Scheurer et al. 2023, "Training Language Models with Language Feedback at Scale" (ILF): sample
refinements that incorporate the feedback, select the best, fine-tune on it. There a larger model is
asked whether a refinement incorporates the feedback; here the model has only itself to ask, so it
is shown the refinement under the same critique: one that obeys it leaves nothing to change.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from learnback_trainer.objectives import sft


def loss(student_logits: Tensor, refinement: Tensor) -> Tensor:
    """Returns the cross-entropy of the selected refinement in nats a token, a scalar.

        L = - 1/T  sum_t  log q(r_t | x, r_<t)        r = argmax_i  s(r_i),  r_i ~ p(. | x, y, c)

    over the T tokens of the refinement r, its end token included; none of the prompt x. What is
    selected by, s, is told by `best`.

    Args:
        student_logits: Of shape [T, vocabulary].
        refinement: The tokens r, of shape [T].
    """
    return sft.loss(student_logits, refinement)


def best(making: Sequence[float], keeping: Sequence[float]) -> int:
    """Returns the place of the best refinement; of equal ones the first.

        s(r) = log p(r | x, y, c) / T  +  log p(r | x, r, c) / T

    The first term is how sure the model is of this refinement. The second is its score for obeying:
    shown the refinement itself and the same critique c, would it give the same answer again?

    Args:
        making: - log p(r | x, y, c) / T of each, in nats a token.
        keeping: - log p(r | x, r, c) / T of each, in nats a token.
    """
    scores = [one + other for one, other in zip(making, keeping, strict=True)]
    return min(range(len(scores)), key=scores.__getitem__)
