"""CUDA graphs for decoding: one launch a step instead of one for each of the model's kernels.

A graph replays exact addresses and shapes, so there is one for each size of batch (powers of two),
captured at first use, with buffers of its own that each step is copied into. Spare rows of a graph
decode into the scratch page. Only steps in which every row decodes one token go through here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from learnback_server.engine.batch import StepBatch
from learnback_server.engine.varlen import VarlenStep

WARM_UP_STEPS = 2
"""Runs before a capture, in which libraries set up what can't be set up while capturing."""

Forward = Callable[[torch.Tensor, torch.Tensor, VarlenStep], torch.Tensor]
"""(ids, positions, step) -> logits of every token, of shape (tokens, vocabulary)."""


@dataclass(frozen=True, slots=True)
class DecodeGraph:
    """A captured step of a fixed number of rows, with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    ids: torch.Tensor
    positions: torch.Tensor
    step: VarlenStep
    logits: torch.Tensor


class GraphedDecoder:
    """Decodes by replaying the smallest graph that a batch fits in."""

    def __init__(
        self, forward: Forward, device: torch.device, *, most_pages: int, most_keys: int
    ) -> None:
        """Captures `forward` as needed, for sequences of up to `most_keys` tokens."""
        self._forward = forward
        self._device = device
        self._most_pages = most_pages
        self._most_keys = most_keys
        self._graphs: dict[int, DecodeGraph] = {}
        self._pool: Any = None  # what graphs share memory by; torch gives its type no public name

    def compute(self, batch: StepBatch, ready: Callable[[], None]) -> torch.Tensor | None:
        """Logits of each row, of shape (rows, vocabulary). Overwritten by the next call.

        Args:
            batch: The step.
            ready: See `ModelRunner.run`.

        Returns:
            None unless the step is plain decoding.
        """
        if not batch.decodes:
            return None
        rows = batch.rows
        size = 1 << (rows - 1).bit_length()
        if size not in self._graphs:
            self._graphs[size] = self._capture(size)
        graph = self._graphs[size]
        _fill(graph, batch)
        graph.graph.replay()
        ready()
        return graph.logits[:rows]

    def _capture(self, size: int) -> DecodeGraph:
        ids = torch.zeros(size, dtype=torch.int64, device=self._device)
        positions = torch.zeros_like(ids)
        step = self._blank_step(size)
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                self._forward(ids, positions, step)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Another thread may be loading a checkpoint, whose allocations must not spoil the capture.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = self._forward(ids, positions, step)
        self._pool = graph.pool()
        return DecodeGraph(graph, ids, positions, step, logits)

    def _blank_step(self, size: int) -> VarlenStep:
        """Every row reads and writes one token of the scratch page."""
        return VarlenStep(
            slots=torch.zeros(size, dtype=torch.int64, device=self._device),
            starts=torch.arange(size + 1, dtype=torch.int32, device=self._device),
            lengths=torch.ones(size, dtype=torch.int32, device=self._device),
            tables=torch.zeros(size, self._most_pages, dtype=torch.int32, device=self._device),
            most_queries=1,
            most_keys=self._most_keys,
        )


def _fill(graph: DecodeGraph, batch: StepBatch) -> None:
    """Copies a step into the tensors of a graph; spare rows are pointed at the scratch page."""
    size = graph.ids.shape[0]
    _copy(graph.ids, batch.ids, size, 0)
    _copy(graph.positions, batch.positions, size, 0)
    _copy(graph.step.slots, batch.slots, size, 0)
    _copy(graph.step.lengths, batch.lengths, size, 1)
    width = batch.tables.shape[1]
    tables = np.zeros((size, width), dtype=np.int32)
    tables[: batch.rows] = batch.tables
    graph.step.tables[:, :width].copy_(torch.from_numpy(tables), non_blocking=True)


def _copy(into: torch.Tensor, array: np.ndarray, size: int, spare: int) -> None:
    full = np.full(size, spare)
    full[: min(size, len(array))] = array[:size]
    into.copy_(torch.from_numpy(full), non_blocking=True)
