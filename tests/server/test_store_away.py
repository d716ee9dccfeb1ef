"""Redis is killed or gone: answers go on, feedback is refused whole, nothing taken is lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sized
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.rpc import error_details_pb2

from learnback.v1 import checkpoints_pb2
from learnback.v1 import feedback_pb2 as pb
from learnback.v1.checkpoints_pb2_grpc import CheckpointServiceStub
from learnback_server.config import ServerConfig
from learnback_store.embedded import EmbeddedRedis
from learnback_store.feedback import FeedbackQueue
from tests.server.feedback_calls import (
    about,
    answered,
    get,
    listed,
    stub_of,
    submit,
    told,
    trainers_side,
)
from tests.server.running import (
    RunningServer,
    caught,
    details_of,
    greedy,
    info_of,
    wait_until,
)

SUBMITTERS = 8


@pytest.fixture
def redis(tmp_path):
    """A Redis that the test may kill."""
    with EmbeddedRedis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def config(tiny_folder, redis, tmp_path):
    return ServerConfig(
        listen="127.0.0.1:0",
        model=str(tiny_folder),
        device="cpu",
        threads=1,
        redis_url=redis.url,
        checkpoint_dir=str(tmp_path / "checkpoints"),
    )


@pytest.fixture
def fragile(config):
    running = RunningServer(config)
    yield running
    running.close()


def kill(redis: EmbeddedRedis) -> None:
    os.kill(redis.pid, signal.SIGKILL)
    wait_until(lambda: redis.pid is None)


def check_away(error: grpc.RpcError) -> None:
    assert (error.code(), info_of(error).reason) == (
        grpc.StatusCode.UNAVAILABLE,
        "STORE_UNAVAILABLE",
    )
    (retry,) = details_of(error, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() > 0
    assert "redis.sock" not in error.details()


def test_every_call_says_so_and_works_again_later(fragile, redis):
    generation_id = answered(fragile)
    first = submit(fragile, about(generation_id, request_id="one"))
    kill(redis)
    for call in (
        lambda: submit(fragile, about(generation_id)),
        lambda: submit(fragile, told()),
        lambda: get(fragile, first.feedback_id),
        lambda: listed(fragile),
        lambda: list(stub_of(fragile).WatchFeedback(watching(first))),
    ):
        check_away(caught(call))
    redis.start()
    assert get(fragile, first.feedback_id) == first
    assert submit(fragile, about(generation_id, request_id="one")) == first
    second = submit(fragile, about(generation_id))
    assert listed(fragile) == [second, first]


def watching(feedback: pb.Feedback) -> pb.WatchFeedbackRequest:
    return pb.WatchFeedbackRequest(feedback_id=feedback.feedback_id)


def test_a_watch_ends_when_redis_goes(fragile, redis):
    watch = stub_of(fragile).WatchFeedback(watching(submit(fragile, told())))
    next(watch)
    kill(redis)
    check_away(caught(lambda: watch))


def test_answers_go_on_and_can_be_criticised_later(fragile, redis):
    before = answered(fragile)
    kill(redis)
    during = [answered(fragile, f"question {i}") for i in range(20)]
    streamed = list(fragile.stream(greedy("and a stream", 5)))
    assert streamed[-1].HasField("finished")
    check_away(caught(submit, fragile, about(during[0])))
    redis.start()
    for generation_id in (before, *during, streamed[0].started.generation_id):
        assert submit(fragile, about(generation_id)).answered_by == "base"
    wait_until(lambda: fragile.app.handover.generations.backlog == 0)
    with trainers_side(fragile) as (client, keys):
        assert client.zcard(keys.generations) == 22


def test_what_redis_never_got_is_told_as_such(config, redis):
    running = RunningServer(config)
    kill(redis)
    lost = answered(running)
    running.close()
    redis.start()
    again = RunningServer(config)
    try:
        error = caught(submit, again, about(lost))
        assert info_of(error).reason == "GENERATION_NOT_FOUND"
        assert "send the exchange along" in error.details()
    finally:
        again.close()


def test_killed_under_load_it_loses_nothing_taken_and_keeps_no_half(fragile, redis):
    """Clients that repeat each call under its request_id end up with each queued exactly once."""
    generation_id = answered(fragile)
    stop = threading.Event()
    taken: dict[str, pb.Feedback] = {}
    refused: list[str] = []

    def submit_for_ever(who: int) -> None:
        number = 0
        while not stop.is_set():
            name = f"call-{who}-{number}"
            request = about(generation_id, request_id=name, critique=pb.Critique(text=name))
            try:
                taken[name] = submit(fragile, request)
                number += 1
            except grpc.RpcError as error:
                check_away(error)
                refused.append(name)
                stop.wait(0.02)

    with ThreadPoolExecutor(SUBMITTERS) as pool:
        running = [pool.submit(submit_for_ever, who) for who in range(SUBMITTERS)]
        try:
            for _ in range(3):
                wait_for_more(taken, 60)
                kill(redis)
                wait_for_more(refused, SUBMITTERS)
                redis.start()
            wait_until(lambda: set(refused) <= taken.keys())
        finally:
            stop.set()
        for each in running:
            each.result()
    found = {each.critique.text: each for each in listed(fragile, page_size=1000)}
    # What was refused may have been queued before the connection broke, and its repeat found it.
    assert taken.items() <= found.items()
    assert found.keys() <= taken.keys() | set(refused)
    with trainers_side(fragile) as (client, keys):
        batch = FeedbackQueue(client, keys).read_batch(len(found) + 100)
    texts = [delivery.record.signal.text for delivery in batch]
    assert sorted(texts) == sorted(found)


def wait_for_more(things: Sized, count: int) -> None:
    enough = len(things) + count
    wait_until(lambda: len(things) >= enough)


def test_a_start_without_redis_serves_answers(config, redis):
    kill(redis)
    running = RunningServer(config)
    try:
        early = answered(running)
        check_away(caught(submit, running, told()))
        redis.start()
        assert submit(running, about(early))
    finally:
        running.close()


def test_records_expire(config):
    running = RunningServer(config.model_copy(update={"generation_expiry": 1.0}))
    try:
        generation_id = answered(running)
        with trainers_side(running) as (client, keys):
            assert 0 < client.pttl(keys.generation(generation_id)) <= 1000
            wait_until(lambda: not client.exists(keys.generation(generation_id)))
        error = caught(submit, running, about(generation_id))
        assert info_of(error).reason == "GENERATION_NOT_FOUND"
    finally:
        running.close()


def test_aliases_move_without_redis(fragile, redis):
    stub = CheckpointServiceStub(fragile.channel)
    kill(redis)
    request = checkpoints_pb2.PromoteCheckpointRequest(checkpoint="base", alias="canary")
    assert stub.PromoteCheckpoint(request).checkpoint.aliases == ["live", "canary"]
