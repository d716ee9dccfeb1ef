"""What feedback speaks of and what it says, as values that are sent and read alike.

Feedback has a target (an answer of the service, or a whole exchange sent along) and a signal (a
critique, a rating, a correction or a preference).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from learnback.v1 import feedback_pb2
from learnback_client import checks
from learnback_client.errors import invalid
from learnback_client.generation import Candidate, Reply
from learnback_client.messages import MessageLike, read_chat, write_chat
from learnback_client.protos import read_enum


class Thumb(StrEnum):
    """A verdict without shades. Listed in the contract's order."""

    UNSPECIFIED = "unspecified"
    UP = "up"
    DOWN = "down"


class Preferred(StrEnum):
    """Which of two answers is better. Listed in the contract's order."""

    UNSPECIFIED = "unspecified"
    TARGET = "target"
    """The one that the feedback speaks of."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class GenerationRef:
    """Names an answer that the service gave."""

    generation_id: str
    candidate: int = 0
    """Which of its candidates, from 0."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was asked and answered, for an answer that the service has no record of.

    Exactly one of `prompt` and `messages` is asked for.
    """

    answer: str
    prompt: str | None = None
    messages: Sequence[MessageLike] | None = None


@dataclass(frozen=True, slots=True)
class AnswerText:
    """An answer that nobody's model gave: any text, to be compared with one."""

    text: str


@dataclass(frozen=True, slots=True)
class Critique:
    """What is wrong, or right, in words."""

    text: str
    """1 to 4,096 characters."""


@dataclass(frozen=True, slots=True)
class Rating:
    """How good it was."""

    value: float | Thumb | str
    """From -1 (useless) to 1 (perfect), or a thumb ("up", "down")."""


@dataclass(frozen=True, slots=True)
class Correction:
    """The answer that should have been given."""

    text: str
    """1 to 32,768 characters."""


@dataclass(frozen=True, slots=True)
class Preference:
    """Which of two answers is better."""

    other: GenerationRef | AnswerText
    """The one that the target is compared with."""
    preferred: Preferred


Target: TypeAlias = str | GenerationRef | Reply | Candidate | Exchange
"""What feedback may speak of. A string is a generation id."""
Signal: TypeAlias = Critique | Rating | Correction | Preference


def compare(better: Target | AnswerText, over: Target | AnswerText) -> tuple[Target, Preference]:
    """Says "`better` is better than `over`" as a target and a preference.

    The contract asks for a target that the service knows or is told whole, and another answer
    that is a generation or a text; either of the two may be the better one.

    Raises:
        InvalidRequest: Neither can be the target, or both are whole exchanges.
    """
    if not isinstance(better, AnswerText) and not isinstance(over, Exchange):
        return better, Preference(_other("over", over), Preferred.TARGET)
    if not isinstance(over, AnswerText):
        return over, Preference(_other("better", better), Preferred.OTHER)
    raise invalid("over", "one of the two must be a generation or an Exchange, not both texts")


def _other(field: str, answer: Target | AnswerText) -> GenerationRef | AnswerText:
    if isinstance(answer, AnswerText):
        return answer
    if isinstance(answer, Exchange):
        raise invalid(field, "only one can be an Exchange; give the other's answer as AnswerText")
    return reference(field, answer)


def reference(field: str, target: object) -> GenerationRef:
    """Returns the name of the answer that `target` is.

    Raises:
        InvalidRequest: It names none.
    """
    match target:
        case str():
            return GenerationRef(checks.required(field, target))
        case GenerationRef():
            checks.integer(f"{field}.candidate", target.candidate)
            return GenerationRef(checks.required(field, target.generation_id), target.candidate)
        case Reply():
            # Its first answer, which is not the one of index 0 if it is the best of several.
            first = target.candidates[0].index if target.candidates else 0
            return GenerationRef(checks.required(field, target.generation_id), first)
        case Candidate():
            return GenerationRef(checks.required(field, target.generation_id), target.index)
    raise invalid(
        field, f"must be a generation id, a Reply or a Candidate, not a {type(target).__name__}"
    )


