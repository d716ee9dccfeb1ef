"""What is loaded, what is refused and why, and what is told of a model."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedConfig

from learnback_server.engine.loading import LoadedModel, ModelError, load_model, weights_digest
from tests.engine import architectures
from tests.engine.harness import PlainModel, Running, request
from tests.tiny import CONTEXT_TOKENS, byte_tokenizer


@pytest.fixture
def copy(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama, to be changed."""
    return shutil.copytree(tiny_llama, tmp_path / "copy")


def reason_against(folder: Path | str) -> str:
    """Why a model is refused."""
    with pytest.raises(ModelError) as refused:
        load_model(str(folder))
    reason = str(refused.value)
    assert reason.startswith(f"{folder}: ")
    return reason


def change(path: Path, **values: object) -> None:
    """Sets values in a file of JSON; None removes them."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


# Accepted.


def test_serves_each_architecture(any_model: LoadedModel) -> None:
    assert any_model.network.dtype == torch.float32
    assert not any_model.network.training
    assert any_model.page_tokens == 16


@pytest.mark.parametrize(
    ("config", "context"),
    [(architectures.llama4(64), 64), (architectures.longrope(64), 64)],
    ids=["llama4", "longrope"],
)
def test_serves_a_model_that_turns_at_some_length_up_to_that_length(
    tmp_path: Path, config: PreTrainedConfig, context: int
) -> None:
    folder = architectures.write_model(tmp_path, config)
    prompt = [7, 80, 200] * 19
    with Running(load_model(str(folder), context_limit=context)) as running:
        (answer,) = running.ask(request(prompt, context - len(prompt), ignore_eos=True))
    expected = PlainModel(folder).greedy(prompt, context - len(prompt), eos=False)
    assert answer.ids() == expected


# Refused.


def test_refuses_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "neither a folder here nor a model" in reason_against(tmp_path / "nothing")


def test_refuses_a_hub_id_that_can_not_be_fetched() -> None:
    assert "neither a folder here nor a model" in reason_against("nobody/no-such-model")


def test_refuses_an_empty_folder(tmp_path: Path) -> None:
    assert "no model can be read there" in reason_against(tmp_path)


def test_refuses_a_folder_without_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    assert "its weights can't be loaded" in reason_against(copy)


def test_refuses_weights_that_are_cut_off(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "its weights can't be loaded" in reason_against(copy)


def test_refuses_weights_that_lack_some(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert "its weights lack 1: model.layers.1.mlp.up_proj.weight" in reason_against(copy)


def test_refuses_weights_of_another_shape(copy: Path) -> None:
    change(copy / "config.json", intermediate_size=95)
    assert "its weights can't be loaded" in reason_against(copy)


def test_refuses_a_configuration_that_is_no_json(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    assert "no model can be read there" in reason_against(copy)


def test_refuses_an_unknown_architecture(copy: Path) -> None:
    change(copy / "config.json", model_type="never_heard_of")
    assert "no model can be read there" in reason_against(copy)


def test_refuses_a_model_without_a_tokenizer(copy: Path) -> None:
    for path in copy.glob("tokenizer*"):
        path.unlink()
    assert "tokenizer" in reason_against(copy)


def test_refuses_a_model_whose_tokenizer_is_not_a_fast_one(copy: Path) -> None:
    for path in copy.glob("tokenizer*"):
        path.unlink()
    change_to = {"tokenizer_class": "ByT5Tokenizer"}
    (copy / "tokenizer_config.json").write_text(json.dumps(change_to))
    assert "fast tokenizer" in reason_against(copy)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (architectures.t5(), "encoder-decoder"),
        (architectures.mamba(), "MambaForCausalLM does not take an attention function"),
        (architectures.gemma2(), "softcap"),
        (architectures.gpt_oss(), "s_aux"),
        (architectures.llama4(64), "beyond 64 tokens it needs attention in chunks"),
        (architectures.longrope(64), "beyond 64 tokens it needs other rotary positions"),
    ],
    ids=["t5", "mamba", "gemma2", "gpt_oss", "llama4", "longrope"],
)
def test_refuses_what_the_paged_cache_can_not_do(
    tmp_path: Path, config: PreTrainedConfig, reason: str
) -> None:
    assert reason in reason_against(architectures.write_model(tmp_path, config))


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_refuses_a_gpu_that_is_not_there(tiny_llama: Path, device: str) -> None:
    with pytest.raises(ModelError, match=f"device is {device}, but torch sees 0 CUDA devices"):
        load_model(str(tiny_llama), device=device)


# Told.


def test_tells_the_facts(llama: LoadedModel, tiny_llama: Path) -> None:
    facts = llama.facts
    assert facts.name == str(tiny_llama)
    assert facts.checkpoint == "base"
    assert facts.vocab_size == len(byte_tokenizer())
    assert facts.context_tokens == CONTEXT_TOKENS
    assert facts.has_chat_template
    assert facts.eos_ids == (256,)
    assert (facts.temperature, facts.top_p, facts.top_k) == (1.0, 1.0, 0)
    assert (facts.min_p, facts.repetition_penalty) == (0.0, 1.0)


@pytest.mark.parametrize(("limit", "context"), [(100, 100), (CONTEXT_TOKENS + 1, CONTEXT_TOKENS)])
def test_the_context_is_the_smaller_of_limit_and_model(
    tiny_llama: Path, limit: int, context: int
) -> None:
    assert load_model(str(tiny_llama), context_limit=limit).facts.context_tokens == context


def test_sampling_defaults_are_those_of_the_generation_configuration(copy: Path) -> None:
    change(
        copy / "generation_config.json",
        do_sample=True,
        temperature=0.6,
        top_p=0.95,
        top_k=20,
        min_p=0.05,
        repetition_penalty=1.1,
        eos_token_id=[256, 10],
    )
    facts = load_model(str(copy)).facts
    assert (facts.temperature, facts.top_p, facts.top_k) == (0.6, 0.95, 20)
    assert (facts.min_p, facts.repetition_penalty) == (0.05, 1.1)
    assert facts.eos_ids == (256, 10)


def test_the_end_token_is_the_tokenizers_where_the_model_names_none(copy: Path) -> None:
    change(copy / "generation_config.json", eos_token_id=None)
    change(copy / "config.json", eos_token_id=None)
    assert load_model(str(copy)).facts.eos_ids == (256,)


def test_a_model_without_a_chat_template_says_so(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    assert not load_model(str(copy)).facts.has_chat_template


def test_the_dtype_can_be_chosen(tiny_llama: Path) -> None:
    model = load_model(str(tiny_llama), dtype="bfloat16")
    assert model.network.dtype == torch.bfloat16
    with Running(model) as running:
        (answer,) = running.ask(request([1, 2, 3], 4, ignore_eos=True))
    assert len(answer.ids()) == 4


# The digest.


def test_the_digest_has_its_form_and_does_not_depend_on_the_folder(
    tiny_llama: Path, copy: Path
) -> None:
    digest = weights_digest(copy)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", digest)
    assert digest == weights_digest(tiny_llama)


def test_the_digest_changes_with_one_weight(tiny_llama: Path, copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-6
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert weights_digest(copy) != weights_digest(tiny_llama)


def test_the_digest_changes_with_the_configuration(tiny_llama: Path, copy: Path) -> None:
    change(copy / "config.json", rms_norm_eps=1e-5)
    assert weights_digest(copy) != weights_digest(tiny_llama)


def test_the_digest_does_not_change_with_the_tokenizer(tiny_llama: Path, copy: Path) -> None:
    change(copy / "tokenizer_config.json", eos_token="<|user|>")
    assert weights_digest(copy) == weights_digest(tiny_llama)


def test_the_digest_tells_the_files_of_weights_apart(tiny_llama: Path, copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "other.safetensors")
    assert weights_digest(copy) != weights_digest(tiny_llama)


def test_sharded_weights_are_loaded_and_all_count(tiny_llama: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    byte_tokenizer().save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 1
    before = load_model(str(tmp_path)).facts.digest
    content = bytearray(shards[-1].read_bytes())
    content[-1] ^= 1
    shards[-1].write_bytes(content)
    assert weights_digest(tmp_path) != before
