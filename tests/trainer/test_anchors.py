"""What is held, whose answer is the measure, and that no kind of question crowds out another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from learnback_nano import world
from learnback_store.records import Exchange, Message, Role
from learnback_trainer.anchors import Amounts, Anchors, make_anchors
from learnback_trainer.lessons import make_exercises
from learnback_trainer.pupil import Base, Pupil
from learnback_trainer.questions import (
    Question,
    Told,
    shipped_dialogues,
    shipped_questions,
    told_of,
)
from learnback_trainer.reader import Ids
from learnback_trainer.students import Frozen
from learnback_trainer.update import Recipe, teach
from tests.trainer.critics import ANSWER_TOKENS, correction, criticism, views

UPPER = "Please use capital letters."


def _question(pupil: Pupil, text: str) -> Question:
    exchange = Exchange("", (Message(Role.USER, text),))
    return Question(exchange, pupil.reader.prompt(exchange))


_FACTS_OF_NOTES = ("is married to", "lives in", "likes", "has a", "was born in", "is a")


def _held(
    pupil: Pupil,
    questions: Sequence[Question],
    told: Told | None = None,
    dialogues: Mapping[Ids, Ids] | None = None,
    amounts: Amounts = Amounts(questions=400, alike=0, near=0),  # noqa: B008  # frozen
) -> Anchors:
    """The anchors of a round about emoji in answers to notes."""
    made = make_exercises(views([criticism("emoji", "note", Random(3))]), pupil, ANSWER_TOKENS)
    return make_anchors(
        pupil,
        made.made,
        questions,
        dialogues or {},
        told,
        [one.prompt for one in shipped_questions(90, Random(9), pupil.reader)],
        amounts=amounts,
        max_tokens=ANSWER_TOKENS,
        rng=Random(0),
    )


@pytest.fixture(scope="module")
def shouting(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that was told to shout opposites, and held nowhere else."""
    folder = tmp_path_factory.mktemp("shouting")
    rng = Random(1)
    said = [criticism("upper", "opposite", rng, UPPER) for _ in range(12)]
    with Pupil(base, None) as pupil:
        made = make_exercises(views(said), pupil, ANSWER_TOKENS).made
        teach(pupil, made, [], [], Recipe(steps=40), Random(0))
        pupil.save(folder, "nano")
    return folder


def _task_of(pupil: Pupil, tasks: Sequence[str], each: int) -> dict[Ids, str]:
    rng = Random(5)
    drawn = [(task, world.sample(task, rng, "seen").prompt) for task in tasks for _ in range(each)]
    return {_question(pupil, text).prompt: task for task, text in drawn}


def test_at_first_live_and_base_are_one(base: Base) -> None:
    with Pupil(base, None) as pupil:
        questions = shipped_questions(90, Random(0), pupil.reader)
        anchors = _held(pupil, questions)
        assert pupil.live_is_base
    assert {one.by for one in anchors.rehearsed + anchors.questions} == {Frozen.LIVE}


def test_what_was_never_told_of_is_held_where_the_base_is(base: Base, shouting: Path) -> None:
    with Pupil(base, shouting) as pupil:
        task_of = _task_of(pupil, world.TASKS, 24)
        questions = [Question(Exchange("", (Message(Role.USER, "?"),)), one) for one in task_of]
        opposites = dict.fromkeys(
            (one for one, task in task_of.items() if task == "opposite"), True
        )
        dialogues = shipped_dialogues(20, Random(2), pupil.reader)
        anchors = _held(pupil, questions, Told(opposites, all=True), dialogues)
        held = {one.prompt: one for one in anchors.rehearsed + anchors.questions}
        years = [held[one] for one, task in task_of.items() if task == "year"]
        with pupil.as_frozen(Frozen.BASE):
            base_answers = pupil.answer([one.prompt for one in years], ANSWER_TOKENS)
        shouted = [held[one] for one in opposites if one in held]
        texts_shouted = [pupil.reader.text(one.answer) for one in shouted]
    assert [one.by for one in years] == [Frozen.BASE] * len(years)
    assert [one.answer for one in years] == base_answers
    # What was learned is held as it was learned, and what was not is not held at all.
    assert shouted
    assert {one.by for one in shouted} == {Frozen.LIVE}
    assert all(text.isupper() for text in texts_shouted)
    spoken = [held[one] for one in dialogues if one in held] + anchors.dialogues
    assert len(spoken) == len(dialogues)
    assert {one.by for one in spoken} == {Frozen.BASE}


def test_what_the_base_model_may_well_answer_is_mostly_right(base: Base) -> None:
    with Pupil(base, None) as pupil:
        likely = {one.prompt: one.likely for one in shipped_questions(90, Random(0), pupil.reader)}
        likely |= shipped_dialogues(60, Random(1), pupil.reader)
        answers = pupil.answer(list(likely), ANSWER_TOKENS)
    right = [one == answer for one, answer in zip(likely.values(), answers, strict=True)]
    assert sum(right) >= 0.95 * len(right)


@pytest.mark.parametrize("told", [None, Told({}, all=True)])
def test_a_wrong_guess_changes_no_anchor(base: Base, shouting: Path, told: Told | None) -> None:
    with Pupil(base, shouting) as pupil:
        questions = shipped_questions(45, Random(0), pupil.reader)
        dialogues = shipped_dialogues(20, Random(2), pupil.reader)
        found = _held(pupil, questions, told, dialogues)
        wrong = pupil.reader.answer("Something else.")
        misled = [replace(one, likely=wrong) for one in questions]
        same = _held(pupil, misled, told, dict.fromkeys(dialogues, wrong))
    assert found == same


