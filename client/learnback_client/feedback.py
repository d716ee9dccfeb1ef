"""Feedback as the service keeps it: what was said, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from learnback.v1 import feedback_pb2
from learnback_client.protos import read_enum, read_time
from learnback_client.signals import (
    Exchange,
    GenerationRef,
    Signal,
    read_exchange,
    read_reference,
    read_signal,
)


class FeedbackState(StrEnum):
    """Where a piece of feedback stands. Listed in the contract's order."""

    UNSPECIFIED = "unspecified"
    QUEUED = "queued"
    """Waits for the trainer."""
    LEARNING = "learning"
    """Is in a round of training now."""
    LEARNED = "learned"
    """Is learned, and its checkpoint was published."""
    NOT_LEARNED = "not_learned"
    """Was tried and not learned; the reason says why."""
    QUARANTINED = "quarantined"
    """Was screened out before training; the reason says why."""
    DEAD_LETTERED = "dead_lettered"
    """Failed repeatedly to be processed; the reason says how."""
    ERASED = "erased"
    """Was erased with its author."""


class Objective(StrEnum):
    """What was minimised. Listed in the contract's order."""

    UNSPECIFIED = "unspecified"
    DISTILLATION = "distillation"
    """The model that has read the critique teaches the one that has not."""
    IMITATION = "imitation"
    """Imitation of the refined answer."""
    SFT = "sft"
    """Supervised fine-tuning on a correction."""
    KTO = "kto"
    """From ratings."""
    DPO = "dpo"
    """From preferences."""


class ErasureState(StrEnum):
    """How far an erasure has come. Listed in the contract's order."""

    UNSPECIFIED = "unspecified"
    PURGING = "purging"
    """Records are being purged."""
    RETRAINING = "retraining"
    """A clean checkpoint is being trained."""
    RETIRING = "retiring"
    """The clean checkpoint serves; the tainted ones are being removed."""
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Lesson:
    """What the trainer made of a piece of feedback, with the proof of what it did."""

    objective: Objective
    refinement: str
    """The answer that was taught; of a rating below 0 the rated one, which is to be avoided."""
    weight: float
    """Its weight in the round, 0 to 1."""
    loss_before: float | None
    """Nats a token, before the round."""
    loss_after: float | None
    """Nats a token, after it."""
    answer_before: str
    """The answer to the same input, without the critique, before the round."""
    answer_after: str
    margin_before: float | None
    """Nats by which the preferred answer is likelier than the other one, before the round."""
    margin_after: float | None
    """The same after it."""


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of state."""

    state: FeedbackState
    time: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class Feedback:
    """One piece of feedback and what became of it."""

    feedback_id: str
    generation: GenerationRef | None
    """The answer it speaks of; None if the exchange was sent along."""
    exchange: Exchange | None
    """What was asked and answered."""
    signal: Signal | None
    """What was said."""
    author: str
    labels: Mapping[str, str]
    state: FeedbackState
    state_reason: str
    """Why it stands there, in words."""
    lessons: tuple[Lesson, ...]
    """What the trainer made of it; empty until then."""
    checkpoint: str
    """The checkpoint that learned it; empty until then."""
    answered_by: str
    """The checkpoint that gave the answer, if it is known."""
    created: datetime | None
    updated: datetime | None
    """When its state last changed."""
    history: tuple[Transition, ...]
    """Every state it was in, oldest first."""
    raw: feedback_pb2.Feedback = field(repr=False, compare=False)
    """The message of the contract."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """The receipt of an erasure. It names the author by a hash only."""

    erasure_id: str
    author_digest: str
    """"sha256:" and 64 hexadecimal digits of the author's name."""
    state: ErasureState
    feedback_purged: int
    generations_purged: int
    tainted_checkpoints: tuple[str, ...]
    """Those that had learned from the author."""
    clean_checkpoint: str
    """The one retrained without the author; empty until done, or if none was tainted."""
    request_id: str
    """Sent again, it tells how far the erasure has come."""
    created: datetime | None
    done: datetime | None
    raw: feedback_pb2.Erasure = field(repr=False, compare=False)
    """The message of the contract."""


def read_feedback(feedback: feedback_pb2.Feedback) -> Feedback:
    """Reads one piece of feedback."""
    has_generation = feedback.HasField("generation")
    return Feedback(
        feedback_id=feedback.feedback_id,
        generation=read_reference(feedback.generation) if has_generation else None,
        exchange=read_exchange(feedback.exchange) if feedback.HasField("exchange") else None,
        signal=read_signal(feedback),
        author=feedback.author,
        labels=dict(feedback.labels),
        state=read_enum(FeedbackState, feedback.state),
        state_reason=feedback.state_reason,
        lessons=tuple(_read_lesson(each) for each in feedback.lessons),
        checkpoint=feedback.checkpoint,
        answered_by=feedback.answered_by,
        created=read_time(feedback, "create_time"),
        updated=read_time(feedback, "update_time"),
        history=tuple(_read_transition(each) for each in feedback.history),
        raw=feedback,
    )


def read_erasure(erasure: feedback_pb2.Erasure, request_id: str) -> Erasure:
    """Reads the receipt of the erasure that was asked for by `request_id`."""
    return Erasure(
        erasure_id=erasure.erasure_id,
        author_digest=erasure.author_digest,
        state=read_enum(ErasureState, erasure.state),
        feedback_purged=erasure.feedback_purged,
        generations_purged=erasure.generations_purged,
        tainted_checkpoints=tuple(erasure.tainted_checkpoints),
        clean_checkpoint=erasure.clean_checkpoint,
        request_id=request_id,
        created=read_time(erasure, "create_time"),
        done=read_time(erasure, "done_time"),
        raw=erasure,
    )


def _read_lesson(lesson: feedback_pb2.Lesson) -> Lesson:
    return Lesson(
        objective=read_enum(Objective, lesson.objective),
        refinement=lesson.refinement,
        weight=lesson.weight,
        loss_before=lesson.loss_before if lesson.HasField("loss_before") else None,
        loss_after=lesson.loss_after if lesson.HasField("loss_after") else None,
        answer_before=lesson.answer_before,
        answer_after=lesson.answer_after,
        margin_before=lesson.margin_before if lesson.HasField("margin_before") else None,
        margin_after=lesson.margin_after if lesson.HasField("margin_after") else None,
    )


def _read_transition(transition: feedback_pb2.FeedbackTransition) -> Transition:
    return Transition(
        state=read_enum(FeedbackState, transition.state),
        time=read_time(transition, "time"),
        reason=transition.reason,
    )
