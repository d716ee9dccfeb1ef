"""A step as a function of tensors alone, as tracing wants it (`traced.py`).

Which groups of rows there are decides which operations a step takes, and so which record it needs:
that is its `Kind`. All else, as how many rows, tokens and pages, is in the sizes of the tensors.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from transformers import PreTrainedModel

from learnback_server.engine.attention import KeyValueCache, PagedForward, Pages
from learnback_server.engine.batch import StepBatch
from learnback_server.engine.sdpa import (
    RowGroup,
    SdpaAttention,
    SdpaStep,
    group_of,
    shape_of_prompt,
)

Tensors = tuple[torch.Tensor, ...]
Windows = Rows[int | None]
"""The windows that a model's layers use."""

MOST_PADDING = 2
"""Decoding rows are padded to the longest: up to this many times the pages they have."""

SMALLEST_WORKSPACE_PAGES = 512


class Kind(enum.Enum):
    """Which rows a step has."""

    DECODE = enum.auto()
    """Rows of one token, all of whose logits are wanted."""
    JOINED = enum.auto()
    """Rows of one token, and one prompt or chunk of a prompt."""
    PROMPT = enum.auto()
    """One prompt or chunk of a prompt."""


def kind_of(batch: StepBatch) -> Kind | None:
    """The kind of a step; None if it is none of these, or if padding it would cost too much."""
    singles = batch.counts == 1
    prompts = batch.rows - int(singles.sum())
    if prompts > 1 or not (batch.decodes or prompts):
        return None
    pages = -(-batch.lengths[: batch.rows - batch.padding] // batch.page_tokens)
    pages = pages[singles[: len(pages)]]
    if len(pages) and int(pages.max()) * len(pages) > MOST_PADDING * int(pages.sum()):
        return None
    if not prompts:
        return Kind.DECODE
    return Kind.JOINED if singles.any() else Kind.PROMPT


class Workspace:
    """Room for gathered pages of any layer, that grows to the largest step seen."""

    def __init__(self, cache: KeyValueCache) -> None:
        """Starts with none."""
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


def inputs_of(
    kind: Kind, batch: StepBatch, windows: Windows, workspace: Workspace, cache: Rows[torch.Tensor]
) -> Tensors:
    """A step as `FlatStep` takes it.

    Args:
        kind: What `kind_of` says of it.
        batch: The step.
        windows: The windows that layers use.
        workspace: Room for what is gathered.
        cache: Keys and values of each layer, in turn.
    """
    own = [torch.from_numpy(one) for one in (batch.ids, batch.positions, batch.slots, batch.last)]
    dtype, tables = cache[0].dtype, batch.tables
    if kind is Kind.DECODE:
        masks = (_mask(batch.positions[:, None], tables.shape[1], batch, w, dtype) for w in windows)
        grouped = [torch.from_numpy(tables.reshape(-1)), *masks]
        most = tables.size
    else:
        groups = list(_groups(batch))
        grouped = [one for group in groups for one in _tensors(group, batch, windows, dtype)]
        most = max(group.pages.numel() for group in groups)
    return (*own, *workspace.spaces(most), *grouped, *cache)


def _groups(batch: StepBatch) -> Iterator[RowGroup]:
    """Those who decode, if there are any; then the prompt."""
    pages_of = -(-batch.lengths // batch.page_tokens)
    singles = np.flatnonzero(batch.counts == 1)
    device = torch.device("cpu")
    if len(singles):
        yield group_of(batch, singles, 1, int(pages_of[singles].max()), device)
    (prompt,) = np.flatnonzero(batch.counts > 1)
    shape = shape_of_prompt(int(batch.counts[prompt]), int(pages_of[prompt]))
    yield group_of(batch, np.array([prompt]), *shape, device)


def _tensors(
    group: RowGroup, batch: StepBatch, windows: Windows, dtype: torch.dtype
) -> Iterator[torch.Tensor]:
    """What `FlatStep` makes a group of again."""
    yield group.tokens
    yield group.pages
    if group.queries > 1:
        yield torch.arange(len(group.tokens)) if group.places is None else group.places
    pages = group.pages.numel() // group.rows
    for window in windows:
        yield _mask(group.positions.numpy(), pages, batch, window, dtype)


def _mask(
    positions: np.ndarray, pages: int, batch: StepBatch, window: int | None, dtype: torch.dtype
) -> torch.Tensor:
    """0 where a query sees a key and -inf elsewhere: (rows, 1, queries, tokens of the pages)."""
    keys, queries = np.arange(pages * batch.page_tokens), positions[:, :, None]
    unseen = keys > queries
    if window is not None:
        unseen |= keys <= queries - window
    mask = torch.zeros(unseen.shape, dtype=dtype).masked_fill_(torch.from_numpy(unseen), -torch.inf)
    return mask[:, None]


class FlatStep(torch.nn.Module):
    """The step of a model, for one kind."""

    def __init__(self, model: PreTrainedModel, kind: Kind, windows: Windows) -> None:
        """Prepares the step of `model`, whose layers use `windows`."""
        super().__init__()
        self.model = model
        self._kind = kind
        self._windows = windows
        self._attention = SdpaAttention()

    def forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor,
        last: torch.Tensor,
        keys_space: torch.Tensor,
        values_space: torch.Tensor,
        *others: torch.Tensor,
    ) -> torch.Tensor:
        """Logits of the tokens `last`; `others` are what the groups are made of, and the cache."""
        left = iter(others)
        groups = list(self._groups(ids, left))
        step = SdpaStep(
            slots,
            groups,
            whole=self._kind is Kind.DECODE,
            room=_GivenRoom(keys_space, values_space),
        )
        cache = _GivenCache(tuple(left))
        # Where all decode, all logits are wanted, in order; picking them out would be a copy.
        keep = {} if self._kind is Kind.DECODE else {"logits_to_keep": last}
        output = self.model(
            input_ids=ids.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            use_cache=False,
            paged=PagedForward(self._attention, cache, step),
            **keep,
        )
        logits: torch.Tensor = output.logits[0]
        return logits

    def _groups(self, ids: torch.Tensor, left: Iterator[torch.Tensor]) -> Iterator[RowGroup]:
        if self._kind is Kind.DECODE:
            yield self._group(ids, next(left), None, ids.shape[0], left)
        elif self._kind is Kind.JOINED:
            tokens, pages = islice(left, 2)
            yield self._group(tokens, pages, None, tokens.shape[0], left)
        if self._kind is not Kind.DECODE:
            tokens, pages, places = islice(left, 3)
            yield self._group(tokens, pages, places, 1, left)

    def _group(
        self,
        tokens: torch.Tensor,
        pages: torch.Tensor,
        places: torch.Tensor | None,
        rows: int,
        left: Iterator[torch.Tensor],
    ) -> RowGroup:
        masks: dict[int | None, torch.Tensor] = dict(zip(self._windows, left, strict=False))
        queries = 1 if places is None else next(iter(masks.values())).shape[2]
        return _GivenGroup(tokens, places, pages, tokens, rows, queries, masks)


class _GivenGroup(RowGroup):
    """A group whose masks are given, for one head; it has no positions."""

    def mask(self, _keys: torch.Tensor, window: int | None, fold: int) -> torch.Tensor:
        """See `RowGroup.mask`."""
        mask = self.masks[window]
        return mask if self.places is None else mask.repeat(1, 1, fold, 1)


@dataclass(frozen=True, slots=True)
class _GivenCache:
    """The cache's tensors as inputs of the trace: keys and values of each layer, in turn."""

    tensors: Tensors

    def layer(self, index: int, *_: torch.Tensor) -> tuple[Pages, Pages]:
        return Pages(self.tensors[2 * index]), Pages(self.tensors[2 * index + 1])


class _GivenRoom:
    """Room for gathered pages as inputs of the trace."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self._spaces = {"keys": keys, "values": values}

    def take(self, name: str, pages: Pages, count: int) -> torch.Tensor:
        width = pages.by_page.shape[1]
        return self._spaces[name][: count * width].view(count, width)
