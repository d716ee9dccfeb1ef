"""From a swap back to the question: round, critique and answer are linked, in a real collector."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the server and the trainer need it")

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from learnback.v1 import feedback_pb2
from learnback.v1.feedback_pb2_grpc import FeedbackServiceStub
from learnback_server.config import ServerConfig
from learnback_store.archive import Archive
from learnback_store.checkpoints import CheckpointStore
from learnback_store.connection import connect
from learnback_store.embedded import EmbeddedRedis
from learnback_store.keys import Keys
from learnback_telemetry.tracing import open_tracer
from learnback_trainer.anchors import Amounts
from learnback_trainer.gate import Budget
from learnback_trainer.loop import Trainer
from learnback_trainer.metrics import TrainerMetrics
from learnback_trainer.pupil import LoraShape, load_base
from learnback_trainer.school import Curriculum
from learnback_trainer.update import Recipe
from tests.server.running import RunningServer, greedy, wait_until
from tests.telemetry.collector import Collector, attributes, identity, links

QUESTION, RIGHT = "What is the capital of France?", "Lyon, of course."
TRACE = "0af7651916cd43dd8448eb211c80319c"


class Life:
    """One question, its correction, a round and a swap, all of them traced."""

    def __init__(self, folder: Path) -> None:
        self.server_metrics: dict[str, set[str]] = {}
        with Collector() as self.collector, EmbeddedRedis(folder / "redis") as redis:
            config = ServerConfig(
                listen="127.0.0.1:0", metrics_listen="127.0.0.1:0", device="cpu", threads=1,
                redis_url=redis.url, checkpoint_dir=str(folder / "checkpoints"),
                otlp_endpoint=self.collector.endpoint,
            )  # fmt: skip
            running = RunningServer(config)
            try:
                self._ask_and_correct(running)
                self._learn(config, folder)
                live = running.app.swap._catalog
                wait_until(lambda: live.live.name != "base")
                self.server_metrics = exemplars(running)
            finally:
                running.close()

    def _ask_and_correct(self, running: RunningServer) -> None:
        parent = [("traceparent", f"00-{TRACE}-b7ad6b7169203331-01")]
        answer = running.generate(greedy(QUESTION, 8), metadata=parent)
        correction = feedback_pb2.SubmitFeedbackRequest(
            generation=feedback_pb2.GenerationRef(generation_id=answer.generation_id),
            correction=feedback_pb2.Correction(text=RIGHT),
        )
        FeedbackServiceStub(running.channel).SubmitFeedback(correction)

    def _learn(self, config: ServerConfig, folder: Path) -> None:
        tracer = open_tracer("learnback-trainer", config.otlp_endpoint)
        self.trainer_metrics = TrainerMetrics()
        recipe = Curriculum(Recipe(steps=40), Budget(), Amounts(0, 0, 0), answer_tokens=24, seed=0)
        with connect(config.redis_url) as redis, Archive(folder / "archive.sqlite") as archive:
            trainer = Trainer(
                load_base("nano", device="cpu"), redis, Keys(config.redis_namespace), archive,
                CheckpointStore(Path(config.checkpoint_dir)), recipe, shape=LoraShape(),
                round_wait=0.0, metrics=self.trainer_metrics, tracer=tracer,
            )  # fmt: skip
            trainer.recover()
            trainer.work()
        tracer.close()


def exemplars(running: RunningServer) -> dict[str, set[str]]:
    """The traces that stand beside each histogram, as Prometheus gets them."""
    url = f"http://127.0.0.1:{running.app.exposition.port}/metrics"
    request = urllib.request.Request(url, headers={"Accept": "application/openmetrics-text"})
    with urllib.request.urlopen(request) as reply:  # noqa: S310  # of our own making
        text = reply.read().decode()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.exemplar:
                found.setdefault(family.name, set()).add(sample.exemplar.labels["trace_id"])
    return found


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    return Life(tmp_path_factory.mktemp("life"))


def test_a_swap_leads_back_to_the_answer(life: Life) -> None:
    collector = life.collector
    asked = collector.one("learnback.v1.InferenceService/Generate")
    said = collector.one("learnback.v1.FeedbackService/SubmitFeedback")
    learned, swapped = collector.one("learnback.round"), collector.one("learnback.swap")
    assert asked.trace_id.hex() == TRACE
    assert links(said) == [identity(asked)]
    assert links(learned) == [identity(said)]
    assert links(swapped) == [identity(learned)]
    assert collector.services == {"learnback-server", "learnback-trainer"}


def test_spans_tell_ids_and_figures_and_no_texts(life: Life) -> None:
    asked = attributes(life.collector.one("learnback.v1.InferenceService/Generate"))
    said = attributes(life.collector.one("learnback.v1.FeedbackService/SubmitFeedback"))
    assert asked["learnback.generation_id"] == said["learnback.generation_id"]
    assert asked["gen_ai.usage.output_tokens"] == 8
    assert said["learnback.feedback_id"].startswith("fb-")
    everything = b"".join(span.SerializeToString() for span in life.collector.spans)
    for text in (QUESTION, "France", RIGHT):
        assert text.encode() not in everything


def test_a_round_has_a_span_for_each_step(life: Life) -> None:
    learned = life.collector.one("learnback.round")
    steps = [span for span in life.collector.spans if span.name.startswith("learnback.round.")]
    assert {identity_of_parent(span) for span in steps} == {identity(learned)}
    assert "learnback.round.taught" in {span.name for span in steps}
    assert attributes(learned)["learnback.round_id"].startswith("round-")


def identity_of_parent(span) -> tuple[bytes, bytes]:
    return span.trace_id, span.parent_span_id


def test_metrics_bear_the_traces_as_exemplars(life: Life) -> None:
    found, collector = life.server_metrics, life.collector
    said = collector.one("learnback.v1.FeedbackService/SubmitFeedback").trace_id.hex()
    learned, swapped = (
        collector.one(name).trace_id.hex() for name in ("learnback.round", "learnback.swap")
    )
    assert found["learnback_time_to_first_token_seconds"] == {TRACE}
    assert found["learnback_e2e_request_latency_seconds"] == {TRACE}
    assert found["learnback_grpc_server_handling_seconds"] == {TRACE, said}
    assert found["learnback_swap_seconds"] == {swapped}
    assert found["learnback_feedback_to_serving_seconds"] == {learned}
    trainers = {
        sample.name: sample.exemplar.labels["trace_id"]
        for family in life.trainer_metrics.families.registry.collect()
        for sample in family.samples
        if sample.exemplar
    }
    assert trainers["learnback_feedback_to_live_seconds_bucket"] == said
    assert trainers["learnback_round_phase_seconds_bucket"] == learned
