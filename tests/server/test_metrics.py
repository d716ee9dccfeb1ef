"""What a server tells Prometheus, scraped over HTTP as Prometheus does."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from learnback.v1 import inference_pb2 as pb
from learnback.v1 import learning_pb2, learning_pb2_grpc
from learnback_server.config import ServerConfig
from learnback_server.metrics import ServerMetrics
from learnback_store.checkpoints import CheckpointStore
from learnback_store.embedded import EmbeddedRedis
from learnback_store.records import new_feedback_id
from learnback_telemetry.families import Families
from tests.server.feedback_calls import about, answered, submit
from tests.server.running import RunningServer, caught, endless, greedy, wait_until
from tests.server.test_hot_swap import publish_adapter

MODEL = {"model_name": "tiny"}
GENERATE = {"grpc_service": "learnback.v1.InferenceService", "grpc_method": "Generate"}
STREAM = GENERATE | {"grpc_method": "GenerateStream"}


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def scraped(long_folder, redis, tmp_path_factory):
    config = ServerConfig(
        listen="127.0.0.1:0",
        metrics_listen="127.0.0.1:0",
        model=str(long_folder),
        device="cpu",
        threads=1,
        max_running=4,
        cache_tokens=32768,
        redis_url=redis.url,
        checkpoint_dir=str(tmp_path_factory.mktemp("checkpoints")),
    )
    running = RunningServer(config)
    yield running
    running.close()


def scrape(server: RunningServer, accept: str = "text/plain") -> str:
    url = f"http://127.0.0.1:{server.app.exposition.port}/metrics"
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request) as answer:  # noqa: S310  # of our own making
        return answer.read().decode()


def value(server: RunningServer, name: str, **labels: str) -> float:
    """One sample now; 0 if there is none. The model's name need not be given."""
    for family in text_string_to_metric_families(scrape(server)):
        for sample in family.samples:
            own = {key: text for key, text in sample.labels.items() if key != "model_name"}
            if sample.name == f"learnback_{name}" and own == labels:
                return sample.value
    return 0.0


def test_an_answer_counts_once_in_each_histogram(scraped):
    names = [
        "time_to_first_token_seconds_count",
        "e2e_request_latency_seconds_count",
        "request_queue_time_seconds_count",
        "inter_token_latency_seconds_count",
        "generation_tokens_total",
    ]
    before = [value(scraped, name) for name in names]
    handled = value(scraped, "grpc_server_handled_total", **GENERATE, grpc_code="OK")
    scraped.generate(greedy("one two three", 8))
    after = [value(scraped, name) for name in names]
    assert [new - old for old, new in zip(before, after, strict=True)] == [1, 1, 1, 7, 8]
    now = value(scraped, "grpc_server_handled_total", **GENERATE, grpc_code="OK")
    assert now == handled + 1


def test_a_running_answer_is_seen_and_its_cancellation(scraped):
    call = scraped.stream(endless())
    for event in call:
        if event.HasField("delta"):
            break
    assert value(scraped, "num_requests_running") == 1
    assert value(scraped, "kv_cache_usage_perc") > 0
    assert value(scraped, "grpc_server_calls_inside", **STREAM) == 1
    call.cancel()
    scraped.wait_until_idle()
    wait_until(lambda: value(scraped, "grpc_server_calls_inside", **STREAM) == 0)
    assert value(scraped, "num_requests_running") == 0
    assert value(scraped, "requests_finished_total", finished_reason="cancelled") == 1
    assert value(scraped, "grpc_server_handled_total", **STREAM, grpc_code="CANCELLED") == 1


