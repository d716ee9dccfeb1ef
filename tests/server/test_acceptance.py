"""Scores and rerank as callers ask for them, of real checkpoints in a real checkpoint folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from learnback_client import AcceptanceUnavailable, Client, InvalidRequest, Reply
from learnback_server.config import ServerConfig
from learnback_server.engine.acceptance import AcceptanceHead
from learnback_server.engine.loading import LoadedModel, load_model
from learnback_store.acceptance import HEAD_FILE
from learnback_store.checkpoints import CheckpointStore
from learnback_store.embedded import EmbeddedRedis
from learnback_store.manifest import BASE, CheckpointKind, Manifest
from tests.engine.harness import PlainModel
from tests.engine.test_acceptance import CLOSE, score_of, write_head
from tests.engine.test_bank import write_adapter
from tests.server.running import RunningServer, wait_until
from tests.tiny import write_tiny_model

PROMPT = [5 * i % 256 for i in range(40)]
DRAWN: dict[str, Any] = {"token_ids": PROMPT, "temperature": 1.5, "max_tokens": 12, "seed": 4}
KINDS = ["unmerged", "merged", "full"]


class Published:
    """A server whose live checkpoint has a head, and what its scores should be."""

    def __init__(
        self, running: RunningServer, plain: PlainModel, head: AcceptanceHead, name: str
    ) -> None:
        self.running = running
        self.client = Client(f"127.0.0.1:{running.port}")
        self.name = name
        self._plain, self._head = plain, head

    def expected(self, reply: Reply) -> dict[int, float]:
        """The score of each candidate, by index."""
        return {
            one.index: score_of(self._plain, self._head, [*PROMPT, *one.token_ids])
            for one in reply.candidates
        }


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LoadedModel:
    return load_model(str(tiny_folder))


def publish(
    store: CheckpointStore, kind: str, model: LoadedModel, folder: Path
) -> tuple[str, PlainModel, AcceptanceHead]:
    """Publishes a random checkpoint with a random head."""
    name = store.new_name()
    with store.draft() as draft:
        if kind == "full":
            other = write_tiny_model(draft.parent / f"other-{name}", "llama", seed=7)
            plain = PlainModel(other)
            AutoModelForCausalLM.from_pretrained(other).save_pretrained(draft)
        else:
            plain = write_adapter(folder, draft, r=4)
            (draft / "README.md").unlink(missing_ok=True)
        head = write_head(draft, model)
        of = CheckpointKind.FULL if kind == "full" else CheckpointKind.ADAPTER
        store.publish(draft, Manifest(name, of, BASE, "tiny", model.facts.digest))
    return name, plain, head


@pytest.fixture(scope="module", params=KINDS)
def published(
    request: pytest.FixtureRequest,
    tiny_folder: Path,
    model: LoadedModel,
    redis_server: EmbeddedRedis,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Published]:
    kind: str = request.param
    store = CheckpointStore(tmp_path_factory.mktemp(kind) / "checkpoints")
    name, plain, head = publish(store, kind, model, tiny_folder)
    store.promote(name)
    config = ServerConfig(
        listen="127.0.0.1:0",
        model=str(tiny_folder),
        device="cpu",
        threads=1,
        redis_url=redis_server.url,
        redis_namespace=f"acceptance-{kind}",
        checkpoint_dir=str(store.root),
        merge="never" if kind == "unmerged" else "auto",
    )
    running = RunningServer(config)
    one = Published(running, plain, head, name)
    if kind == "merged":
        wait_until(lambda: f"{name}+merged" in running.engine.lanes)
    yield one
    one.client.close()
    running.close()


def test_each_candidate_is_scored(published: Published) -> None:
    reply = published.client.generate(**DRAWN, n=4, acceptance=True)
    assert reply.checkpoint == published.name
    assert [one.index for one in reply.candidates] == [0, 1, 2, 3]
    for one in reply.candidates:
        assert one.acceptance == pytest.approx(published.expected(reply)[one.index], abs=CLOSE)


def test_rerank_puts_the_best_first(published: Published) -> None:
    plain = published.client.generate(**DRAWN, n=8)
    best = published.client.generate(**DRAWN, n=8, rerank=True)
    expected = published.expected(best)
    told = [one.acceptance for one in best.candidates]
    assert None not in told
    assert told == sorted(told, reverse=True)
    assert len(set(told)) > 1
    assert [one.index for one in best.candidates] != list(range(8))
    assert best.candidates[0].index == max(expected, key=expected.__getitem__)
    # The same answers, in another order.
    by_index = {one.index: one.text for one in best.candidates}
    assert by_index == {one.index: one.text for one in plain.candidates}
    assert best.text == by_index[best.candidates[0].index]


def test_a_stream_tells_scores_at_its_end(published: Published) -> None:
    whole = published.client.generate(**DRAWN, n=3, acceptance=True)
    stream = published.client.stream(**DRAWN, n=3, acceptance=True)
    *_, finished = list(stream)
    told = tuple(one.acceptance for one in whole.candidates)
    assert finished.acceptances == told
    assert [one.acceptance for one in stream.result().candidates] == list(told)


def test_what_is_not_asked_for_is_not_told(published: Published) -> None:
    reply = published.client.generate(**DRAWN, n=2)
    assert [one.acceptance for one in reply.candidates] == [None, None]


def test_the_base_tells_nothing_and_can_not_rerank(published: Published) -> None:
    client = published.client
    reply = client.generate(**DRAWN, acceptance=True, checkpoint="base")
    assert [one.acceptance for one in reply.candidates] == [None]
    with pytest.raises(AcceptanceUnavailable, match="base has no acceptance head"):
        client.generate(**DRAWN, n=2, rerank=True, checkpoint="base")


def test_feedback_on_a_reranked_reply_is_about_its_best(published: Published) -> None:
    best = published.client.generate(**DRAWN, n=8, rerank=True)
    feedback = published.client.critique(best, "too long")
    assert best.candidates[0].index != 0
    assert feedback.generation is not None
    assert feedback.generation.candidate == best.candidates[0].index


@pytest.mark.parametrize("n", [None, 1])
def test_one_answer_can_not_be_put_in_order(published: Published, n: int | None) -> None:
    with pytest.raises(InvalidRequest, match=r"spec\.rerank.*2 or more"):
        published.client.generate(**DRAWN, n=n, rerank=True)


def test_a_stream_can_not_be_put_in_order(published: Published) -> None:
    with pytest.raises(InvalidRequest, match=r"spec\.rerank.*stream"):
        published.client.stream(**DRAWN, n=2, rerank=True).result()


def test_a_checkpoint_whose_head_does_not_fit_is_refused(
    published: Published, model: LoadedModel, tiny_folder: Path
) -> None:
    store = CheckpointStore(Path(published.running.config.checkpoint_dir))
    name = store.new_name()
    with store.draft() as draft:
        write_adapter(tiny_folder, draft, r=4)
        write_head(draft, model)
        file = draft / HEAD_FILE
        file.write_bytes(file.read_bytes()[:-4])
        manifest = Manifest(name, CheckpointKind.ADAPTER, BASE, "tiny", model.facts.digest)
        store.publish(draft, manifest)
    store.promote(name, alias="canary")
    wait_until(lambda: name in published.running.app.swap._refused)
    reply = published.client.generate(**DRAWN, acceptance=True)
    assert reply.checkpoint == published.name
    assert reply.candidates[0].acceptance is not None
