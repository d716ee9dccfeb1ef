"""When a line of checkpoints is consolidated by itself."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnback_store.manifest import BASE, CheckpointKind, Manifest
from learnback_trainer.schedule import Schedule

_SIZE = 4


def _line(rounds: int, first: int = 1) -> list[Manifest]:
    """A line of so many rounds, the first of which taught so many pieces of feedback."""
    return [
        Manifest(
            f"ckpt-{place}",
            CheckpointKind.ADAPTER,
            BASE if place == 1 else f"ckpt-{place - 1}",
            "nano",
            "",
            feedback_ids=tuple(f"fb-{one}" for one in range(first if place == 1 else 1)),
        )
        for place in range(rounds, 0, -1)
    ]


@pytest.mark.parametrize(
    ("rounds", "every", "due"),
    [(0, 3, False), (2, 3, False), (3, 3, True), (4, 3, True), (5, 0, False), (1, 1, True)],
)
def test_it_is_due_after_so_many_rounds(rounds: int, every: int, due: bool) -> None:
    assert Schedule(every, _SIZE).is_due(_line(rounds)) == due


def test_it_is_due_again_after_as_many_more() -> None:
    schedule = Schedule(3, _SIZE)
    schedule.ended(_line(3))  # it was refused
    assert [n for n in range(3, 10) if schedule.is_due(_line(n))] == [6, 7, 8, 9]
    schedule.ended(_line(1, first=8))  # it was published
    assert [n for n in range(1, 8) if schedule.is_due(_line(n, first=8))] == [4, 5, 6, 7]


def test_one_that_fails_is_not_tried_again_at_once() -> None:
    schedule = Schedule(3, _SIZE)
    schedule.begun(_line(3))
    assert [n for n in range(3, 8) if schedule.is_due(_line(n))] == [6, 7]


def test_another_line_is_counted_from_its_beginning() -> None:
    schedule = Schedule(3, _SIZE)
    schedule.ended(_line(9))
    assert not schedule.is_due(_line(11))
    assert schedule.is_due(_line(4))  # rolled back


@given(lessons=st.integers(1, 400), every=st.integers(1, 20))
def test_it_comes_no_sooner_than_as_many_rounds_as_the_last_was_worth(
    lessons: int, every: int
) -> None:
    schedule, worth = Schedule(every, _SIZE), math.ceil(lessons / _SIZE)
    first, later = _line(1, first=lessons), _line(1)
    schedule.ended(first)
    found = next(n for n in itertools.count(1) if schedule.is_due(later * n + first))
    assert found == max(every, worth)


def test_after_it_made_way_feedback_must_have_rested() -> None:
    now = [0.0]
    schedule = Schedule(1, _SIZE, clock=lambda: now[0])
    schedule.heard()
    assert schedule.is_due(_line(1))
    schedule.begun(_line(1))
    schedule.made_way(30.0)
    schedule.heard()
    now[0] += 29.0
    assert not schedule.is_due(_line(2))
    schedule.heard()
    now[0] += 29.0
    assert not schedule.is_due(_line(2))
    now[0] += 1.0
    assert schedule.is_due(_line(2))
    schedule.ended(_line(1))
    schedule.heard()
    assert schedule.is_due(_line(2))
