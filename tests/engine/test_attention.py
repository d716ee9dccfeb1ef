"""Both ways of paged attention give the logits of the plain model, to the bit in any company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learnback_server.engine.attention import KeyValueCache, PagedAttention
from learnback_server.engine.batch import StepBatch, StepRow
from learnback_server.engine.flat import Kind, kind_of
from learnback_server.engine.loading import LoadedModel, load_model
from learnback_server.engine.pages import PagePool
from learnback_server.engine.runner import ModelRunner
from learnback_server.engine.sdpa import SdpaAttention
from learnback_server.engine.sequence import Generation, Sequence
from learnback_server.engine.traced import StepTraces
from learnback_server.engine.varlen import VarlenAttention
from tests.engine.harness import RECORDS, PlainModel, request
from tests.engine.test_greedy import prompt_of

PAGE_TOKENS = 16
PAGES = 200


def reference_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: torch.Tensor,
    block_table: torch.Tensor,
    num_splits: int | None = None,
) -> torch.Tensor:
    """`torch.nn.attention.varlen.varlen_attn` over pages, as its documentation says, row by row."""
    assert torch.equal(cu_seq_k.diff(), seqused_k)
    for indices in (cu_seq_q, cu_seq_k, seqused_k, block_table):
        assert indices.dtype == torch.int32
    assert num_splits == 1, "a row's result would depend on its neighbours"
    assert enable_gqa == (query.shape[1] != key.shape[2])
    assert query.is_contiguous()
    assert key.ndim == value.ndim == 4
    left, right = window_size
    assert right == 0, "not causal"
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    output = torch.empty(*query.shape[:-1], value.shape[-1])
    for row, used in enumerate(seqused_k.tolist()):
        start, end = cu_seq_q[row : row + 2].tolist()
        assert end - start <= max_q
        assert used <= max_k
        pages = block_table[row, : -(-used // key.shape[1])].long()
        fold = query.shape[1] // key.shape[2]
        keys = key[pages].flatten(0, 1)[:used].repeat_interleave(fold, dim=1)
        values = value[pages].flatten(0, 1)[:used].repeat_interleave(fold, dim=1)
        for token in range(start, end):
            # Aligned at the end: the last query stands at the last key.
            position = used - (end - token)
            first = 0 if left < 0 else max(0, position - left)
            seen = slice(first, position + 1)
            scores = torch.einsum("hd,khd->hk", query[token], keys[seen]) * factor
            weights = scores.softmax(dim=-1)
            output[token] = torch.einsum("hk,khd->hd", weights, values[seen])
    return output


class Desk:
    """A runner with sequences that are computed by hand."""

    def __init__(self, model: LoadedModel, attention: PagedAttention | None = None) -> None:
        """Attends by `attention`; None is the engine's own way, traced decoding included."""
        self.model = model
        cache = KeyValueCache(PAGES, PAGE_TOKENS)
        self.runner = ModelRunner(model.network, cache)
        if attention is None:
            self.runner.warm_up(StepTraces(cache, RECORDS))
        else:
            self.runner._attention = attention
        self.clear()

    def sequence(self, prompt: list[int]) -> Sequence:
        made = Generation(request(prompt), 0, self.model.vocabulary).sequences[0]
        pages = self.pool.allocate(self.pool.pages_for(len(prompt) + 30))
        assert pages is not None
        made.pages = pages
        return made

    def clear(self) -> None:
        """Takes all pages back. What they hold stays: it must not matter to whom they go next."""
        self.pool = PagePool(PAGES, PAGE_TOKENS)

    def run(self, *rows: tuple[Sequence, int]) -> torch.Tensor:
        """Logits of the rows that complete."""
        logits = self.runner.run([StepRow(sequence, count) for sequence, count in rows]).clone()
        for sequence, count in rows:
            sequence.computed += count
        return logits

    def logits(self, prompts: list[list[int]], tokens: int, chunk: int) -> list[torch.Tensor]:
        """Logits after each prompt and after each of some further tokens, computed together."""
        sequences = [self.sequence(prompt) for prompt in prompts]
        collected: list[list[torch.Tensor]] = [[] for _ in prompts]
        while any(len(own) < tokens for own in collected):
            rows = [(sequence, min(sequence.pending, chunk)) for sequence in sequences]
            complete = [i for i, (sequence, count) in enumerate(rows) if count == sequence.pending]
            logits = self.run(*rows)
            for i, row in zip(complete, logits, strict=True):
                collected[i].append(row)
                sequences[i].append((7 * len(sequences[i].tokens)) % 256)
        return [torch.stack(own[:tokens]) for own in collected]


def plain_logits(plain: PlainModel, prompt: list[int], tokens: int) -> torch.Tensor:
    ids = list(prompt)
    for _ in range(tokens - 1):
        ids.append((7 * len(ids)) % 256)
    return plain.logits(ids)[len(prompt) - 1 :]