def write_target(request: feedback_pb2.SubmitFeedbackRequest, target: Target) -> None:
    """Puts what the feedback speaks of into the request."""
    if isinstance(target, Exchange):
        request.exchange.CopyFrom(_write_exchange(target))
    else:
        request.generation.CopyFrom(_write_reference(reference("about", target)))


def write_signal(request: feedback_pb2.SubmitFeedbackRequest, signal: Signal) -> None:
    """Puts what is said into the request."""
    match signal:
        case Critique():
            request.critique.text = checks.text("critique", signal.text)
        case Correction():
            request.correction.text = checks.text("correction", signal.text)
        case Rating():
            request.rating.CopyFrom(_write_rating(signal.value))
        case Preference():
            request.preference.CopyFrom(_write_preference(signal))
        case _:
            raise invalid(
                "signal",
                "must be a Critique, Rating, Correction or Preference, "
                f"not a {type(signal).__name__}",
            )


def _write_reference(named: GenerationRef) -> feedback_pb2.GenerationRef:
    return feedback_pb2.GenerationRef(generation_id=named.generation_id, candidate=named.candidate)


def _write_exchange(exchange: Exchange) -> feedback_pb2.Exchange:
    written = feedback_pb2.Exchange(answer=checks.text("about.answer", exchange.answer))
    if (exchange.prompt is None) == (exchange.messages is None):
        raise invalid("about", "an Exchange needs exactly one of prompt and messages")
    if exchange.prompt is not None:
        written.prompt = checks.text("about.prompt", exchange.prompt)
    if exchange.messages is not None:
        written.chat.CopyFrom(write_chat("about.messages", exchange.messages))
    return written


def _write_rating(value: object) -> feedback_pb2.Rating:
    if isinstance(value, str):
        thumb = checks.member("score", value, Thumb)
        return feedback_pb2.Rating(thumb=feedback_pb2.Thumb.Value(f"THUMB_{thumb.name}"))
    return feedback_pb2.Rating(score=checks.real("score", value))


def _write_preference(preference: Preference) -> feedback_pb2.Preference:
    preferred = checks.member("preferred", preference.preferred, Preferred)
    written = feedback_pb2.Preference(
        preferred=feedback_pb2.Preferred.Value(f"PREFERRED_{preferred.name}")
    )
    if isinstance(preference.other, AnswerText):
        written.text = checks.text("other", preference.other.text)
    else:
        written.generation.CopyFrom(_write_reference(reference("other", preference.other)))
    return written


def read_reference(named: feedback_pb2.GenerationRef) -> GenerationRef:
    """Reads the name of an answer."""
    return GenerationRef(named.generation_id, named.candidate)


def read_exchange(exchange: feedback_pb2.Exchange) -> Exchange:
    """Reads what was asked and answered; its messages are `ChatMessage`s."""
    if exchange.WhichOneof("input") == "chat":
        return Exchange(answer=exchange.answer, messages=read_chat(exchange.chat))
    return Exchange(answer=exchange.answer, prompt=exchange.prompt)


def read_signal(feedback: feedback_pb2.Feedback) -> Signal | None:
    """Reads what was said; None for a kind that only a newer server knows."""
    kind = feedback.WhichOneof("signal")
    if kind == "critique":
        return Critique(feedback.critique.text)
    if kind == "rating":
        return _read_rating(feedback.rating)
    if kind == "correction":
        return Correction(feedback.correction.text)
    if kind == "preference":
        return _read_preference(feedback.preference)
    return None


def _read_rating(rating: feedback_pb2.Rating) -> Rating:
    if rating.WhichOneof("value") == "thumb":
        return Rating(read_enum(Thumb, rating.thumb))
    return Rating(rating.score)


def _read_preference(preference: feedback_pb2.Preference) -> Preference:
    preferred = read_enum(Preferred, preference.preferred)
    if preference.WhichOneof("other") == "text":
        return Preference(AnswerText(preference.text), preferred)
    return Preference(read_reference(preference.generation), preferred)
