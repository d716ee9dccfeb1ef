"""What a CUDA graph reads, on the CPU: any step fits in one, and what is left over harms nobody.

The graphs themselves are tested where there is a GPU, in `tests/cuda`.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learnback_server.engine.batch import StepBatch, StepRow
from learnback_server.engine.graphs import FEWEST_TOKENS, Inputs, Limits
from learnback_server.engine.loading import LoadedModel
from learnback_server.engine.varlen import VarlenAttention
from tests.engine.test_attention import PAGE_TOKENS, Desk, reference_kernel
from tests.engine.test_greedy import prompt_of

LIMITS = Limits(rows=7, tokens=200, keys=256, page_tokens=PAGE_TOKENS)


@pytest.fixture(scope="module")
def desk(llama: LoadedModel) -> Desk:
    return Desk(llama, VarlenAttention(reference_kernel))


def batch_of(desk: Desk, prompts: list[int], decoding: int) -> StepBatch:
    """Prompts of so many tokens, beside so many rows that decode behind 20 tokens."""
    desk.clear()
    rows = []
    for place in range(decoding):
        sequence = desk.sequence(prompt_of(20 + place, place))
        desk.run((sequence, sequence.pending - 1))
        rows.append(StepRow(sequence, 1))
    rows += [StepRow(desk.sequence(prompt_of(length, length)), length) for length in prompts]
    return StepBatch(rows, PAGE_TOKENS)


@settings(max_examples=25)
@given(
    steps=st.lists(
        st.tuples(st.lists(st.integers(2, 60), max_size=3), st.integers(0, 4)).filter(any),
        min_size=1,
        max_size=3,
    )
)
def test_a_step_has_the_same_logits_in_the_inputs_of_a_graph(
    desk: Desk, steps: list[tuple[list[int], int]]
) -> None:
    kept: dict[object, Inputs] = {}
    for prompts, decoding in steps:
        batch = batch_of(desk, prompts, decoding)
        size = LIMITS.size_of(batch)
        assert size in set(LIMITS.sizes())
        # Inputs are used over again: nothing of the step before may be left.
        inputs = kept.setdefault(size, Inputs(size, LIMITS, torch.device("cpu")))
        inputs.fill(batch)
        with torch.inference_mode():
            own = desk.runner._logits(inputs.ids, inputs.positions, inputs.step, inputs.last)
            expected = desk.runner.compute(batch)
        assert len(own) == size.rows
        torch.testing.assert_close(own[: batch.completing], expected)


def test_what_is_left_over_stays_in_the_scratch_page(desk: Desk) -> None:
    batch = batch_of(desk, [30], 2)
    size = LIMITS.size_of(batch)
    assert size is not None
    inputs = Inputs(size, LIMITS, torch.device("cpu"))
    inputs.fill(batch)
    assert size.tokens == FEWEST_TOKENS > len(batch.ids)
    assert not inputs.step.slots[len(batch.ids) :].any()
    assert not inputs.step.tables[batch.rows :].any()
    assert inputs.step.starts[-1] == size.tokens
    queries = inputs.step.starts.diff()
    assert queries.min() >= 0
    assert (inputs.step.lengths >= queries).all(), "a query would see no key"
    assert inputs.step.lengths.max() <= inputs.step.tables.shape[1] * PAGE_TOKENS


def test_a_step_that_is_too_large_fits_in_none(desk: Desk) -> None:
    assert LIMITS.size_of(batch_of(desk, [], 8)) is None
    assert LIMITS.size_of(batch_of(desk, [201], 0)) is None
    assert LIMITS.size_of(batch_of(desk, [198], 2)) is not None


@pytest.mark.parametrize("rows", [1, 2, 63, 64, 65])
@pytest.mark.parametrize("tokens", [1, 64, 1000])
def test_decoding_and_other_steps_never_share_a_graph(rows: int, tokens: int) -> None:
    sizes = list(Limits(rows, tokens, keys=512, page_tokens=16).sizes())
    assert len(set(sizes)) == len(sizes)
    decoding = [size for size in sizes if size.most_queries == 1]
    assert all(size.tokens == size.rows for size in decoding)
    assert max(size.rows for size in decoding) >= rows
    assert max(size.tokens for size in sizes) >= tokens
