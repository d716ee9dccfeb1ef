"""Records, checkpoints and strategies that the tests of the store share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from learnback_store.checkpoints import Checkpoint, CheckpointStore
from learnback_store.feedback import FeedbackQueue
from learnback_store.inbox import FeedbackInbox
from learnback_store.manifest import BASE, CheckpointKind, GateVerdict, Manifest
from learnback_store.records import (
    Account,
    CandidateRecord,
    Correction,
    Critique,
    Exchange,
    FeedbackRecord,
    FeedbackState,
    GenerationRecord,
    GenerationRef,
    Lesson,
    Message,
    Objective,
    Preference,
    Preferred,
    Rating,
    Role,
    Thumb,
    Transition,
    new_feedback_id,
)

BASE_DIGEST = "sha256:" + "0" * 64


def feedback(text: str = "too long", **fields: object) -> FeedbackRecord:
    """Feedback with a fresh id."""
    plain: dict[str, object] = {
        "feedback_id": new_feedback_id(),
        "exchange": Exchange("Paris.", prompt="Capital of France?"),
        "signal": Critique(text),
    }
    return FeedbackRecord(**(plain | fields))  # type: ignore[arg-type]


def generation(generation_id: str = "gen-1", **fields: object) -> GenerationRecord:
    plain: dict[str, object] = {
        "generation_id": generation_id,
        "candidates": (CandidateRecord("Paris.", (5, 6), "STOP"),),
        "prompt_ids": (1, 2),
        "checkpoint": BASE,
        "checkpoint_digest": BASE_DIGEST,
        "prompt": "Capital of France?",
        "sampling": {"temperature": 0.0, "max_tokens": 8, "stop": ("\n",)},
    }
    return GenerationRecord(**(plain | fields))  # type: ignore[arg-type]


def manifest(name: str, **fields: object) -> Manifest:
    plain: dict[str, object] = {
        "name": name,
        "kind": CheckpointKind.ADAPTER,
        "parent": BASE,
        "base_model": "nano",
        "base_digest": BASE_DIGEST,
        "gate": GateVerdict(True, figures={"adoption": 1.0}),
    }
    return Manifest(**(plain | fields))  # type: ignore[arg-type]


def publish(checkpoints: CheckpointStore, name: str, **fields: object) -> Checkpoint:
    """Publishes a small checkpoint."""
    with checkpoints.draft() as draft:
        write_files(draft, name)
        return checkpoints.publish(draft, manifest(name, **fields))


def write_files(draft: Path, content: str) -> None:
    (draft / "adapter_config.json").write_text("{}")
    (draft / "adapter_model.safetensors").write_bytes(content.encode() * 1000)
    (draft / "more").mkdir()
    (draft / "more" / "notes.txt").write_text(content)


async def submit(inbox: FeedbackInbox, count: int) -> list[FeedbackRecord]:
    """Queues feedback, one after the other."""
    records = [feedback(f"critique {index}") for index in range(count)]
    for record in records:
        await inbox.submit(record)
    return records


def taken_texts(queue: FeedbackQueue, count: int = 100) -> list[str]:
    return [_text(delivery.record) for delivery in queue.read_batch(count)]


def _text(record: FeedbackRecord) -> str:
    assert isinstance(record.signal, Critique)
    return record.signal.text


async def wait_until(done: Callable[[], bool]) -> None:
    """Looks again and again; the test's own time-out ends it."""
    while not done():  # noqa: ASYNC110  # what is waited for tells nobody
        await asyncio.sleep(0.01)


# Strategies

_text_values = st.text(max_size=40)
_names = st.text(min_size=1, max_size=10)
_labels = st.dictionaries(_names, _text_values, max_size=3)
_figures = st.floats(allow_nan=False, allow_infinity=False)
_times = st.integers(0, 2**45)
_ids = st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple)
_messages = st.builds(Message, st.sampled_from(Role), _text_values)
_chats = st.lists(_messages, min_size=1, max_size=3).map(tuple)
exchanges = st.one_of(
    st.builds(Exchange, _text_values, chat=_chats),
    st.builds(Exchange, _text_values, prompt=_names),
)
_refs = st.builds(GenerationRef, _names, st.integers(0, 7))
signals = st.one_of(
    st.builds(Critique, _names),
    st.builds(Rating, st.floats(-1, 1), st.none()),
    st.sampled_from([Rating(1.0, Thumb.UP), Rating(-1.0, Thumb.DOWN)]),
    st.builds(Correction, _names),
    st.builds(Preference, _names, st.sampled_from(Preferred), st.none() | _refs),
)
records = st.builds(
    FeedbackRecord,
    feedback_id=_names,
    exchange=exchanges,
    signal=signals,
    generation=st.none() | _refs,
    prompt_ids=_ids,
    answer_ids=_ids,
    answered_by=_text_values,
    answered_by_digest=_text_values,
    author=_text_values,
    labels=_labels,
    create_ms=_times,
    traceparent=_text_values,
)
_lessons = st.builds(
    Lesson,
    objective=st.sampled_from(Objective),
    refinement=_text_values,
    weight=st.floats(0, 1),
    loss_before=st.none() | _figures,
    loss_after=st.none() | _figures,
    answer_before=_text_values,
    answer_after=_text_values,
    margin_before=st.none() | _figures,
    margin_after=st.none() | _figures,
)
_transitions = st.builds(Transition, st.sampled_from(FeedbackState), _times, _text_values)
accounts = st.builds(
    Account,
    history=st.lists(_transitions, min_size=1, max_size=4).map(tuple),
    checkpoint=_text_values,
    lessons=st.lists(_lessons, max_size=2).map(tuple),
)
generations = st.builds(
    GenerationRecord,
    generation_id=_names,
    candidates=st.lists(
        st.builds(CandidateRecord, _text_values, _ids, _text_values), max_size=3
    ).map(tuple),
    prompt_ids=_ids,
    checkpoint=_names,
    checkpoint_digest=_names,
    prompt=_names,
    sampling=st.dictionaries(
        _names,
        st.none() | st.booleans() | st.integers(-5, 5) | _figures | _text_values
        | st.lists(_text_values, max_size=2).map(tuple),
        max_size=3,
    ),
    author=_text_values,
    labels=_labels,
    request_id=_text_values,
    create_ms=_times,
    traceparent=_text_values,
)  # fmt: skip
