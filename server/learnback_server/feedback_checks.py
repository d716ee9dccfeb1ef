"""Checks requests of FeedbackService against the contract, before the store is asked.

Everything that is wrong is told at once, by the path of the field. What only the store knows (is
there such a generation, has it so many candidates) is told by `feedback_service.py`.

Beyond the contract: an exchange may be as long as a message may be (`max_message_bytes`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set

from learnback.v1 import feedback_pb2 as pb
from learnback_server.validation import (
    MAX_CANDIDATES,
    Range,
    Violations,
    check_author,
    check_checkpoint_name,
    check_labels,
    check_request_id,
    check_turns,
)

MAX_CRITIQUE_CHARS = 4096
MAX_ANSWER_CHARS = 32768
MAX_PAGE_SIZE = 1000
DEFAULT_PAGE_SIZE = 50
# Ids of ours are half as long; what could be none is not looked up.
MAX_ID_CHARS = 128
# A token is about 120 characters.
MAX_PAGE_TOKEN_CHARS = 1024

_ID = re.compile(rf"[!-~]{{1,{MAX_ID_CHARS}}}")
_SCORES = Range(-1, 1)
_CANDIDATES = range(MAX_CANDIDATES)
_KNOWN_THUMBS = (pb.THUMB_UP, pb.THUMB_DOWN)
_KNOWN_PREFERRED = (pb.PREFERRED_TARGET, pb.PREFERRED_OTHER)
_STATES = frozenset(pb.FeedbackState.values()) - {pb.FEEDBACK_STATE_UNSPECIFIED}


def check_submission(request: pb.SubmitFeedbackRequest) -> None:
    """Checks every field.

    Raises:
        InvalidFieldError: Some are missing, malformed or out of their range.
    """
    violations = Violations()
    _check_target(request, violations)
    _check_signal(request, violations)
    check_author(request.author, "author", violations)
    check_labels(request.labels, "labels", violations)
    check_request_id(request.request_id, "request_id", violations)
    violations.refuse_if_any()


def check_id(value: str, path: str) -> None:
    """Checks an id that is required.

    Raises:
        InvalidFieldError: It is empty, or could be none of ours.
    """
    violations = Violations()
    _check_id(value, path, violations)
    violations.refuse_if_any()


def check_erasure(request: pb.EraseAuthorRequest) -> None:
    """Checks every field.

    Raises:
        InvalidFieldError: Some are missing, malformed or out of their range.
    """
    violations = Violations()
    for name, value in (("author", request.author), ("request_id", request.request_id)):
        if not value:
            violations.add(name, "is required")
    check_author(request.author, "author", violations)
    check_request_id(request.request_id, "request_id", violations)
    violations.refuse_if_any()


def check_listing(request: pb.ListFeedbackRequest) -> None:
    """Checks every field.

    Raises:
        InvalidFieldError: Some are malformed or out of their range.
    """
    violations = Violations()
    check_page(request.page_size, request.page_token, violations)
    check_states(request.states, _STATES, violations)
    check_author(request.author, "author", violations)
    check_checkpoint_name(request.checkpoint, "checkpoint", "for any", violations)
    if request.generation_id:
        _check_id(request.generation_id, "generation_id", violations)
    check_labels(request.labels, "labels", violations)
    violations.refuse_if_any()


def check_page(page_size: int, page_token: str, violations: Violations) -> None:
    """Checks the fields of every list by which pages are asked for."""
    if not 0 <= page_size <= MAX_PAGE_SIZE:
        violations.add(
            "page_size",
            f"must be 1 to {MAX_PAGE_SIZE}, or 0 for {DEFAULT_PAGE_SIZE}, not {page_size}",
        )
    if len(page_token) > MAX_PAGE_TOKEN_CHARS:
        violations.add("page_token", "is none of ours; begin again without one")


def check_states(states: Sequence[int], known: Set[int], violations: Violations) -> None:
    """Checks the states that a list is asked for; `known` are the numbers there are."""
    if len(states) > len(known):
        violations.add("states", f"must be at most {len(known)}, each once, not {len(states)}")
        return
    for place, state in enumerate(states):
        if state not in known:
            violations.add(f"states[{place}]", f"must be one of the states by name, not {state}")


def _check_id(value: str, path: str, violations: Violations) -> None:
    if not value:
        violations.add(path, "is required")
    elif not _ID.fullmatch(value):
        description = f"must be 1 to {MAX_ID_CHARS} printable ASCII characters without spaces"
        violations.add(path, description)


def _check_target(request: pb.SubmitFeedbackRequest, violations: Violations) -> None:
    match request.WhichOneof("target"):
        case "generation":
            _check_ref(request.generation, "generation", violations)
        case "exchange":
            _check_exchange(request.exchange, violations)
        case _:
            violations.add("target", "is required: set one of generation and exchange")


def _check_ref(ref: pb.GenerationRef, path: str, violations: Violations) -> None:
    _check_id(ref.generation_id, f"{path}.generation_id", violations)
    if ref.candidate not in _CANDIDATES:
        description = f"must be 0 to {_CANDIDATES[-1]}, not {ref.candidate}"
        violations.add(f"{path}.candidate", description)


def _check_exchange(exchange: pb.Exchange, violations: Violations) -> None:
    match exchange.WhichOneof("input"):
        case "chat":
            check_turns(exchange.chat.messages, "exchange.chat.messages", violations)
        case "prompt":
            _check_text(exchange.prompt, "exchange.prompt", violations)
        case _:
            violations.add("exchange.input", "is required: set one of chat and prompt")
    _check_text(exchange.answer, "exchange.answer", violations)


def _check_signal(request: pb.SubmitFeedbackRequest, violations: Violations) -> None:
    match request.WhichOneof("signal"):
        case "critique":
            _check_text(request.critique.text, "critique.text", violations, MAX_CRITIQUE_CHARS)
        case "correction":
            _check_text(request.correction.text, "correction.text", violations, MAX_ANSWER_CHARS)
        case "rating":
            _check_rating(request.rating, violations)
        case "preference":
            _check_preference(request, violations)
        case _:
            description = "is required: set one of critique, rating, correction and preference"
            violations.add("signal", description)


def _check_rating(rating: pb.Rating, violations: Violations) -> None:
    match rating.WhichOneof("value"):
        case "score":
            if rating.score not in _SCORES:
                violations.add("rating.score", f"must be {_SCORES}, not {rating.score:g}")
        case "thumb":
            if rating.thumb not in _KNOWN_THUMBS:
                description = f"must be THUMB_UP or THUMB_DOWN, not {rating.thumb}"
                violations.add("rating.thumb", description)
        case _:
            violations.add("rating.value", "is required: set one of score and thumb")


def _check_preference(request: pb.SubmitFeedbackRequest, violations: Violations) -> None:
    preference = request.preference
    match preference.WhichOneof("other"):
        case "generation":
            _check_ref(preference.generation, "preference.generation", violations)
            if request.HasField("generation") and preference.generation == request.generation:
                description = "must be another answer than the target"
                violations.add("preference.generation", description)
        case "text":
            _check_text(preference.text, "preference.text", violations, MAX_ANSWER_CHARS)
        case _:
            violations.add("preference.other", "is required: set one of generation and text")
    if preference.preferred not in _KNOWN_PREFERRED:
        description = f"must be PREFERRED_TARGET or PREFERRED_OTHER, not {preference.preferred}"
        violations.add("preference.preferred", description)


def _check_text(text: str, path: str, violations: Violations, most: int | None = None) -> None:
    if not text:
        violations.add(path, "must not be empty")
    elif most is not None and text.isspace():
        violations.add(path, "must not be blank")
    elif most is not None and len(text) > most:
        violations.add(path, f"must be at most {most} characters, not {len(text)}")
