"""Which prompts are alike: by group, so that a few near pairs do not join two subjects."""

from __future__ import annotations

from random import Random

import pytest

from learnback_nano import world
from learnback_trainer.likeness import ALIKE, groups, likeness
from learnback_trainer.pupil import Base, Pupil

NEAR, FAR = ALIKE + 0.3, ALIKE - 0.3


def test_one_near_pair_does_not_join_two_groups() -> None:
    table = [
        [1.0, NEAR, ALIKE + 0.01, FAR],
        [NEAR, 1.0, FAR, FAR],
        [ALIKE + 0.01, FAR, 1.0, NEAR],
        [FAR, FAR, NEAR, 1.0],
    ]
    found = groups(table)
    assert found[0] == found[1] != found[2] == found[3]


def test_what_is_alike_throughout_is_one_group() -> None:
    assert len(set(groups([[1.0 if i == j else NEAR for j in range(5)] for i in range(5)]))) == 1


def test_what_is_unlike_stays_alone() -> None:
    assert len(set(groups([[1.0, FAR], [FAR, 1.0]]))) == 2
    assert groups([[1.0]]) == [0]


@pytest.mark.parametrize("seed", [100, 101])
def test_the_tasks_of_nano_are_told_apart(base: Base, seed: int) -> None:
    rng = Random(seed)
    task_of = {}
    with Pupil(base, None) as pupil:
        for task in world.TASKS * 48:
            asked = world.sample(task, rng, "seen").prompt
            task_of[pupil.reader.chat([{"role": "user", "content": asked}])] = task
        table = likeness(pupil, list(task_of))
    pairs = set(zip(groups(table), task_of.values(), strict=True))
    assert len(pairs) == len(world.TASKS) == len({group for group, _ in pairs})
