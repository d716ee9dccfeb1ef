"""Ids that the server gives away."""

from __future__ import annotations

import secrets
import time

_RANDOM_BYTES = 10


def new_generation_id() -> str:
    """Returns an id that sorts by time: "gen-", 48 bits of milliseconds, 80 random bits, in hex.

    It can't be guessed from another one, and two servers need not talk to keep theirs apart.
    """
    return f"gen-{time.time_ns() // 1_000_000:012x}{secrets.token_hex(_RANDOM_BYTES)}"
