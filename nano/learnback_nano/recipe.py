"""The recipe: every number that decides what the training makes."""

from dataclasses import dataclass
from itertools import pairwise

# Learning rate as a share of its peak, by share of the training done: up, flat, down, and flat once
# more while the last phase of the corpus is new.
SCHEDULE = (
    *((0.0, 0.01), (100 / 5700, 1.0), (2600 / 5700, 1.0), (3600 / 5700, 0.5)),
    *((4800 / 5700, 0.25), (5000 / 5700, 0.25), (1.0, 0.0)),
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what comes out."""

    seed: int = 0
    steps: int = 5_700
    dialogues_a_batch: int = 64
    hidden: int = 192
    layers: int = 4
    heads: int = 6
    intermediate: int = 512
    matrix_rate: float = 4e-3
    other_rate: float = 3e-3
    weight_decay: float = 0.01
    user_weight_scale: float = 2.0


def rate_at(recipe: Recipe, step: int) -> float:
    """The share of the peak learning rate at a step, between the knots of the schedule."""
    share = step / recipe.steps
    for (start, low), (end, high) in pairwise(SCHEDULE):
        if share < end:
            return low + (high - low) * (share - start) / (end - start)
    return SCHEDULE[-1][1]
