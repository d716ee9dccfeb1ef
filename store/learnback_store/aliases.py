"""Which checkpoint each alias points at: one file, moved whole.

`live` answers, `previous` is what answered before, `canary` gets a share if the operator set one.
All of them stand in one file (`aliases.json` in the checkpoint folder), so that `live` and
`previous` move together in one rename, and losing Redis loses none of them. The file also bears its
last moves: a repeated request id gets the first answer, a rollback is never undone by a trainer
that restarts, and an operator can see who moved what.

Semantics, for `live`:

    promote X     previous := live, live := X
    roll back     live and previous change places; rolling back twice is no change
    roll back to X   as promote X

Moving an alias to where it points already changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from learnback_store.codec import Record, Strict
from learnback_store.durable import file_lock, replace_text
from learnback_store.errors import AliasMovedError, RequestIdReusedError
from learnback_store.manifest import BASE
from learnback_store.records import now_ms

LIVE = "live"
PREVIOUS = "previous"
CANARY = "canary"
ALIASES = (LIVE, PREVIOUS, CANARY)
"""All aliases. No checkpoint may have one of these names."""

_FILE = "aliases.json"
_LOCK = "aliases.lock"
# Moves that the file remembers. A service that publishes every minute remembers four hours.
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


class AliasFile:
    """The file of aliases in a checkpoint folder. Any process on the folder may move them.

    Args:
        root: The checkpoint folder.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / _FILE
        self._lock = root / _LOCK

    def read(self) -> Aliases:
        """Returns where the aliases point now; `live` is the base model until it is moved."""
        try:
            return Aliases.from_json(self._path.read_bytes())
        except FileNotFoundError:
            return Aliases()

    def move(
        self,
        alias: str,
        choose: Callable[[Aliases], str],
        *,
        asked: str,
        request_id: str = "",
        expected: str | None = None,
    ) -> AliasMove:
        """Moves an alias and returns once that is durable.

        Args:
            alias: Which.
            choose: Gives the target, seeing the aliases; may raise to refuse. Called under the
                lock, under which checkpoints are retired too.
            asked: What the request is, in words; equal for equal requests.
            request_id: The caller's id of the request; empty: not deduplicated.
            expected: Where it must point now; None: anywhere.

        Raises:
            AliasMovedError: It points elsewhere than expected.
            RequestIdReusedError: The request id was used for another request.
        """
        with self.locked():
            now = self.read()
            repeated = _repeated(now, request_id, asked)
            if repeated is not None:
                return repeated
            before = now.targets.get(alias, "")
            if expected is not None and before != expected:
                raise AliasMovedError(f"{alias} points at {before!r}, not at {expected!r}")
            target = choose(now)
            if target == before and not request_id:
                return AliasMove(alias, before, target, now_ms(), asked=asked)
            then = now.moved(alias, target, request_id, asked)
            replace_text(self._path, then.to_json())
            return then.moves[-1]

    def withdraw(self, names: Set[str], clean: str) -> bool:
        """Leaves no alias at any of these checkpoints: `live` goes to `clean`, others nowhere.

        Returns:
            Whether any had pointed there.
        """
        with self.locked():
            now = self.read()
            then = now.moved(LIVE, clean, "", _WITHDRAWN) if now.live in names else now
            dropped = [alias for alias, target in then.targets.items() if target in names]
            for alias in dropped:
                then = then.dropped(alias)
            if then is now:
                return False
            replace_text(self._path, then.to_json())
            return True

    def locked(self) -> AbstractContextManager[None]:
        """Holds off every move."""
        return file_lock(self._lock)


def _repeated(now: Aliases, request_id: str, asked: str) -> AliasMove | None:
    for move in now.moves:
        if request_id and move.request_id == request_id:
            if move.asked != asked:
                raise RequestIdReusedError(
                    f"this request_id was used to {move.asked}; use a fresh one"
                )
            return move
    return None
