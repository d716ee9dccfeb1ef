"""The recipe: every number that decides what the training makes."""

from dataclasses import dataclass
from itertools import pairwise

# Learning rate as a share of its peak, by step of 9,000. It is flat once more, and then comes back
# from nothing, where a phase of the corpus is new.
STEPS = 9_000
SCHEDULE = (
    *(
        (0, 0.01),
        (100, 1.0),
        (2_600, 1.0),
        (3_600, 0.5),
        (4_800, 0.25),
        (5_000, 0.25),
        (5_700, 0.0),
    ),
    *((5_800, 0.35), (6_800, 0.35), (STEPS, 0.0)),
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what comes out."""

    seed: int = 0
    steps: int = STEPS
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
    """The share of the peak learning rate at a step, between the knots of the schedule.

    A recipe of more or fewer steps than `STEPS` passes them in the same shares of its time.
    """
    place = step * STEPS / recipe.steps
    for (start, low), (end, high) in pairwise(SCHEDULE):
        if place < end:
            return low + (high - low) * (place - start) / (end - start)
    return SCHEDULE[-1][1]
