"""The checkpoints that the engine can answer by, and how many generations each is pinned by.

A generation holds its checkpoint from the moment it is submitted until it has ended, so one reply
is always made by one checkpoint. It holds more than that: the very way of computing it (a `Lane`).
An adapter that has been merged while it answered goes on unmerged for those who began so, because
the two differ by rounding; who comes after gets the merged one. What is known of a prompt's pages
is kept by lane for the same reason.

A retired lane takes no new generations, and is let go when its last one has ended. Counting is by
lock, because generations are submitted on other threads than the engine's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

import torch

from learnback_server.engine.acceptance import AcceptanceHead
from learnback_server.engine.bank import Member
from learnback_server.engine.batch import StepRow
from learnback_server.engine.messages import CheckpointGoneError


class Runner(Protocol):
    """What computes rows."""

    def run(self, rows: list[StepRow], ready: Callable[[], None]) -> torch.Tensor:
        """Logits of the completing rows, of shape (completing rows, vocabulary).

        Calls `ready` when only the pass is left to be computed.
        """
        ...

    def states(self, rows: list[StepRow]) -> torch.Tensor:
        """Last hidden states of the completing rows, of shape (completing rows, hidden)."""
        ...


@dataclass(frozen=True, slots=True)
class Lane:
    """One way of computing a checkpoint."""

    name: str
    """Its own: no other lane of any checkpoint has it."""
    runner: Runner
    member: Member | None = None
    """What the runner is to compute by, if it is the bank's."""
    head: AcceptanceHead | None = None
    """Scores the answers; None if the checkpoint has none."""


@dataclass(slots=True)
class _Slot:
    lane: Lane
    pinned: int = 0
    retired: bool = False


class CheckpointSlots:
    """Lanes by their names, and the one of each checkpoint that takes new generations."""

    def __init__(self, on_release: Callable[[str], None]) -> None:
        """`on_release` is called, on whichever thread it happens, when a lane is let go."""
        self._on_release = on_release
        self._lock = threading.Condition()
        self._slots: dict[str, _Slot] = {}
        self._current: dict[str, str] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The checkpoints that take new generations."""
        with self._lock:
            return tuple(self._current)

    @property
    def lanes(self) -> tuple[str, ...]:
        """The lanes that are held."""
        with self._lock:
            return tuple(self._slots)

    def add(self, checkpoint: str, lane: Lane) -> None:
        """Lets a checkpoint answer from now on; brings it back if it was being retired.

        A lane that is still held keeps the runner that it has.
        """
        with self._lock:
            self._open(checkpoint, lane)

    def replace(self, checkpoint: str, lane: Lane) -> None:
        """Computes new generations of a checkpoint by another lane, unless it is retired."""
        with self._lock:
            before = self._current.get(checkpoint)
            if before is None:
                return
            self._open(checkpoint, lane)
            gone = before != lane.name and self._close(before)
        if gone:
            self._on_release(before)

    def retire(self, checkpoint: str) -> None:
        """Takes no new generations for a checkpoint, and lets it go when it is pinned by none."""
        with self._lock:
            lane = self._current.pop(checkpoint, None)
            if lane is None:
                return
            gone = self._close(lane)
        if gone:
            self._on_release(lane)

    def pin(self, checkpoint: str) -> str:
        """Counts a generation in; returns the name of the lane that it has.

        Raises:
            CheckpointGoneError: The checkpoint is not here, or is being retired.
        """
        with self._lock:
            lane = self._current.get(checkpoint)
            if lane is None:
                raise CheckpointGoneError(checkpoint)
            self._slots[lane].pinned += 1
            return lane

    def unpin(self, lane: str) -> None:
        """Counts a generation out."""
        with self._lock:
            slot = self._slots[lane]
            slot.pinned -= 1
            gone = self._drop_if_done(lane, slot)
        if gone:
            self._on_release(lane)

    def wait_until_gone(self, lanes: Collection[str]) -> None:
        """Blocks until none of these is held."""
        with self._lock:
            self._lock.wait_for(lambda: not any(name in self._slots for name in lanes))

    def lane(self, name: str) -> Lane:
        """A lane that is pinned."""
        return self._slots[name].lane

    def _open(self, checkpoint: str, lane: Lane) -> None:
        slot = self._slots.setdefault(lane.name, _Slot(lane))
        slot.retired = False
        self._current[checkpoint] = lane.name

    def _close(self, lane: str) -> bool:
        slot = self._slots[lane]
        slot.retired = True
        return self._drop_if_done(lane, slot)

    def _drop_if_done(self, lane: str, slot: _Slot) -> bool:
        if slot.retired and not slot.pinned:
            del self._slots[lane]
            self._lock.notify_all()
            return True
        return False
