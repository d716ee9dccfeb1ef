"""Checks what is asked against the contract, before anything is computed.

Here stands what a generation may ask, and what its fields share with those of other requests
(`feedback_checks.py`, `checkpoint_service.py`).

Everything that is wrong with a request is told at once, by the path of the field. What would take
long to look through (a million turns, a million ids) is refused by its length alone.

Beyond the contract: nothing. Whether the checkpoint exists and whether the tokens fit is known only
later, in `intake.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from learnback.v1 import inference_pb2 as pb
from learnback_server.engine.options import ModelFacts
from learnback_server.errors import (
    MAX_VIOLATIONS,
    ContextLengthError,
    InvalidFieldError,
    Violation,
    clipped,
)

MAX_SEED = 2**53 - 1
MAX_CANDIDATES = 8
MAX_TOP_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_LABELS = 16
MAX_LABEL_KEY_CHARS = 63
MAX_LABEL_VALUE_CHARS = 256
MAX_AUTHOR_CHARS = 128
MAX_REQUEST_ID_CHARS = 128
# Of google.protobuf.Duration: about 10,000 years.
_MAX_DURATION_SECONDS = 315_576_000_000
_MAX_NANOS = 999_999_999

_LABEL_KEY = re.compile(r"[a-z0-9_.-]{1,63}")
_CHECKPOINT_NAME = re.compile(r"[a-z0-9-]{1,63}")
_PRINTABLE_ASCII = re.compile(r"[ -~]*")
_KNOWN_ROLES = (pb.ROLE_SYSTEM, pb.ROLE_USER, pb.ROLE_ASSISTANT)


class Violations:
    """Gathers what is wrong; remembers the first few, and counts them all."""

    def __init__(self) -> None:
        self._first: list[Violation] = []
        self._found = 0

    def add(self, field: str, description: str) -> None:
        """Notes that a field is wrong, and what to do about it."""
        self._found += 1
        if len(self._first) < MAX_VIOLATIONS:
            self._first.append(Violation(field, description))

    def refuse_if_any(self) -> None:
        """Raises InvalidFieldError if anything was noted."""
        if self._first:
            raise InvalidFieldError(self._first, self._found)


@dataclass(frozen=True, slots=True)
class Range:
    """Allowed values of a number. NaN is in no range."""

    low: float
    high: float
    over_low: bool = False
    """Whether `low` itself is excluded."""

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.over_low and value == self.low)

    def __str__(self) -> str:
        if self.over_low:
            return f"over {self.low}, up to {self.high}"
        return f"{self.low} to {self.high}"


_PRIORITIES = Range(-10, 10)


class SpecCheck:
    """Checks GenerationSpecs for one model.

    Args:
        facts: The model's bounds.
    """

    def __init__(self, facts: ModelFacts) -> None:
        self._facts = facts
        self._ranges = {
            "temperature": Range(0, 2),
            "top_p": Range(0, 1, over_low=True),
            "top_k": Range(0, facts.vocab_size),
            "min_p": Range(0, 1),
            "repetition_penalty": Range(0, 10, over_low=True),
            "presence_penalty": Range(-2, 2),
            "frequency_penalty": Range(-2, 2),
            "seed": Range(0, MAX_SEED),
            "max_tokens": Range(1, 2**31 - 1),
            "logprobs": Range(0, MAX_TOP_LOGPROBS),
            "n": Range(1, MAX_CANDIDATES),
        }

    def check(self, spec: pb.GenerationSpec, *, streamed: bool = False) -> None:
        """Checks every field.

        Args:
            spec: As it came.
            streamed: Whether the answer is told as it comes.

        Raises:
            InvalidFieldError: Some are missing, malformed or out of their range.
            ContextLengthError: There are more turns or ids than the context has tokens.
        """
        violations = Violations()
        self._check_input(spec, violations)
        self._check_sampling(spec.sampling, violations)
        _check_names(spec, violations)
        check_labels(spec.labels, "spec.labels", violations)
        _check_times(spec, violations)
        if spec.rerank:
            _check_rerank(spec, violations, streamed=streamed)
        violations.refuse_if_any()

    def _check_input(self, spec: pb.GenerationSpec, violations: Violations) -> None:
        kind = spec.WhichOneof("input")
        if kind is None:
            violations.add("spec.input", "is required: set one of chat, prompt and token_ids")
        elif kind == "prompt":
            if not spec.prompt:
                violations.add("spec.prompt", "must not be empty")
        elif kind == "token_ids":
            self._check_ids(spec.token_ids.ids, violations)
        elif self._facts.has_chat_template:
            self._check_chat(spec.chat, violations)
        else:
            violations.add("spec.chat", "this model has no chat template; send prompt instead")

    def _check_ids(self, ids: Sequence[int], violations: Violations) -> None:
        path = "spec.token_ids.ids"
        last = self._facts.vocab_size - 1
        if not ids:
            violations.add(path, "must have at least one id")
        self._refuse_too_many(len(ids), path)
        for place, token_id in enumerate(ids):
            if not 0 <= token_id <= last:
                violations.add(f"{path}[{place}]", f"must be 0 to {last}, not {token_id}")

    def _check_chat(self, chat: pb.Chat, violations: Violations) -> None:
        self._refuse_too_many(len(chat.messages), "spec.chat.messages")
        check_turns(chat.messages, "spec.chat.messages", violations)

    def _refuse_too_many(self, count: int, path: str) -> None:
        """Refuses by length alone: each id, and each turn, takes at least one token."""
        context = self._facts.context_tokens
        if count > context:
            description = f"{count} entries can't fit the context of {context} tokens"
            raise ContextLengthError([Violation(path, description)], context_tokens=context)

    def _check_sampling(self, sampling: pb.Sampling, violations: Violations) -> None:
        for name, allowed in self._ranges.items():
            if sampling.HasField(name):  # type: ignore[arg-type]  # one of the names above
                value = getattr(sampling, name)
                if value not in allowed:
                    violations.add(f"spec.sampling.{name}", f"must be {allowed}, not {value:g}")
        if len(sampling.stop) > MAX_STOPS:
            violations.add("spec.sampling.stop", f"must be at most {MAX_STOPS} strings")
            return
        for place, stop in enumerate(sampling.stop):
            if not 1 <= len(stop) <= MAX_STOP_CHARS:
                description = f"must have 1 to {MAX_STOP_CHARS} characters, not {len(stop)}"
                violations.add(f"spec.sampling.stop[{place}]", description)


def check_turns(turns: Sequence[pb.Message], path: str, violations: Violations) -> None:
    """Checks the turns of a conversation; `path` is where they stand in the request."""
    if not turns:
        violations.add(path, "must have at least one turn")
    for place, turn in enumerate(turns):
        if not turn.content:
            violations.add(f"{path}[{place}].content", "must not be empty")
        wrong = _wrong_role(turn.role, first=place == 0, last=place == len(turns) - 1)
        if wrong:
            violations.add(f"{path}[{place}].role", wrong)


def _wrong_role(role: int, *, first: bool, last: bool) -> str:
    """Returns what is wrong with who speaks at this place; empty if nothing is."""
    if role not in _KNOWN_ROLES:
        return f"must be ROLE_SYSTEM, ROLE_USER or ROLE_ASSISTANT, not {role}"
    if role == pb.ROLE_SYSTEM and not first:
        return "a system turn may only come first"
    if role != pb.ROLE_USER and last:
        return "the last turn must be the user's"
    return ""


def _check_names(spec: pb.GenerationSpec, violations: Violations) -> None:
    check_checkpoint_name(spec.checkpoint, "spec.checkpoint", "for the live one", violations)
    check_author(spec.author, "spec.author", violations)
    check_request_id(spec.request_id, "spec.request_id", violations)


def check_checkpoint_name(name: str, path: str, empty: str, violations: Violations) -> None:
    """Checks the name of a checkpoint; `empty` says what leaving it out means."""
    if name and not _CHECKPOINT_NAME.fullmatch(name):
        description = f"must be 1 to 63 characters out of [a-z0-9-], or empty {empty}"
        violations.add(path, description)


def check_author(author: str, path: str, violations: Violations) -> None:
    """Checks the name of an end user."""
    if len(author) > MAX_AUTHOR_CHARS:
        violations.add(path, f"must be at most {MAX_AUTHOR_CHARS} characters")


def check_request_id(request_id: str, path: str, violations: Violations) -> None:
    """Checks the caller's id of a call."""
    if len(request_id) > MAX_REQUEST_ID_CHARS or not _PRINTABLE_ASCII.fullmatch(request_id):
        violations.add(path, f"must be at most {MAX_REQUEST_ID_CHARS} printable ASCII characters")


