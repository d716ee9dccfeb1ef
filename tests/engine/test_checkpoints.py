"""Several checkpoints answer side by side, each generation by the one it began with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from learnback_server.engine.loading import LoadedModel
from learnback_server.engine.messages import CheckpointGoneError, FinishReason
from tests.engine.harness import PlainModel, Running, request
from tests.tiny import write_tiny_model

BASE, OTHER = "base", "other"
PROMPT = [3 * i % 256 for i in range(70)]


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama of the same shape with other weights."""
    return write_tiny_model(tmp_path_factory.mktemp("other"), "llama", seed=1)


@pytest.fixture(scope="module")
def plain(tiny_llama: Path, other_folder: Path) -> dict[str, PlainModel]:
    return {BASE: PlainModel(tiny_llama), OTHER: PlainModel(other_folder)}


def _serve_other(running: Running, folder: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    running.engine.serve(OTHER, running.engine.prepare(network))


@settings(max_examples=10)
@given(choice=st.lists(st.sampled_from([BASE, OTHER]), min_size=1, max_size=8))
def test_each_answers_as_its_own_model_in_one_batch(
    llama: LoadedModel, other_folder: Path, plain: dict[str, PlainModel], choice: list[str]
) -> None:
    prompts = [PROMPT[: 5 + 7 * i] for i in range(len(choice))]
    with Running(llama) as running:
        _serve_other(running, other_folder)
        asked = [
            request(prompt, 12, checkpoint=name)
            for prompt, name in zip(prompts, choice, strict=True)
        ]
        answers = running.ask(*asked)
    for answer, prompt, name in zip(answers, prompts, choice, strict=True):
        assert answer.ids() == plain[name].greedy(prompt, 12)


def test_a_prefix_is_not_shared_between_checkpoints(
    llama: LoadedModel, other_folder: Path, plain: dict[str, PlainModel]
) -> None:
    with Running(llama) as running:
        _serve_other(running, other_folder)
        running.ask(request(PROMPT))
        (other,) = running.ask(request(PROMPT, checkpoint=OTHER))
    assert other.finished.cached_tokens == 0
    assert other.ids() == plain[OTHER].greedy(PROMPT, 8)


def test_a_running_answer_outlives_the_retirement_of_its_checkpoint(
    llama: LoadedModel, other_folder: Path, plain: dict[str, PlainModel]
) -> None:
    with Running(llama) as running:
        _serve_other(running, other_folder)
        long = request(PROMPT, 200, checkpoint=BASE, ignore_eos=True)
        running.engine.submit(long)
        running.wait_until(lambda: running.answers[long.generation_id].started)
        running.engine.retire(BASE)
        with pytest.raises(CheckpointGoneError):
            running.engine.submit(request(PROMPT, checkpoint=BASE))
        assert running.engine.checkpoints == (OTHER,)
        (after,) = running.ask(request(PROMPT, checkpoint=OTHER))
        answer = running.answer(long)
    assert answer.reason is FinishReason.LENGTH
    assert answer.ids() == plain[BASE].greedy(PROMPT, 200, eos=False)
    assert after.ids() == plain[OTHER].greedy(PROMPT, 8)


def test_a_checkpoint_that_comes_back_answers_as_before(
    llama: LoadedModel, other_folder: Path, plain: dict[str, PlainModel]
) -> None:
    with Running(llama) as running:
        for _ in range(2):
            _serve_other(running, other_folder)
            (answer,) = running.ask(request(PROMPT, checkpoint=OTHER))
            assert answer.ids() == plain[OTHER].greedy(PROMPT, 8)
            running.engine.retire(OTHER)


def test_an_unknown_checkpoint_is_refused_and_nothing_is_queued(llama: LoadedModel) -> None:
    with Running(llama) as running:
        with pytest.raises(CheckpointGoneError):
            running.engine.submit(request(PROMPT, checkpoint="never-heard-of"))
        assert running.engine.stats().waiting == 0


def test_the_pages_of_a_retired_checkpoint_are_forgotten(
    llama: LoadedModel, tiny_llama: Path, other_folder: Path, plain: dict[str, PlainModel]
) -> None:
    # Other weights under the same name: a prefix that the old ones computed would be wrong.
    with Running(llama) as running:
        _serve_other(running, other_folder)
        running.ask(request(PROMPT, checkpoint=OTHER))
        running.engine.retire(OTHER)
        _serve_other(running, tiny_llama)
        (answer,) = running.ask(request(PROMPT, checkpoint=OTHER))
    assert answer.finished.cached_tokens == 0
    assert answer.ids() == plain[BASE].greedy(PROMPT, 8)


def test_who_waits_keeps_the_checkpoint_it_was_submitted_for(
    llama: LoadedModel, other_folder: Path, plain: dict[str, PlainModel]
) -> None:
    asked = [request(PROMPT, 25, ignore_eos=True) for _ in range(4)]
    with Running(llama, max_running=1) as running:
        for one in asked:
            running.engine.submit(one)
        _serve_other(running, other_folder)
        running.engine.retire(BASE)
        answers = [running.answer(one) for one in asked]
    assert [answer.ids() for answer in answers] == [plain[BASE].greedy(PROMPT, 25, eos=False)] * 4


def test_retiring_the_unknown_is_harmless(llama: LoadedModel) -> None:
    with Running(llama) as running:
        running.engine.retire("never-heard-of")
        assert running.engine.checkpoints == (BASE,)
