"""The values that server and trainer hand to each other.

Plain frozen dataclasses; `codec.py` tells how they are written down. Times are whole milliseconds
since 1970 (UTC).
"""

from __future__ import annotations

import enum
import hashlib
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from learnback_store.codec import Record, Strict, canonical_json, require_finite, to_body

# Random part of an id. 64 bits: two servers never talk to keep theirs apart.
_ID_RANDOM_BYTES = 8
_ID_TIME_DIGITS = 16


def now_ms() -> int:
    """Returns the time in milliseconds since 1970 (UTC)."""
    return time.time_ns() // 1_000_000


def new_feedback_id() -> str:
    """Returns an id that sorts by time: "fb-", 64 bits of nanoseconds, 64 random bits, in hex."""
    return f"fb-{time.time_ns():016x}{secrets.token_hex(_ID_RANDOM_BYTES)}"


def least_feedback_id(time_ms: int) -> str:
    """Returns what every id made at this time or later sorts after."""
    return f"fb-{time_ms * 1_000_000:016x}"


def feedback_time_ns(feedback_id: str) -> int:
    """Returns when an id was made, in nanoseconds since 1970 (UTC)."""
    return int(feedback_id.removeprefix("fb-")[:16], 16)


def new_round_id() -> str:
    """Returns the id of a round of training; sorts by time, as `new_feedback_id`."""
    return f"round-{time.time_ns():016x}{secrets.token_hex(_ID_RANDOM_BYTES)}"


# What was asked and answered


