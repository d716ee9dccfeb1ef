"""Filters and pages of lists, the same over Redis and over the archive.

A page token names the last entry of the page before and is bound to the filters: entries that come
meanwhile move no page, and a token used with other filters is refused.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from learnback_store.codec import canonical_json
from learnback_store.errors import PageTokenError
from learnback_store.keys import digest_of
from learnback_store.records import FeedbackState, FeedbackView

# Digits of the digest that binds a token to its filters: against mistakes, not against forgery.
_SCOPE_DIGITS = 16


@dataclass(frozen=True, slots=True)
class FeedbackFilter:
    """Which feedback to list. Every field that is set must match."""

    author: str = ""
    states: frozenset[FeedbackState] = frozenset()
    """One of these; empty: any."""
    checkpoint: str = ""
    """Learned in this one."""
    generation_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    """All of these."""

    def matches(self, view: FeedbackView) -> bool:
        """Tells whether the feedback is among those asked for."""
        record, account = view.record, view.account
        generation_id = record.generation.generation_id if record.generation else ""
        return (
            self.author in ("", record.author)
            and (not self.states or account.state in self.states)
            and self.checkpoint in ("", account.checkpoint)
            and self.generation_id in ("", generation_id)
            and self.labels.items() <= record.labels.items()
        )

    def scope(self) -> str:
        """Returns text that is equal for equal filters."""
        return canonical_json(
            [
                self.author,
                sorted(self.states),
                self.checkpoint,
                self.generation_id,
                dict(self.labels),
            ]
        )


@dataclass(frozen=True, slots=True)
class FeedbackPage:
    """A page of feedback, newest first."""

    views: tuple[FeedbackView, ...]
    next_token: str
    """Asks for the next page; empty on the last one."""


def page_token(last: str, scope: str) -> str:
    """Returns the token of the page after this entry."""
    text = json.dumps([last, digest_of(scope)[:_SCOPE_DIGITS]])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def last_of(token: str, scope: str) -> str:
    """Returns the entry after which the page begins; "" for the empty token.

    Raises:
        PageTokenError: It is no token of this list with these filters.
    """
    if not token:
        return ""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        last, bound = json.loads(raw)
    except (binascii.Error, ValueError, TypeError) as error:
        raise PageTokenError("the page token is malformed; begin again without one") from error
    if not isinstance(last, str) or bound != digest_of(scope)[:_SCOPE_DIGITS]:
        raise PageTokenError("the page token was given for other filters; begin without one")
    return last
