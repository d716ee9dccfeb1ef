"""Every anchor comes round, and those that move come sooner."""

from __future__ import annotations

from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnback_trainer.rehearsal import Rehearsal, by_turns


@given(anchors=st.integers(0, 20), count=st.integers(0, 12), data=st.data())
def test_a_step_has_each_anchor_once_and_all_come_round(
    anchors: int, count: int, data: st.DataObject
) -> None:
    rehearsal = Rehearsal([None if place % 3 else 0 for place in range(anchors)], count, Random(0))
    nats = st.floats(0, 10)
    seen = set[int]()
    for _ in range(2 * anchors):
        places = rehearsal.next()
        assert len(places) == len(set(places)) == min(count, anchors)
        moved = data.draw(st.lists(nats, min_size=len(places), max_size=len(places)))
        rehearsal.note(places, moved)
        seen |= set(places)
    assert seen == set(range(anchors if count else 0))


def test_what_has_moved_comes_again_until_it_is_back() -> None:
    rehearsal = Rehearsal([None] * 100, 6, Random(0))
    strayed = rehearsal.next()[0]
    nats = dict.fromkeys(range(100), 0.0) | {strayed: 0.5}
    rehearsal.note([strayed], [0.5])
    for _ in range(5):
        places = rehearsal.next()
        assert strayed in places
        rehearsal.note(places, [nats[one] for one in places])
    nats[strayed] = 0.0
    places = rehearsal.next()
    rehearsal.note(places, [nats[one] for one in places])
    coming = [rehearsal.next() for _ in range(5)]
    assert sum(strayed in places for places in coming) < 5


def test_the_mean_is_of_those_that_came_by_turns() -> None:
    rehearsal = Rehearsal([None] * 100, 6, Random(0))
    first = rehearsal.next()
    rehearsal.note(first, [1.0] * 6)
    second = rehearsal.next()
    again = [0.9 if place in first else 0.0 for place in second]
    assert sum(place in first for place in second) >= 2
    assert rehearsal.note(second, again) == pytest.approx(sum(again[:3]) / 3)


def test_what_has_moved_brings_others_of_its_kind() -> None:
    rehearsal = Rehearsal([place % 10 for place in range(100)], 8, Random(0))
    rehearsal.note(range(100), [0.5 if place == 33 else 0.0 for place in range(100)])
    seen = set[int]()
    for _ in range(10):
        places = rehearsal.next()
        assert 33 in places
        seen |= {place for place in places if place % 10 == 3}
    assert len(seen) == 10


def test_turns_begin_anew_when_all_had_theirs() -> None:
    drawn = list(islice(by_turns("abc", Random(0)), 9))
    assert [sorted(drawn[start : start + 3]) for start in (0, 3, 6)] == [["a", "b", "c"]] * 3
    assert list(by_turns("", Random(0))) == []
