"""Decoding on the CPU as one traced graph, with no Python between its operations.

It does on the CPU what CUDA graphs do on a GPU (`graphs.py`). A decoding step of a small model is
some 300 operations of a few microseconds each, and Python takes as long again to call them, all the
while holding the lock that the edge needs too. `torch.jit.trace` records the step once; the record
runs the same operations, to the last bit, without Python and without its lock.

Weights are inputs of the record, as tokens are. So checkpoints of one base model share it: another
one costs a comparison, not a tracing, which would hold Python's lock for as long as many steps.

A record is used for a network only after it has been compared with that network's untraced step, on
other sizes than it was recorded with; if it differs, or if the model can't be traced, decoding
stays untraced. Tracing is deprecated in torch in favour of compilers, which need a C++ compiler
where the server runs and were slower here (`docs/log.md`); the pinned torch has it.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from learnback_server.engine.attention import KeyValueCache, PagedForward, Pages
from learnback_server.engine.batch import StepBatch
from learnback_server.engine.sdpa import RowGroup, SdpaAttention, SdpaStep
from learnback_server.engine.weights import shell

logger = logging.getLogger(__name__)

TRACE_ROWS = 5
CHECK_ROWS = 9
"""A size of batch other than the traced one, to see that the trace holds for any."""

SETTLING_RUNS = 2
"""A record is made faster while it runs for the first times, which nobody should wait for."""

MOST_PADDING = 2
"""Rows of unlike length are padded to the longest: up to this many times the pages they have."""

SMALLEST_WORKSPACE_PAGES = 512

Windows = Rows[int | None]
"""The windows that a model's layers use."""


class StepTraces:
    """The records of decoding steps over one cache, shared by networks of one structure."""

    def __init__(self, cache: KeyValueCache) -> None:
        """Starts with none."""
        self._cache = cache
        self._workspace = _Workspace(cache)
        self._lock = threading.Lock()
        self._traces: list[StepTrace] = []

    @property
    def count(self) -> int:
        """How many steps have been recorded."""
        return len(self._traces)

    def decoder(self, model: PreTrainedModel, windows: Windows) -> TracedDecoder | None:
        """Decoding of a model by a record that was proved for it; the cache has all its layers.

        Returns:
            None, with a line in the log, if that is not to be had.
        """
        with self._lock:  # else two threads would record the same
            try:
                return self._known(model, windows) or self._recorded(model, windows)
            except (RuntimeError, TypeError, ValueError, AttributeError) as error:
                logger.warning("decoding stays untraced: %s", error)
                return None

    def _known(self, model: PreTrainedModel, windows: Windows) -> TracedDecoder | None:
        """By a record that is here."""
        weights = _weights(model)
        for trace in self._traces:
            if trace.fits(weights, windows):
                decoder = TracedDecoder(trace, weights, self._cache, self._workspace)
                if decoder.agrees_with(model):
                    return decoder
        return None

    def _recorded(self, model: PreTrainedModel, windows: Windows) -> TracedDecoder | None:
        """By a record of its own."""
        trace = StepTrace(model, self._cache, windows)
        decoder = TracedDecoder(trace, _weights(model), self._cache, self._workspace)
        if not all(decoder.agrees_with(model) for _ in range(SETTLING_RUNS)):
            name = type(model).__name__
            logger.warning("decoding stays untraced: the trace of %s differs", name)
            return None
        self._traces.append(trace)
        return decoder


class StepTrace:
    """One decoding step, recorded."""

    def __init__(self, model: PreTrainedModel, cache: KeyValueCache, windows: Windows) -> None:
        """Records the step of `model`, whose layers use `windows`."""
        weights = _weights(model)
        self.windows = tuple(windows)
        self._names = tuple(weights)
        step = _OpenStep(shell(model), self._names, self.windows)
        sample = StepBatch([], cache.page_tokens, pad_to=TRACE_ROWS, pad_length=cache.page_tokens)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a trace can't follow: it is compared later
            record: Any = torch.jit.trace  # untyped, and a function of many uses
            inputs = _inputs(sample, self.windows, cache, _Workspace(cache))
            self._traced = record(step.run, (*weights.values(), *inputs), check_trace=False)
        step.forget()  # torch keeps what it has recorded

    def fits(self, weights: Mapping[str, torch.Tensor], windows: Windows) -> bool:
        """Whether a network with these weights may compute by it; agreeing proves it."""
        return self._names == tuple(weights) and self.windows == tuple(windows)

    def __call__(self, weights: Rows[torch.Tensor], inputs: Rows[torch.Tensor]) -> torch.Tensor:
        """Logits of each row, of shape (rows, vocabulary)."""
        logits: torch.Tensor = self._traced(*weights, *inputs)
        return logits


