"""Of lessons that exclude one another the weightier are taught, and it is said why."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from learnback_nano import world
from learnback_store.records import FeedbackRecord
from learnback_trainer.lessons import Exercise, make_exercises
from learnback_trainer.pupil import Base, Pupil
from learnback_trainer.quarrels import CHANGED_MIND, OUTWEIGHED, UNDECIDED, outweighed
from tests.trainer.critics import ANSWER_TOKENS, asked, correction, criticism, views

PARIS = ("What is the capital of France?", "The capital of France is Paris.")


def _exercises(pupil: Pupil, said: list[tuple[FeedbackRecord, str, float]]) -> list[Exercise]:
    records = [replace(record, author=author) for record, author, _ in said]
    made = make_exercises(views(records), pupil, ANSWER_TOKENS)
    assert not made.excused
    return [
        replace(one, weight=weight) for one, (_, _, weight) in zip(made.made, said, strict=True)
    ]


def _corrected(
    right: str, author: str = "", weight: float = 1.0
) -> tuple[FeedbackRecord, str, float]:
    return correction(*PARIS, right), author, weight


def test_critiques_that_exclude_one_another_are_told_from_those_that_do_not(base: Base) -> None:
    rng = Random(4)
    upper, lower, emoji = (
        "Please use capital letters.",
        "Please use small letters only.",
        "Add an emoji.",
    )
    said = [(criticism("upper", "capital", rng, upper), author, 1.0) for author in "abc"]
    said += [(criticism("lower", "capital", rng, lower), "mallory", 1.0) for _ in range(4)]
    said += [(criticism("emoji", "capital", rng, emoji), "d", 1.0)]
    # Said of other questions, so that it excludes nothing.
    said += [(criticism("lower", "note", rng, lower), "e", 1.0)]
    with Pupil(base, None) as pupil:
        exercises = _exercises(pupil, said)
        others = [
            pupil.reader.chat([{"role": "user", "content": world.sample(task, rng).prompt}])
            for task in world.TASKS
            for _ in range(5)
        ]
        found = outweighed(pupil, exercises, others, ANSWER_TOKENS)
    losers = {one.feedback_id for one in exercises if one.record.author == "mallory"}
    # A question that is not seen to be like the others excludes nothing either.
    assert found.keys() <= losers
    assert len(found) >= 3
    # Four lessons of one author are one voice against three.
    assert set(found.values()) == {f"{OUTWEIGHED}: 3.0 against 1.0"}


def test_corrections_of_one_question(base: Base) -> None:
    with Pupil(base, None) as pupil:

        def lost(*said: tuple[FeedbackRecord, str, float]) -> list[str | None]:
            exercises = _exercises(pupil, list(said))
            found = outweighed(pupil, exercises, [], ANSWER_TOKENS)
            return [found.get(one.feedback_id) for one in exercises]

        agreeing = lost(_corrected("Lyon.", "a"), _corrected("Lyon.", "b"))
        assert agreeing == [None, None]
        trusted = lost(_corrected("Lyon.", "a", 1.0), _corrected("Nice.", "b", 0.4))
        assert trusted == [None, f"{OUTWEIGHED}: 1.0 against 0.4"]
        alike = lost(_corrected("Lyon.", "a"), _corrected("Nice.", "b"))
        assert alike == [UNDECIDED, UNDECIDED]
        later = lost(_corrected("Lyon.", "a"), _corrected("Nice.", "a"))
        assert later == [CHANGED_MIND, None]
        unknown = lost(_corrected("Lyon."), _corrected("Nice."), _corrected("Nice."))
        assert unknown == [f"{OUTWEIGHED}: 2.0 against 1.0", None, None]
        three = lost(
            _corrected("Lyon.", "a"),
            _corrected("Nice.", "b"),
            _corrected("Nice.", "c"),
            _corrected("Metz.", "d"),
        )
        assert three == [
            f"{OUTWEIGHED}: 2.0 against 1.0",
            None,
            None,
            f"{OUTWEIGHED}: 2.0 against 1.0",
        ]
        other_question = asked(
            "What is the capital of Spain?", "Madrid.", correction(*PARIS, "Nice.").signal
        )
        assert lost(_corrected("Lyon.", "a"), (other_question, "b", 1.0)) == [None, None]


def test_what_others_have_been_taught_is_their_voice_still(base: Base) -> None:
    rng = Random(4)

    def upper(author: str) -> FeedbackRecord:
        record = criticism("upper", "opposite", rng, "Please use capital letters.")
        return replace(record, author=author)

    def lower(author: str) -> tuple[FeedbackRecord, str, float]:
        return criticism("lower", "opposite", rng, "Please use small letters only."), author, 1.0

    with Pupil(base, None) as pupil:
        others = [
            pupil.reader.chat([{"role": "user", "content": world.sample(task, rng).prompt}])
            for task in world.TASKS
            for _ in range(5)
        ]

        def lost(told: list[FeedbackRecord], *said: tuple[FeedbackRecord, str, float]) -> set[str]:
            exercises = _exercises(pupil, list(said))
            found = outweighed(pupil, exercises, others, ANSWER_TOKENS, views(told))
            assert not found or found.keys() == {one.feedback_id for one in exercises}
            return set(found.values())

        two = [upper("ann"), upper("ben")]
        assert lost(two, *[lower("mallory")] * 2) == {f"{OUTWEIGHED}: 2.0 against 1.0"}
        assert not lost(two[:1], lower("mallory"))  # as many voices, and later ones
        assert not lost(two, lower("ann"), lower("cem"))  # ann has changed her mind
        assert not lost([upper(""), upper("")], lower("mallory"))  # nobody knows whose they are


def test_a_correction_that_others_have_made_stands_against_one_author(base: Base) -> None:
    told = [replace(correction(*PARIS, "Lyon."), author=author) for author in ("ann", "ben")]
    with Pupil(base, None) as pupil:
        exercises = _exercises(pupil, [_corrected("Nice.", "mallory")])
        found = outweighed(pupil, exercises, [], ANSWER_TOKENS, views(told))
    assert list(found.values()) == [f"{OUTWEIGHED}: 2.0 against 1.0"]
