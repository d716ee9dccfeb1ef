"""Which checkpoint each alias points at: one record, replaced whole.

`live` answers, `previous` is what answered before, `canary` gets a share if the operator set one.
All of them stand in one record beside the checkpoints, so that `live` and `previous` move together
in one act, and losing Redis loses none of them. The record also bears its last moves: a repeated
request id gets the first answer, a rollback is never undone by a trainer that restarts, and an
operator can see who moved what. How it is replaced by one writer at a time is its home's
(`folder_home.py`, `object_home.py`).

Semantics, for `live`:

    promote X     previous := live, live := X
    roll back     live and previous change places; rolling back twice is no change
    roll back to X   as promote X

Moving an alias to where it points already changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import ClassVar

from learnback_store.codec import Record, Strict
from learnback_store.errors import AliasMovedError, RequestIdReusedError
from learnback_store.manifest import BASE
from learnback_store.records import now_ms

LIVE = "live"
PREVIOUS = "previous"
CANARY = "canary"
ALIASES = (LIVE, PREVIOUS, CANARY)
"""All aliases. No checkpoint may have one of these names."""

# Moves that the record remembers. A service that publishes every minute remembers four hours.
_MAX_MOVES = 256
_WITHDRAWN = "withdraw a checkpoint"


@dataclass(frozen=True, slots=True)
class AliasMove(Strict):
    """One move of an alias."""

    alias: str
    before: str
    """Where it pointed; empty if nowhere."""
    after: str
    """Where it points now; empty if nowhere."""
    time_ms: int
    request_id: str = ""
    asked: str = ""
    """What the request was, to tell a repeat from a reused id."""


@dataclass(frozen=True, slots=True)
class Aliases(Record):
    """Where every alias points."""

    schema: ClassVar[str] = "learnback.aliases/1"

    targets: Mapping[str, str] = field(default_factory=lambda: {LIVE: BASE})
    """Name of the checkpoint (or "base") by alias."""
    serial: int = 0
    """1 more with each move."""
    moves: tuple[AliasMove, ...] = ()
    """The last moves, oldest first."""

    @property
    def live(self) -> str:
        """The checkpoint that answers."""
        return self.targets[LIVE]

    @property
    def previous(self) -> str:
        """The checkpoint that answered before; empty if there was none."""
        return self.targets.get(PREVIOUS, "")

    def of(self, name: str) -> tuple[str, ...]:
        """Returns the aliases that point at this checkpoint."""
        return tuple(alias for alias in ALIASES if self.targets.get(alias) == name)

    def was_live(self, name: str) -> bool:
        """Tells whether this checkpoint is live, or was within the moves remembered."""
        moved = any(move.alias == LIVE and move.after == name for move in self.moves)
        return self.live == name or moved

    def moved(self, alias: str, target: str, request_id: str, asked: str) -> Aliases:
        """Returns the aliases one move later."""
        before = self.targets.get(alias, "")
        targets = dict(self.targets)
        if before != target:
            targets[alias] = target
            if alias == LIVE:
                targets[PREVIOUS] = before
        move = AliasMove(alias, before, target, now_ms(), request_id, asked)
        return replace(
            self,
            targets=targets,
            serial=self.serial + 1,
            moves=(*self.moves, move)[-_MAX_MOVES:],
        )

    def dropped(self, alias: str) -> Aliases:
        """Returns the aliases with one of them, but for `live`, pointing nowhere."""
        kept = {other: target for other, target in self.targets.items() if other != alias}
        move = AliasMove(alias, self.targets[alias], "", now_ms(), asked=_WITHDRAWN)
        return replace(
            self, targets=kept, serial=self.serial + 1, moves=(*self.moves, move)[-_MAX_MOVES:]
        )


def move(
    now: Aliases,
    alias: str,
    target: Callable[[Aliases], str],
    *,
    asked: str,
    request_id: str = "",
    expected: str | None = None,
) -> tuple[Aliases, AliasMove]:
    """Returns the aliases after a move, and the move; the very same aliases if nothing changes.

    Args:
        now: Where they point.
        alias: Which to move.
        target: Gives where to, seeing the aliases; may raise to refuse.
        asked: What the request is, in words; equal for equal requests.
        request_id: The caller's id of the request; empty: not deduplicated.
        expected: Where it must point now; None: anywhere.

    Raises:
        AliasMovedError: It points elsewhere than expected.
        RequestIdReusedError: The request id was used for another request.
    """
    repeated = _repeated(now, request_id, asked)
    if repeated is not None:
        return now, repeated
    before = now.targets.get(alias, "")
    if expected is not None and before != expected:
        raise AliasMovedError(f"{alias} points at {before!r}, not at {expected!r}")
    after = target(now)
    if after == before and not request_id:
        return now, AliasMove(alias, before, after, now_ms(), asked=asked)
    then = now.moved(alias, after, request_id, asked)
    return then, then.moves[-1]


def withdraw(now: Aliases, names: Set[str], clean: str) -> Aliases:
    """Leaves no alias at any of these checkpoints: `live` goes to `clean`, others nowhere."""
    then = now.moved(LIVE, clean, "", _WITHDRAWN) if now.live in names else now
    for alias in [alias for alias, target in then.targets.items() if target in names]:
        then = then.dropped(alias)
    return then


def _repeated(now: Aliases, request_id: str, asked: str) -> AliasMove | None:
    for move in now.moves:
        if request_id and move.request_id == request_id:
            if move.asked != asked:
                raise RequestIdReusedError(
                    f"this request_id was used to {move.asked}; use a fresh one"
                )
            return move
    return None
