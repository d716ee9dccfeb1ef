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
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from transformers import PreTrainedModel

from learnback_server.catalog import Catalog, ServedCheckpoint
from learnback_server.engine.engine import Engine
from learnback_server.engine.loading import LoadedModel
from learnback_server.engine.runner import ModelRunner
from learnback_server.engine.weights import WeightsError, load_full, merge_adapter
from learnback_server.metrics import ServerMetrics
from learnback_store.aliases import Aliases
from learnback_store.checkpoints import CheckpointStore
from learnback_store.errors import CheckpointError
from learnback_store.manifest import CheckpointKind, Manifest

_log = logging.getLogger(__name__)


class HotSwap:
    """Keeps engine and catalog in step with the aliases of a checkpoint folder.

    Args:
        model: The base model.
        engine: Answers by what is made ready here.
        catalog: Says what a name stands for.
        checkpoints: Where checkpoints lie.
        metrics: Told of swaps and refusals.
    """

    def __init__(
        self,
        model: LoadedModel,
        engine: Engine,
        catalog: Catalog,
        checkpoints: CheckpointStore,
        metrics: ServerMetrics,
    ) -> None:
        self._model = model
        self._engine = engine
        self._catalog = catalog
        self._checkpoints = checkpoints
        self._metrics = metrics
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
                before = self._catalog.live.name
                await self.follow(now)
                if self._catalog.live.name != before:
                    self._metrics.learned(self._catalog.live.name, now)

    async def follow(self, aliases: Aliases) -> None:
        """Makes everything ready that an alias points at, then moves the aliases."""
        wanted = set(aliases.targets.values())
        self._refused &= wanted
        for name in sorted(wanted - self._catalog.loaded - self._refused):
            await self._take_up(name)
        before = self._catalog.live.name
        self._catalog.point(aliases.targets)
        dropped = self._catalog.drop_unused(keep=self._model.facts.checkpoint)
        for name in dropped:
            self._engine.retire(name)
        live = self._catalog.live
        self._metrics.now_live(live.name, live.digest, dropped)
        self._metrics.refused_now(len(self._refused))
        if live.name != before:
            _log.info("%s is live; it was %s", live.name, before)

    async def _take_up(self, name: str) -> None:
        began = time.monotonic()
        try:
            manifest, digest, runner = await asyncio.to_thread(self._make_ready, name)
        except (CheckpointError, WeightsError) as error:
            self._refused.add(name)
            self._metrics.swap_refused(error)
            _log.error("checkpoint %s is refused: %s", name, error)
            return
        self._engine.serve(name, runner)
        self._catalog.add(ServedCheckpoint(name, digest))
        self._metrics.loaded(manifest, digest, time.monotonic() - began)

    def _make_ready(self, name: str) -> tuple[Manifest, str, ModelRunner]:
        """Verifies a checkpoint and makes its network. Takes from a moment to minutes."""
        checkpoint = self._checkpoints.verify(name, self._model.facts.digest)
        runner = self._engine.prepare(self._network(name, checkpoint.manifest.kind))
        return checkpoint.manifest, checkpoint.digest, runner

    def _network(self, name: str, kind: CheckpointKind) -> PreTrainedModel:
        folder = self._checkpoints.fetch(name)
        make = merge_adapter if kind is CheckpointKind.ADAPTER else load_full
        return make(self._model.network, folder)
