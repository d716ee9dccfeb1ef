"""Which checkpoints can answer here, by name and by alias."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from learnback_server.engine.options import ModelFacts
from learnback_server.errors import CheckpointNotFoundError, clipped

LIVE = "live"
# A name of the contract is at most 63 characters, so this clips nothing that could exist.
_MAX_NAME_CHARS = 64


@dataclass(frozen=True, slots=True)
class ServedCheckpoint:
    """A checkpoint that is loaded, and can be pinned by a generation."""

    name: str
    digest: str
    scores: bool = False
    """Whether it has an acceptance head."""


class Catalog:
    """The checkpoints that are loaded, and the aliases that point at them.

    It belongs to the event loop: a request is resolved before or after a change, never between.
    While a checkpoint is exchanged for another and neither can answer, requests for it wait.

    Args:
        facts: The model, whose own weights are always there and are live at first.
    """

    def __init__(self, facts: ModelFacts) -> None:
        base = ServedCheckpoint(facts.checkpoint, facts.digest)
        self._loaded: dict[str, ServedCheckpoint] = {base.name: base}
        self._base = base
        self._aliases: Mapping[str, str] = {LIVE: base.name}
        self._withheld: frozenset[str] = frozenset()
        self._released = asyncio.Event()

    @property
    def loaded(self) -> frozenset[str]:
        """Names of the checkpoints that are loaded."""
        return frozenset(self._loaded)

    @property
    def live(self) -> ServedCheckpoint:
        """The checkpoint that answers who does not ask for another."""
        return self._loaded[self._aliases[LIVE]]

    def add(self, checkpoint: ServedCheckpoint) -> None:
        """Lets a loaded checkpoint be asked for."""
        self._loaded[checkpoint.name] = checkpoint

    def point(self, aliases: Mapping[str, str]) -> None:
        """Moves the aliases. One whose checkpoint is not loaded stays where it is, if it can."""
        kept = {alias: name for alias, name in self._aliases.items() if alias in aliases}
        moved = {alias: name for alias, name in aliases.items() if name in self._loaded}
        self._aliases = {LIVE: self._aliases[LIVE], **kept, **moved}

    def withhold(self, names: Iterable[str]) -> None:
        """Lets requests for these checkpoints wait, until `release`."""
        self._withheld |= frozenset(names)
        self._released.clear()

    def release(self) -> None:
        """Lets those who wait go on, to what names and aliases stand for now."""
        self._withheld = frozenset()
        self._released.set()

    async def settled(self, name_or_alias: str) -> None:
        """Waits until what a name or an alias stands for can answer."""
        while self._target(name_or_alias) in self._withheld:
            await self._released.wait()

    def forget(self, names: Iterable[str]) -> None:
        """Takes out checkpoints that are gone. If the live one is, the base takes its place."""
        for name in names:
            self._loaded.pop(name, None)
        if self._aliases[LIVE] not in self._loaded:
            self._aliases = {**self._aliases, LIVE: self._base.name}

    def drop_unused(self, keep: str) -> list[str]:
        """Takes out every checkpoint that no alias points at, but `keep`; returns their names."""
        used = {keep, *self._aliases.values()}
        unused = [name for name in self._loaded if name not in used]
        for name in unused:
            del self._loaded[name]
        return unused

    def resolve(self, name_or_alias: str) -> ServedCheckpoint:
        """Returns the checkpoint that goes by a name or an alias; empty is "live".

        Raises:
            CheckpointNotFoundError: There is none here.
        """
        found = self._loaded.get(self._target(name_or_alias))
        if found is None:
            name = clipped(name_or_alias, _MAX_NAME_CHARS)
            raise CheckpointNotFoundError(
                f'no checkpoint goes by "{name}" here; leave it empty for the live one',
                checkpoint=name,
            )
        return found

    def _target(self, name_or_alias: str) -> str:
        asked = name_or_alias or LIVE
        return self._aliases.get(asked, asked)
