"""The operator's own questions, whose answers must not change: a file of JSON lines.

    {"prompt": "What is the capital of France?", "expected": "Paris"}
    {"messages": [{"role": "user", "content": "..."}], "expected": ["8", "eight"]}

A "prompt" is a user's message where the model has a chat template. "expected", a text or a list of
them, is what a right answer holds: one of them, by whatever case and spaces. The file is read once,
before the model is loaded, so that a mistake in it is told at once, with the number of its line.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learnback_store.records import Exchange, Message, Role
from learnback_trainer.errors import CanaryError


@dataclass(frozen=True, slots=True)
class Canary:
    """A question of the operator's."""

    exchange: Exchange
    """Without an answer."""
    expected: tuple[str, ...] = ()
    """What is right, each by itself; empty if nothing is said."""


def read_canaries(file: Path) -> list[Canary]:
    """Returns the canaries of a file.

    Raises:
        CanaryError: The file can't be read, or a line is something else.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise CanaryError(f"the canaries in {file} can't be read: {error}") from error
    return [_read(line, file, number) for number, line in enumerate(lines, 1) if line.strip()]


def _read(line: str, file: Path, number: int) -> Canary:
    try:
        return _canary(json.loads(line))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CanaryError(
            f"line {number} of {file} is no canary ({error!r}): it must be an object with "
            '"prompt", a text, or "messages", a list of {"role", "content"}; "expected" may be a '
            "text or a list of texts"
        ) from error


def _canary(line: Any) -> Canary:
    given = line.get("expected", []) if isinstance(line, dict) else _refuse("no object")
    expected = tuple(map(_text, given if isinstance(given, list) else [given]))
    if "prompt" in line:
        return Canary(asked(_text(line["prompt"])), expected)
    messages = line["messages"]
    if not isinstance(messages, list) or not messages:
        _refuse("no messages")
    chat = tuple(Message(Role(one["role"]), _text(one["content"])) for one in messages)
    return Canary(Exchange("", chat), expected)


def _text(found: Any) -> str:
    if not isinstance(found, str) or not found.strip():
        _refuse("no text")
    found.encode()  # half of a pair of surrogates is no text either, to any tokenizer
    return str(found)


def _refuse(why: str) -> Any:
    raise TypeError(why)


def asked(text: str) -> Exchange:
    """Returns the exchange that a user's question begins."""
    return Exchange("", (Message(Role.USER, text),))
