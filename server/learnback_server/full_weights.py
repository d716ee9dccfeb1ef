"""Takes up checkpoints of full weights: aside of what answers, or after that has been let go.

- aside: the new network is loaded while the old one answers. Nobody waits; for a while there are
  the base model, the old network and the new one in memory, and after that the old one as long as
  "previous" points at it.
- drain: there is never more than one network of full weights beside the base model. Requests for
  the old one wait at the edge; what it is answering ends; it is let go, and the new one is loaded.
  Then who waited gets the new one. Aliases other than "live" get no full weights of their own.

The base model stays in either case, because adapters stand on it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Collection
from pathlib import Path

from learnback_server.catalog import Catalog
from learnback_server.engine.acceptance import read_head
from learnback_server.engine.adapter import WeightsError
from learnback_server.engine.aside import aside
from learnback_server.engine.engine import Engine
from learnback_server.engine.loading import LoadedModel
from learnback_server.engine.weights import load_full, require_like

_log = logging.getLogger(__name__)


class FullWeights:
    """Loads networks of full weights into an engine.

    Args:
        model: The base model.
        engine: Answers by what is loaded here.
        catalog: Says what a name stands for, and lets requests wait.
        drain: Whether what was there before is let go first.
    """

    def __init__(
        self, model: LoadedModel, engine: Engine, catalog: Catalog, *, drain: bool
    ) -> None:
        self._model = model
        self._engine = engine
        self._catalog = catalog
        self._drain = drain
        self._folders: dict[str, Path] = {}

    def admits(self, live: bool) -> bool:
        """Whether there is room for a checkpoint, by whether it is the live one."""
        return live or not self._drain

    async def take_up(self, name: str, folder: Path) -> None:
        """Lets the weights in `folder` answer. What they took the place of is forgotten.

        Requests that wait go on when the catalog has been told where the aliases point.

        Raises:
            WeightsError: They don't fit, or can't be loaded; what answered before answers on.
        """
        if self._drain:
            await asyncio.to_thread(self._require_fit, folder)
            await self._exchange(name, folder)
        else:
            await asyncio.to_thread(aside, self._load, name, folder)
        self._folders = self._loaded() | {name: folder}

    def _loaded(self) -> dict[str, Path]:
        loaded = self._catalog.loaded
        return {name: folder for name, folder in self._folders.items() if name in loaded}

    async def _exchange(self, name: str, folder: Path) -> None:
        before = self._loaded()
        self._catalog.withhold(before)
        await self._let_go(before)
        try:
            await asyncio.to_thread(aside, self._load, name, folder)
        except WeightsError:
            await self._bring_back(before)
            raise
        self._catalog.forget(before)

    async def _let_go(self, names: Collection[str]) -> None:
        """Takes nothing new for these, and waits until their last answers have ended."""
        for name in names:
            _log.info("%s takes nothing new, and is let go when its last answer has ended", name)
            self._engine.retire(name)
        await asyncio.to_thread(self._engine.wait_until_gone, names)
        gc.collect()  # a network and what runs it may hold each other

    async def _bring_back(self, folders: dict[str, Path]) -> None:
        for name, folder in folders.items():
            try:
                await asyncio.to_thread(aside, self._load, name, folder)
            except WeightsError:
                _log.exception("%s is lost; the base model answers in its place", name)
                self._catalog.forget([name])

    def _require_fit(self, folder: Path) -> None:
        """Refuses what can be refused before anything is let go for it."""
        require_like(self._model.network, folder)
        read_head(folder, self._model.network)

    def _load(self, name: str, folder: Path) -> None:
        head = read_head(folder, self._model.network)
        try:
            network = load_full(self._model.network, folder)
            self._engine.serve(name, self._engine.prepare(network), head)
        except (RuntimeError, MemoryError) as error:  # CUDA's lack of memory is the former
            raise WeightsError(f"there is no room for its weights: {error}") from error