def check_labels(labels: Mapping[str, str], path: str, violations: Violations) -> None:
    """Checks the labels of a generation or of feedback."""
    if len(labels) > MAX_LABELS:
        violations.add(path, f"must be at most {MAX_LABELS}, not {len(labels)}")
        return
    for key, value in labels.items():
        place = f"{path}[{clipped(key, MAX_LABEL_KEY_CHARS)}]"
        if not _LABEL_KEY.fullmatch(key):
            description = f"must be 1 to {MAX_LABEL_KEY_CHARS} characters out of [a-z0-9_.-]"
            violations.add(place, f"its key {description}")
        if len(value) > MAX_LABEL_VALUE_CHARS:
            description = f"must be at most {MAX_LABEL_VALUE_CHARS} characters, not {len(value)}"
            violations.add(place, description)


def _check_rerank(spec: pb.GenerationSpec, violations: Violations, *, streamed: bool) -> None:
    if streamed:
        description = (
            "can't be had in a stream, whose candidates come side by side; call Generate, or set "
            "acceptance and put them in order by the scores of the last message"
        )
        violations.add("spec.rerank", description)
    elif spec.sampling.n < 2:
        violations.add("spec.rerank", "needs spec.sampling.n of 2 or more, to put them in order")


def _check_times(spec: pb.GenerationSpec, violations: Violations) -> None:
    if spec.HasField("priority") and spec.priority not in _PRIORITIES:
        violations.add("spec.priority", f"must be {_PRIORITIES}, not {spec.priority}")
    if spec.HasField("queue_timeout"):
        _check_duration(spec.queue_timeout, "spec.queue_timeout", violations)
    if spec.HasField("time_limit"):
        _check_duration(spec.time_limit, "spec.time_limit", violations)


def _check_duration(duration: Duration, path: str, violations: Violations) -> None:
    if not (
        0 <= duration.seconds <= _MAX_DURATION_SECONDS
        and 0 <= duration.nanos <= _MAX_NANOS
        and (duration.seconds or duration.nanos)
    ):
        violations.add(path, "must be a valid duration greater than zero")
