"""Writing answers to a terminal, and what is said about them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from learnback_client.generation import Candidate, FinishReason, Reply, TokenLogprob

# Control characters but tab and newline: an answer must not move the cursor or set the title of
# the terminal that shows it.
_CONTROLS = {
    code: "\N{REPLACEMENT CHARACTER}"
    for code in (*range(0x20), 0x7F, *range(0x80, 0xA0))
    if chr(code) not in "\t\n"
}


def write_answer(pieces: Iterable[str]) -> str:
    """Writes the pieces of an answer as they come, and ends the line.

    Args:
        pieces: The answer; where it is left early, so is this.

    Returns:
        All of it.
    """
    written: list[str] = []
    try:
        for piece in pieces:
            print(printable(piece), end="", flush=True)
            written.append(piece)
    finally:
        if written and not written[-1].endswith("\n"):
            print(flush=True)
    return "".join(written)


def printable(text: str) -> str:
    """Returns the text with control characters replaced, if it goes to a terminal."""
    return text.translate(_CONTROLS) if sys.stdout.isatty() else text


def ago(time: datetime | None) -> str:
    """Returns how long ago something was, in the largest unit that fits; empty if unknown."""
    if time is None:
        return ""
    seconds = max(0.0, (datetime.now(UTC) - time).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def note(text: str) -> None:
    """Says something about an answer to a person who looks on; nothing to a log or a pipe."""
    if sys.stderr.isatty():
        Console(stderr=True, highlight=False).print(Text(text, style="dim"))


def summary(reply: Reply) -> str:
    """Returns in one line by what a reply was made, and how fast."""
    parts = [reply.generation_id, reply.checkpoint, f"{reply.usage.completion_tokens} tokens"]
    if reply.timings.total is not None:
        parts.append(f"{reply.timings.total:.2f} s")
    if reply.finish_reason is not FinishReason.STOP:
        parts.append(f"ended by {reply.finish_reason}")
    return " · ".join(parts)


def write_logprobs(candidate: Candidate) -> None:
    """Writes a table of the tokens, their probabilities and the likeliest alternatives."""
    table = Table("token", "logprob", "p", "alternatives", box=None, pad_edge=False)
    for position in candidate.logprobs:
        table.add_row(
            Text(_show(position.token)),
            f"{position.logprob:.3f}",
            f"{_percent(position.logprob):.1f}%",
            Text(_alternatives(position)),
        )
    Console(highlight=False).print(table)


def _alternatives(position: TokenLogprob) -> str:
    return "  ".join(f"{_show(top.token)} {_percent(top.logprob):.1f}%" for top in position.top)


def _percent(logprob: float) -> float:
    return 100.0 * math.exp(logprob)


def _show(token: bytes) -> str:
    """Bytes that are no whole characters show as escapes, white space as it is written in code."""
    return repr(token.decode(errors="backslashreplace"))
