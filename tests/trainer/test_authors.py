"""One author does not own a round beside others; what waits is not lost; trust is earned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from learnback_store.archive import Archive
from learnback_store.checkpoints import CheckpointStore
from learnback_store.connection import Client
from learnback_store.feedback import Delivery, FeedbackQueue
from learnback_store.keys import Keys
from learnback_store.records import (
    Correction,
    Critique,
    FeedbackRecord,
    FeedbackState,
    GenerationRef,
    Lesson,
    Objective,
    Preference,
    Preferred,
    Rating,
)
from learnback_store.rounds import Outcome
from learnback_trainer.anchors import Amounts
from learnback_trainer.authors import FLOOD, flooding, seat, trust, unconfirmed, weights
from learnback_trainer.gate import Budget
from learnback_trainer.lessons import TOO_LONG
from learnback_trainer.loop import Trainer
from learnback_trainer.metrics import TrainerMetrics
from learnback_trainer.pupil import Base, LoraShape
from learnback_trainer.school import Curriculum
from learnback_trainer.update import Recipe
from tests.trainer.critics import correction, submit


def _said_by(author: str, words: str = "No.") -> FeedbackRecord:
    record = correction("What is the capital of France?", "Paris.", words)
    return FeedbackRecord(record.feedback_id, record.exchange, record.signal, author=author)


def _deliveries(authors: str) -> list[Delivery]:
    return [Delivery(f"{n}-0", _said_by(one), 0, 1) for n, one in enumerate(authors)]


@pytest.mark.parametrize(
    ("authors", "places", "expected"),
    [
        ("aaaaaaaaaaaaaab", 16, "aab"),  # two places are always one's own
        ("aaaaaaaaaaaabcd", 16, "aaabcd"),
        ("abababab", 16, "abababab"),
        ("aaaaaaaa", 4, "aaaa"),  # nobody else is there
        ("abcdefgh", 4, "abcd"),  # the oldest first
        ("aab", 16, "aab"),
        ("", 16, ""),
    ],
)
def test_places(authors: str, places: int, expected: str) -> None:
    deliveries = _deliveries(authors)
    seating = seat(deliveries, places, 0.5)
    assert [one.record.author for one in seating.taken] == list(expected)
    assert Counter(one.entry_id for one in seating.taken + seating.waiting) == Counter(
        one.entry_id for one in deliveries
    )
    assert seating.reasons.keys() == {one.feedback_id for one in seating.waiting}


@pytest.mark.parametrize(
    ("authors", "expected"),
    [
        ("a" * 14 + "b", {"a"}),
        ("a" * 16, set()),  # nobody else is there
        ("aaab", set()),
        ("a" * 8 + "b" * 8, set()),
    ],
)
def test_flooding_needs_many_pieces_and_somebody_else(
    authors: str, expected: set[str], tmp_path: Path
) -> None:
    with Archive(tmp_path / "a.sqlite") as archive:
        assert flooding(_deliveries(authors), archive) == expected
        assert not flooding(_deliveries(authors), archive, {"a"})


def test_the_nameless_do_not_flood(tmp_path: Path) -> None:
    nameless = [Delivery(f"{n}-0", _said_by(""), 0, 1) for n in range(14)]
    with Archive(tmp_path / "a.sqlite") as archive:
        assert not flooding([*nameless, *_deliveries("b")], archive)


def test_only_what_says_what_is_right_needs_confirming() -> None:
    base = _said_by("a")
    signals = {
        "correction": Correction("Rome."),
        "critique": Critique("Too long."),
        "rating": Rating(-1.0),
        "own text": Preference("Rome.", Preferred.OTHER),
        "the model's": Preference("Rome.", Preferred.OTHER, GenerationRef("g", 0)),
        "the answer": Preference("Rome.", Preferred.TARGET),
    }
    said = [
        Delivery("1-0", replace(base, feedback_id=name, signal=signal), 0, 1)
        for name, signal in signals.items()
    ]
    assert unconfirmed(said, {"a"}).keys() == {"correction", "own text"}
    assert not unconfirmed(said, {"b"})


def _fared(archive: Archive, author: str, states: list[FeedbackState], taught: bool = True) -> None:
    """Feedback of an author that came to these states in a round."""
    records = [_said_by(author) for _ in states]
    archive.take([(one, 0) for one in records])
    this = archive.begin_round("base", [one.feedback_id for one in records])
    lessons = (Lesson(Objective.SFT, "No."),) if taught else ()
    outcomes = [
        Outcome(one.feedback_id, state, "why", lessons)
        for one, state in zip(records, states, strict=True)
    ]
    published = "ckpt" if FeedbackState.LEARNED in states else ""
    archive.decide_round(this.round_id, outcomes, published)
    archive.finish_round(this.round_id)


def test_trust_follows_how_feedback_fared(tmp_path: Path) -> None:
    with Archive(tmp_path / "a.sqlite") as archive:
        assert trust(archive, "new") == trust(archive, "") == pytest.approx(0.8)
        _fared(archive, "good", [FeedbackState.LEARNED] * 15)
        _fared(archive, "bad", [FeedbackState.QUARANTINED] * 10 + [FeedbackState.NOT_LEARNED] * 5)
        assert trust(archive, "good") == pytest.approx(19 / 20)
        assert trust(archive, "bad") == pytest.approx(4 / 20)
        # What could not be taught at all is held against nobody.
        _fared(archive, "thankful", [FeedbackState.NOT_LEARNED] * 5, taught=False)
        assert trust(archive, "thankful") == trust(archive, "new")
        records = [_said_by(one) for one in ("good", "bad", "new")]
        archive.take([(one, 0) for one in records])
        found = weights(archive, [archive.get(one.feedback_id) for one in records])
        by_author = [found[one.feedback_id] for one in records]
        assert by_author == pytest.approx([1.0, 0.2 / 0.95, 0.8 / 0.95])


# Too long to be taught, so that it is settled without any teaching.
_ENDLESS = "Never mind. " * 300


@pytest.fixture
def metrics() -> TrainerMetrics:
    return TrainerMetrics()


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive(tmp_path / "archive.sqlite") as opened:
        yield opened


@pytest.fixture
def trainer(
    base: Base, redis: Client, keys: Keys, archive: Archive, metrics: TrainerMetrics, tmp_path: Path
) -> Trainer:
    """One whose rounds have four places."""
    curriculum = Curriculum(Recipe(), Budget(), Amounts(0, 0, 0), answer_tokens=24, seed=0)
    found = Trainer(
        base, redis, keys, archive, CheckpointStore(tmp_path / "checkpoints"), curriculum,
        shape=LoraShape(), round_size=4, round_wait=0.0, metrics=metrics,
    )  # fmt: skip
    found.recover()
    return found


def test_a_flood_is_not_lost_and_others_do_not_wait_for_it(
    trainer: Trainer, archive: Archive, metrics: TrainerMetrics, redis_url: str, redis: Client,
    keys: Keys,
) -> None:  # fmt: skip
    critique = Critique(_ENDLESS)
    flood = [replace(_said_by("mallory"), signal=critique) for _ in range(20)]
    bob = replace(_said_by("bob"), signal=critique)
    submit(redis_url, keys, [*flood, bob])
    trainer.work()
    assert archive.get(bob.feedback_id).account.reason == TOO_LONG
    states = [archive.get(one.feedback_id).account.state for one in flood]
    assert states == [FeedbackState.NOT_LEARNED] * 2 + [FeedbackState.QUEUED] * 18
    waiting = archive.get(flood[2].feedback_id).account
    assert waiting.reason.startswith("waits for a later round: 20 of 21 pieces")
    assert FeedbackQueue(redis, keys).stats().depth == 18
    value = metrics.families.registry.get_sample_value
    assert value("learnback_feedback_put_off_total") == 18
    assert value("learnback_authors_flooding_total") == 1
    while trainer.work():
        pass
    for one in [*flood, bob]:
        history = archive.get(one.feedback_id).account.history
        assert [move.state.final for move in history].count(True) == 1
    assert FeedbackQueue(redis, keys).stats().depth == 0


def test_corrections_of_who_floods_are_set_aside_to_the_last(
    trainer: Trainer, archive: Archive, redis_url: str, redis: Client, keys: Keys
) -> None:
    flood = [_said_by("mallory", _ENDLESS) for _ in range(40)]
    bob = _said_by("bob", _ENDLESS)
    submit(redis_url, keys, [*flood[:20], bob, *flood[20:]])
    while trainer.work():
        pass
    # Those too that came when nobody else's feedback was at hand any more.
    accounts = [archive.get(one.feedback_id).account for one in flood]
    assert {one.state for one in accounts} == {FeedbackState.QUARANTINED}
    assert all(one.reason.startswith(FLOOD) for one in accounts)
    assert archive.get(bob.feedback_id).account.reason == TOO_LONG
    assert FeedbackQueue(redis, keys).stats().depth == 0
