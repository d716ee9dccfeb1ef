"""Which prompts are alike, as the model itself sees them.

Prompts are sorted into groups, by merging the two groups whose pairs are the most alike on average
until no two are `ALIKE` any more (average linkage). Two prompts are compared by the angle between
the means of the model's last states over them, after the mean over all prompts at hand was taken
away (a language model's states share a large common part). Pair by pair tasks overlap: a quarter of
nano's questions about capitals and opposites are alike. Group by group, in four draws of 864 of its
prompts, capitals and opposites were two groups; in one of four draws of 432, a tenth of the
capitals were with the opposites. From .34 on, some capitals stand apart from the others; at .30,
all are with the opposites in half of the draws. Sentences to translate and to say otherwise are one
group.

With fewer than a dozen prompts at hand their common part is not known, and the figure is rough.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from learnback_trainer.pupil import Pupil
from learnback_trainer.reader import Ids

ALIKE = 0.32
"""From this likeness on, a lesson about one prompt may rightly change the answer to the other."""

# Less than any likeness: no merging of a group with itself, or with one that is gone.
_NEVER = -2.0


def likeness(pupil: Pupil, prompts: Sequence[Ids]) -> list[list[float]]:
    """Returns the likeness (-1 to 1) of each prompt to each."""
    if not prompts:
        return []
    with pupil.as_live():
        states = pupil.meaning(prompts)
    centred = torch.nn.functional.normalize(states - states.mean(dim=0), dim=1)
    table: list[list[float]] = (centred @ centred.T).tolist()
    return table


def groups(table: Sequence[Sequence[float]]) -> list[int]:
    """Returns, for each of some prompts, the number of its group.

    Args:
        table: The likeness of each prompt to each, in the same order; at least one.
    """
    near = torch.tensor(table)
    near.fill_diagonal_(_NEVER)
    members = {one: [one] for one in range(len(table))}
    while len(members) > 1:
        first, other = divmod(int(near.argmax()), len(table))
        if near[first, other] < ALIKE:
            break
        sizes = len(members[first]), len(members[other])
        merged = (near[first] * sizes[0] + near[other] * sizes[1]) / sum(sizes)
        near[first] = near[:, first] = merged
        near[other] = near[:, other] = near[first, first] = _NEVER
        members[first] += members.pop(other)
    found = [0] * len(table)
    for number, group in members.items():
        for one in group:
            found[one] = number
    return found
