"""Checkpoints of full weights come in aside, or after those before them have drained."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from learnback_client import Client
from learnback_server import full_weights
from learnback_server.config import ServerConfig
from learnback_server.engine.adapter import WeightsError
from learnback_server.engine.loading import LoadedModel, load_model
from learnback_server.engine.weights import load_full
from learnback_store.checkpoints import CheckpointStore
from learnback_store.embedded import EmbeddedRedis
from learnback_store.manifest import BASE, CheckpointKind, Manifest
from tests.engine.harness import PlainModel
from tests.server.running import RunningServer, wait_until
from tests.tiny import write_tiny_model

PROMPT = [5 * i % 256 for i in range(40)]
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LoadedModel:
    return load_model(str(tiny_folder))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of the base's shape with other weights."""
    root = tmp_path_factory.mktemp("others")
    return [write_tiny_model(root / str(seed), "llama", seed=seed) for seed in (7, 8)]


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


def publish_full(store: CheckpointStore, weights: Path, base_digest: str) -> str:
    """Publishes all weights of a model, as a trainer of full weights does."""
    name = store.new_name()
    with store.draft() as draft:
        AutoModelForCausalLM.from_pretrained(weights).save_pretrained(draft)
        manifest = Manifest(name, CheckpointKind.FULL, BASE, "tiny", base_digest)
        store.publish(draft, manifest)
    return name


class Served:
    """A server on a store, with the networks of full weights that it has loaded."""

    def __init__(self, running: RunningServer, loaded: list[weakref.ref[PreTrainedModel]]) -> None:
        self.running = running
        self.client = Client(f"127.0.0.1:{running.port}")
        self.loaded = loaded

    def greedy(self, checkpoint: str = "") -> tuple[str, list[int]]:
        """Which checkpoint answers, and what."""
        reply = self.client.generate(
            token_ids=PROMPT, temperature=0, max_tokens=12, checkpoint=checkpoint
        )
        return reply.checkpoint, list(reply.candidates[0].token_ids)

    def promote(self, name: str) -> None:
        self.client.promote_checkpoint(name)
        wait_until(lambda: self.running.app.swap._catalog.live.name == name)


@pytest.fixture(params=["aside", "drain"])
def way(request: pytest.FixtureRequest) -> str:
    way: str = request.param
    return way


@pytest.fixture
def served(
    way: str,
    tiny_folder: Path,
    redis_server: EmbeddedRedis,
    store: CheckpointStore,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Served]:
    loaded: list[weakref.ref[PreTrainedModel]] = []

    def load(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
        if way == "drain":
            assert all(one() is None for one in loaded), "there is one in memory already"
        network = load_full(base, folder)
        loaded.append(weakref.ref(network))
        return network

    monkeypatch.setattr(full_weights, "load_full", load)
    config = ServerConfig(
        listen="127.0.0.1:0",
        model=str(tiny_folder),
        device="cpu",
        threads=1,
        redis_url=redis_server.url,
        redis_namespace=f"full-{way}",
        checkpoint_dir=str(store.root),
        swap=way,
    )
    running = RunningServer(config)
    served = Served(running, loaded)
    yield served
    served.client.close()
    running.close()


def test_each_answers_as_its_own_model_and_who_is_being_answered_is_let_finish(
    served: Served, way: str, store: CheckpointStore, model: LoadedModel, others: list[Path]
) -> None:
    names = [publish_full(store, other, model.facts.digest) for other in others]
    plain = [PlainModel(other) for other in others]
    served.promote(names[0])
    assert served.greedy() == (names[0], plain[0].greedy(PROMPT, 12))

    client = served.client
    with client.stream(token_ids=PROMPT, temperature=0, max_tokens=400, ignore_eos=True) as long:
        first = next(long)
        moved = threading.Thread(target=served.promote, args=[names[1]])
        moved.start()
        if way == "drain":
            wait_until(lambda: served.running.app.swap._catalog._withheld)
        answers = [served.greedy() for _ in range(3)] if way == "drain" else []
        reply = long.result()
    moved.join()
    assert first is not None
    assert reply.checkpoint == names[0]
    tokens = list(reply.candidates[0].token_ids)
    assert tokens == plain[0].greedy(PROMPT, 400, eos=False)
    answers.append(served.greedy())
    assert answers == [(names[1], plain[1].greedy(PROMPT, 12))] * len(answers)

    client.rollback_checkpoint()
    wait_until(lambda: served.running.app.swap._catalog.live.name == names[0])
    assert served.greedy() == (names[0], plain[0].greedy(PROMPT, 12))
    assert served.greedy("base")[0] == "base"


def test_one_that_can_not_be_loaded_leaves_what_answered_before(
    served: Served, store: CheckpointStore, model: LoadedModel, others: list[Path], tmp_path: Path
) -> None:
    good = publish_full(store, others[0], model.facts.digest)
    served.promote(good)
    before = served.greedy()
    lacking = write_tiny_model(tmp_path / "lacking", "llama", seed=9)
    tensors = load_file(lacking / WEIGHTS)
    del tensors["model.layers.0.self_attn.q_proj.weight"]
    name = store.new_name()
    with store.draft() as draft:
        for file in lacking.glob("*.json"):
            (draft / file.name).write_bytes(file.read_bytes())
        save_file(tensors, draft / WEIGHTS, {"format": "pt"})
        manifest = Manifest(name, CheckpointKind.FULL, BASE, "tiny", model.facts.digest)
        store.publish(draft, manifest)
    served.client.promote_checkpoint(name)
    wait_until(lambda: name in served.running.app.swap._refused)
    wait_until(lambda: not served.running.app.swap._catalog._withheld)
    assert served.greedy() == before
    assert before[0] == good


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("another configuration", "another model than the base: other rms_norm_eps"),
        ("no configuration", "configuration can't be read"),
    ],
)
def test_what_is_no_model_like_the_base_is_refused_before_any_weights_are_read(
    model: LoadedModel, others: list[Path], tmp_path: Path, change: str, reason: str
) -> None:
    network = AutoModelForCausalLM.from_pretrained(others[0])
    network.config.rms_norm_eps = 0.5
    network.save_pretrained(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    if change == "no configuration":
        (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match=reason):
        load_full(model.network, tmp_path)


def test_the_base_serves_when_nothing_else_can_be_brought_back(
    model: LoadedModel, others: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from learnback_server.catalog import Catalog, ServedCheckpoint
    from learnback_server.engine.engine import Engine
    from learnback_server.engine.options import EngineOptions

    engine = Engine(model, EngineOptions(), lambda _: None)
    catalog = Catalog(model.facts)
    full = full_weights.FullWeights(model, engine, catalog, drain=True)

    def torn(*_: object) -> PreTrainedModel:
        raise torch.OutOfMemoryError("no room")

    async def follow() -> None:
        await full.take_up("one", others[0])
        catalog.add(ServedCheckpoint("one", "sha256:1"))
        catalog.point({"live": "one"})
        monkeypatch.setattr(full_weights, "load_full", torn)
        with pytest.raises(WeightsError, match="no room"):
            await full.take_up("two", others[1])
        catalog.release()

    asyncio.run(follow())
    assert catalog.live.name == "base"
    assert engine.checkpoints == ("base",)
    engine.stop()
