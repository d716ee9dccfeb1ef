"""Records come back as they were written, or not at all."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given

from learnback_store.errors import RecordUnreadableError
from learnback_store.records import (
    Account,
    Exchange,
    FeedbackRecord,
    FeedbackState,
    GenerationRecord,
    Lesson,
    Objective,
    Rating,
    least_feedback_id,
    new_feedback_id,
    now_ms,
)
from tests.store.samples import accounts, feedback, generation, generations, records


@given(records)
def test_feedback_comes_back(record: FeedbackRecord) -> None:
    assert FeedbackRecord.from_json(record.to_json()) == record


@given(accounts)
def test_an_account_comes_back(account: Account) -> None:
    assert Account.from_json(account.to_json()) == account


@given(generations)
def test_a_generation_comes_back(record: GenerationRecord) -> None:
    assert GenerationRecord.from_json(record.to_json()) == record


@given(records)
def test_content_is_all_but_id_and_time_and_trace(record: FeedbackRecord) -> None:
    again = replace(
        record, feedback_id="other", create_ms=record.create_ms + 1, traceparent="another"
    )
    changed = replace(record, author=record.author + "x")
    assert again.content_digest() == record.content_digest()
    assert changed.content_digest() != record.content_digest()


def _body(**fields: object) -> str:
    whole = json.loads(feedback().to_json())
    whole["body"] |= fields
    return json.dumps(whole)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "not json",
        '{"schema": "learnback.feedback/1"}',
        feedback().to_json().replace("feedback/1", "feedback/2"),
        generation().to_json(),
        _body(surprise=1),
        _body(create_ms="soon"),
        _body(create_ms=1.5),
        _body(signal={"kind": "shrug"}),
        _body(signal={"kind": "critique"}),
        _body(signal={"kind": "rating", "score": "1"}),
        _body(signal={"kind": "rating", "score": float("nan")}),
        _body(exchange={"answer": "a"}),
        _body(labels={"a": 1}),
    ],
)
def test_what_is_not_such_a_record_is_refused(text: str) -> None:
    with pytest.raises(RecordUnreadableError):
        FeedbackRecord.from_json(text)


def test_errors_bear_no_text_of_users() -> None:
    with pytest.raises(RecordUnreadableError) as caught:
        FeedbackRecord.from_json(_body(author=["secret"]))
    assert "secret" not in str(caught.value)
    assert "author" in str(caught.value)


def test_figures_must_be_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        Rating(float("nan"))
    with pytest.raises(ValueError, match="finite"):
        Lesson(Objective.SFT, "x", loss_after=float("inf"))


def test_an_exchange_has_either_a_chat_or_a_prompt() -> None:
    with pytest.raises(ValueError, match="either"):
        Exchange("answer")


def test_ids_sort_by_time() -> None:
    before = least_feedback_id(now_ms())
    ids = [new_feedback_id() for _ in range(1000)]
    assert before <= ids[0]
    assert ids == sorted(set(ids))


def test_a_candidate_that_was_not_generated_is_an_index_error() -> None:
    assert generation().exchange(0).answer == "Paris."
    for candidate in (-1, 1):
        with pytest.raises(IndexError):
            generation().exchange(candidate)


def test_an_account_is_moved_by_its_history() -> None:
    queued = Account.queued(feedback())
    lesson = Lesson(Objective.SFT, "x")
    learned = queued.moved(FeedbackState.LEARNING).moved(
        FeedbackState.LEARNED, checkpoint="ckpt-1", lessons=(lesson,)
    )
    assert [one.state.value for one in learned.history] == ["queued", "learning", "learned"]
    undone = learned.moved(FeedbackState.NOT_LEARNED, "rolled back")
    assert (undone.checkpoint, undone.lessons, undone.reason) == ("", (lesson,), "rolled back")
    assert [state for state in FeedbackState if not state.final] == ["queued", "learning"]
