"""Practising on several critiques in turns, so that they come to be obeyed together."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnback_nano import world
from learnback_store.records import Critique, Exchange, Message, Objective, Role
from learnback_trainer.lessons import Exercise, make_exercises, practice, turned
from learnback_trainer.pupil import Base, Pupil
from learnback_trainer.renewing import in_company, renewed, windows
from tests.trainer.critics import ANSWER_TOKENS, asked, criticism, views

SMILE, GREET = "Please add an emoji.", "Please say hello first."


def _practised(pupil: Pupil) -> Exercise:
    """A question on a note, practised on two critiques of answers to others."""
    rng = Random(3)
    said = [criticism("emoji", "note", rng, SMILE), criticism("hello", "note", rng, GREET)]
    told = make_exercises(views(said), pupil, ANSWER_TOKENS).made
    assert len(told) == 2
    item = world.sample("note", rng, "seen")
    question = Exchange("", (Message(Role.USER, item.prompt),))
    prompt = pupil.reader.prompt(question)
    [answer] = pupil.answer([prompt], ANSWER_TOKENS)
    exchange = replace(question, answer=pupil.reader.text(answer))
    [exercise] = practice([(exchange, prompt, told)], pupil, ANSWER_TOKENS)
    return exercise


def _named(place: int) -> Exercise:
    record = asked(str(place), "An answer.", Critique(SMILE))
    return Exercise(record, Objective.DISTILLATION, (place,), ())


def test_turns_come_round(base: Base) -> None:
    with Pupil(base, None) as pupil:
        first = _practised(pupil)
    second = turned(first, 1)
    assert [one.record.signal for one in (first, second)] == [
        one.record.signal for one in first.turns
    ]
    assert (second.prompt, second.dialogue, second.target) == (
        first.prompt, first.dialogue, first.target,
    )  # fmt: skip
    assert turned(second, 1) == turned(first, 2) == first


def test_one_critique_has_no_turns(base: Base) -> None:
    with Pupil(base, None) as pupil:
        only = replace(_practised(pupil), turns=())
    assert turned(only, 1) is only


def test_of_critiques_that_ask_for_the_same_one_is_said(base: Base) -> None:
    rng = Random(3)
    words = (SMILE, GREET, "You did not smile!", "Use a smiley face at the end.")
    said = [criticism("hello" if one is GREET else "emoji", "note", rng, one) for one in words]
    with Pupil(base, None) as pupil:
        told = make_exercises(views(said), pupil, ANSWER_TOKENS).made
        questions = []
        for _ in range(6):
            item = world.sample("note", rng, "seen")
            exchange = Exchange(world.render(item), (Message(Role.USER, item.prompt),))
            questions.append((exchange, pupil.reader.prompt(exchange), told))
        practised = practice(questions, pupil, ANSWER_TOKENS)
    assert len(practised) == 6
    turns = [[turn.record.signal.text for turn in one.turns] for one in practised]  # type: ignore[union-attr]
    assert all(len(one) == 2 and GREET in one for one in turns)
    assert {text for one in turns for text in one} == set(words)


def test_what_is_practised_on_two_critiques_is_revised_for_both(base: Base) -> None:
    with Pupil(base, None) as pupil:
        practised = _practised(pupil)
        plain = practised.record.exchange.answer
        _, [again] = renewed(pupil, [practised], in_company([practised]))
        target = pupil.reader.text(again.target)
    assert target != plain
    assert plain.rstrip(".") in target
    assert target.startswith("Hello")
    assert not target[-1].isascii()  # the emoji


@pytest.mark.parametrize("first", [0, 1])
def test_whichever_is_said_first(base: Base, first: int) -> None:
    with Pupil(base, None) as pupil:
        practised = turned(_practised(pupil), first)
        _, [again] = renewed(pupil, [practised], in_company([practised]))
        target = pupil.reader.text(again.target)
    assert target.startswith("Hello")
    assert not target[-1].isascii()


def test_what_stands_alone_keeps_its_targets(base: Base) -> None:
    with Pupil(base, None) as pupil:
        practised = _practised(pupil)
        alone = replace(practised, turns=practised.turns[:1])
        assert not in_company([alone])
        answers, again = renewed(pupil, [alone], frozenset())
        assert pupil.reader.text(answers[0]) == practised.record.exchange.answer
    assert again == [alone]


@given(count=st.integers(0, 12), size=st.integers(0, 15), windows_seen=st.integers(1, 8))
def test_all_practice_has_its_turn(count: int, size: int, windows_seen: int) -> None:
    practice = [_named(place) for place in range(count)]
    drawn = list(islice(windows(practice, size), windows_seen))
    assert all(len(one) == min(size, count) for one in drawn)
    seen = Counter(one.prompt for window in drawn for one in window)
    assert sum(seen.values()) == windows_seen * min(size, count)
    if seen:
        assert len(seen) == min(count, seen.total())
        assert max(seen.values()) - min(seen[one.prompt] for one in practice) <= 1
