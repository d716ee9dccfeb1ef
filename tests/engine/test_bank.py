"""Several adapters and the bare base in one batch, against PEFT's own merging of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import learnback_nano
from learnback_nano import world
from learnback_server.engine.adapter import UnusualAdapterError, WeightsError, read_adapter
from learnback_server.engine.loading import LoadedModel, load_model
from learnback_server.engine.weights import merge
from tests.engine.harness import PlainModel, Running, request

PROMPT = [3 * i % 256 for i in range(40)]
WEIGHTS = "adapter_model.safetensors"

SORTS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4},
    "rank 1": {"r": 1},
    "rslora": {"r": 8, "use_rslora": True, "lora_alpha": 4},
    "patterns": {"r": 4, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.*v_proj": 3}},
    "some modules": {"r": 4, "target_modules": ["q_proj", "down_proj"]},
}


def write_adapter(
    base: Path, folder: Path, seed: int = 0, std: float = 0.2, **config: Any
) -> PlainModel:
    """Writes a random adapter; returns the model that PEFT merges it into."""
    torch.manual_seed(seed)
    network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(network, LoraConfig(**{"target_modules": "all-linear"} | config))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=std)
    adapted.save_pretrained(str(folder))
    plain = PlainModel(base)
    plain.network = adapted.merge_and_unload().eval()
    return plain


@pytest.fixture(scope="module")
def adapters(
    tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, PlainModel]]:
    """One of each sort: where it lies, and what it should answer."""
    made = {}
    for seed, (sort, config) in enumerate(SORTS.items()):
        folder = tmp_path_factory.mktemp("adapter")
        made[sort] = (folder, write_adapter(tiny_llama, folder, seed, **config))
    return made


def test_every_adapter_and_the_base_answer_as_themselves_in_one_batch(
    llama: LoadedModel, plain_llama: PlainModel, adapters: dict[str, tuple[Path, PlainModel]]
) -> None:
    plain = {"base": plain_llama} | {sort: own for sort, (_, own) in adapters.items()}
    names = [*plain, *reversed(plain)]
    with Running(llama) as running:
        for sort, (folder, _) in adapters.items():
            running.engine.adapt(sort, read_adapter(folder, llama.network))
        asked = [request(PROMPT[: 9 + 2 * i], 12, checkpoint=name) for i, name in enumerate(names)]
        answers = running.ask(*asked)
    for one, name, answer in zip(asked, names, answers, strict=True):
        assert answer.ids() == plain[name].greedy(one.prompt_ids, 12)


def test_an_answer_is_the_same_to_the_last_bit_in_any_company(
    llama: LoadedModel, adapters: dict[str, tuple[Path, PlainModel]]
) -> None:
    def asked(name: str, length: int) -> Any:
        return request(PROMPT[:length], 12, checkpoint=name, logprobs=1, ignore_eos=True)

    with Running(llama, prefix_cache=False) as running:
        for sort, (folder, _) in adapters.items():
            running.engine.adapt(sort, read_adapter(folder, llama.network))
        for sort in (*SORTS, "base"):
            (alone,) = running.ask(asked(sort, 20))
            among = running.ask(*[asked(name, 20 + i) for i, name in enumerate([sort, *SORTS] * 3)])
            assert among[0].logprobs() == alone.logprobs()


def test_who_began_unmerged_ends_so_and_the_lane_is_freed(
    llama: LoadedModel, adapters: dict[str, tuple[Path, PlainModel]]
) -> None:
    folder, plain = adapters["plain"]
    adapter = read_adapter(folder, llama.network)
    with Running(llama) as running:
        running.engine.adapt("one", adapter)
        long = request(PROMPT, 200, checkpoint="one", ignore_eos=True)
        running.engine.submit(long)
        running.wait_until(lambda: running.answers[long.generation_id].started)
        running.engine.replace("one", running.engine.prepare(merge(llama.network, adapter)))
        assert running.engine.lanes == ("base", "one", "one+merged")
        (after,) = running.ask(request(PROMPT, 12, checkpoint="one"))
        assert after.finished.cached_tokens == 0
        assert running.answer(long).ids() == plain.greedy(PROMPT, 200, eos=False)
        assert after.ids() == plain.greedy(PROMPT, 12)
        assert running.engine.lanes == ("base", "one+merged")
        running.engine.retire("one")
        assert running.engine.lanes == ("base",)


def test_nano_answers_the_same_merged_and_unmerged(tmp_path: Path) -> None:
    nano = load_model(str(learnback_nano.path()))
    write_adapter(learnback_nano.path(), tmp_path, std=1.0, r=16)
    adapter = read_adapter(tmp_path, nano.network)
    draw = Random(0)
    prompts = [
        nano.tokenizer.apply_chat_template(
            [{"role": "user", "content": world.sample(task, draw, "unseen").prompt}],
            add_generation_prompt=True,
            return_dict=False,
        )
        for task in world.TASKS
    ]
    answers = {}
    with Running(nano) as running:
        running.engine.adapt("one", adapter)
        running.engine.serve("two", running.engine.prepare(merge(nano.network, adapter)))
        for name in ("one", "two", "base"):
            asked = [request(prompt, 24, checkpoint=name) for prompt in prompts]
            answers[name] = [answer.ids() for answer in running.ask(*asked)]
    assert answers["one"] == answers["two"]
    assert answers["one"] != answers["base"]


def test_merging_copies_the_changed_weights_only(
    llama: LoadedModel, adapters: dict[str, tuple[Path, PlainModel]]
) -> None:
    folder, _ = adapters["some modules"]
    before = {name: one.clone() for name, one in llama.network.named_parameters()}
    merged = merge(llama.network, read_adapter(folder, llama.network))
    own = dict(llama.network.named_parameters())
    for name, weight in merged.named_parameters():
        changed = name.endswith(("q_proj.weight", "down_proj.weight"))
        assert (weight.data_ptr() != own[name].data_ptr()) == changed
        assert torch.equal(own[name], before[name])


def test_an_unmerged_adapter_copies_no_weight_of_the_base(
    llama: LoadedModel, adapters: dict[str, tuple[Path, PlainModel]]
) -> None:
    own = {one.data_ptr() for one in llama.network.parameters()}
    with Running(llama) as running:
        for sort, (folder, _) in adapters.items():
            running.engine.adapt(sort, read_adapter(folder, llama.network))
            member = running.engine._slots.lane(sort).member
            assert member is not None
            network = member.alone._model
            assert {one.data_ptr() for one in network.parameters()} == own


def test_the_output_layer_is_not_left_out_in_silence(
    llama: LoadedModel, tiny_llama: Path, tmp_path: Path
) -> None:
    write_adapter(tiny_llama, tmp_path, r=4, target_modules=["q_proj", "lm_head"])
    with Running(llama) as running, pytest.raises(UnusualAdapterError, match="lm_head"):
        running.engine.adapt("one", read_adapter(tmp_path, llama.network))


def test_other_architectures_hold_adapters_too(
    any_folder: Path, any_model: LoadedModel, tmp_path: Path
) -> None:
    # PEFT adapts experts, which are no linear layers, by another way.
    experts = any_model.network.config.model_type == "mixtral"
    targets = ["q_proj", "o_proj"] if experts else "all-linear"
    plain = write_adapter(any_folder, tmp_path, r=4, target_modules=targets)
    adapter = read_adapter(tmp_path, any_model.network)
    with Running(any_model) as running:
        running.engine.adapt("one", adapter)
        running.engine.serve("two", running.engine.prepare(merge(any_model.network, adapter)))
        asked = [request(PROMPT, 12, checkpoint=name) for name in ("one", "two")]
        answers = running.ask(*asked)
    assert [answer.ids() for answer in answers] == [plain.greedy(PROMPT, 12)] * 2


Spoil = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda t: {k.replace("q_proj", "x_proj"): v for k, v in t.items()}, "has no module"),
        (lambda t: {k: v for k, v in t.items() if "lora_B" not in k}, "one factor"),
        (lambda t: {k: v[:, 1:].contiguous() for k, v in t.items()}, "does not fit"),
        (lambda t: {k: v * torch.nan for k, v in t.items()}, "not all finite"),
        (lambda _: {}, "no factors"),
    ],
    ids=["unknown module", "half a pair", "another shape", "no numbers", "empty"],
)
def test_an_adapter_that_does_not_fit_is_refused_with_the_reason(
    llama: LoadedModel, tiny_llama: Path, tmp_path: Path, spoil: Spoil, reason: str
) -> None:
    write_adapter(tiny_llama, tmp_path, r=4)
    save_file(spoil(load_file(tmp_path / WEIGHTS)), tmp_path / WEIGHTS)
    with pytest.raises(WeightsError, match=reason) as raised:
        read_adapter(tmp_path, llama.network)
    assert not isinstance(raised.value, UnusualAdapterError)


@pytest.mark.parametrize("config", [{"use_dora": True}, {"bias": "all"}], ids=["dora", "biases"])
def test_what_is_more_than_factors_is_told_apart(
    llama: LoadedModel, tiny_llama: Path, tmp_path: Path, config: dict[str, Any]
) -> None:
    write_adapter(tiny_llama, tmp_path, r=4, **config)
    with pytest.raises(UnusualAdapterError):
        read_adapter(tmp_path, llama.network)


def test_a_configuration_that_is_no_json_is_refused(llama: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4})[:-1])
    with pytest.raises(WeightsError, match="can't be read"):
        read_adapter(tmp_path, llama.network)
