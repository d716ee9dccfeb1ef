"""Steps on a GPU as CUDA graphs: one launch a step instead of one for each of the model's kernels.

To launch a kernel takes the processor longer than a GPU takes to run it, so that a step that is
called kernel by kernel waits for Python. A graph replays exact addresses and shapes. So there is
one for each size of a step, in powers of two, with inputs of its own that each step is copied into:

- decoding, where every row is one token;
- any other step, such as one that reads prompts beside those who decode: so many tokens, in up to
  as many rows as the engine runs. The kernel of attention reads from memory where rows begin.

What a step does not need of its graph goes to rows of no sequence, which stay in the scratch page.
All graphs are captured before the network answers, on whichever thread prepares it. A network that
can't be captured, such as one that asks the GPU what to compute next, runs as it is.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from learnback_server.engine.batch import StepBatch
from learnback_server.engine.varlen import VarlenStep, cumulative

logger = logging.getLogger(__name__)

WARM_UP_STEPS = 2
"""Runs before a capture, in which libraries set up what can't be set up while capturing."""

FEWEST_TOKENS = 64
"""In a graph that is not for decoding alone."""

Forward = Callable[[torch.Tensor, torch.Tensor, VarlenStep, torch.Tensor], torch.Tensor]
"""(ids, positions, step, last) -> logits of the tokens `last`, of shape (rows, vocabulary)."""

_one_at_a_time = threading.Lock()
"""Torch captures one graph of a process at a time."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest step.

    Attributes:
        rows: Sequences in it.
        tokens: Tokens in it.
        keys: Tokens of a sequence.
        page_tokens: Tokens of a page.
    """

    rows: int
    tokens: int
    keys: int
    page_tokens: int

    def size_of(self, batch: StepBatch) -> Size | None:
        """The smallest graph that a step fits in; None if it fits in none."""
        if batch.rows > self.rows or len(batch.ids) > self.tokens:
            return None
        if batch.decodes:
            return self._decoding(batch.rows)
        return self._mixed(len(batch.ids))

    def sizes(self) -> Iterator[Size]:
        """All sizes; the largest first, so that the others find room in the memory that it needs.

        (Graphs of one network share memory, as none runs beside another.)
        """
        yield from _halves(self._mixed(self.tokens), self._mixed)
        yield from _halves(self._decoding(self.rows), self._decoding)

    def _decoding(self, rows: int) -> Size:
        size = _power_of_two(rows)
        return Size(size, size, most_queries=1)

    def _mixed(self, tokens: int) -> Size:
        # One row more than there can be sequences, for the tokens that nobody needs.
        size = _power_of_two(max(FEWEST_TOKENS, tokens))
        return Size(size, self.rows + 1, most_queries=size)


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a graph.

    Attributes:
        tokens: That it computes.
        rows: That they are in, and whose logits it makes.
        most_queries: Tokens of a row.
    """

    tokens: int
    rows: int
    most_queries: int


def _halves(largest: Size, make: Callable[[int], Size]) -> Iterator[Size]:
    size: Size | None = largest
    while size is not None:
        yield size
        smaller = make(size.tokens // 2)
        size = smaller if size.tokens > 1 and smaller != size else None


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


class Inputs:
    """What a graph reads, in two pieces of memory: a step costs two copies to the GPU.

    Attributes:
        ids: Token ids, of shape (tokens,).
        positions: Of the tokens in their sequences, of shape (tokens,).
        last: The tokens whose logits are made, of shape (rows,).
        step: What attention reads.
    """

    def __init__(self, size: Size, limits: Limits, device: torch.device) -> None:
        """Makes room for a step of this size; every row is of no sequence yet."""
        self._size = size
        # All that is left over may be a row of its own, longer than any sequence.
        most_keys = max(limits.keys, size.tokens)
        self._pages = -(-most_keys // limits.page_tokens)
        tokens, rows = size.tokens, size.rows
        self._wide = torch.zeros(3 * tokens + rows, dtype=torch.int64, device=device)
        # Where rows begin, and their keys; how long they are; their pages.
        self._parts = [rows + 1, rows + 1, rows, rows * self._pages]
        self._narrow = torch.zeros(sum(self._parts), dtype=torch.int32, device=device)
        self.ids, self.positions, slots, self.last = torch.split(
            self._wide, [tokens, tokens, tokens, rows]
        )
        starts, key_starts, lengths, tables = torch.split(self._narrow, self._parts)
        self.step = VarlenStep(
            slots=slots,
            starts=starts,
            key_starts=key_starts,
            lengths=lengths,
            tables=tables.view(rows, self._pages),
            most_queries=size.most_queries,
            most_keys=most_keys,
        )
        self.fill(StepBatch([], limits.page_tokens, pad_to=1))

    def fill(self, batch: StepBatch) -> None:
        """Copies a step, and points what it leaves over at the scratch page."""
        size, tokens, rows = self._size, len(batch.ids), batch.rows
        wide = np.zeros(len(self._wide), dtype=np.int64)
        for place, values in enumerate((batch.ids, batch.positions, batch.slots, batch.last)):
            start = place * size.tokens
            wide[start : start + len(values)] = values
        narrow = np.zeros(len(self._narrow), dtype=np.int32)
        starts, key_starts, lengths, tables = np.split(narrow, np.cumsum(self._parts[:-1]))
        starts[: rows + 1] = batch.starts
        # A token for each row that is left over, as decoding has it, and the rest for the last one.
        starts[rows + 1 :] = np.minimum(tokens + np.arange(1, size.rows - rows + 1), size.tokens)
        starts[-1] = size.tokens
        lengths[:rows] = batch.lengths
        # As many keys as tokens: where queries see no key at all, the kernel of torch 2.13 writes
        # beyond its output.
        lengths[rows:] = np.diff(starts)[rows:]
        key_starts[:] = cumulative(lengths.astype(np.int64))
        tables.reshape(size.rows, -1)[:rows, : batch.tables.shape[1]] = batch.tables
        self._wide.copy_(torch.from_numpy(wide), non_blocking=True)
        self._narrow.copy_(torch.from_numpy(narrow), non_blocking=True)


@dataclass(frozen=True, slots=True)
class StepGraph:
    """A captured step, with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Inputs
    logits: torch.Tensor


