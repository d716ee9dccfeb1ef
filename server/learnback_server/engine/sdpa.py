"""Paged attention by gathering pages and PyTorch's scaled dot-product attention: the way for CPU.

Rows of like size are padded to a common shape and computed together. Decoding rows (one query) of
up to twice the pages share a group. Rows of a prefill share one only if they round up to the very
same shape, so that the shape, and with it the last bit of the result, depends on a row's own length
and never on its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from learnback_server.engine.attention import Pages
from learnback_server.engine.batch import Ints, StepBatch

SMALLEST_GROUP_PAGES = 8
"""Decoding rows up to this many pages are padded to one shape: splitting them costs more."""


@dataclass(slots=True)
class RowGroup:
    """Rows that are computed together, padded to Q queries and P pages.

    Attributes:
        tokens: Index of each query among the step's tokens, row by row: (valid queries,).
        places: Where these stand in the padded (rows * Q) queries; None if nothing is padded.
        pages: Pages of the rows, flat: (rows * P,).
        positions: Position of each padded query, of shape (rows, Q).
        rows: Number of rows.
        queries: Q.
        masks: Which keys each query sees, by window; filled as layers ask.
    """

    tokens: torch.Tensor
    places: torch.Tensor | None
    pages: torch.Tensor
    positions: torch.Tensor
    rows: int
    queries: int
    masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def mask(self, keys: torch.Tensor, window: int | None, fold: int) -> torch.Tensor:
        """0 where a query sees a key and -inf elsewhere, repeated for `fold` heads.

        For `keys` of shape (rows, heads, tokens, size): (rows, 1, fold * Q, tokens).
        """
        if window not in self.masks:
            key_positions = torch.arange(keys.shape[2])
            queries = self.positions.unsqueeze(-1)
            unseen = key_positions > queries
            if window is not None:
                unseen |= key_positions <= queries - window
            mask = torch.zeros(unseen.shape, dtype=keys.dtype).masked_fill_(unseen, -torch.inf)
            self.masks[window] = mask.repeat(1, fold, 1).unsqueeze(1).to(keys.device)
        return self.masks[window]


@dataclass(frozen=True, slots=True)
class SdpaStep:
    """A step, split into groups of rows of like size."""

    slots: torch.Tensor
    groups: list[RowGroup]
    whole: bool
    """Whether one group is the whole step, in order, so that nothing is to be picked out."""
    room: Room
    """Where gathered pages go."""

    @property
    def windows(self) -> list[int | None]:
        """The windows that layers have asked for in this step."""
        return list(self.groups[0].masks)


class Room(Protocol):
    """Where keys and values are gathered, each row's in one piece."""

    def gather(self, name: str, pages: Pages, group: RowGroup) -> torch.Tensor:
        """What the group's pages hold, of shape (rows, tokens, heads, size), until the next one."""
        ...


class GrowingRoom:
    """Room that all layers use in turn, and that grows to the largest group seen.

    A fresh tensor for each gathering would cost more in page faults than the copy itself.
    """

    def __init__(self) -> None:
        """Starts with none."""
        self._spaces: dict[str, torch.Tensor] = {}

    def gather(self, name: str, pages: Pages, group: RowGroup) -> torch.Tensor:
        """See `Room.gather`."""
        count, width = group.pages.numel(), pages.by_page.shape[1]
        space = self._spaces.get(name)
        if space is None or space.numel() < count * width:
            space = self._spaces[name] = pages.by_page.new_empty(count * width)
        gathered = space[: count * width].view(count, width)
        torch.index_select(pages.by_page, 0, group.pages, out=gathered)
        return gathered.view(group.rows, -1, *pages.paged.shape[2:])


class SdpaAttention:
    """Gathers each group's pages, and attends to them."""

    def __init__(self) -> None:
        """Starts with no room; it grows as needed."""
        self._room = GrowingRoom()

    def prepare(self, batch: StepBatch, device: torch.device) -> SdpaStep:
        """Groups the rows and makes their index tensors."""
        groups = [
            group_of(batch, np.array(rows), queries, pages, device)
            for (queries, pages), rows in _shapes(batch).items()
        ]
        whole = groups[0].queries == 1 and groups[0].rows == len(batch.ids)
        return SdpaStep(torch.from_numpy(batch.slots).to(device), groups, whole, self._room)

    def attend(
        self,
        step: SdpaStep,
        query: torch.Tensor,
        keys: Pages,
        values: Pages,
        *,
        scale: float | None,
        window: int | None,
    ) -> torch.Tensor:
        """See `PagedAttention.attend`."""
        if step.whole:
            return _attend_group(step.groups[0], step.room, query, keys, values, scale, window)
        output = query.new_empty(*query.shape[:-1], values.paged.shape[-1])
        for group in step.groups:
            own = query.index_select(0, group.tokens)
            attended = _attend_group(group, step.room, own, keys, values, scale, window)
            output.index_copy_(0, group.tokens, attended)
        return output