class TracedDecoder:
    """Decodes one token a row by a record and the weights of one network."""

    def __init__(
        self,
        trace: StepTrace,
        weights: Mapping[str, torch.Tensor],
        cache: KeyValueCache,
        workspace: _Workspace,
    ) -> None:
        """Uses `workspace`, which others may use at other times."""
        self._trace = trace
        self._weights = tuple(weights.values())
        self._cache = cache
        self._workspace = workspace

    def suits(self, batch: StepBatch) -> bool:
        """Whether a step is plain decoding of rows of like enough lengths."""
        if not batch.decodes:
            return False
        pages = -(-batch.lengths[: batch.completing] // batch.page_tokens)
        return int(pages.max()) * len(pages) <= MOST_PADDING * int(pages.sum())

    def decode(self, batch: StepBatch) -> torch.Tensor:
        """Logits of each row, of shape (rows, vocabulary)."""
        inputs = _inputs(batch, self._trace.windows, self._cache, self._workspace)
        return self._trace(self._weights, inputs)

    def agrees_with(self, model: PreTrainedModel) -> bool:
        """Whether the model gives the same on a step unlike the one that was recorded.

        May run beside the engine's steps: it writes to the scratch page alone.
        """
        tokens = 3 * self._cache.page_tokens - 1
        batch = StepBatch([], self._cache.page_tokens, pad_to=CHECK_ROWS, pad_length=tokens)
        inputs = _inputs(batch, self._trace.windows, self._cache, _Workspace(self._cache))
        untraced = _DecodeStep(model, self._trace.windows)
        return torch.equal(self._trace(self._weights, inputs), untraced(*inputs))


class _Workspace:
    """Room for gathered pages of any layer, that grows to the largest step seen."""

    def __init__(self, cache: KeyValueCache) -> None:
        self._cache = cache
        self._spaces: tuple[torch.Tensor, torch.Tensor] | None = None

    def spaces(self, pages: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Room for at least `pages` pages of keys, and of values."""
        width = self._cache.page_width
        if self._spaces is None or pages * width > self._spaces[0].numel():
            most = max(SMALLEST_WORKSPACE_PAGES, 2 * pages)
            room = torch.empty(2, most * width, dtype=self._cache.dtype)
            self._spaces = (room[0], room[1])
        return self._spaces


class _DecodeStep(torch.nn.Module):
    """The step as a function of tensors alone, as tracing wants it."""

    def __init__(self, model: PreTrainedModel, windows: Windows) -> None:
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


class _OpenStep:
    """The same with the weights as its first inputs."""

    def __init__(self, network: PreTrainedModel, names: Rows[str], windows: Windows) -> None:
        """Takes the weights out of `network`, which is good for nothing else from here on."""
        self._step = _DecodeStep(network, windows)
        self._places = []
        for name in names:
            parent, _, own = name.rpartition(".")
            module = network.get_submodule(parent)
            delattr(module, own)  # registered as a parameter, it could not be any tensor
            self._places.append((module, own))

    def run(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Logits of each row."""
        weights, others = inputs[: len(self._places)], inputs[len(self._places) :]
        for (module, own), weight in zip(self._places, weights, strict=True):
            setattr(module, own, weight)
        logits: torch.Tensor = self._step(*others)
        return logits

    def forget(self) -> None:
        """Lets go of the weights that it was run with last."""
        for module, own in self._places:
            delattr(module, own)


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


def _weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """All that a network of one structure has of its own, tied weights under each of their names.

    Detached, because a record is made again for tensors that want gradients.
    """
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {name: tensor.detach() for name, tensor in named}


def _inputs(
    batch: StepBatch, windows: Windows, cache: KeyValueCache, workspace: _Workspace
) -> tuple[torch.Tensor, ...]:
    """A step of plain decoding as `_DecodeStep` takes it."""
    return (
        torch.from_numpy(batch.ids),
        torch.from_numpy(batch.positions),
        torch.from_numpy(batch.slots),
        torch.from_numpy(batch.tables.reshape(-1)),
        *workspace.spaces(batch.tables.size),
        *(_mask(batch, window, cache.dtype) for window in windows),
        *cache.tensors(),
    )


def _mask(batch: StepBatch, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """0 where a row sees a key and -inf elsewhere: (rows, 1, 1, tokens of its pages)."""
    keys = np.arange(batch.tables.shape[1] * batch.page_tokens)
    unseen = keys > batch.positions[:, None]
    if window is not None:
        unseen |= keys <= batch.positions[:, None] - window
    mask = torch.zeros(unseen.shape, dtype=dtype).masked_fill_(torch.from_numpy(unseen), -torch.inf)
    return mask[:, None, None]
