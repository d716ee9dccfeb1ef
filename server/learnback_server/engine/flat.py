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
from learnback_server.engine.batch import Ints, StepBatch
from learnback_server.engine.kept import KeptRows, Standing
from learnback_server.engine.sdpa import RowGroup, SdpaAttention, SdpaStep, shape_of_prompt

Tensors = tuple[torch.Tensor, ...]
Windows = Rows[int | None]
"""The windows that a model's layers use."""

MOST_PADDING = 2
"""Decoding rows are padded to the longest: up to this many times the pages they have."""


class Kind(enum.Enum):
    """Which rows a step has."""

    DECODE = enum.auto()
    """Rows of one token, all of whose logits are wanted."""
    JOINED = enum.auto()
    """Rows of one token, and one prompt or chunk of a prompt."""
    PROMPT = enum.auto()
    """One prompt or chunk of a prompt."""

    @property
    def decodes(self) -> bool:
        """Whether there are rows of one token."""
        return self is not Kind.PROMPT

    @property
    def reads(self) -> bool:
        """Whether there is a prompt."""
        return self is not Kind.DECODE


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


def inputs_of(
    kind: Kind, batch: StepBatch, windows: Windows, cache: KeyValueCache, kept: KeptRows
) -> Tensors | None:
    """A step as `FlatStep` takes it, its tokens in the order of the places of their rows.

    Args:
        kind: What `kind_of` says of it.
        batch: The step.
        windows: The windows that layers use.
        cache: Keys and values of each layer.
        kept: The places; they take the step for done.

    Returns:
        None if there is no room for its rows.
    """
    rows = np.argsort(batch.counts > 1, kind="stable")  # a prompt goes last
    lengths, counts = batch.lengths[rows], batch.counts[rows]
    decoding = batch.rows - kind.reads
    shape = (0, 0)
    if kind.reads:
        pages = -(-int(lengths[-1]) // batch.page_tokens)
        shape = shape_of_prompt(int(counts[-1]), pages)
    standing = Standing(
        [batch.owners[row] for row in rows],
        batch.tables[rows],
        lengths - counts,
        lengths,
        pages=max(batch.tables.shape[1], shape[1]),
        prompt=kind.reads,
    )
    places = kept.seat(standing)
    if places is None:
        return None
    order = _tokens_of(batch, rows[places.order])
    positions = batch.positions[order]
    place = np.repeat(np.arange(batch.rows), counts[places.order])
    own = (
        batch.ids[order],
        positions,
        batch.slots[order],
        np.argsort(order)[batch.last],
        place * places.tokens + positions,
    )
    size, dtype = batch.page_tokens, cache.dtype
    groups: list[torch.Tensor] = []
    if kind.decodes:
        keys = -(-int(lengths[:decoding].max()) // size) * size
        seen = positions[:decoding, None]
        groups += [torch.arange(decoding), *(_mask(seen, keys, one, dtype) for one in windows)]
    if kind.reads:
        queries = np.arange(shape[0])
        # A padded query repeats the first one's position, so that it sees at least one key.
        seen = positions[decoding] + np.where(queries < counts[-1], queries, 0)[None]
        groups += [torch.arange(int(counts[-1])) + decoding, torch.arange(int(counts[-1]))]
        groups += [_mask(seen, shape[1] * size, one, dtype) for one in windows]
    return (*map(torch.from_numpy, own), *groups, *places.rooms, *cache.tensors())


def _tokens_of(batch: StepBatch, rows: Ints) -> Ints:
    """The tokens of these rows, one row after the other, of shape (tokens,)."""
    counts = batch.counts[rows]
    shift = batch.starts[:-1][rows] - (np.cumsum(counts) - counts)
    tokens: Ints = np.repeat(shift, counts) + np.arange(len(batch.ids))
    return tokens


def _mask(positions: Ints, keys: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """0 where a query sees a key and -inf elsewhere, of shape (rows, 1, queries, keys).

    For queries at `positions`, of shape (rows, queries), of keys at 0 to `keys`, exclusive.
    """
    key, query = np.arange(keys), positions[:, :, None]
    unseen = key > query
    if window is not None:
        unseen |= key <= query - window
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
        targets: torch.Tensor,
        *others: torch.Tensor,
    ) -> torch.Tensor:
        """Logits of the tokens `last`; for the inputs see `inputs_of`."""
        left = iter(others)
        groups: list[RowGroup] = []
        if self._kind.decodes:
            groups.append(self._decoding(left))
        if self._kind.reads:
            groups.append(self._prompt(left))
        tensors = tuple(left)
        half = len(tensors) // 2
        cache = _GivenCache(targets, tensors[:half], tensors[half:])
        whole = self._kind is Kind.DECODE
        room = _GivenRoom(groups[0].rows if self._kind.decodes else 0)
        step = SdpaStep(slots, groups, whole, room)
        output = self.model(
            input_ids=ids.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            use_cache=False,
            paged=PagedForward(self._attention, cache, step),
            logits_to_keep=last,
        )
        logits: torch.Tensor = output.logits[0]
        return logits

    def _decoding(self, left: Iterator[torch.Tensor]) -> RowGroup:
        """The rows of one token."""
        tokens = next(left)
        masks = self._masks(left)
        return _GivenGroup(tokens, None, tokens, tokens, tokens.shape[0], 1, masks)

    def _prompt(self, left: Iterator[torch.Tensor]) -> RowGroup:
        """The prompt."""
        tokens, padded = islice(left, 2)
        masks = self._masks(left)
        queries = next(iter(masks.values())).shape[2]
        return _GivenGroup(tokens, padded, tokens, tokens, 1, queries, masks)

    def _masks(self, left: Iterator[torch.Tensor]) -> dict[int | None, torch.Tensor]:
        return dict(zip(self._windows, islice(left, len(self._windows)), strict=True))


class _GivenGroup(RowGroup):
    """A group whose masks are given, for one head; it has neither pages nor positions."""

    def mask(self, _keys: torch.Tensor, window: int | None, fold: int) -> torch.Tensor:
        """See `RowGroup.mask`."""
        mask = self.masks[window]
        return mask if self.places is None else mask.repeat(1, 1, fold, 1)


class _PlacedPages(Pages):
    """Keys, or values, of a layer, in pages and in places."""

    def __init__(self, paged: torch.Tensor, places: torch.Tensor, targets: torch.Tensor) -> None:
        super().__init__(paged)
        self.places = places
        self._targets = targets

    def store(self, slots: torch.Tensor, new: torch.Tensor) -> None:
        """See `Pages.store`."""
        super().store(slots, new)
        self.places.flatten(0, 1).index_copy_(0, self._targets, new)


@dataclass(frozen=True, slots=True)
class _GivenCache:
    """Places and pages as inputs of the trace: keys and values of each layer, in turn."""

    targets: torch.Tensor
    places: Tensors
    pages: Tensors

    def layer(self, index: int, *_: torch.Tensor) -> tuple[Pages, Pages]:
        return self._one(2 * index), self._one(2 * index + 1)

    def _one(self, index: int) -> Pages:
        return _PlacedPages(self.pages[index], self.places[index], self.targets)


@dataclass(frozen=True, slots=True)
class _GivenRoom:
    """Finds rows in their places."""

    decoding: int
    """How many there are before the prompt's."""

    def gather(self, _name: str, pages: Pages, group: RowGroup) -> torch.Tensor:
        """See `Room.gather`."""
        if not isinstance(pages, _PlacedPages):
            raise TypeError("rows of a flat step are in places")
        keys = next(iter(group.masks.values())).shape[3]
        if group.places is None:
            return pages.places[: group.rows, :keys]
        return pages.places[self.decoding : self.decoding + 1, :keys]
