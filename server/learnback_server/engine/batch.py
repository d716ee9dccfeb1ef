"""What one forward pass computes: which tokens of which sequences, laid out in one flat row.

`StepRow` is the scheduler's word for it; `StepBatch` is the same as index arrays, made once a step
on the CPU and read by every layer. Nothing here touches the model.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from learnback_server.engine.pages import SCRATCH_PAGE
from learnback_server.engine.sequence import Sequence

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StepRow:
    """`count` tokens of one sequence, from the first that is not computed yet."""

    sequence: Sequence
    count: int

    @property
    def completes(self) -> bool:
        """Whether the logits after its last token are wanted: nothing is pending behind it."""
        return self.count == self.sequence.pending

    @property
    def scores(self) -> bool:
        """Whether it completes an answer that has all its tokens and waits for its score."""
        return self.completes and self.sequence.complete is not None


class TokensInPages(Protocol):
    """What is laid out of a sequence; see `Sequence`."""

    computed: int
    tokens: list[int]
    pages: list[int]


class Row(Protocol):
    """What is laid out of a row; see `StepRow`."""

    @property
    def sequence(self) -> TokensInPages:
        """Whose tokens they are."""
        ...

    @property
    def count(self) -> int:
        """How many they are."""
        ...

    @property
    def completes(self) -> bool:
        """Whether the logits after the last one are wanted."""
        ...


class StepBatch:
    """Index arrays of one step over T tokens and R rows.

    Attributes:
        ids: Token ids, of shape (T,).
        positions: Place of each token in its sequence, of shape (T,).
        slots: Where its key and value go, as page * page_tokens + offset, of shape (T,).
        owners: The sequence of each row, None for padding: R of them.
        counts: Tokens of each row, of shape (R,).
        starts: Where each row begins among the tokens, and their number at the end: (R + 1,).
        lengths: Tokens of each row's sequence when the step is done, of shape (R,).
        tables: Pages of each row's sequence, padded with the scratch page: (R, most pages).
        padding: Number of rows of no sequence; they come last.
        completing: Number of rows whose logits are wanted.
        last: Index of the last token of each of these, then of some others if there is padding.
    """

    def __init__(
        self, rows: Rows[Row], page_tokens: int, pad_to: int = 0, pad_length: int = 1
    ) -> None:
        """Lays out `rows`, and behind them, up to `pad_to` tokens, rows of no sequence.

        Each of those computes one token behind `pad_length` - 1 others, all in the scratch page.
        """
        self.page_tokens = page_tokens
        padding = max(0, pad_to - sum(row.count for row in rows))
        self.padding = padding
        self.owners: list[TokensInPages | None] = [row.sequence for row in rows] + [None] * padding
        computed = np.array([row.sequence.computed for row in rows] + [pad_length - 1] * padding)
        self.counts: Ints = np.array([row.count for row in rows] + [1] * padding)
        self.lengths: Ints = computed + self.counts
        self.starts: Ints = np.zeros(len(computed) + 1, dtype=np.int64)
        np.cumsum(self.counts, out=self.starts[1:])
        self.tables = _tables(rows, self.lengths, page_tokens)
        self.ids: Ints = np.array(_ids(rows) + [0] * padding)
        self._place(computed)
        last = [i for i, row in enumerate(rows) if row.completes]
        self.completing = len(last)
        last += [0] * max(0, pad_to - len(last))
        self.last: Ints = self.starts[1:][last] - 1

    @property
    def rows(self) -> int:
        """R, padding included."""
        return len(self.counts)

    @property
    def decodes(self) -> bool:
        """Whether every row is one token whose logits are wanted, as in plain decoding."""
        return self.completing + self.padding == self.rows == len(self.ids)

    def _place(self, computed: Ints) -> None:
        """Works out where in its sequence, and where in the cache, each token stands."""
        if len(self.ids) == self.rows:
            owners = np.arange(self.rows)
            self.positions: Ints = computed
        else:
            owners = np.repeat(np.arange(self.rows), self.counts)
            self.positions = computed[owners] + np.arange(len(self.ids)) - self.starts[owners]
        page, offset = np.divmod(self.positions, self.page_tokens)
        self.slots: Ints = self.tables[owners, page] * self.page_tokens + offset


def _ids(rows: Rows[Row]) -> list[int]:
    ids: list[int] = []
    for row in rows:
        start = row.sequence.computed
        ids += row.sequence.tokens[start : start + row.count]
    return ids


def _tables(rows: Rows[Row], lengths: Ints, page_tokens: int) -> Ints:
    width = -(-int(lengths.max()) // page_tokens)
    tables = np.full((len(lengths), width), SCRATCH_PAGE)
    for i, row in enumerate(rows):
        pages = row.sequence.pages[:width]
        tables[i, : len(pages)] = pages
    return tables
