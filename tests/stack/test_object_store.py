"""Checkpoints in an object store (a real S3 server): published, swapped in, rolled back, erased.

Of the trainer there is all but the training: adapters with random weights are published.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import boto3
import grpc
import pytest

from learnback.v1 import checkpoints_pb2 as pb
from learnback.v1.checkpoints_pb2_grpc import CheckpointServiceStub
from learnback_client import Client, Reply
from learnback_server.app import StartError
from learnback_server.config import ServerConfig
from learnback_server.engine.loading import load_model
from learnback_store.announcements import announce
from learnback_store.archive import Archive
from learnback_store.checkpoints import CheckpointState, open_checkpoints
from learnback_store.connection import connect
from learnback_store.digests import model_digest
from learnback_store.embedded import EmbeddedRedis
from learnback_store.errors import StoreUnavailableError
from learnback_store.feedback import FeedbackQueue
from learnback_store.keys import Keys
from learnback_store.objects import FsspecObjects
from learnback_trainer.acceptance import Head
from learnback_trainer.erasing import Eraser
from tests.engine.test_acceptance import CLOSE, score_of
from tests.s3 import S3Server
from tests.server.running import RunningServer, caught, info_of, wait_until
from tests.server.test_acceptance import publish
from tests.server.test_hot_swap import PROMPT, publish_adapter
from tests.tiny import write_tiny_model

TOKENS = 12
KEYS = Keys("objects")
_prefixes = itertools.count()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


def _config(model: Path, redis: EmbeddedRedis, place: str, folder: Path) -> ServerConfig:
    return ServerConfig(
        listen="127.0.0.1:0",
        model=str(model),
        device="cpu",
        threads=1,
        redis_url=redis.url,
        redis_namespace=KEYS.namespace,
        checkpoint_dir=place,
        checkpoint_cache=str(folder / "server"),
    )


class Served:
    """A server, a client of it, and the checkpoints as the trainer holds them."""

    def __init__(self, model: Path, redis: EmbeddedRedis, place: str, folder: Path) -> None:
        self.model, self.redis, self.place, self.folder = model, redis, place, folder
        self.trainer = open_checkpoints(place, folder / "trainer")
        self.running = RunningServer(_config(model, redis, place, folder))
        self.client = Client(f"127.0.0.1:{self.running.port}")

    def close(self) -> None:
        self.client.close()
        self.running.close()

    def publish(self, seed: int, **fields: object) -> tuple[str, tuple[int, ...]]:
        """Publishes an adapter as the trainer does; returns its name and what it answers."""
        name, tokens = publish_adapter(
            self.trainer, self.model, seed, model_digest(self.model), **fields
        )
        return name, tuple(tokens)

    def promote(self, name: str) -> None:
        """Makes it live as the trainer does."""
        self.trainer.promote(name, expected=self.trainer.aliases().live)
        with connect(self.redis.url) as redis:
            announce(redis, KEYS, self.trainer.aliases().serial)

    def ask(self) -> Reply:
        return self.client.generate(token_ids=PROMPT, temperature=0, max_tokens=TOKENS)

    def wait_for(self, name: str) -> tuple[int, ...]:
        """Waits until a checkpoint answers; returns its answer."""
        wait_until(lambda: self.ask().checkpoint == name)
        (candidate,) = self.ask().candidates
        return candidate.token_ids

    def cached(self) -> set[str]:
        """Names of the checkpoints that the server has on its disk."""
        return {each.name.partition(".")[0] for each in (self.folder / "server").glob("*/*.*")}


@pytest.fixture
def served(model: Path, redis: EmbeddedRedis, s3_bucket: str, tmp_path: Path) -> Iterator[Served]:
    served = Served(model, redis, f"{s3_bucket}/stack-{next(_prefixes)}", tmp_path)
    yield served
    served.close()


def test_published_swapped_in_rolled_back_and_erased(served: Served, tmp_path: Path) -> None:
    bare = served.wait_for("base")
    kept, kept_tokens = served.publish(1)
    served.promote(kept)
    assert served.wait_for(kept) == kept_tokens

    about = served.ask()
    feedback = served.client.critique(about, "Too long.", author="alice")
    taught, taught_tokens = served.publish(2, parent=kept, feedback_ids=(feedback.feedback_id,))
    served.promote(taught)
    assert served.wait_for(taught) == taught_tokens
    assert len({bare, kept_tokens, taught_tokens}) == 3
    told = served.client.get_checkpoint("live")
    assert (told.name, told.parent) == (taught, kept)

    move = served.client.rollback_checkpoint()
    assert move.checkpoint.name == kept
    assert served.wait_for(kept) == kept_tokens
    served.client.promote_checkpoint(taught)
    assert served.wait_for(taught) == taught_tokens
    assert served.cached() == {kept, taught}

    _erase(served, tmp_path)
    assert served.wait_for(kept) == kept_tokens
    assert served.trainer.get(taught).state is CheckpointState.RETIRED
    wait_until(lambda: served.cached() == {kept})
    bucket, _, prefix = served.place.removeprefix("s3://").partition("/")
    listed = boto3.client("s3").list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/files/")
    assert {one["Key"].split("/")[2] for one in listed["Contents"]} == {kept}


def _erase(served: Served, folder: Path) -> None:
    """What the trainer does of an erasure when nothing else is to be taught anew."""
    served.client.erase_author("alice")
    with connect(served.redis.url) as redis, Archive(folder / "archive.sqlite") as archive:
        batch = FeedbackQueue(redis, KEYS).read_batch(10)
        learned = served.trainer.learned_feedback()
        archive.take([(one.record, one.attempt) for one in batch], learned)
        eraser = Eraser(redis, KEYS, archive, served.trainer, lambda *_: "", 10, lambda _: None)
        assert eraser.work() == 1


def test_a_head_lies_beside_the_weights(served: Served) -> None:
    model = load_model(str(served.model))
    name, plain, head = publish(served.trainer, "unmerged", model, served.model)
    assert Head.load(served.trainer.fetch(name)) is not None  # by which the next round is judged
    served.promote(name)
    served.wait_for(name)
    reply = served.client.generate(
        token_ids=PROMPT, temperature=0, max_tokens=TOKENS, acceptance=True
    )
    [candidate] = reply.candidates
    assert candidate.acceptance == pytest.approx(
        score_of(plain, head, [*PROMPT, *candidate.token_ids]), abs=CLOSE
    )


def test_a_server_starts_on_what_is_live(
    model: Path, redis: EmbeddedRedis, s3_bucket: str, tmp_path: Path
) -> None:
    place = f"{s3_bucket}/stack-{next(_prefixes)}"
    trainer = open_checkpoints(place, tmp_path / "trainer")
    name, tokens = publish_adapter(trainer, model, 1, model_digest(model))
    trainer.promote(name)
    served = Served(model, redis, place, tmp_path)
    try:
        assert served.wait_for(name) == tuple(tokens)
        assert [one.name for one in served.client.list_checkpoints()] == [name, "base"]
    finally:
        served.close()


def test_a_store_that_is_away_for_a_while_is_outlasted(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes when the server has seen that the alias moved, and has begun to fetch."""
    failures = iter(range(2))
    download = FsspecObjects.download

    def away(self: FsspecObjects, *arguments: object) -> None:
        if next(failures, None) is not None:
            raise StoreUnavailableError
        download(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(FsspecObjects, "download", away)
    name, tokens = served.publish(1)
    served.promote(name)
    assert served.wait_for(name) == tokens
    assert next(failures, None) is None


def test_answers_go_on_while_the_store_is_away(
    model: Path, redis: EmbeddedRedis, tmp_path: Path
) -> None:
    with S3Server() as server:
        served = Served(model, redis, server.make_bucket("checkpoints"), tmp_path)
        try:
            name, tokens = served.publish(1)
            served.promote(name)
            assert served.wait_for(name) == tokens
            server.stop()
            stub = CheckpointServiceStub(served.running.channel)
            for call, request in (
                (stub.GetCheckpoint, pb.GetCheckpointRequest(checkpoint="live")),
                (stub.ListCheckpoints, pb.ListCheckpointsRequest()),
                (stub.RollbackCheckpoint, pb.RollbackCheckpointRequest()),
            ):
                error = caught(call, request)
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                assert info_of(error).reason == "STORE_UNAVAILABLE"
            assert served.ask().checkpoint == name
            server.start_again()
            served.client.rollback_checkpoint()
            served.wait_for("base")
        finally:
            served.close()


# It is raised on the server's own thread, and again here.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_whose_bucket_is_missing_does_not_start(
    model: Path, redis: EmbeddedRedis, s3_bucket: str, tmp_path: Path
) -> None:
    with pytest.raises(StartError, match="no such bucket"):
        RunningServer(_config(model, redis, "s3://nowhere", tmp_path))
