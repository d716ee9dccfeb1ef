"""The engine on a GPU: FlashAttention over pages, steps as CUDA graphs, swaps while it answers.

In 16 bits the last bits of logits depend on the size of a step, so that two ways to compute a text
may part where two tokens are about as likely. So logits are compared with those of the plain model
in float32, and may differ by little more than the plain model's own do in 16 bits.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from learnback_server.engine.acceptance import AcceptanceHead
from learnback_server.engine.adapter import read_adapter
from learnback_server.engine.attention import KeyValueCache
from learnback_server.engine.batch import StepBatch, StepRow
from learnback_server.engine.graphs import GraphedSteps, Limits
from learnback_server.engine.loading import LoadedModel, load_model
from learnback_server.engine.messages import FinishReason
from learnback_server.engine.runner import ModelRunner
from learnback_server.engine.sequence import Generation, Sequence
from learnback_server.engine.traced import StepTraces
from learnback_server.engine.varlen import FLASH_PAGE_TOKENS, VarlenAttention
from learnback_server.engine.weights import merge
from tests.engine.harness import PlainModel, Running, play, request
from tests.engine.test_bank import write_adapter
from tests.engine.test_greedy import prompt_of
from tests.engine.test_streams import LONG_AGO, sixty_four

SERVED = ["tiny_llama", "tiny_qwen3", "tiny_mistral"]
ALLOWANCE = 2.0
"""Largest error of a logit, for each of the plain model's largest in 16 bits on the same text."""

LIMITS = Limits(rows=10, tokens=256, keys=512, page_tokens=FLASH_PAGE_TOKENS)
PAGES = 40


@pytest.fixture(scope="module", params=SERVED)
def folder(request: pytest.FixtureRequest) -> Path:
    """Each architecture, one after the other: the last has a sliding window of 24 tokens."""
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return load_model(str(folder), device="cuda", dtype="bfloat16")


class Truth:
    """The plain model in float32 on the CPU, and how far rounding takes it from there."""

    def __init__(self, plain: PlainModel) -> None:
        """Copies the model to the GPU, in 16 bits."""
        self.plain = plain
        self._rounded = copy.deepcopy(plain.network).to("cuda", torch.bfloat16)
        self._rounded.set_attn_implementation("sdpa")

    def logits(self, ids: list[int]) -> tuple[torch.Tensor, float]:
        """Logits after each token, and the largest error that is allowed in any of them."""
        logits = self.plain.logits(ids)
        with torch.inference_mode():
            rounded = self._rounded(torch.tensor([ids], device="cuda")).logits[0].float().cpu()
        return logits, ALLOWANCE * float((rounded - logits).abs().max())


@pytest.fixture(scope="module")
def truth(folder: Path) -> Truth:
    """What the model should compute."""
    return Truth(PlainModel(folder))


def assert_greedy(truth: Truth, prompt: Iterable[int], answer: list[int]) -> None:
    """Asserts that each token of an answer is the likeliest, up to rounding."""
    prompt = list(prompt)
    logits, error = truth.logits([*prompt, *answer[:-1]])
    logits = logits[len(prompt) - 1 :]
    chosen = logits.gather(-1, torch.tensor(answer)[:, None])[:, 0]
    worst = float((logits.max(dim=-1).values - chosen).max())
    assert worst <= 2 * error, "a token was less likely than another, by more than rounding"


