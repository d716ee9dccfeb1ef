"""Decoding on the CPU as one traced graph, with no Python between its operations.

It does on the CPU what CUDA graphs do on a GPU (`graphs.py`). A decoding step of a small model is
some 300 operations of a few microseconds each, and Python takes as long again to call them, all the
while holding the lock that the edge needs too. `torch.jit.trace` records the step once; the record
runs the same operations, to the last bit, without Python and without its lock.

A trace is used only after it has been compared with the untraced step on other sizes than it was
recorded with; if it differs, or if the model can't be traced, decoding stays untraced. Tracing is
deprecated in torch in favour of compilers, which need a C++ compiler where the server runs and were
slower here (`docs/log.md`); the pinned torch has it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from learnback_server.engine.attention import KeyValueCache, PagedForward, Pages
from learnback_server.engine.batch import StepBatch
from learnback_server.engine.sdpa import RowGroup, SdpaAttention, SdpaStep

logger = logging.getLogger(__name__)

TRACE_ROWS = 5
CHECK_ROWS = 9
"""A size of batch other than the traced one, to see that the trace holds for any."""

MOST_PADDING = 2
"""Rows of unlike length are padded to the longest: up to this many times the pages they have."""

SMALLEST_WORKSPACE_PAGES = 512


class TracedDecoder:
    """Decodes one token a row through a trace of the model."""

    def __init__(self, model: PreTrainedModel, cache: KeyValueCache, windows: Rows[int | None]):
        """Traces the model, whose layers use `windows`; the cache must have all of its layers."""
        self._cache = cache
        self._windows = windows
        self._spaces = _spaces(cache, SMALLEST_WORKSPACE_PAGES)
        self._step = _DecodeStep(model, windows)
        sample = StepBatch([], cache.page_tokens, pad_to=TRACE_ROWS, pad_length=cache.page_tokens)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a trace can't follow: it is compared below
            record: Any = torch.jit.trace  # untyped, and a function of many uses
            self._traced = record(self._step, self._inputs(sample), check_trace=False)

    def suits(self, batch: StepBatch) -> bool:
        """Whether a step is plain decoding of rows of like enough lengths."""
        if not batch.decodes:
            return False
        pages = -(-batch.lengths[: batch.completing] // batch.page_tokens)
        return int(pages.max()) * len(pages) <= MOST_PADDING * int(pages.sum())

    def decode(self, batch: StepBatch) -> torch.Tensor:
        """Logits of each row, of shape (rows, vocabulary)."""
        logits: torch.Tensor = self._traced(*self._inputs(batch))
        return logits

    def agrees(self) -> bool:
        """Whether trace and model give the same on a step unlike the one it was traced with."""
        tokens = 3 * self._cache.page_tokens - 1
        batch = StepBatch([], self._cache.page_tokens, pad_to=CHECK_ROWS, pad_length=tokens)
        inputs = self._inputs(batch)
        return torch.equal(self._traced(*inputs), self._step(*inputs))

    def _inputs(self, batch: StepBatch) -> tuple[torch.Tensor, ...]:
        pages = batch.tables.size
        if pages * self._cache.page_width > self._spaces[0].numel():
            self._spaces = _spaces(self._cache, 2 * pages)
        masks = [_mask(batch, window, self._cache.dtype) for window in self._windows]
        return (
            torch.from_numpy(batch.ids),
            torch.from_numpy(batch.positions),
            torch.from_numpy(batch.slots),
            torch.from_numpy(batch.tables.reshape(-1)),
            *self._spaces,
            *masks,
            *self._cache.tensors(),
        )


class _DecodeStep(torch.nn.Module):
    """The step as a function of tensors alone, as tracing wants it."""

    def __init__(self, model: PreTrainedModel, windows: Rows[int | None]) -> None:
        super().__init__()
        self._model = model
        self._windows = windows
        self._attention = SdpaAttention()

    def forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor,
        pages: torch.Tensor,
        keys_space: torch.Tensor,
        values_space: torch.Tensor,
        *others: torch.Tensor,
    ) -> torch.Tensor:
        """Logits of each row; `others` are the masks, by window, and the tensors of the cache."""
        masks = dict(zip(self._windows, others, strict=False))
        group = RowGroup(ids, None, pages, positions, ids.shape[0], 1, masks)
        step = SdpaStep(slots, [group], whole=True, room=_GivenRoom(keys_space, values_space))
        cache = _GivenCache(others[len(masks) :])
        output = self._model(
            input_ids=ids.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            use_cache=False,
            paged=PagedForward(self._attention, cache, step),
        )
        logits: torch.Tensor = output.logits[0]
        return logits


@dataclass(frozen=True, slots=True)
class _GivenCache:
    """The cache's tensors as inputs of the trace: keys and values of each layer, in turn."""

    tensors: tuple[torch.Tensor, ...]

    def layer(self, index: int, *_: torch.Tensor) -> tuple[Pages, Pages]:
        return Pages(self.tensors[2 * index]), Pages(self.tensors[2 * index + 1])


class _GivenRoom:
    """Room for gathered pages as inputs of the trace."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self._spaces = {"keys": keys, "values": values}

    def take(self, name: str, pages: Pages, count: int) -> torch.Tensor:
        width = pages.by_page.shape[1]
        return self._spaces[name][: count * width].view(count, width)


def trace(
    model: PreTrainedModel, cache: KeyValueCache, windows: Rows[int | None]
) -> TracedDecoder | None:
    """Traces a model on the CPU; None, with a line in the log, if that is not to be had."""
    try:
        decoder = TracedDecoder(model, cache, windows)
    except (RuntimeError, TypeError, ValueError) as error:
        logger.warning("decoding stays untraced: %s", error)
        return None
    if not decoder.agrees():
        logger.warning("decoding stays untraced: the trace of %s differs", type(model).__name__)
        return None
    return decoder


def _spaces(cache: KeyValueCache, pages: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Room for `pages` gathered pages of keys, and of values, of any layer."""
    room = torch.empty(2, pages * cache.page_width, dtype=cache.dtype)
    return room[0], room[1]


def _mask(batch: StepBatch, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """0 where a row sees a key and -inf elsewhere: (rows, 1, 1, tokens of its pages)."""
    keys = np.arange(batch.tables.shape[1] * batch.page_tokens)
    unseen = keys > batch.positions[:, None]
    if window is not None:
        unseen |= keys <= batch.positions[:, None] - window
    mask = torch.zeros(unseen.shape, dtype=dtype).masked_fill_(torch.from_numpy(unseen), -torch.inf)
    return mask[:, None, None]