WAYS: dict[str, Any] = {
    "engine": lambda: None,
    "sdpa": SdpaAttention,
    "varlen": lambda: VarlenAttention(reference_kernel),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("chunk", [5, 1000])
def test_logits_are_those_of_the_plain_model(
    any_model: LoadedModel, any_plain: PlainModel, way: str, chunk: int
) -> None:
    prompts = [prompt_of(length, seed=length) for length in (1, 16, 17, 40, 90)]
    told = Desk(any_model, WAYS[way]()).logits(prompts, tokens=6, chunk=chunk)
    for prompt, logits in zip(prompts, told, strict=True):
        expected = plain_logits(any_plain, prompt, tokens=6)
        tolerance = 1e-4 * float(expected.abs().max())
        torch.testing.assert_close(logits, expected, atol=tolerance, rtol=0)


@pytest.fixture(scope="module")
def desk(llama: LoadedModel) -> Desk:
    return Desk(llama)


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 130), min_size=0, max_size=12),
    own=st.integers(1, 130),
    place=st.integers(0, 12),
)
def test_a_decoding_row_is_the_same_to_the_last_bit_in_any_company(
    desk: Desk, lengths: list[int], own: int, place: int
) -> None:
    def decode(company: list[int]) -> torch.Tensor:
        desk.clear()
        sequences = [desk.sequence(prompt_of(length, seed=length)) for length in company]
        sequences.insert(min(place, len(sequences)), wanted := desk.sequence(prompt_of(own, 999)))
        for sequence in sequences:
            if sequence.pending > 1:
                desk.run((sequence, sequence.pending - 1))
        logits = desk.run(*[(sequence, 1) for sequence in sequences])
        return logits[sequences.index(wanted)]

    assert torch.equal(decode(lengths), decode([]))


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 130), min_size=0, max_size=6),
    own=st.integers(1, 130),
    place=st.integers(0, 6),
)
def test_a_prompt_is_the_same_to_the_last_bit_in_any_company(
    desk: Desk, lengths: list[int], own: int, place: int
) -> None:
    def compute(company: list[int]) -> torch.Tensor:
        desk.clear()
        sequences = [desk.sequence(prompt_of(length, seed=length)) for length in company]
        sequences.insert(min(place, len(sequences)), wanted := desk.sequence(prompt_of(own, 999)))
        logits = desk.run(*[(sequence, sequence.pending) for sequence in sequences])
        return logits[sequences.index(wanted)]

    assert torch.equal(compute(lengths), compute([]))


def test_the_fast_way_of_decoding_is_in_use(any_model: LoadedModel) -> None:
    # Otherwise the tests of this folder would not test it.
    assert Desk(any_model).runner._stepper is not None


@pytest.fixture(scope="module")
def any_desk(any_model: LoadedModel) -> Desk:
    return Desk(any_model)


@settings(max_examples=15)
@given(
    lengths=st.lists(st.integers(20, 60), max_size=6),
    prompt=st.integers(2, 90),
    before=st.integers(0, 40),
)
def test_a_recorded_step_with_a_prompt_is_the_plain_one_to_the_last_bit(
    any_desk: Desk, lengths: list[int], prompt: int, before: int
) -> None:
    any_desk.clear()
    decoding = [any_desk.sequence(prompt_of(length, seed=length)) for length in lengths]
    reading = any_desk.sequence(prompt_of(prompt + before, 999))
    for sequence in (*decoding, reading):
        done = before if sequence is reading else sequence.pending - 1
        if done:
            any_desk.run((sequence, done))
    rows = [StepRow(sequence, sequence.pending) for sequence in (*decoding, reading)]
    batch = StepBatch(rows, PAGE_TOKENS, pad_to=any_desk.runner.smallest_step)
    assert kind_of(batch) is (Kind.JOINED if len(batch.counts) > 1 else Kind.PROMPT)
    stepper = any_desk.runner._stepper
    assert stepper is not None
    with torch.inference_mode():
        recorded = stepper.compute(batch, lambda: None)
        assert recorded is not None
        recorded = recorded[: batch.completing].clone()
        plain = any_desk.runner.compute(batch)[: batch.completing]
    assert torch.equal(recorded, plain)


def test_steps_without_a_record_are_told_apart(desk: Desk) -> None:
    desk.clear()
    two = [StepRow(desk.sequence(prompt_of(9, seed)), 9) for seed in (1, 2)]
    assert kind_of(StepBatch(two, PAGE_TOKENS)) is None
    short, long = desk.sequence(prompt_of(1, 1)), desk.sequence(prompt_of(100, 2))
    long.computed = 99
    uneven = [StepRow(one, 1) for one in (short, short, short, long)]
    assert kind_of(StepBatch(uneven, PAGE_TOKENS)) is None


def test_layers_of_other_shapes_have_caches_of_their_own() -> None:
    cache = KeyValueCache(3, 4)
    narrow = torch.zeros(5, 2, 8)
    wide = torch.zeros(5, 1, 16)
    keys, values = cache.layer(0, narrow, narrow)
    assert keys.paged.shape == values.paged.shape == (4, 4, 2, 8)
    assert cache.layer(1, wide, narrow)[0].paged.shape == (4, 4, 1, 16)
    assert cache.layer(0, narrow, narrow)[0] is keys


def test_clearing_a_page_clears_it_in_every_layer_and_no_other() -> None:
    cache = KeyValueCache(3, 4)
    ones = torch.ones(5, 2, 8)
    for layer in range(2):
        for pages in cache.layer(layer, ones, ones):
            pages.paged.fill_(torch.nan)
    cache.clear([2])
    for layer in range(2):
        for pages in cache.layer(layer, ones, ones):
            assert not pages.paged[2].any()
            assert pages.paged[[0, 1, 3]].isnan().all()


def test_the_plain_way_is_untouched_by_the_engine(tiny_llama: Path) -> None:
    # Both live in one process in tests and in benchmarks.
    plain = PlainModel(tiny_llama)
    before = plain.logits([1, 2, 3])
    load_model(str(tiny_llama))
    assert torch.equal(plain.logits([1, 2, 3]), before)