class Role(enum.StrEnum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Message(Strict):
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Exchange(Strict):
    """What was asked and what was answered. Exactly one of `chat` and `prompt` is set."""

    answer: str
    chat: tuple[Message, ...] = ()
    prompt: str = ""

    def __post_init__(self) -> None:
        if bool(self.chat) == bool(self.prompt):
            raise ValueError("an exchange has either a chat or a prompt")


@dataclass(frozen=True, slots=True)
class GenerationRef(Strict):
    """Names one answer of the service."""

    generation_id: str
    candidate: int = 0


@dataclass(frozen=True, slots=True)
class CandidateRecord(Strict):
    """One answer of a generation."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str = ""
    """Name of `learnback.v1.FinishReason` without its prefix."""


@dataclass(frozen=True, slots=True)
class GenerationRecord(Record):
    """One generation: what was asked, what was answered, by what, for whom.

    Exactly one of `chat` and `prompt` is set; for an input of token ids, `prompt` is their text.
    """

    schema: ClassVar[str] = "learnback.generation/1"

    generation_id: str
    candidates: tuple[CandidateRecord, ...]
    prompt_ids: tuple[int, ...]
    checkpoint: str
    checkpoint_digest: str
    chat: tuple[Message, ...] = ()
    prompt: str = ""
    sampling: Mapping[str, float | int | str | bool | tuple[str, ...] | None] = field(
        default_factory=dict
    )
    """How tokens were chosen, by the names of `learnback.v1.Sampling`, with defaults resolved."""
    author: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    request_id: str = ""
    create_ms: int = field(default_factory=now_ms)
    traceparent: str = ""
    """The span of the call that made it (W3C); empty if it was not traced."""

    def exchange(self, candidate: int) -> Exchange:
        """Returns the exchange of one candidate.

        Raises:
            IndexError: There is no such candidate.
        """
        if not 0 <= candidate < len(self.candidates):
            raise IndexError(f"the generation has {len(self.candidates)} candidates")
        return Exchange(self.candidates[candidate].text, self.chat, self.prompt)


# What was said of it


@dataclass(frozen=True, slots=True)
class Critique(Strict):
    """What is wrong, or right, in words."""

    text: str
    kind: Literal["critique"] = "critique"


class Thumb(enum.StrEnum):
    """A rating by thumb."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Rating(Strict):
    """How good it was."""

    score: float
    """-1 (useless) to 1 (perfect)."""
    thumb: Thumb | None = None
    """Set if it was given as a thumb; the score is then 1 or -1."""
    kind: Literal["rating"] = "rating"

    def __post_init__(self) -> None:
        require_finite("a rating", [self.score])


@dataclass(frozen=True, slots=True)
class Correction(Strict):
    """The answer that should have been given."""

    text: str
    kind: Literal["correction"] = "correction"


class Preferred(enum.StrEnum):
    """Which of two answers is better."""

    TARGET = "target"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Preference(Strict):
    """Which of two answers is better: the target of the feedback, or the other one."""

    other: str
    """The text of the other answer."""
    preferred: Preferred
    generation: GenerationRef | None = None
    """The other answer's generation, if it was named by it."""
    kind: Literal["preference"] = "preference"


Signal = Critique | Rating | Correction | Preference


@dataclass(frozen=True, slots=True)
class FeedbackRecord(Record):
    """One piece of feedback as it was submitted. Never changes, and needs no other record."""

    schema: ClassVar[str] = "learnback.feedback/1"

    feedback_id: str
    exchange: Exchange
    signal: Annotated[Signal, Field(discriminator="kind")]
    generation: GenerationRef | None = None
    """What it speaks of; None if the exchange was sent along."""
    prompt_ids: tuple[int, ...] = ()
    """Tokens of the input as the model saw them; empty if unknown."""
    answer_ids: tuple[int, ...] = ()
    """Tokens of the answer; empty if unknown."""
    answered_by: str = ""
    """Name of the checkpoint that answered; empty if unknown."""
    answered_by_digest: str = ""
    author: str = ""
    asked_by: str = ""
    """The author of the generation, whose words the exchange bears; empty if unknown."""
    labels: Mapping[str, str] = field(default_factory=dict)
    create_ms: int = field(default_factory=now_ms)
    traceparent: str = ""
    """The span of the call that brought it (W3C); empty if it was not traced."""

    def content_digest(self) -> str:
        """Returns SHA-256 over what the caller said: all but id, time and trace."""
        body = to_body(self)
        del body["feedback_id"], body["create_ms"], body["traceparent"]
        return hashlib.sha256(canonical_json(body).encode()).hexdigest()


# What became of it


class FeedbackState(enum.StrEnum):
    """Where a piece of feedback stands. Names equal those of `learnback.v1.FeedbackState`."""

    QUEUED = "queued"
    LEARNING = "learning"
    LEARNED = "learned"
    NOT_LEARNED = "not_learned"
    QUARANTINED = "quarantined"
    DEAD_LETTERED = "dead_lettered"
    ERASED = "erased"

    @property
    def final(self) -> bool:
        """Whether no step of training follows by itself."""
        return self not in _WAITING


_WAITING: Final = frozenset({FeedbackState.QUEUED, FeedbackState.LEARNING})


class Objective(enum.StrEnum):
    """What is minimised on a lesson. Names equal those of `learnback.v1.Objective`."""

    DISTILLATION = "distillation"
    IMITATION = "imitation"
    SFT = "sft"
    KTO = "kto"
    DPO = "dpo"


@dataclass(frozen=True, slots=True)
class Lesson(Strict):
    """What the trainer made of a piece of feedback, with the proof of what it did."""

    objective: Objective
    refinement: str
    """The answer that was taught; of a rating below 0 the rated one, which is to be avoided."""
    weight: float = 1.0
    """In the round, 0 to 1."""
    loss_before: float | None = None
    """Nats a token, before the round."""
    loss_after: float | None = None
    """Nats a token, after the round."""
    answer_before: str = ""
    """To the same input, without the critique, before the round."""
    answer_after: str = ""
    margin_before: float | None = None
    """Nats by which the preferred answer is likelier than the other one, before the round."""
    margin_after: float | None = None

    def __post_init__(self) -> None:
        figures = [self.loss_before, self.loss_after, self.margin_before, self.margin_after]
        require_finite("a lesson", [self.weight, *figures])


@dataclass(frozen=True, slots=True)
class Transition(Strict):
    """One state that a piece of feedback came to."""

    state: FeedbackState
    time_ms: int
    reason: str = ""
    """Why, in words."""


@dataclass(frozen=True, slots=True)
class Account(Record):
    """What became of a piece of feedback so far. Its state is the last of its history."""

    schema: ClassVar[str] = "learnback.account/1"

    history: tuple[Transition, ...]
    """Every state it was in, oldest first; at least one."""
    checkpoint: str = ""
    """The checkpoint that learned it; set on LEARNED."""
    lessons: tuple[Lesson, ...] = ()

    def __post_init__(self) -> None:
        if not self.history:
            raise ValueError("an account has at least one transition")

    @classmethod
    def queued(cls, record: FeedbackRecord) -> Account:
        """Returns the account of feedback that was just queued."""
        return cls((Transition(FeedbackState.QUEUED, record.create_ms),))

    @property
    def state(self) -> FeedbackState:
        """Where it stands."""
        return self.history[-1].state

    @property
    def reason(self) -> str:
        """Why it stands there."""
        return self.history[-1].reason

    @property
    def update_ms(self) -> int:
        """When its state last changed."""
        return self.history[-1].time_ms

    def moved(
        self,
        state: FeedbackState,
        reason: str = "",
        *,
        checkpoint: str = "",
        lessons: tuple[Lesson, ...] | None = None,
    ) -> Account:
        """Returns the account one transition later; lessons stay unless others are given."""
        return replace(
            self,
            history=(*self.history, Transition(state, now_ms(), reason)),
            checkpoint=checkpoint,
            lessons=self.lessons if lessons is None else lessons,
        )


@dataclass(frozen=True, slots=True)
class FeedbackView(Strict):
    """A piece of feedback and what became of it: what GetFeedback tells."""

    record: FeedbackRecord
    account: Account

    @property
    def feedback_id(self) -> str:
        """The id of the feedback."""
        return self.record.feedback_id

    @classmethod
    def erased(cls, feedback_id: str) -> FeedbackView:
        """Returns what stands in the place of feedback that was erased with its author."""
        record = FeedbackRecord(
            feedback_id, Exchange("", prompt=_ERASED), Critique(""), create_ms=_time_of(feedback_id)
        )
        history = (Transition(FeedbackState.ERASED, now_ms(), "erased with its author"),)
        return cls(record, Account(history))


# An exchange has some input, whatever became of it. Never told (`protos.py`).
_ERASED = "(erased)"


def _time_of(feedback_id: str) -> int:
    """When an id of ours was made, in milliseconds; 0 if it is none of ours."""
    digits = feedback_id.removeprefix("fb-")[:_ID_TIME_DIGITS]
    try:
        return int(digits, 16) // 1_000_000
    except ValueError:
        return 0
