"""The keywords of the methods, written once for both clients.

A keyword that is left out, or None, is unset: the server's default applies. Zero is a value.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TypedDict

from learnback_client.messages import MessageLike


class CallOptions(TypedDict, total=False):
    """What every call takes."""

    timeout: float | None
    """Seconds after which the call fails with DeadlineExceeded; math.inf waits for ever. Default:
    the client's."""


class ListOptions(CallOptions, total=False):
    """What every listing takes. Its `timeout` is that of one page."""

    page_size: int | None
    """Entries fetched at once, 1 to 1000. Default 50. All come in the end, whatever it is."""


class SubmitOptions(CallOptions, total=False):
    """What every form of feedback takes."""

    author: str | None
    """The end user who says it, at most 128 characters."""
    labels: Mapping[str, str] | None
    """Free labels, as in `GenerationOptions`."""
    request_id: str | None
    """Id of this call, at most 128 printable ASCII characters. A repeat counts once. Default: a
    fresh one, so that the client's own retries count once."""


class MoveOptions(CallOptions, total=False):
    """What promoting, rolling back and erasing take."""

    request_id: str | None
    """Id of this call; a repeat counts once. Default: a fresh one."""


class PromoteOptions(MoveOptions, total=False):
    """What promoting takes."""

    alias: str | None
    """The alias to move: "live" (default) or "canary"."""


class FeedbackFilter(ListOptions, total=False):
    """Which feedback to list; what is left out does not filter."""

    author: str | None
    states: Sequence[str] | None
    """`FeedbackState`s or their values ("learned")."""
    checkpoint: str | None
    """Only what was learned in this one."""
    generation_id: str | None
    labels: Mapping[str, str] | None
    """Only with all of these."""


class CheckpointFilter(ListOptions, total=False):
    """Which checkpoints to list; what is left out does not filter."""

    states: Sequence[str] | None
    """`CheckpointState`s or their values ("published")."""


class SamplingOptions(TypedDict, total=False):
    """How tokens are chosen. Unset: the model's own defaults."""

    temperature: float | None
    """Divides the logits. 0 (greedy) to 2."""
    top_p: float | None
    """Keeps the fewest tokens whose probabilities add up to this. Over 0, up to 1 (off)."""
    top_k: int | None
    """Keeps this many of the likeliest tokens. 0 is off."""
    min_p: float | None
    """Drops tokens less likely than this share of the likeliest. 0 (off) to 1."""
    repetition_penalty: float | None
    """Makes tokens of prompt and answer less likely. Over 0, up to 10; 1 is off."""
    presence_penalty: float | None
    """Subtracted once from the logit of every token already in the answer. -2 to 2."""
    frequency_penalty: float | None
    """Subtracted for each time that a token is in the answer. -2 to 2."""
    seed: int | None
    """The same seed gives the same answer. 0 to 2**53 - 1. Unset: a fresh one (see reply)."""
    max_tokens: int | None
    """Longest answer, in tokens."""
    stop: Sequence[str] | str | None
    """The answer ends before the first of these; at most 16 of 1 to 256 characters."""
    logprobs: int | None
    """Reports log-probabilities of the chosen token and this many of the likeliest, 0 to 20."""
    n: int | None
    """Number of answers, 1 to 8."""
    ignore_eos: bool | None
    """Goes on at the end-of-sequence token (for measurements)."""


class GenerationOptions(SamplingOptions, CallOptions, total=False):
    """The keywords of `generate` and `stream`.

    Exactly one input is given: the positional `prompt`, `messages` or `token_ids`.
    """

    messages: Sequence[MessageLike] | None
    """A conversation, rendered by the model's chat template. The last turn is the user's."""
    token_ids: Sequence[int] | None
    """Tokens that the model continues as they stand."""
    checkpoint: str | None
    """Name or alias ("live", "previous", "canary") of the checkpoint that answers."""
    author: str | None
    """The end user on whose behalf the call is made, at most 128 characters."""
    labels: Mapping[str, str] | None
    """Free labels: at most 16, keys out of [a-z0-9_.-], values of at most 256 characters."""
    request_id: str | None
    """Id of this call in logs and errors. Default: a fresh one."""
    priority: int | None
    """Place in the queue, -10 to 10; higher goes first."""
    queue_timeout: float | None
    """Longest wait in the queue, in seconds, over which the call fails with QueueTimeout."""
    acceptance: bool | None
    """Tells with each answer how likely a user is to accept it, if the checkpoint can tell."""
    rerank: bool | None
    """Puts the candidates in order of their acceptance, the best first. Not for `stream`; needs `n`
    of 2 or more, and fails with AcceptanceUnavailable where the checkpoint can't tell."""
    time_limit: float | None
    """Longest time until the end of the answer, in seconds, over which the call succeeds with what
    has been written so far. A longer one than the client's timeout lengthens that."""


def refuse_unknown(given: Mapping[str, object], known: frozenset[str]) -> None:
    """Refuses keywords that are not `known`, as Python does, and names the likeliest meant.

    Raises:
        TypeError: There is one.
    """
    for name in given.keys() - known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise TypeError(f"unexpected keyword argument {name!r}{hint}")
