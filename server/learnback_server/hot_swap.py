"""Follows the aliases: a checkpoint that one points at is verified, made ready aside, and served.

Nothing pauses: a checkpoint is made ready on another thread while the engine goes on, new requests
get it from the moment the catalog says so, and old ones end on theirs. The live adapter is merged
aside, and new requests get the merged network, which is as fast as the bare model; if merging takes
more than a moment, they get the adapter unmerged meanwhile. It stays merged as long as an alias
points at it, so that moving back to "previous" is at once and brings back the very same answers. A
checkpoint that is corrupt, made for another base model, or of another shape is refused with a line
in the log; what an alias pointed at before serves on, and it is not tried again until the alias has
moved. While an object store of checkpoints is away, what serves serves on too, and the look is
repeated. How full weights come in is told by `full_weights.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from learnback_server.catalog import Catalog, ServedCheckpoint
from learnback_server.engine.acceptance import AcceptanceHead, read_head
from learnback_server.engine.adapter import (
    Adapter,
    UnusualAdapterError,
    WeightsError,
    read_adapter,
)
from learnback_server.engine.aside import aside
from learnback_server.engine.engine import Engine
from learnback_server.engine.loading import LoadedModel
from learnback_server.engine.runner import ModelRunner
from learnback_server.engine.weights import merge, merge_by_peft
from learnback_server.full_weights import FullWeights
from learnback_server.metrics import ServerMetrics
from learnback_store.acceptance import HEAD_FILE
from learnback_store.aliases import Aliases
from learnback_store.checkpoints import Checkpoint, CheckpointStore
from learnback_store.errors import CheckpointError, StoreUnavailableError
from learnback_store.manifest import CheckpointKind
from learnback_telemetry.context import note
from learnback_telemetry.tracing import Tracer, fail, link_to

_log = logging.getLogger(__name__)

# Between two tries to take up what an alias points at, while the object store is away.
_RETRY_SECONDS = 1.0
# So much later may a checkpoint be live for being merged by then: each way of computing that is in
# use beside others costs a pass of its own at every step.
_MERGE_SECONDS = 1.0


class HotSwap:
    """Keeps engine and catalog in step with the aliases of the checkpoints.

    Args:
        model: The base model.
        engine: Answers by what is made ready here.
        catalog: Says what a name stands for.
        checkpoints: Where checkpoints lie.
        metrics: Told of swaps and refusals.
        tracer: Makes their spans.
        merge: Whether the live adapter is merged; if not, none takes memory beyond its factors.
        drain: See `full_weights.py`.
    """

    def __init__(
        self,
        model: LoadedModel,
        engine: Engine,
        catalog: Catalog,
        checkpoints: CheckpointStore,
        metrics: ServerMetrics,
        tracer: Tracer,
        *,
        merge: bool = True,
        drain: bool = False,
    ) -> None:
        self._model = model
        self._engine = engine
        self._catalog = catalog
        self._checkpoints = checkpoints
        self._metrics = metrics
        self._tracer = tracer
        self._full = FullWeights(model, engine, catalog, drain=drain)
        self._refused: set[str] = set()
        self._merge = merge
        self._unmerged: dict[str, tuple[Adapter, AcceptanceHead | None]] = {}
        self._merging: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, aliases: AsyncGenerator[Aliases]) -> None:
        """Takes up what the aliases point at now, and follows them until `stop`."""
        await asyncio.to_thread(aside, self._engine.expect_adapters)
        await self.follow(await asyncio.to_thread(self._checkpoints.aliases))
        self._task = asyncio.create_task(self._run(aliases))

    async def settle(self) -> None:
        """Waits until the live adapter is merged, if it is to be."""
        while self._merging is not None and not self._merging.done():
            await asyncio.wait([self._merging])

    async def stop(self) -> None:
        """Follows no longer; what is loaded serves on."""
        self._merge = False
        await self.settle()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, aliases: AsyncGenerator[Aliases]) -> None:
        async with aclosing(aliases):
            async for now in aliases:
                before = self._catalog.live.name
                await self._follow_at_last(now)
                if self._catalog.live.name != before:
                    self._metrics.learned(self._catalog.live.name, now)

    async def _follow_at_last(self, aliases: Aliases) -> None:
        """Follows, however long the object store is away; what served serves on meanwhile."""
        while True:
            try:
                await self.follow(aliases)
            except StoreUnavailableError as error:
                _log.warning("checkpoints can't be taken up now: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return

    async def follow(self, aliases: Aliases) -> None:
        """Makes everything ready that an alias points at, then moves the aliases.

        Raises:
            StoreUnavailableError: An object store can't be reached; nothing has changed.
        """
        tried: set[str] = set()
        try:
            while missing := self._missing(aliases) - tried:
                for name in sorted(missing):
                    await self._take_up(name, live=name == aliases.live)
                tried |= missing
                # That may have taken minutes, in which the aliases may have moved on, or back.
                aliases = await asyncio.to_thread(self._checkpoints.aliases)
            self._point(aliases)
        finally:
            self._catalog.release()
        self._begin_merging(self._catalog.live.name)

    def _missing(self, aliases: Aliases) -> set[str]:
        """What an alias points at and is not loaded, nor known to be bad."""
        wanted = set(aliases.targets.values())
        self._refused &= wanted
        return wanted - self._catalog.loaded - self._refused

    def _point(self, aliases: Aliases) -> None:
        before = self._catalog.live.name
        self._catalog.point(aliases.targets)
        dropped = self._catalog.drop_unused(keep=self._model.facts.checkpoint)
        for name in dropped:
            self._engine.retire(name)
            self._unmerged.pop(name, None)
        live = self._catalog.live
        self._metrics.now_live(live.name, live.digest, dropped)
        self._metrics.refused_now(len(self._refused))
        if live.name != before:
            _log.info("%s is live; it was %s", live.name, before)

    def _begin_merging(self, live: str) -> None:
        """Has the live adapter merged aside, if it is not and no other is being merged."""
        idle = self._merging is None or self._merging.done()
        if self._merge and idle and live in self._unmerged:
            self._merging = asyncio.create_task(self._merge_aside(live))

    async def _merge_aside(self, name: str) -> None:
        adapter, head = self._unmerged.pop(name)
        try:
            runner = await asyncio.to_thread(aside, self._merged, adapter)
        except (RuntimeError, MemoryError):  # it serves on as it is
            _log.exception("checkpoint %s stays unmerged", name)
            return
        if name in self._catalog.loaded:
            self._engine.replace(name, runner, head)
            _log.info("%s is merged", name)
        self._merging = None
        self._begin_merging(self._catalog.live.name)

    def _merged(self, adapter: Adapter) -> ModelRunner:
        return self._engine.prepare(merge(self._model.network, adapter))

    async def _take_up(self, name: str, *, live: bool) -> None:
        """Verifies a checkpoint and lets it answer. Takes from a moment to minutes."""
        began = time.monotonic()
        with self._tracer.span("learnback.swap"):
            note(checkpoint=name)
            try:
                checkpoint = await asyncio.to_thread(self._verified, name)
                taken = await self._make_ready(checkpoint, live=live)
            except (CheckpointError, WeightsError) as error:
                self._refused.add(name)
                self._metrics.swap_refused(error)
                fail(type(error).__name__)
                _log.error("checkpoint %s is refused: %s", name, error)
                return
            link_to(checkpoint.manifest.traceparent)
            if taken:
                scores = any(file.name == HEAD_FILE for file in checkpoint.manifest.files)
                self._catalog.add(ServedCheckpoint(name, checkpoint.digest, scores))
                if live:
                    await self._merge_in_a_moment(name)
                seconds = time.monotonic() - began
                self._metrics.loaded(checkpoint.manifest, checkpoint.digest, seconds)

    async def _merge_in_a_moment(self, name: str) -> None:
        """Merges what is about to be live before anybody gets it, if that is soon done."""
        self._begin_merging(name)
        if self._merging is not None:
            await asyncio.wait([self._merging], timeout=_MERGE_SECONDS)

    async def _make_ready(self, checkpoint: Checkpoint, *, live: bool) -> bool:
        """Lets a verified checkpoint answer; returns whether there was room for it."""
        name = checkpoint.name
        folder = await asyncio.to_thread(self._checkpoints.fetch, name)
        if checkpoint.manifest.kind is CheckpointKind.ADAPTER:
            await asyncio.to_thread(aside, self._add_adapter, name, folder)
        elif self._full.admits(live):
            await self._full.take_up(name, folder)
        else:
            _log.info("checkpoint %s is not loaded: there is room for the live one only", name)
            return False
        return True

    def _verified(self, name: str) -> Checkpoint:
        return self._checkpoints.verify(name, self._model.facts.digest)

    def _add_adapter(self, name: str, folder: Path) -> None:
        """Lets an adapter answer unmerged; one that the bank can't hold, merged by PEFT."""
        head = read_head(folder, self._model.network)
        try:
            adapter = read_adapter(folder, self._model.network)
            self._engine.adapt(name, adapter, head)
        except UnusualAdapterError as error:
            _log.info("checkpoint %s is merged into a copy of the model: %s", name, error)
            network = merge_by_peft(self._model.network, folder)
            self._engine.serve(name, self._engine.prepare(network), head)
        else:
            self._unmerged[name] = (adapter, head)