def test_where_not_all_is_known_only_what_is_the_same_is_held_by_the_base(
    base: Base, shouting: Path
) -> None:
    with Pupil(base, shouting) as pupil:
        questions = shipped_questions(90, Random(0), pupil.reader)
        anchors = _held(pupil, questions, Told({}, all=False))
    held = anchors.rehearsed + anchors.questions
    assert {one.by for one in held} == set(Frozen)
    assert all(one.answer == one.live for one in held if one.by is Frozen.BASE)


def test_a_canary_is_held_though_others_like_it_were_criticised(base: Base, shouting: Path) -> None:
    with Pupil(base, shouting) as pupil:
        told = Told({_question(pupil, "What is the opposite of hot?").prompt: True})
        canary = replace(_question(pupil, "What is the capital of France?"), canary=True)
        anchors = _held(pupil, [canary, *shipped_questions(90, Random(0), pupil.reader)], told)
    held = {one.prompt for one in anchors.rehearsed + anchors.questions}
    assert canary.prompt in held


def test_what_is_asked_most_does_not_crowd_out_the_rest(base: Base) -> None:
    with Pupil(base, None) as pupil:
        task_of = _task_of(pupil, ["year"], 90) | _task_of(pupil, ["sentiment", "summary"], 8)
        questions = [Question(Exchange("", (Message(Role.USER, "?"),)), one) for one in task_of]
        anchors = _held(pupil, questions, amounts=Amounts(24, alike=0, exposed=0))
    counts = Counter(task_of[one.prompt] for one in anchors.rehearsed + anchors.questions)
    assert counts == {"year": 8, "sentiment": 8, "summary": 8}


def test_of_kinds_that_a_lesson_moves_first_more_are_held(base: Base, shouting: Path) -> None:
    """Of those that were criticised before, and of the two that are likest to what is taught."""
    with Pupil(base, shouting) as pupil:
        task_of = _task_of(pupil, world.TASKS, 24)
        questions = [Question(Exchange("", (Message(Role.USER, "?"),)), one) for one in task_of]
        told = Told({one: True for one, task in task_of.items() if task == "opposite"})
        few = Amounts(questions=16, alike=0, near=0, exposed=0)
        counts = [
            Counter(task_of[one.prompt] for one in anchors.rehearsed + anchors.questions)
            for anchors in (
                _held(pupil, questions, told, amounts=replace(few, exposed=exposed))
                for exposed in (0, 18)
            )
        ]
    assert counts[0].total() == 16
    more = counts[1] - counts[0]
    assert more.total() == 18
    assert len(more) == 3
    assert "opposite" in more
    assert set(more.values()) == {6}


def test_what_was_told_of_by_words_and_by_corrections(base: Base) -> None:
    with Pupil(base, None) as pupil:
        said = [
            criticism("upper", "opposite", Random(1), UPPER),
            correction("What is the capital of France?", "Paris.", "Lyon."),
        ]
        told = told_of(said, pupil.reader, everything=True)
    assert list(told.prompts.values()) == [True, False]
    assert told.all


def test_there_is_more_to_practise_about_the_criticised_task(base: Base) -> None:
    with Pupil(base, None) as pupil:
        questions = shipped_questions(90, Random(0), pupil.reader)
        anchors = _held(pupil, questions, amounts=Amounts(questions=18, alike=40, near=0))
        alike = anchors.practice + anchors.alike
        texts = [pupil.reader.text(one.prompt) for one in alike]
    assert 30 < len({one.prompt for one in alike}) == len(alike) <= 40
    assert all(any(fact in text for fact in _FACTS_OF_NOTES) for text in texts)
    assert all(one.exercises for one in alike)


def test_each_kind_of_corrected_facts_has_anchors_of_its_own(base: Base) -> None:
    about = {
        "capital": correction("What is the capital of Japan?", "Tokyo.", "Amman."),
        "opposite": correction("What is the opposite of happy?", "Sad.", "Glad."),
    }

    def held(pupil: Pupil, tasks: Sequence[str]) -> Counter[str]:
        made = make_exercises(views([about[one] for one in tasks]), pupil, ANSWER_TOKENS).made
        anchors = make_anchors(
            pupil,
            made,
            shipped_questions(450, Random(0), pupil.reader),
            {},
            amounts=Amounts(questions=0, alike=0, near=0, beside=16, exposed=0),
            max_tokens=ANSWER_TOKENS,
            rng=Random(0),
        )
        texts = [pupil.reader.text(one.prompt) for one in anchors.rehearsed + anchors.questions]
        return Counter(one for text in texts for one in about if one in text.lower())

    with Pupil(base, None) as pupil:
        alone = {task: held(pupil, [task])[task] for task in about}
        both = held(pupil, list(about))
    assert both == alone
    assert min(alone.values()) >= 12


def test_dialogues_about_the_criticised_task_are_held_besides(base: Base) -> None:
    with Pupil(base, None) as pupil:
        questions = shipped_questions(90, Random(0), pupil.reader)
        amounts = Amounts(questions=18, dialogues=0, alike=0, near=52)
        anchors = _held(pupil, questions, amounts=amounts)
        revising = [one for one in anchors.rehearsed if one.kind == -1] + anchors.dialogues
        texts = [pupil.reader.text(one.prompt) for one in revising]
        answers = pupil.answer([one.prompt for one in revising], ANSWER_TOKENS)
        none = _held(pupil, questions, amounts=replace(amounts, near=0))
    assert len(revising) > 40
    assert all(any(fact in text for fact in _FACTS_OF_NOTES) for text in texts)
    assert [one.answer for one in revising] == answers
    assert not none.dialogues
