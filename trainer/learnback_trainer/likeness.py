"""Which prompts are alike, as the base model itself sees them.

Prompts are sorted into groups, by merging the two groups whose pairs are the most alike on average
until no two are `ALIKE` any more (average linkage). Two prompts are compared by the angle between
the model's states, the mean over all layers of two angles: that of the means over the prompts,
which tell what is spoken of, and that of the states at their ends, where the answer begins, which
tell what is to be done with it. Before that the mean over many unlike prompts was taken away, for a
language model's states share a large common part.

In five draws of 432 of nano's prompts, as many as a round looks at, the groups were its nine tasks
with no prompt astray. At .42 two tasks were one group in two of them, at .47 up to an eighth of a
task stood apart in four. Of prompts on the other side of the world's split a task fell into
two groups in one draw of five. By the means of the last layer alone no threshold told sentences to
translate from those to say otherwise.

The embedded model has prompts to take that mean over; with another base model it is taken over what
is at hand, which is rough where that is about little else than one thing, or fewer than a dozen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from learnback_trainer.pupil import Pupil
from learnback_trainer.reader import Ids
from learnback_trainer.students import Frozen

ALIKE = 0.45
"""From this likeness on, a lesson about one prompt may rightly change the answer to the other."""

# Less than any likeness: no merging of a group with itself, or with one that is gone.
_NEVER = -2.0


def likeness(pupil: Pupil, prompts: Sequence[Ids], unlike: Sequence[Ids] = ()) -> list[list[float]]:
    """Returns the likeness (-1 to 1) of each prompt to each.

    Args:
        pupil: The model.
        prompts: What is compared.
        unlike: Prompts about many things, evenly; none: what is compared is taken for that.
    """
    if not prompts:
        return []
    place = {one: i for i, one in enumerate(dict.fromkeys((*prompts, *unlike)))}
    with pupil.as_frozen(Frozen.BASE):  # for what is alike must not change with what is learned
        states = pupil.meaning(list(place))
    common = states[[place[one] for one in unlike or prompts]].mean(dim=0)
    own = states[[place[one] for one in prompts]]
    angles = torch.nn.functional.normalize(own - common, dim=2)
    flat = angles.flatten(1) / math.sqrt(angles.shape[1])
    table: list[list[float]] = (flat @ flat.T).tolist()
    return table


def groups(table: Sequence[Sequence[float]]) -> list[int]:
    """Returns, for each of some prompts, the number of its group.

    Args:
        table: The likeness of each prompt to each, in the same order; at least one.
    """
    near = torch.tensor(table)
    near.fill_diagonal_(_NEVER)
    members = {one: [one] for one in range(len(table))}
    # Of each group the nearest other one. It is sought again only where one of the merged two was
    # that: an average is no nearer than the nearer of the two.
    likest, nearest = near.max(dim=1)
    while len(members) > 1:
        first = int(likest.argmax())
        other = int(nearest[first])
        if likest[first] < ALIKE:
            break
        sizes = len(members[first]), len(members[other])
        merged = (near[first] * sizes[0] + near[other] * sizes[1]) / sum(sizes)
        near[first] = near[:, first] = merged
        near[other] = near[:, other] = near[first, first] = _NEVER
        members[first] += members.pop(other)
        stale = ((nearest == first) | (nearest == other)).nonzero().flatten().tolist()
        stale = list({first, other, *stale})
        likest[stale], nearest[stale] = near[stale].max(dim=1)
    found = [0] * len(table)
    for number, group in members.items():
        for one in group:
            found[one] = number
    return found
