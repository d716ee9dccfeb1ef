"""Which prompts are alike: by group, so that a few near pairs do not join two subjects."""

from __future__ import annotations

from itertools import combinations
from random import Random
from statistics import mean

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

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


@given(st.integers(1, 14), st.randoms(use_true_random=False))
def test_groups_are_merged_by_the_likest_average(count: int, rng: Random) -> None:
    table = [[1.0] * count for _ in range(count)]
    for one, other in combinations(range(count), 2):
        table[one][other] = table[other][one] = rng.uniform(ALIKE - 0.4, ALIKE + 0.4)
    wanted = [{one} for one in range(count)]
    while len(wanted) > 1:
        pairs = list(combinations(wanted, 2))
        means = [mean(table[a][b] for a in one for b in other) for one, other in pairs]
        highest, *rest = sorted(means, reverse=True)
        assume(all(abs(highest - one) > 1e-5 for one in (ALIKE, *rest)))
        if highest < ALIKE:
            break
        one, other = pairs[means.index(highest)]
        wanted = [each for each in wanted if each not in (one, other)] + [one | other]
    found = groups(table)
    assert {frozenset(one) for one in wanted} == {
        frozenset(place for place in range(count) if found[place] == number)
        for number in set(found)
    }


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
