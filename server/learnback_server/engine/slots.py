"""The checkpoints that the engine can answer by, and how many generations each is pinned by.

A generation holds its checkpoint from the moment it is submitted until it has ended, so one reply
is always made by one checkpoint. A retired checkpoint takes no new generations, and is let go when
its last one has ended. Counting is by lock, because generations are submitted on other threads than
the engine's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from learnback_server.engine.messages import CheckpointGoneError
from learnback_server.engine.runner import ModelRunner


@dataclass(slots=True)
class _Slot:
    runner: ModelRunner
    pinned: int = 0
    retired: bool = False


class CheckpointSlots:
    """Runners by the name of their checkpoint."""

    def __init__(self, on_release: Callable[[str], None]) -> None:
        """`on_release` is called, on whichever thread it happens, when a checkpoint is let go."""
        self._on_release = on_release
        self._lock = threading.Lock()
        self._slots: dict[str, _Slot] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The checkpoints that take new generations."""
        with self._lock:
            return tuple(name for name, slot in self._slots.items() if not slot.retired)

    def add(self, name: str, runner: ModelRunner) -> None:
        """Lets a checkpoint answer from now on; brings it back if it was being retired.

        A checkpoint that is still held keeps the runner that it has.
        """
        with self._lock:
            slot = self._slots.setdefault(name, _Slot(runner))
            slot.retired = False

    def retire(self, name: str) -> None:
        """Takes no new generations for a checkpoint, and lets it go when it is pinned by none."""
        with self._lock:
            slot = self._slots.get(name)
            if slot is None:
                return
            slot.retired = True
            gone = self._drop_if_done(name, slot)
        if gone:
            self._on_release(name)

    def pin(self, name: str) -> None:
        """Counts a generation in.

        Raises:
            CheckpointGoneError: The checkpoint is not here, or is being retired.
        """
        with self._lock:
            slot = self._slots.get(name)
            if slot is None or slot.retired:
                raise CheckpointGoneError(name)
            slot.pinned += 1

    def unpin(self, name: str) -> None:
        """Counts a generation out."""
        with self._lock:
            slot = self._slots[name]
            slot.pinned -= 1
            gone = self._drop_if_done(name, slot)
        if gone:
            self._on_release(name)

    def runner(self, name: str) -> ModelRunner:
        """The runner of a checkpoint that is pinned."""
        return self._slots[name].runner

    def _drop_if_done(self, name: str, slot: _Slot) -> bool:
        if slot.retired and not slot.pinned:
            del self._slots[name]
            return True
        return False
