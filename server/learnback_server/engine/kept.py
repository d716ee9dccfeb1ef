"""Keys and values of those who are being answered, each row's in one piece, beside the pages.

Attention on the CPU wants the keys of a row in one piece, but they lie in pages that rows share. To
gather them at every step takes as long as all products of a small model (`docs/log.md`). So each
row has a place of its own, where steps put its keys and values too, and nothing is gathered but
what is in pages alone: a known prefix, what a step of another kind computed, a row that changes its
place. A row stays where it is while it decodes, and no place between is empty: when a row leaves,
another moves there.

That takes memory besides the cache, at most `MOST_OF_CACHE` of it for each network that answers.
Steps that would need more have no layout, and go another way.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import numpy as np
import torch

from learnback_server.engine.attention import KeyValueCache
from learnback_server.engine.batch import Ints, TokensInPages
from learnback_server.engine.sdpa import round_up

MOST_OF_CACHE = 0.5

SMALLEST_ROOM_PAGES = 512
"""So much may be kept beside even the smallest cache."""

NOTHING = -1
"""In place of a page: nothing of it is here."""

Owner = TokensInPages | None
"""Whose a row is; None for rows of no sequence."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Rows of a step that want places.

    Attributes:
        owners: Whose each is.
        tables: Their pages, of shape (rows, pages).
        computed: Their tokens before the step, of shape (rows,).
        lengths: Their tokens after it.
        pages: How many pages their places must have room for.
        prompt: Whether the last is a prompt, which gets the last place.
    """

    owners: Rows[Owner]
    tables: Ints
    computed: Ints
    lengths: Ints
    pages: int
    prompt: bool


@dataclass(frozen=True, slots=True)
class Places:
    """Where a step finds its rows.

    Attributes:
        order: The row at each place, of shape (rows,).
        tokens: Tokens that a place has room for.
        rooms: The places in each layer, keys and values in turn, each of shape
            (places, tokens of a place, heads, head size).
    """

    order: Ints
    tokens: int
    rooms: tuple[torch.Tensor, ...]


class KeptRows:
    """The places of the rows that one network computes."""

    def __init__(self, cache: KeyValueCache) -> None:
        """Starts with no place; they are made as rows come."""
        self._cache = cache
        self._clearings = cache.clearings
        self._most_pages = max(SMALLEST_ROOM_PAGES, int(MOST_OF_CACHE * cache.pages))
        self._owners: list[Owner] = []
        self._rooms: list[torch.Tensor] = []
        self._views: tuple[torch.Tensor, ...] = ()
        self._tables: Ints = np.empty((0, 0), dtype=np.int64)
        self._lengths: Ints = np.empty(0, dtype=np.int64)

    def seat(self, rows: Standing) -> Places | None:
        """Gives each row a place that holds what is computed of it, and takes the step for done.

        Returns:
            None if that would take too much memory.
        """
        count = len(rows.owners)
        if not self._make_room(count, rows.pages):
            return None
        order = self._order(_who(rows.owners), rows.prompt)
        self._owners = [rows.owners[row] for row in order]
        self._fill(rows.tables[order], rows.computed[order])
        self._lengths[:count] = rows.lengths[order]
        return Places(order, self._tables.shape[1] * self._cache.page_tokens, self._views)

    def forget(self) -> None:
        """Takes nothing for kept any more, as after a step that failed halfway."""
        self._owners = []

    def _make_room(self, rows: int, pages: int) -> bool:
        """Makes sure of so many places of so many pages, or tells that it can't be done."""
        if self._clearings != self._cache.clearings:  # of what was no numbers, and may be here too
            self._clearings = self._cache.clearings
            self._rooms = []
        places, stride = self._tables.shape
        if self._rooms and rows <= places and pages <= stride:
            return True
        shape = (round_up(max(rows, places)), round_up(max(pages, stride)))
        if shape[0] * shape[1] > self._most_pages:
            shape = (rows, round_up(pages))
        if shape[0] * shape[1] > self._most_pages:
            return False
        self.forget()
        self._tables = np.full(shape, NOTHING)
        self._lengths = np.zeros(shape[0], dtype=np.int64)
        self._rooms = self._cache.room(shape[0] * shape[1])
        tokens = shape[1] * self._cache.page_tokens
        self._views = tuple(room.view(-1, tokens, *room.shape[2:]) for room in self._rooms)
        return True

    def _order(self, who: list[int], prompt: bool) -> Ints:
        """The row at each place; what is there of others is nothing from here on."""
        had = {one: place for place, one in enumerate(_who(self._owners))}
        order = np.full(len(who), -1)
        decoding = len(who) - 1 if prompt else len(who)
        order[decoding:] = decoding
        moving = []
        for row, one in enumerate(who[:decoding]):
            place = had.get(one, decoding)
            if place < decoding:
                order[place] = row
            else:
                moving.append(row)
        order[order < 0] = moving
        for place, row in enumerate(order):
            if had.get(who[row]) != place:
                self._tables[place] = NOTHING
        return order

    def _fill(self, tables: Ints, computed: Ints) -> None:
        """Copies the pages that are not in their places, or of which only a part is."""
        rows, pages = tables.shape
        size = self._cache.page_tokens
        first = np.arange(pages) * size
        kept, until = self._lengths[:rows, None], np.minimum(first + size, computed[:, None])
        missing = (self._tables[:rows, :pages] != tables) | (kept < until)
        place, page = np.nonzero(missing & (first < until))
        self._tables[:rows, :pages] = tables
        if len(place):
            sources = torch.from_numpy(tables[place, page])
            targets = torch.from_numpy(place * self._tables.shape[1] + page)
            for room, cached in zip(self._rooms, self._cache.tensors(), strict=True):
                room.index_copy_(0, targets, cached.index_select(0, sources))


def _who(owners: Rows[Owner]) -> list[int]:
    """Tells owners apart; rows of no sequence are told apart by their number."""
    nobody = itertools.count(-1, -1)
    return [next(nobody) if owner is None else id(owner) for owner in owners]
