"""Practising on several critiques in turns, so that they come to be obeyed together."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from learnback_nano import world
from learnback_store.records import Exchange, Message, Role
from learnback_trainer.lessons import Exercise, make_exercises, next_turn, practice
from learnback_trainer.pupil import Base, Pupil
from learnback_trainer.update import renewed
from tests.trainer.critics import ANSWER_TOKENS, criticism, views

SMILE, GREET = "Please add an emoji.", "Please say hello first."


def _practised(pupil: Pupil) -> Exercise:
    """A question on a note, practised on two critiques of answers to others."""
    rng = Random(3)
    said = [criticism("emoji", "note", rng, SMILE), criticism("hello", "note", rng, GREET)]
    told = make_exercises(views(said), pupil, ANSWER_TOKENS).made
    assert len(told) == 2
    item = world.sample("note", rng, "seen")
    asked = Exchange("", (Message(Role.USER, item.prompt),))
    prompt = pupil.reader.prompt(asked)
    [answer] = pupil.answer([prompt], ANSWER_TOKENS)
    exchange = replace(asked, answer=pupil.reader.text(answer))
    [exercise] = practice([(exchange, prompt, told)], pupil, ANSWER_TOKENS)
    return exercise


def test_turns_come_round(base: Base) -> None:
    with Pupil(base, None) as pupil:
        first = _practised(pupil)
    second = next_turn(first)
    assert [one.record.signal for one in (first, second)] == [
        one.record.signal for one in first.turns
    ]
    assert (second.prompt, second.dialogue, second.target) == (
        first.prompt, first.dialogue, first.target,
    )  # fmt: skip
    assert next_turn(second) == first


def test_one_critique_has_no_turns(base: Base) -> None:
    with Pupil(base, None) as pupil:
        only = replace(_practised(pupil), turns=())
    assert next_turn(only) is only


def test_what_is_practised_on_two_critiques_is_revised_for_both(base: Base) -> None:
    with Pupil(base, None) as pupil:
        practised = _practised(pupil)
        plain = practised.record.exchange.answer
        _, [again] = renewed(pupil, [practised])
        target = pupil.reader.text(again.target)
    assert target != plain
    assert plain.rstrip(".") in target
    assert target.startswith("Hello")
    assert not target[-1].isascii()  # the emoji