class Desk:
    """A runner with graphs, and sequences that are computed by hand."""

    def __init__(self, model: LoadedModel) -> None:
        """Captures graphs of up to `LIMITS`."""
        self._model = model
        self._pages = iter(range(1, PAGES))
        cache = KeyValueCache(PAGES, FLASH_PAGE_TOKENS)
        self.runner = ModelRunner(model.network, cache)
        self.runner.warm_up(StepTraces(cache), LIMITS)

    def sequence(self, length: int) -> Sequence:
        """A prompt of so many tokens, with two pages of its own."""
        made = Generation(request(prompt_of(length, length)), 0, self._model.vocabulary)
        sequence = made.sequences[0]
        sequence.pages = [next(self._pages), next(self._pages)]
        return sequence

    def both(self, rows: list[StepRow]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits by the graph, and as they are without one."""
        batch = StepBatch(rows, FLASH_PAGE_TOKENS)
        stepper = self.runner._stepper
        assert stepper is not None
        with torch.inference_mode():
            graphed = stepper.compute(batch, lambda: None)
            assert graphed is not None
            return graphed[: batch.completing].clone(), self.runner.compute(batch)


def test_attends_by_flash_attention_and_steps_by_graphs(model: LoadedModel) -> None:
    runner = Desk(model).runner
    assert isinstance(runner._attention, VarlenAttention)
    assert isinstance(runner._stepper, GraphedSteps)
    assert model.page_tokens == FLASH_PAGE_TOKENS


def test_graphs_compute_what_the_model_does(model: LoadedModel, truth: Truth) -> None:
    desk = Desk(model)
    sequences = [desk.sequence(length) for length in (1, 30, 90, 130, 255, 257)]
    for sequence in sequences[:5]:
        prompt = [StepRow(sequence, sequence.pending)]
        assert_close(*desk.both(prompt), truth, prompt)
    decoding = []
    for sequence in sequences:
        while sequence.pending > 1:
            row = StepRow(sequence, min(sequence.pending - 1, LIMITS.tokens))
            desk.runner.run([row])
            sequence.computed += row.count
        decoding.append(StepRow(sequence, 1))
    for count in range(1, len(decoding) + 1):
        assert_close(*desk.both(decoding[:count]), truth, decoding[:count])
    mixed = [*decoding[:3], StepRow(desk.sequence(70), 70), StepRow(desk.sequence(80), 33)]
    assert_close(*desk.both(mixed), truth, mixed[:-1])


def assert_close(
    graphed: torch.Tensor, uncaptured: torch.Tensor, truth: Truth, rows: list[StepRow]
) -> None:
    """Asserts that logits of the completing rows are right, up to rounding."""
    for place, row in enumerate(row for row in rows if row.completes):
        logits, error = truth.logits(row.sequence.tokens)
        for own in (graphed, uncaptured):
            assert float((own[place].float().cpu() - logits[-1]).abs().max()) <= error


def test_attention_is_the_same_to_the_last_bit_in_any_company() -> None:
    from torch.nn.attention.varlen import varlen_attn

    def attend(company: int) -> torch.Tensor:
        draw = torch.Generator("cuda").manual_seed(0)
        sizes = (3, 4, 64), (20, FLASH_PAGE_TOKENS, 2, 64), (20, FLASH_PAGE_TOKENS, 2, 64)
        query, keys, values = (
            torch.randn(size, device="cuda", dtype=torch.bfloat16, generator=draw) for size in sizes
        )
        starts = torch.arange(company + 1, dtype=torch.int32, device="cuda")
        lengths = torch.tensor([700, 90, 1100][:company], dtype=torch.int32, device="cuda")
        key_starts = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
        tables = torch.arange(15, dtype=torch.int32, device="cuda").view(3, 5)[:company]
        output = varlen_attn(
            *(query[:company], keys, values, starts, key_starts, 1, 1280),
            window_size=(-1, 0),
            enable_gqa=True,
            seqused_k=lengths,
            block_table=tables.contiguous(),
            num_splits=1,
        )
        assert isinstance(output, torch.Tensor)
        return output[0]

    assert torch.equal(attend(1), attend(3))


def test_64_streams_end_as_they_should(model: LoadedModel, truth: Truth) -> None:
    plans = sixty_four()
    for plan, answer in zip(plans, play(model, plans, step_tokens=128), strict=True):
        asked = plan.request
        if asked.deadline is not None:
            assert answer.reason is FinishReason.DEADLINE
            assert asked.deadline != LONG_AGO or not answer.started
            continue
        if answer.ids():
            assert_greedy(truth, asked.prompt_ids, answer.ids())
        if plan.cancelled_after is not None:
            assert answer.reason is FinishReason.CANCELLED
        elif asked.sampling.ignore_eos:
            assert answer.reason is FinishReason.LENGTH


def test_a_prompt_longer_than_a_step_beside_others(model: LoadedModel, truth: Truth) -> None:
    prompts = [prompt_of(length, seed=length) for length in (400, 3, 256, 130)]
    with Running(model, step_tokens=100) as running:
        answers = running.ask(*[request(one, 40, ignore_eos=True) for one in prompts])
        again = running.ask(request(prompts[0], 40, ignore_eos=True))
    for prompt, answer in zip([*prompts, prompts[0]], [*answers, *again], strict=True):
        assert_greedy(truth, prompt, answer.ids())
    assert again[0].finished.cached_tokens == FLASH_PAGE_TOKENS


def test_the_same_seed_draws_the_same(model: LoadedModel) -> None:
    asked: dict[str, Any] = {
        "temperature": 1.0,
        "top_p": 0.9,
        "top_k": 40,
        "seed": 7,
        "ignore_eos": True,
    }
    with Running(model) as running:
        one, other = (running.ask(request(prompt_of(20), 30, **asked))[0] for _ in range(2))
    assert one.ids() == other.ids()


def test_checkpoints_come_and_go_while_it_answers(
    folder: Path, model: LoadedModel, truth: Truth, tmp_path: Path
) -> None:
    adapted = Truth(write_adapter(folder, tmp_path, r=8))
    adapter = read_adapter(tmp_path, model.network)
    hidden = model.network.config.hidden_size
    weight = torch.randn(hidden, dtype=torch.float64) / hidden**0.5
    head = AcceptanceHead(weight.to("cuda"), 0.1)
    with Running(model) as running:
        base = [request(prompt_of(20 + i, i), 200, ignore_eos=True) for i in range(6)]
        for one in base:
            running.engine.submit(one)
        running.engine.adapt("one", adapter, head)
        unmerged = request(prompt_of(30), 40, checkpoint="one", scored=True, ignore_eos=True)
        running.engine.submit(unmerged)
        for _ in range(3):  # captured on this thread, while the engine's replays its own
            runner = running.engine.prepare(merge(model.network, adapter))
        running.engine.replace("one", runner, head)
        merged = request(prompt_of(31), 40, checkpoint="one", scored=True, ignore_eos=True)
        running.engine.submit(merged)
        for one in base:
            assert_greedy(truth, one.prompt_ids, running.answer(one).ids())
        for one in (unmerged, merged):
            answer = running.answer(one)
            assert_greedy(adapted, one.prompt_ids, answer.ids())
            state = adapted.plain.last_state([*one.prompt_ids, *answer.ids()]).double()
            expected = float(torch.sigmoid(state @ weight + 0.1))
            assert answer.end.acceptance == pytest.approx(expected, abs=0.05)
        running.engine.retire("one")
        assert running.engine.lanes == ("base",)


def test_in_float32_it_equals_generate_token_for_token(folder: Path, truth: Truth) -> None:
    model = load_model(str(folder), device="cuda", dtype="float32")
    prompts = [prompt_of(length, seed=length) for length in (3, 23, 24, 25, 90)]
    with Running(model) as running:
        answers = running.ask(*[request(one, 60, ignore_eos=True) for one in prompts])
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.ids() == truth.plain.greedy(prompt, 60, eos=False)


def test_two_checkpoints_are_prepared_at_once(model: LoadedModel, truth: Truth) -> None:
    with Running(model) as running:
        made: list[ModelRunner] = []
        network = model.network
        threads = [
            threading.Thread(target=lambda: made.append(running.engine.prepare(network)))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        answers = running.ask(*[request(prompt_of(9, i), 60, ignore_eos=True) for i in range(4)])
        for thread in threads:
            thread.join()
        for name, runner in zip(("one", "two"), made, strict=True):
            running.engine.serve(name, runner)
            answers += running.ask(request(prompt_of(9, 0), 60, checkpoint=name, ignore_eos=True))
        for place, answer in zip((0, 1, 2, 3, 0, 0), answers, strict=True):
            assert_greedy(truth, prompt_of(9, place), answer.ids())