def test_a_refusal_has_its_reason_and_its_code(scraped):
    error = caught(scraped.generate, pb.GenerationSpec(prompt="x", checkpoint="nowhere"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert value(scraped, "rejections_total", reason="CHECKPOINT_NOT_FOUND") == 1
    assert value(scraped, "grpc_server_handled_total", **GENERATE, grpc_code="NOT_FOUND") == 1


def test_names_made_up_by_callers_are_one_label(scraped):
    for name in ("A", "B"):
        call = scraped.channel.unary_unary(f"/learnback.v1.InferenceService/{name}")
        assert caught(call, b"").code() is grpc.StatusCode.UNIMPLEMENTED
    unknown = {"grpc_service": "unknown", "grpc_method": "unknown"}
    code = {"grpc_code": "UNIMPLEMENTED"}
    assert value(scraped, "grpc_server_handled_total", **unknown, **code) == 2
    assert 'grpc_method="A"' not in scrape(scraped)


def test_feedback_waits_and_ages(scraped):
    submit(scraped, about(answered(scraped)))
    assert value(scraped, "feedback_submitted_total", kind="critique") == 1
    assert value(scraped, "feedback_queue_depth") == 1
    age = value(scraped, "feedback_oldest_age_seconds")
    wait_until(lambda: value(scraped, "feedback_oldest_age_seconds") > age)
    assert value(scraped, "redis_up") == 1
    assert value(scraped, "redis_aof_enabled") == 1
    assert value(scraped, "redis_aof_ok") == 1
    assert value(scraped, "redis_memory_used_bytes") > 0


def test_the_base_is_live_at_first(scraped):
    facts = scraped.app.model.facts
    labels = {"checkpoint": "base", "digest": facts.digest, "parent": ""}
    assert value(scraped, "live_checkpoint_info", **labels) == 1
    assert "learnback_checkpoint_age_seconds " not in scrape(scraped)


def test_a_new_checkpoint_tells_how_long_its_feedback_took_and_one_that_comes_back_does_not(
    scraped, long_folder
):
    store = CheckpointStore(Path(scraped.config.checkpoint_dir))
    digest = scraped.app.model.facts.digest
    ids = tuple(new_feedback_id() for _ in range(3))
    name, _ = publish_adapter(store, long_folder, 1, digest, feedback_ids=ids)
    other, _ = publish_adapter(store, long_folder, 2, digest)
    for live in (name, other, name):
        store.promote(live)
        wait_until(lambda live=live: f'checkpoint="{live}"' in scrape(scraped))
    assert value(scraped, "feedback_to_serving_seconds_count") == len(ids)
    assert value(scraped, "swap_seconds_count") == 2


def test_who_asks_is_not_unknown(scraped):
    learning_pb2_grpc.LearningServiceStub(scraped.channel).GetLearningStatus(
        learning_pb2.GetLearningStatusRequest()
    )
    method = {"grpc_service": "learnback.v1.LearningService", "grpc_method": "GetLearningStatus"}
    assert value(scraped, "grpc_server_handled_total", **method, grpc_code="OK") == 1


def test_every_sample_is_declared_and_every_family_is_told_of(scraped):
    declared = {family.name: family for family in scraped.metrics.families}
    for family in text_string_to_metric_families(scrape(scraped)):
        if family.name.startswith("process_") or family.name.endswith("_created"):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert declared[name].kind == family.type
        assert declared[name].help == family.documentation
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(declared[name].labels)


def test_without_redis_only_that_is_told(tiny_folder, tmp_path):
    with EmbeddedRedis(tmp_path / "redis") as redis:
        config = ServerConfig(
            listen="127.0.0.1:0",
            metrics_listen="127.0.0.1:0",
            model=str(tiny_folder),
            device="cpu",
            threads=1,
            redis_url=redis.url,
        )
        running = RunningServer(config)
        assert value(running, "redis_up") == 1
    assert value(running, "redis_up") == 0
    assert "learnback_redis_up 0" in scrape(running)
    assert "\nlearnback_feedback_queue_depth" not in scrape(running)
    running.close()


def test_names_follow_the_conventions():
    families = Families("server")
    with pytest.raises(ValueError, match="begin with"):
        families.gauge("depth", "...")
    with pytest.raises(ValueError, match="ends with _total"):
        families.counter("learnback_things", "...")
    families.gauge("learnback_things", "...")
    with pytest.raises(ValueError, match="twice"):
        families.gauge("learnback_things", "...")


def test_no_label_is_made_of_text_from_callers():
    allowed = {
        "model_name", "finished_reason", "grpc_service", "grpc_method", "grpc_code", "reason",
        "kind", "checkpoint", "digest", "parent", "component", "version", "python", "torch",
        "transformers",
    }  # fmt: skip
    labels = {label for family in ServerMetrics("tiny").families for label in family.labels}
    assert labels <= allowed
