"""Several signals on one answer: which are taught, and what is told of the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from learnback_store.records import (
    Correction,
    Critique,
    Exchange,
    FeedbackRecord,
    FeedbackState,
    Objective,
    Preference,
    Preferred,
    Rating,
    Signal,
)
from learnback_store.rounds import Outcome
from learnback_trainer.lessons import Exercise
from learnback_trainer.reconcile import CANCELLED, LATER, OUTWEIGHED, Reconciled, reconcile

EXCHANGE = Exchange("Bonn.", prompt="Capital?")
_OBJECTIVES = {
    Critique: Objective.DISTILLATION,
    Correction: Objective.SFT,
    Preference: Objective.DPO,
    Rating: Objective.KTO,
}


def _exercise(
    name: str,
    signal: Signal,
    author: str = "",
    weight: float = 1.0,
    exchange: Exchange = EXCHANGE,
) -> Exercise:
    """As `make_exercises` makes it; the tokens of a text are its letters."""
    record = FeedbackRecord(name, exchange, signal, author=author)
    given = tuple(map(ord, exchange.answer))
    one = Exercise(record, _OBJECTIVES[type(signal)], (1,), given, weight=weight)
    if isinstance(signal, Critique):
        return replace(one, target=(), dialogue=(2,))
    if isinstance(signal, Correction):
        return replace(one, target=tuple(map(ord, signal.text)))
    if isinstance(signal, Rating):
        return replace(one, good=signal.score > 0, weight=weight * abs(signal.score))
    other = tuple(map(ord, signal.other))
    if signal.preferred is Preferred.OTHER:
        return replace(one, target=other, rejected=given)
    return replace(one, rejected=other)


def _taught(found: Reconciled) -> dict[str, float]:
    return {one.feedback_id: one.weight for one in found.taught}


def _reasons(found: Reconciled) -> dict[str, str]:
    return {one: how.reason for one, how in found.covered.items()}


CRITIQUE, CORRECTION = Critique("Wrong."), Correction("Berlin.")
BETTER, WORSE = (Preference("Berlin.", one) for one in (Preferred.OTHER, Preferred.TARGET))
UP, DOWN = Rating(1.0), Rating(-1.0)


@pytest.mark.parametrize(
    ("signals", "taught", "agreeing"),
    [
        ([CRITIQUE, CORRECTION, BETTER, DOWN, UP], ["1"], ["3"]),
        ([UP, CRITIQUE, BETTER, DOWN], ["1"], ["3"]),
        ([CRITIQUE, Critique("Too short.")], ["0", "1"], []),
        ([BETTER, DOWN, UP], ["0"], ["1"]),
        ([WORSE, DOWN, UP], ["0"], []),
        ([WORSE, Preference("Paris.", Preferred.TARGET)], ["0", "1"], []),
    ],
)
def test_what_says_more_outranks_what_says_less(
    signals: list[Signal], taught: list[str], agreeing: list[str]
) -> None:
    found = reconcile([_exercise(str(place), one) for place, one in enumerate(signals)])
    assert list(_taught(found)) == taught
    assert {one for one, how in found.covered.items() if how.by} == set(agreeing)
    assert len(found.taught) + len(found.covered) == len(signals)
    for reason in _reasons(found).values():
        assert reason.endswith(f"of the same answer was taught: {taught[0]}")


def test_only_signals_on_the_same_answer_meet() -> None:
    other = replace(EXCHANGE, answer="Berlin.")
    found = reconcile([_exercise("a", CORRECTION), _exercise("b", CRITIQUE, exchange=other)])
    assert (list(_taught(found)), found.covered) == (["a", "b"], {})


@pytest.mark.parametrize(
    ("scores", "taught"),
    [
        ([1.0, -1.0], {}),
        ([1.0, 1.0, -1.0], {"0": 1.0}),
        ([0.5, -1.0], {"1": 0.5}),
        ([-0.5, 0.2, -0.1], {"0": 0.4}),
        ([1.0, 1.0, 1.0], {"0": 1.0}),
    ],
)
def test_contradictory_ratings_cancel(scores: list[float], taught: dict[str, float]) -> None:
    found = reconcile([_exercise(str(place), Rating(one)) for place, one in enumerate(scores)])
    assert _taught(found) == pytest.approx(taught)
    reasons = _reasons(found)
    if not taught:
        assert set(reasons.values()) == {CANCELLED}
        return
    [kept] = taught
    for place, score in enumerate(scores):
        if str(place) != kept:
            agrees = score * scores[int(kept)] > 0
            assert found.covered[str(place)].by == (kept if agrees else "")
            assert (reasons[str(place)] == OUTWEIGHED) != agrees


def test_the_weightier_of_two_corrections_is_taught() -> None:
    says = {"a": ("Berlin.", 0.5), "b": ("Paris.", 0.3), "c": ("Berlin.", 0.1)}
    made = [_exercise(name, Correction(text), weight=w) for name, (text, w) in says.items()]
    found = reconcile(made)
    assert _taught(found) == pytest.approx({"a": 0.3})
    assert (found.covered["c"].by, found.covered["b"].reason) == ("a", OUTWEIGHED)
    found = reconcile([replace(made[0], weight=0.3), made[1]])
    assert (found.taught, set(_reasons(found).values())) == ([], {CANCELLED})


def test_opposite_preferences_cancel_whichever_answer_they_are_said_of() -> None:
    other = replace(EXCHANGE, answer="Berlin.")
    found = reconcile([_exercise("a", BETTER), _exercise("b", WORSE)])
    assert (found.taught, set(_reasons(found).values())) == ([], {CANCELLED})
    turned = Preference("Bonn.", Preferred.TARGET)
    found = reconcile([_exercise("a", BETTER), _exercise("b", turned, exchange=other)])
    assert list(_taught(found)) == ["a", "b"]


def test_the_last_word_of_an_author_counts() -> None:
    found = reconcile([_exercise("a", UP, "ada"), _exercise("b", DOWN, "ada")])
    assert (_taught(found), _reasons(found)) == ({"b": 1.0}, {"a": LATER})
    found = reconcile([_exercise("a", UP), _exercise("b", DOWN)])
    assert _taught(found) == {}


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome("0", FeedbackState.LEARNED),
        Outcome("0", FeedbackState.NOT_LEARNED, "the gate refused it"),
    ],
)
def test_what_agrees_fares_as_what_is_taught(outcome: Outcome) -> None:
    found = reconcile([_exercise(str(place), UP) for place in range(3)])
    for one in found.outcomes([outcome]):
        assert one.state is outcome.state
        assert one.reason.startswith("taught along with 0")
        assert one.reason.endswith(outcome.reason)
        assert one.lessons == ()
