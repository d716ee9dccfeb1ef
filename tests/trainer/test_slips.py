"""Answers that do not keep to what was learned are found, and told from what always changes."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from learnback_nano import world
from learnback_store.records import Exchange, Message, Role
from learnback_trainer.lessons import Exercise, make_exercises
from learnback_trainer.pupil import Base, Pupil
from learnback_trainer.reader import Ids
from learnback_trainer.slips import slips
from tests.trainer.critics import ANSWER_TOKENS, criticism, views


def _heard(pupil: Pupil, *kinds: str) -> list[Exercise]:
    rng = Random(3)
    records = [criticism(kind, "note", rng) for kind in kinds]
    return make_exercises(views(records), pupil, ANSWER_TOKENS).made


def _answered(
    pupil: Pupil, answers: Sequence[str], heard: Sequence[Exercise]
) -> list[tuple[Exchange, Ids, Sequence[Exercise]]]:
    """Questions on notes, with answers in which "..." stands for the right one."""
    rng, found = Random(4), []
    for answer in answers:
        item = world.sample("note", rng, "seen")
        whole = answer.replace("...", world.render(item).rstrip("."))
        exchange = Exchange(whole, (Message(Role.USER, item.prompt),))
        found.append((exchange, pupil.reader.prompt(exchange), heard))
    return found


def test_what_does_not_keep_to_a_lesson_is_put_right(base: Base) -> None:
    with Pupil(base, None) as pupil:
        heard = _heard(pupil, "emoji", "hello")
        answers = ["Hello! .... \N{SLIGHTLY SMILING FACE}"] * 20 + ["...."] * 4
        asked = _answered(pupil, answers, heard)
        found = slips(pupil, asked, ANSWER_TOKENS)
        targets = [pupil.reader.text(one.target) for one in found]
    assert found
    assert {one.prompt for one in found} <= {prompt for _, prompt, _ in asked[-4:]}
    assert all(text.startswith("Hello! ") and not text[-1].isascii() for text in targets)


def test_where_nothing_was_criticised_nothing_slips(base: Base) -> None:
    with Pupil(base, None) as pupil:
        assert not slips(pupil, _answered(pupil, ["...."] * 4, []), ANSWER_TOKENS)
        assert not slips(pupil, [], ANSWER_TOKENS)


def test_a_lesson_that_most_answers_do_not_keep_to_finds_no_slips(base: Base) -> None:
    with Pupil(base, None) as pupil:
        asked = _answered(pupil, ["...."] * 8, _heard(pupil, "emoji"))
        assert not slips(pupil, asked, ANSWER_TOKENS)
