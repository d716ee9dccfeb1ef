"""The index arrays of a step."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from learnback_server.engine.batch import StepBatch, StepRow
from learnback_server.engine.pages import SCRATCH_PAGE
from learnback_server.engine.sequence import Generation, Sequence
from learnback_server.engine.text import Vocabulary
from tests.engine.harness import request
from tests.tiny import byte_tokenizer

VOCABULARY = Vocabulary(byte_tokenizer().backend_tokenizer)
PAGE_TOKENS = 4


def sequence(tokens: Rows[int], computed: int, pages: list[int]) -> Sequence:
    made = Generation(request(tokens), 0, VOCABULARY).sequences[0]
    made.computed, made.pages = computed, pages
    return made


def test_lays_out_a_prompt_and_two_decoding_rows() -> None:
    rows = [
        StepRow(sequence([10, 11, 12, 13, 14, 15, 16], 2, [5, 9]), 4),
        StepRow(sequence([20, 21, 22], 2, [3]), 1),
        StepRow(sequence(range(30, 39), 8, [1, 2, 7]), 1),
    ]
    batch = StepBatch(rows, PAGE_TOKENS)
    assert batch.ids.tolist() == [12, 13, 14, 15, 22, 38]
    assert batch.positions.tolist() == [2, 3, 4, 5, 2, 8]
    assert batch.slots.tolist() == [22, 23, 36, 37, 14, 28]
    assert batch.counts.tolist() == [4, 1, 1]
    assert batch.starts.tolist() == [0, 4, 5, 6]
    assert batch.lengths.tolist() == [6, 3, 9]
    assert batch.tables.tolist() == [[5, 9, 0], [3, 0, 0], [1, 2, 7]]
    assert batch.completing == 2
    assert batch.last.tolist() == [4, 5]
    assert not batch.decodes


def test_rows_of_one_token_that_complete_decode() -> None:
    rows = [StepRow(sequence([1, 2], 1, [5]), 1), StepRow(sequence([3, 4, 5], 2, [6]), 1)]
    assert StepBatch(rows, PAGE_TOKENS).decodes
    assert StepBatch(rows, PAGE_TOKENS, pad_to=4).decodes


def test_a_row_whose_logits_are_not_wanted_does_not_decode() -> None:
    rows = [StepRow(sequence([1, 2, 3], 1, [5]), 1)]
    batch = StepBatch(rows, PAGE_TOKENS)
    assert batch.completing == 0
    assert not batch.decodes


def test_padding_writes_to_the_scratch_page_only() -> None:
    rows = [StepRow(sequence([1, 2, 3], 2, [5]), 1)]
    batch = StepBatch(rows, PAGE_TOKENS, pad_to=4)
    assert (batch.rows, batch.padding, batch.completing) == (4, 3, 1)
    assert batch.slots[0] == 22
    assert (batch.slots[1:] // PAGE_TOKENS).tolist() == [SCRATCH_PAGE] * 3
    assert batch.last[0] == 0


def test_as_many_tokens_as_are_wanted_are_not_padded() -> None:
    rows = [StepRow(sequence([1, 2, 3, 4], 0, [5]), 4)]
    assert StepBatch(rows, PAGE_TOKENS, pad_to=4).padding == 0


@given(
    shapes=st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=6
    ),
    pad_to=st.integers(0, 12),
)
def test_every_token_has_a_place_of_its_own(
    shapes: list[tuple[int, int, int]], pad_to: int
) -> None:
    rows, page = [], 1
    for computed, count, further in shapes:
        length = computed + count + further
        pages = list(range(page, page - (-length // PAGE_TOKENS)))
        page += len(pages)
        rows.append(StepRow(sequence(range(length), computed, pages), count))
    batch = StepBatch(rows, PAGE_TOKENS, pad_to=pad_to)
    own = sum(row.count for row in rows)
    assert len(set(batch.slots[:own].tolist())) == own
    for i, row in enumerate(rows):
        start, end = batch.starts[i], batch.starts[i + 1]
        positions = np.arange(row.sequence.computed, row.sequence.computed + row.count)
        assert batch.positions[start:end].tolist() == positions.tolist()
        assert batch.ids[start:end].tolist() == positions.tolist()
        for position, slot in zip(positions, batch.slots[start:end], strict=True):
            assert row.sequence.pages[position // PAGE_TOKENS] == slot // PAGE_TOKENS
            assert position % PAGE_TOKENS == slot % PAGE_TOKENS
    completing = [i for i, row in enumerate(rows) if row.completes]
    assert batch.completing == len(completing)
    assert batch.last[: batch.completing].tolist() == [batch.starts[i + 1] - 1 for i in completing]
    assert len(batch.ids) == max(own, pad_to)
