"""One recorded step serves every network of one structure, and each gets its own answers by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from learnback_server.engine.adapter import read_adapter
from learnback_server.engine.loading import LoadedModel, load_model
from learnback_server.engine.weights import load_full, merge, shell
from tests.engine.harness import PlainModel, Running, request
from tests.engine.test_bank import write_adapter
from tests.tiny import write_tiny_model

PROMPT = [3 * i % 256 for i in range(40)]


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> LoadedModel:
    return load_model(str(tiny_llama))


def test_merged_full_and_unmerged_checkpoints_share_what_was_recorded_at_the_start(
    model: LoadedModel, tiny_llama: Path, tmp_path: Path
) -> None:
    other = write_tiny_model(tmp_path / "other", "llama", seed=7)
    expected = {"full": PlainModel(other).greedy(PROMPT, 12)}
    with Running(model, records=[]) as running:
        running.engine.expect_adapters()
        recorded = running.engine.traces.count
        assert recorded == 2  # the bare step, and the one with factors
        for seed in (1, 2):
            folder = tmp_path / str(seed)
            plain = write_adapter(tiny_llama, folder, seed, r=4 * seed)
            adapter = read_adapter(folder, model.network)
            running.engine.adapt(f"one-{seed}", adapter)
            merged = running.engine.prepare(merge(model.network, adapter))
            running.engine.serve(f"merged-{seed}", merged)
            for kind in ("one", "merged"):
                expected[f"{kind}-{seed}"] = plain.greedy(PROMPT, 12)
        full = load_full(model.network, other)
        running.engine.serve("full", running.engine.prepare(full))
        assert running.engine.traces.count == recorded
        answers = running.ask(*(request(PROMPT, 12, checkpoint=name) for name in expected))
    assert [answer.ids() for answer in answers] == list(expected.values())


def _with_other_eps(network: PreTrainedModel) -> PreTrainedModel:
    other = shell(network)
    for module in other.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 0.5
    return other


def _with_other_buffer(network: PreTrainedModel) -> PreTrainedModel:
    other = shell(network)
    rotary = other.model.rotary_emb
    rotary.register_buffer("inv_freq", rotary.inv_freq * 0.5, persistent=False)
    return other


@pytest.mark.parametrize(("change", "recordings"), [(_with_other_eps, 1), (_with_other_buffer, 0)])
def test_a_network_that_computes_otherwise_is_never_decoded_by_a_record_of_another(
    model: LoadedModel,
    change: Callable[[PreTrainedModel], PreTrainedModel],
    recordings: int,
) -> None:
    other = change(model.network)
    with Running(model, records=[]) as running:
        before = running.engine.traces.count
        running.engine.serve("other", running.engine.prepare(other))
        assert running.engine.traces.count == before + recordings
        traced = running.ask(request(PROMPT, 12, checkpoint="other"))[0].ids()
    plain = PlainModel.__new__(PlainModel)
    plain.network = change(PlainModel(Path(model.facts.name)).network)
    assert traced == plain._generate(tuple(PROMPT), 12, eos=True)


def test_the_weights_of_the_base_are_no_others_than_before_any_recording(
    tiny_llama: Path,
) -> None:
    loaded = load_model(str(tiny_llama))
    before = {
        name: (one.data_ptr(), one.clone()) for name, one in loaded.network.named_parameters()
    }
    with Running(loaded) as running:
        running.engine.expect_adapters()
    after = dict(loaded.network.named_parameters())
    assert after.keys() == before.keys()
    for name, (pointer, values) in before.items():
        assert after[name].data_ptr() == pointer
        assert torch.equal(after[name], values)
