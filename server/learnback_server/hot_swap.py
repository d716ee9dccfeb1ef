"""Follows the aliases: a checkpoint that one points at is verified, made ready aside, and served.

Nothing pauses: the network is made on another thread while the engine goes on, new requests get it
from the moment the catalog says so, and old ones end on theirs. A checkpoint that is corrupt, made
for another base model, or of another shape is refused with a line in the log; what an alias pointed
at before serves on, and it is not tried again until the alias has moved. Moving back is at once, as
long as the checkpoint is still pointed at by "previous" and so still loaded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from transformers import PreTrainedModel

from learnback_server.catalog import Catalog, ServedCheckpoint
from learnback_server.engine.engine import Engine
from learnback_server.engine.loading import LoadedModel
from learnback_server.engine.runner import ModelRunner
from learnback_server.engine.weights import WeightsError, load_full, merge_adapter
from learnback_store.aliases import Aliases
from learnback_store.checkpoints import CheckpointStore
from learnback_store.errors import CheckpointError
from learnback_store.manifest import CheckpointKind

_log = logging.getLogger(__name__)


class HotSwap:
    """Keeps engine and catalog in step with the aliases of a checkpoint folder.

    Args:
        model: The base model.
        engine: Answers by what is made ready here.
        catalog: Says what a name stands for.
        checkpoints: Where checkpoints lie.
    """

    def __init__(
        self, model: LoadedModel, engine: Engine, catalog: Catalog, checkpoints: CheckpointStore
    ) -> None:
        self._model = model
        self._engine = engine
        self._catalog = catalog
        self._checkpoints = checkpoints
        self._refused: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self, aliases: AsyncGenerator[Aliases]) -> None:
        """Takes up what the aliases point at now, and follows them until `stop`."""
        await self.follow(await asyncio.to_thread(self._checkpoints.aliases))
        self._task = asyncio.create_task(self._run(aliases))

    async def stop(self) -> None:
        """Follows no longer; what is loaded serves on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, aliases: AsyncGenerator[Aliases]) -> None:
        async with aclosing(aliases):
            async for now in aliases:
                await self.follow(now)

    async def follow(self, aliases: Aliases) -> None:
        """Makes everything ready that an alias points at, then moves the aliases."""
        wanted = set(aliases.targets.values())
        self._refused &= wanted
        for name in sorted(wanted - self._catalog.loaded - self._refused):
            await self._take_up(name)
        before = self._catalog.live.name
        self._catalog.point(aliases.targets)
        for name in self._catalog.drop_unused(keep=self._model.facts.checkpoint):
            self._engine.retire(name)
        if self._catalog.live.name != before:
            _log.info("%s is live; it was %s", self._catalog.live.name, before)

    async def _take_up(self, name: str) -> None:
        try:
            digest, runner = await asyncio.to_thread(self._make_ready, name)
        except (CheckpointError, WeightsError) as error:
            self._refused.add(name)
            _log.error("checkpoint %s is refused: %s", name, error)
            return
        self._engine.serve(name, runner)
        self._catalog.add(ServedCheckpoint(name, digest))

    def _make_ready(self, name: str) -> tuple[str, ModelRunner]:
        """Verifies a checkpoint and makes its network. Takes from a moment to minutes."""
        checkpoint = self._checkpoints.verify(name, self._model.facts.digest)
        return checkpoint.digest, self._engine.prepare(
            self._network(name, checkpoint.manifest.kind)
        )

    def _network(self, name: str, kind: CheckpointKind) -> PreTrainedModel:
        folder = self._checkpoints.fetch(name)
        make = merge_adapter if kind is CheckpointKind.ADAPTER else load_full
        return make(self._model.network, folder)