class GraphedSteps:
    """Computes each step by replaying the smallest graph that it fits in."""

    def __init__(self, forward: Forward, device: torch.device, limits: Limits) -> None:
        """Captures `forward` in all sizes.

        Raises:
            RuntimeError: It can't be captured.
        """
        self._forward = forward
        self._device = device
        self._limits = limits
        self._pool: Any = None  # what graphs share memory by; torch gives its type no public name
        with _one_at_a_time:
            self._graphs = {size: self._capture(size) for size in limits.sizes()}

    def compute(self, batch: StepBatch, ready: Callable[[], None]) -> torch.Tensor | None:
        """See `Stepper.compute`."""
        size = self._limits.size_of(batch)
        if size is None:
            return None
        graph = self._graphs[size]
        graph.inputs.fill(batch)
        graph.graph.replay()
        ready()
        return graph.logits

    def _capture(self, size: Size) -> StepGraph:
        inputs = Inputs(size, self._limits, self._device)
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                self._logits(inputs)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # The engine's thread computes meanwhile, and its allocations must not spoil the capture.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = self._logits(inputs)
        self._pool = graph.pool()
        return StepGraph(graph, inputs, logits)

    def _logits(self, inputs: Inputs) -> torch.Tensor:
        return self._forward(inputs.ids, inputs.positions, inputs.step, inputs.last)


def graphed(forward: Forward, device: torch.device, limits: Limits) -> GraphedSteps | None:
    """Steps by graphs; None, with a line in the log, if they are not to be had."""
    try:
        return GraphedSteps(forward, device, limits)
    except RuntimeError as error:
        logger.warning("steps stay uncaptured: %s", error)
        return None