def _attend_group(
    group: RowGroup,
    room: Room,
    query: torch.Tensor,
    keys: Pages,
    values: Pages,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """Attention of a group's valid queries: (valid queries, heads, size), and so back."""
    shared = keys.paged.shape[2]
    fold = query.shape[1] // shared
    gathered = room.gather("keys", keys, group).transpose(1, 2)
    attended = scaled_dot_product_attention(
        _fold(query, group, shared),
        gathered,
        room.gather("values", values, group).transpose(1, 2),
        attn_mask=group.mask(gathered, window, fold),
        scale=scale,
    )
    return _unfold(attended, group, fold)


def _fold(query: torch.Tensor, group: RowGroup, shared: int) -> torch.Tensor:
    """Lays query heads that share a key head side by side, as further queries of that head.

    This spares repeating keys and values. From (valid queries, heads, size) to
    (rows, shared, heads / shared * Q, size).
    """
    if group.queries == 1:
        return query.reshape(group.rows, shared, -1, query.shape[-1])
    if group.places is not None:
        padded = query.new_zeros(group.rows * group.queries, *query.shape[1:])
        query = padded.index_copy_(0, group.places, query)
    split = query.reshape(group.rows, group.queries, shared, -1, query.shape[-1])
    return split.permute(0, 2, 3, 1, 4).flatten(2, 3)


def _unfold(attended: torch.Tensor, group: RowGroup, fold: int) -> torch.Tensor:
    """The way back: from (rows, shared, fold * Q, size) to (valid queries, heads, size)."""
    rows, shared, _, size = attended.shape
    if group.queries == 1:
        return attended.reshape(rows, shared * fold, size)
    split = attended.reshape(rows, shared, fold, group.queries, size)
    flat = split.permute(0, 3, 1, 2, 4).reshape(-1, shared * fold, size)
    return flat if group.places is None else flat.index_select(0, group.places)


def _shapes(batch: StepBatch) -> dict[tuple[int, int], list[int]]:
    """Rows by the shape (queries, pages) that they are padded to."""
    shapes: dict[tuple[int, int], list[int]] = {}
    widest: dict[tuple[int, int], int] = {}
    pages_of = (-(-batch.lengths // batch.page_tokens)).tolist()
    for i, (count, pages) in enumerate(zip(batch.counts.tolist(), pages_of, strict=True)):
        if count == 1:
            shape = (1, max(SMALLEST_GROUP_PAGES, 1 << (pages - 1).bit_length()))
        else:
            shape = shape_of_prompt(count, pages)
        shapes.setdefault(shape, []).append(i)
        widest[shape] = max(widest.get(shape, 0), pages)
    # A decoding group does not gather pages that none of its rows has.
    return {(q, widest[q, p] if q == 1 else p): rows for (q, p), rows in shapes.items()}


def shape_of_prompt(count: int, pages: int) -> tuple[int, int]:
    """Queries and pages that `count` tokens of a prompt on so many pages are padded to."""
    return round_up(count), round_up(pages)


def round_up(size: int) -> int:
    """Rounds up by at most a quarter, so that there are few different shapes."""
    unit = max(1, 1 << max(0, size.bit_length() - 3))
    return -(-size // unit) * unit


def group_of(
    batch: StepBatch, rows: Ints, queries: int, pages: int, device: torch.device
) -> RowGroup:
    """Some rows of a step as a group, padded to so many queries and pages."""
    tables = np.zeros((len(rows), pages), dtype=np.int64)
    width = min(pages, batch.tables.shape[1])
    tables[:, :width] = batch.tables[rows, :width]
    flat_pages = torch.from_numpy(tables.reshape(-1)).to(device)
    computed = (batch.lengths - batch.counts)[rows]
    if queries == 1:
        tokens = torch.from_numpy(batch.starts[:-1][rows]).to(device)
        positions = torch.from_numpy(computed[:, None])
        return RowGroup(tokens, None, flat_pages, positions, len(rows), queries)
    offsets = np.arange(queries)
    valid = offsets < batch.counts[rows][:, None]
    # A padded query repeats the first one's position, so that it sees at least one key.
    positions = torch.from_numpy(computed[:, None] + np.where(valid, offsets, 0))
    tokens = torch.from_numpy((batch.starts[:-1][rows][:, None] + offsets)[valid]).to(device)
    places = None if valid.all() else torch.from_numpy(np.flatnonzero(valid)).to(device)
    return RowGroup(tokens, places, flat_pages, positions, len(rows), queries)
