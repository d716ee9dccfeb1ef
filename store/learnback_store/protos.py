"""How the store's records look on the wire (`learnback.v1`), and back.

What comes from the wire must have passed the edge's validation; what is unset or UNSPECIFIED here
is a ValueError, which the edge should never see.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf import duration_pb2, timestamp_pb2

from learnback.v1 import checkpoints_pb2, feedback_pb2, inference_pb2, learning_pb2
from learnback_store.checkpoints import Checkpoint
from learnback_store.erasures import Erasure
from learnback_store.feedback import QueueStats
from learnback_store.paging import FeedbackFilter
from learnback_store.records import (
    Correction,
    Critique,
    Exchange,
    FeedbackState,
    FeedbackView,
    GenerationRef,
    Lesson,
    Message,
    Objective,
    Preference,
    Preferred,
    Rating,
    Role,
    Signal,
    Thumb,
    Transition,
)
from learnback_store.trainer_status import RoundEnd, RoundProgress, TrainerStatus

_Out = TypeVar("_Out")

_ROLES = {
    inference_pb2.ROLE_SYSTEM: Role.SYSTEM,
    inference_pb2.ROLE_USER: Role.USER,
    inference_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
}
_ROLES_OUT = {role: number for number, role in _ROLES.items()}
_THUMBS = {feedback_pb2.THUMB_UP: Thumb.UP, feedback_pb2.THUMB_DOWN: Thumb.DOWN}
_THUMBS_OUT = {thumb: number for number, thumb in _THUMBS.items()}
_THUMB_SCORES = {Thumb.UP: 1.0, Thumb.DOWN: -1.0}
_PREFERRED = {
    feedback_pb2.PREFERRED_TARGET: Preferred.TARGET,
    feedback_pb2.PREFERRED_OTHER: Preferred.OTHER,
}
_PREFERRED_OUT = {preferred: number for number, preferred in _PREFERRED.items()}

# Exchanges


def chat_from_proto(chat: inference_pb2.Chat) -> tuple[Message, ...]:
    """Reads a conversation."""
    return tuple(
        Message(_known(_ROLES, message.role), message.content) for message in chat.messages
    )


def chat_to_proto(messages: tuple[Message, ...]) -> inference_pb2.Chat:
    """Writes a conversation."""
    return inference_pb2.Chat(
        messages=[
            inference_pb2.Message(role=_ROLES_OUT[message.role], content=message.content)
            for message in messages
        ]
    )


def exchange_from_proto(exchange: feedback_pb2.Exchange) -> Exchange:
    """Reads an exchange."""
    return Exchange(exchange.answer, chat_from_proto(exchange.chat), exchange.prompt)


def exchange_to_proto(exchange: Exchange) -> feedback_pb2.Exchange:
    """Writes an exchange."""
    if exchange.chat:
        return feedback_pb2.Exchange(chat=chat_to_proto(exchange.chat), answer=exchange.answer)
    return feedback_pb2.Exchange(prompt=exchange.prompt, answer=exchange.answer)


def ref_from_proto(ref: feedback_pb2.GenerationRef) -> GenerationRef:
    """Reads the name of an answer."""
    return GenerationRef(ref.generation_id, ref.candidate)


def ref_to_proto(ref: GenerationRef) -> feedback_pb2.GenerationRef:
    """Writes the name of an answer."""
    return feedback_pb2.GenerationRef(generation_id=ref.generation_id, candidate=ref.candidate)


# Signals


def signal_from_proto(
    request: feedback_pb2.SubmitFeedbackRequest, other_answer: str = ""
) -> Signal:
    """Reads what is said of an answer.

    Args:
        request: The request.
        other_answer: For a preference over an answer named by its generation: its text.
    """
    match request.WhichOneof("signal"):
        case "critique":
            return Critique(request.critique.text)
        case "rating":
            return _rating_from_proto(request.rating)
        case "correction":
            return Correction(request.correction.text)
        case "preference":
            return _preference_from_proto(request.preference, other_answer)
        case _:
            raise ValueError("the request has no signal")


def _rating_from_proto(rating: feedback_pb2.Rating) -> Rating:
    if rating.WhichOneof("value") == "score":
        return Rating(rating.score)
    thumb = _known(_THUMBS, rating.thumb)
    return Rating(_THUMB_SCORES[thumb], thumb)


def _preference_from_proto(preference: feedback_pb2.Preference, other_answer: str) -> Preference:
    preferred = _known(_PREFERRED, preference.preferred)
    if preference.WhichOneof("other") == "generation":
        return Preference(other_answer, preferred, ref_from_proto(preference.generation))
    return Preference(preference.text, preferred)


def _put_signal(feedback: feedback_pb2.Feedback, signal: Signal) -> None:
    match signal:
        case Critique(text):
            feedback.critique.text = text
        case Correction(text):
            feedback.correction.text = text
        case Rating(score, None):
            feedback.rating.score = score
        case Rating(_, Thumb() as thumb):
            feedback.rating.thumb = _THUMBS_OUT[thumb]
        case Preference(other, preferred, generation):
            feedback.preference.preferred = _PREFERRED_OUT[preferred]
            if generation:
                feedback.preference.generation.CopyFrom(ref_to_proto(generation))
            else:
                feedback.preference.text = other


# Feedback


def feedback_to_proto(view: FeedbackView) -> feedback_pb2.Feedback:
    """Writes feedback and what became of it; of what was erased, no more than that."""
    record, account = view.record, view.account
    feedback = feedback_pb2.Feedback(
        feedback_id=record.feedback_id,
        author=record.author,
        labels=record.labels,
        state=state_to_proto(account.state),
        state_reason=account.reason,
        lessons=[_lesson_to_proto(lesson) for lesson in account.lessons],
        checkpoint=account.checkpoint,
        answered_by=record.answered_by,
        create_time=timestamp(record.create_ms),
        update_time=timestamp(account.update_ms),
        history=[_transition_to_proto(transition) for transition in account.history],
    )
    if account.state is FeedbackState.ERASED:
        return feedback
    feedback.exchange.CopyFrom(exchange_to_proto(record.exchange))
    if record.generation:
        feedback.generation.CopyFrom(ref_to_proto(record.generation))
    _put_signal(feedback, record.signal)
    return feedback


def erasure_to_proto(erasure: Erasure) -> feedback_pb2.Erasure:
    """Writes the receipt of an erasure."""
    told = feedback_pb2.Erasure(
        erasure_id=erasure.erasure_id,
        author_digest=erasure.author_digest,
        state=feedback_pb2.ErasureState.Value(f"ERASURE_STATE_{erasure.state.name}"),
        feedback_purged=erasure.feedback_purged,
        generations_purged=erasure.generations_purged,
        tainted_checkpoints=erasure.tainted,
        clean_checkpoint=erasure.clean,
        create_time=timestamp(erasure.create_ms),
    )
    if erasure.done_ms is not None:
        told.done_time.CopyFrom(timestamp(erasure.done_ms))
    return told


def filter_from_proto(request: feedback_pb2.ListFeedbackRequest) -> FeedbackFilter:
    """Reads which feedback is asked for."""
    return FeedbackFilter(
        author=request.author,
        states=frozenset(state_from_proto(state) for state in request.states),
        checkpoint=request.checkpoint,
        generation_id=request.generation_id,
        labels=dict(request.labels),
    )


def state_to_proto(state: FeedbackState) -> feedback_pb2.FeedbackState.ValueType:
    """Writes a state; the names are the same on both sides."""
    return feedback_pb2.FeedbackState.Value(f"FEEDBACK_STATE_{state.name}")


def state_from_proto(state: feedback_pb2.FeedbackState.ValueType) -> FeedbackState:
    """Reads a state."""
    name = feedback_pb2.FeedbackState.Name(state)
    return FeedbackState[name.removeprefix("FEEDBACK_STATE_")]


def timestamp(time_ms: int) -> timestamp_pb2.Timestamp:
    """Writes a time in milliseconds since 1970."""
    stamp = timestamp_pb2.Timestamp()
    stamp.FromMilliseconds(time_ms)
    return stamp


def _objective_to_proto(objective: Objective) -> feedback_pb2.Objective.ValueType:
    return feedback_pb2.Objective.Value(f"OBJECTIVE_{objective.name}")


def _transition_to_proto(transition: Transition) -> feedback_pb2.FeedbackTransition:
    return feedback_pb2.FeedbackTransition(
        state=state_to_proto(transition.state),
        time=timestamp(transition.time_ms),
        reason=transition.reason,
    )


def _lesson_to_proto(lesson: Lesson) -> feedback_pb2.Lesson:
    return feedback_pb2.Lesson(
        objective=_objective_to_proto(lesson.objective),
        refinement=lesson.refinement,
        weight=lesson.weight,
        loss_before=lesson.loss_before,
        loss_after=lesson.loss_after,
        answer_before=lesson.answer_before,
        answer_after=lesson.answer_after,
        margin_before=lesson.margin_before,
        margin_after=lesson.margin_after,
    )


# Checkpoints


def checkpoint_to_proto(
    checkpoint: Checkpoint, aliases: tuple[str, ...] = (), *, with_feedback_ids: bool = True
) -> checkpoints_pb2.Checkpoint:
    """Writes a checkpoint.

    Args:
        checkpoint: The checkpoint.
        aliases: Those that point at it now (`Aliases.of`).
        with_feedback_ids: False in lists, where only their number is told.
    """
    manifest = checkpoint.manifest
    told = checkpoints_pb2.Checkpoint(
        name=checkpoint.name,
        digest=checkpoint.digest,
        parent=manifest.parent,
        kind=checkpoints_pb2.CheckpointKind.Value(f"CHECKPOINT_KIND_{manifest.kind.name}"),
        state=checkpoints_pb2.CheckpointState.Value(f"CHECKPOINT_STATE_{checkpoint.state.name}"),
        base_model=manifest.base_model,
        base_digest=manifest.base_digest,
        aliases=aliases,
        feedback_ids=manifest.feedback_ids if with_feedback_ids else (),
        feedback_count=len(manifest.feedback_ids),
        objectives=[_objective_to_proto(objective) for objective in manifest.objectives],
        create_time=timestamp(manifest.create_ms),
        size_bytes=manifest.size_bytes,
        library_versions=manifest.library_versions,
    )
    if manifest.gate:
        told.gate.passed = manifest.gate.passed
        told.gate.reasons.extend(manifest.gate.reasons)
        told.gate.figures.update(manifest.gate.figures)
    return told


# Learning


def learning_to_proto(stats: QueueStats, trainer: TrainerStatus) -> learning_pb2.LearningStatus:
    """Writes how learning stands, but for what only a server knows.

    Args:
        stats: How much waits.
        trainer: What the trainer told of itself; `seen_ms` is 0 if it never did.
    """
    age = duration_pb2.Duration()
    age.FromMilliseconds(round(stats.oldest_seconds * 1000))
    return learning_pb2.LearningStatus(
        queue_depth=stats.depth,
        queue_taken=stats.taken,
        dead_letters=stats.dead,
        oldest_age=age,
        trainer_time=timestamp(trainer.seen_ms) if trainer.seen_ms else None,
        round=_progress_to_proto(trainer.round) if trainer.round else None,
        last_round=_end_to_proto(trainer.last_round) if trainer.last_round else None,
        drift_nats=trainer.drift_nats,
        drift_alarm=trainer.drift_alarm,
    )


def _progress_to_proto(progress: RoundProgress) -> learning_pb2.RoundProgress:
    return learning_pb2.RoundProgress(
        round_id=progress.round_id,
        parent=progress.parent,
        reached=progress.reached,
        feedback_count=progress.feedback_count,
        step=progress.step,
        steps=progress.steps,
        lesson_loss=progress.lesson_loss,
        anchor_loss=progress.anchor_loss,
        begin_time=timestamp(progress.begin_ms),
    )


def _end_to_proto(end: RoundEnd) -> learning_pb2.RoundEnd:
    return learning_pb2.RoundEnd(
        round_id=end.round_id,
        feedback_count=end.feedback_count,
        learned_count=end.learned_count,
        checkpoint=end.checkpoint,
        reasons=end.reasons,
        begin_time=timestamp(end.begin_ms),
        end_time=timestamp(end.end_ms),
    )


def _known(table: Mapping[Any, _Out], number: int) -> _Out:
    """The value behind the number of an enum.

    Raises:
        ValueError: It is unspecified or unknown.
    """
    try:
        return table[number]
    except KeyError:
        raise ValueError(f"{number} is none of {sorted(table)}") from None
