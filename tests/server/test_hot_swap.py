"""Checkpoints come and go under running answers, by real adapters in a real checkpoint folder."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from learnback_server.catalog import Catalog
from learnback_server.engine.loading import LoadedModel, load_model
from learnback_server.engine.messages import FinishReason
from learnback_server.errors import CheckpointNotFoundError
from learnback_server.hot_swap import HotSwap
from learnback_server.metrics import ServerMetrics
from learnback_store.checkpoints import CheckpointStore
from learnback_store.manifest import BASE, CheckpointKind, Manifest
from learnback_telemetry.tracing import Tracer
from tests.engine.harness import PATIENCE_S, PlainModel, Running, request
from tests.tiny import write_tiny_model

PROMPT = [5 * i % 256 for i in range(40)]
OTHER_BASE = "sha256:" + "0" * 64
REFUSED_AS = {
    "corrupt": "CheckpointCorruptError",
    "foreign": "CheckpointForeignError",
    "another shape": "WeightsError",
}


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> LoadedModel:
    return load_model(str(tiny_llama))


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


@pytest.fixture
def running(model: LoadedModel) -> Iterator[Running]:
    with Running(model) as one:
        yield one


class Swapped:
    """An engine that follows a checkpoint folder, looked at from outside."""

    def __init__(self, running: Running, model: LoadedModel, store: CheckpointStore) -> None:
        self.catalog = Catalog(model.facts)
        self._running = running
        self._store = store
        self._metrics = ServerMetrics("tiny")
        self._metrics.base_is_live(model.facts.checkpoint, model.facts.digest)
        self._swap = HotSwap(model, running.engine, self.catalog, store, self._metrics, Tracer())

    def follow(self) -> None:
        asyncio.run(self._follow())

    async def _follow(self) -> None:
        await self._swap.follow(self._store.aliases())
        await self._swap.settle()

    def value(self, name: str, **labels: str) -> float:
        """A metric now; 0 if there is none."""
        registry = self._metrics.families.registry
        return registry.get_sample_value(f"learnback_{name}", labels) or 0.0

    def greedy(self, name: str = "") -> list[int]:
        """The answer of the checkpoint that a name or an alias stands for now."""
        pinned = self.catalog.resolve(name).name
        (answer,) = self._running.ask(request(PROMPT, 12, checkpoint=pinned))
        return answer.ids()


@pytest.fixture
def swapped(running: Running, model: LoadedModel, store: CheckpointStore) -> Swapped:
    return Swapped(running, model, store)


def publish_adapter(
    store: CheckpointStore, folder: Path, seed: int, base_digest: str, **fields: Any
) -> tuple[str, list[int]]:
    """Publishes a random adapter; returns its name and what it answers greedily."""
    torch.manual_seed(seed)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    adapted = get_peft_model(network, LoraConfig(r=4, target_modules="all-linear"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    name = store.new_name()
    with store.draft() as draft:
        adapted.save_pretrained(str(draft))
        told = {"parent": BASE, "base_model": "tiny", "base_digest": base_digest} | fields
        manifest = Manifest(name, CheckpointKind.ADAPTER, **told)
        store.publish(draft, manifest)
    plain = PlainModel.__new__(PlainModel)
    plain.network = adapted.merge_and_unload().eval()
    return name, plain._generate(tuple(PROMPT), 12, eos=True)


def test_the_live_adapter_answers_as_merged_and_the_base_can_still_be_asked(
    swapped: Swapped, model: LoadedModel, store: CheckpointStore, tiny_llama: Path
) -> None:
    before = swapped.greedy()
    name, expected = publish_adapter(store, tiny_llama, 1, model.facts.digest)
    assert expected != before
    store.promote(name)
    swapped.follow()
    assert swapped.catalog.live.name == name
    assert swapped.catalog.live.digest == store.get(name).digest
    assert swapped.greedy() == expected
    assert swapped.greedy("base") == before
    live = {"checkpoint": name, "digest": store.get(name).digest, "parent": BASE}
    assert swapped.value("live_checkpoint_info", **live) == 1
    assert swapped.value("checkpoint_age_seconds") > 0
    assert swapped.value("swap_seconds_count") == 1
    assert swapped.value("checkpoints_refused") == 0


def test_a_rollback_brings_the_old_answers_back_token_for_token(
    swapped: Swapped, model: LoadedModel, store: CheckpointStore, tiny_llama: Path
) -> None:
    first, expected = publish_adapter(store, tiny_llama, 1, model.facts.digest)
    second, _ = publish_adapter(store, tiny_llama, 2, model.facts.digest)
    for name in (first, second):
        store.promote(name)
        swapped.follow()
    store.rollback()
    swapped.follow()
    assert swapped.catalog.live.name == first
    assert swapped.greedy() == expected


def test_after_a_rollback_the_next_request_is_answered_by_the_old_one_from_the_next_step(
    swapped: Swapped, running: Running, model: LoadedModel, store: CheckpointStore, tiny_llama: Path
) -> None:
    first, _ = publish_adapter(store, tiny_llama, 1, model.facts.digest)
    second, _ = publish_adapter(store, tiny_llama, 2, model.facts.digest)
    for name in (first, second):
        store.promote(name)
        swapped.follow()
    expected = running.ask(request(PROMPT, 12, checkpoint=first))[0].ids()
    busy = request(PROMPT, 300, checkpoint=second, ignore_eos=True)
    running.engine.submit(busy)
    running.wait_until(lambda: running.answers[busy.generation_id].started)

    # The engine stands still in a step, so that whatever needs another would never come.
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        assert go_on.wait(PATIENCE_S)

    running.on_publish = hold
    assert held.wait(PATIENCE_S)
    before = running.engine.stats().steps
    store.rollback()
    swapped.follow()
    assert swapped.catalog.live.name == first
    next_one = request(PROMPT, 12, checkpoint=swapped.catalog.resolve("").name)
    running.engine.submit(next_one)
    steps: list[int] = []

    def note() -> None:
        if running.answers[next_one.generation_id].ids() and not steps:
            steps.append(running.engine.stats().steps)

    running.on_publish = note
    go_on.set()
    assert running.answer(next_one).ids() == expected
    # Computed in the step after that one, and told while the next is about to be.
    assert steps == [before + 2]
    running.engine.cancel(busy.generation_id)


def test_an_answer_ends_on_the_checkpoint_that_it_began_with(
    swapped: Swapped, running: Running, model: LoadedModel, store: CheckpointStore, tiny_llama: Path
) -> None:
    names = [publish_adapter(store, tiny_llama, seed, model.facts.digest)[0] for seed in (1, 2, 3)]
    store.promote(names[0])
    swapped.follow()
    alone = running.ask(request(PROMPT, 300, checkpoint=names[0], ignore_eos=True))[0].ids()
    long = request(PROMPT, 300, checkpoint=names[0], ignore_eos=True)
    running.engine.submit(long)
    running.wait_until(lambda: running.answers[long.generation_id].started)
    for name in names[1:]:
        store.promote(name)
        swapped.follow()
    with pytest.raises(CheckpointNotFoundError):
        swapped.catalog.resolve(names[0])
    answer = running.answer(long)
    assert answer.reason is FinishReason.LENGTH
    assert answer.ids() == alone


def test_full_weights_are_served_too(
    swapped: Swapped, model: LoadedModel, store: CheckpointStore, tmp_path: Path
) -> None:
    other = write_tiny_model(tmp_path / "other", "llama", seed=7)
    name = store.new_name()
    with store.draft() as draft:
        AutoModelForCausalLM.from_pretrained(other).save_pretrained(draft)
        manifest = Manifest(name, CheckpointKind.FULL, BASE, "tiny", model.facts.digest)
        store.publish(draft, manifest)
    store.promote(name)
    swapped.follow()
    assert swapped.greedy() == PlainModel(other).greedy(PROMPT, 12)


@pytest.mark.parametrize("fault", ["corrupt", "foreign", "another shape"])
def test_a_bad_checkpoint_is_refused_and_the_live_one_serves_on(
    swapped: Swapped,
    model: LoadedModel,
    store: CheckpointStore,
    tiny_llama: Path,
    tiny_qwen3: Path,
    fault: str,
) -> None:
    before = swapped.greedy()
    folder = tiny_qwen3 if fault == "another shape" else tiny_llama
    digest = OTHER_BASE if fault == "foreign" else model.facts.digest
    if fault == "another shape":
        name = store.new_name()
        with store.draft() as draft:
            AutoModelForCausalLM.from_pretrained(folder).save_pretrained(draft)
            store.publish(draft, Manifest(name, CheckpointKind.FULL, BASE, "tiny", digest))
    else:
        name, _ = publish_adapter(store, folder, 1, digest)
    store.promote(name)
    if fault == "corrupt":
        weights = store.fetch(name) / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    swapped.follow()
    assert swapped.catalog.live.name == BASE
    assert swapped.greedy() == before
    reason = REFUSED_AS[fault]
    assert swapped.value("swap_refusals_total", reason=reason) == 1
    assert swapped.value("checkpoints_refused") == 1
    assert swapped.value("swap_seconds_count") == 0
    live = {"checkpoint": BASE, "digest": model.facts.digest, "parent": ""}
    assert swapped.value("live_checkpoint_info", **live) == 1
    assert swapped.value("checkpoint_age_seconds") == 0


def test_the_next_good_checkpoint_is_served_after_a_bad_one(
    swapped: Swapped, model: LoadedModel, store: CheckpointStore, tiny_llama: Path
) -> None:
    bad, _ = publish_adapter(store, tiny_llama, 1, OTHER_BASE)
    good, expected = publish_adapter(store, tiny_llama, 2, model.facts.digest)
    for name in (bad, good):
        store.promote(name)
        swapped.follow()
    assert swapped.catalog.live.name == good
    assert swapped.greedy() == expected
    assert swapped.value("checkpoints_refused") == 1  # "previous" points at the bad one
