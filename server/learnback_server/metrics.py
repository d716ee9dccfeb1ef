"""What the server tells Prometheus, under vLLM's names where vLLM has one.

The engine's loop is told of nothing but first tokens, ends, and once a step of the time between
tokens; how busy it is is read when somebody scrapes. `docs/metrics.md` lists everything, and is
made from here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from learnback.v1 import errors_pb2, feedback_pb2
from learnback_server.engine.messages import EngineStats, Finished, GenerationRequest
from learnback_server.errors import CallError, reason_name
from learnback_store.aliases import LIVE, Aliases
from learnback_store.manifest import Manifest
from learnback_store.records import feedback_time_ns, now_ms
from learnback_telemetry.context import exemplar, exemplar_of
from learnback_telemetry.families import PREFIX, Families, Family, Reading
from learnback_telemetry.store_metrics import StoreMetrics
from learnback_telemetry.tracing import trace_id_of

# vLLM's for the time to first token, and 2.0, which the objective speaks of.
_FIRST_TOKEN_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 2.5, 5.0, 7.5,
    10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
# vLLM's begin at 0.01, where a small model is never.
_BETWEEN_TOKENS_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
# vLLM's for whole requests and for the queue, with finer ones below.
_REQUEST_BUCKETS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0,
    40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_CALL_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
    300.0, 3600.0,
)  # fmt: skip
_SWAP_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
# A minute is what a quick round takes; a day is a queue that was stuck overnight.
_LEARNING_BUCKETS = (
    1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 21600.0,
    86400.0,
)  # fmt: skip

_MODEL = ("model_name",)
_RUNNING = Family(f"{PREFIX}num_requests_running", "gauge", "Sequences being decoded.", _MODEL)
_WAITING = Family(f"{PREFIX}num_requests_waiting", "gauge", "Generations in the queue.", _MODEL)
_CACHE = Family(
    f"{PREFIX}kv_cache_usage_perc",
    "gauge",
    "Share of the key-value cache that running requests hold; 1 is full.",
    _MODEL,
)
_QUERIES = Family(
    f"{PREFIX}prefix_cache_queries_total",
    "counter",
    "Prompt tokens looked up in the prefix cache.",
    _MODEL,
)
_HITS = Family(
    f"{PREFIX}prefix_cache_hits_total",
    "counter",
    "Prompt tokens found in the prefix cache.",
    _MODEL,
)
_STEPS = Family(f"{PREFIX}engine_steps_total", "counter", "Steps of the engine.", _MODEL)
_LIVE_INFO = Family(
    f"{PREFIX}live_checkpoint_info",
    "gauge",
    "1, with the checkpoint that answers who asks for none as labels.",
    ("checkpoint", "digest", "parent"),
)
_AGE = Family(
    f"{PREFIX}checkpoint_age_seconds",
    "gauge",
    "Time since the live checkpoint was made; absent while the base model is live.",
)


class ServerMetrics:
    """All metrics of a server.

    Args:
        model_name: The base model, as configured.
    """

    def __init__(self, model_name: str) -> None:
        self.families = Families("server")
        self.store = StoreMetrics(self.families)
        self._model_name = model_name
        self._stats: Callable[[], EngineStats] | None = None
        self._loaded: dict[str, tuple[str, Manifest]] = {}
        self._live: tuple[str, str] | None = None
        self._declare_requests()
        self._declare_calls()
        self._declare_checkpoints()

    def _declare_requests(self) -> None:
        families = self.families

        def seconds(name: str, text: str, buckets: tuple[float, ...]) -> Any:
            made = families.histogram(f"{PREFIX}{name}", text, *_MODEL, buckets=buckets)
            return made.labels(self._model_name)

        def tokens(name: str, text: str) -> Any:
            return families.counter(f"{PREFIX}{name}", text, *_MODEL).labels(self._model_name)

        self._first_token = seconds(
            "time_to_first_token_seconds",
            "From the arrival of a request to its first token.",
            _FIRST_TOKEN_BUCKETS,
        )
        self._whole = seconds(
            "e2e_request_latency_seconds",
            "From the arrival of a request to its end, whatever the end.",
            _REQUEST_BUCKETS,
        )
        self._queued = seconds(
            "request_queue_time_seconds",
            "From the arrival of a request to its first step.",
            _REQUEST_BUCKETS,
        )
        self._between_tokens = families.bulk_histogram(
            f"{PREFIX}inter_token_latency_seconds",
            "Between two tokens of one answer, in the engine.",
            dict.fromkeys(_MODEL, self._model_name),
            _BETWEEN_TOKENS_BUCKETS,
        )
        self._prompt_tokens = tokens("prompt_tokens_total", "Tokens of prompts that were begun.")
        self._generation_tokens = tokens("generation_tokens_total", "Tokens generated.")
        self._ends = families.counter(
            f"{PREFIX}requests_finished_total",
            "Candidates that ended, by why.",
            "model_name",
            "finished_reason",
        )
        families.at_scrape((_RUNNING, _WAITING, _CACHE, _QUERIES, _HITS, _STEPS), self._read_engine)

    def _declare_calls(self) -> None:
        families, labels = self.families, ("grpc_service", "grpc_method")
        self._handled = families.counter(
            f"{PREFIX}grpc_server_handled_total",
            "Calls that ended, by code.",
            *labels,
            "grpc_code",
        )
        self._handling = families.histogram(
            f"{PREFIX}grpc_server_handling_seconds",
            "How long calls took, streams to their end.",
            *labels,
            buckets=_CALL_BUCKETS,
        )
        self._inside = families.gauge(
            f"{PREFIX}grpc_server_calls_inside", "Calls that have not ended yet.", *labels
        )
        self._rejections = families.counter(
            f"{PREFIX}rejections_total",
            "Calls that ended with an error of ours, by the reason that ErrorInfo tells.",
            "reason",
        )
        self._submitted = families.counter(
            f"{PREFIX}feedback_submitted_total",
            "Feedback that was queued, by kind; repeats are not counted.",
            "kind",
        )
        # There from the start, with 0: Prometheus sees no increase in a first sample.
        for reason in errors_pb2.ErrorReason.values()[1:]:
            self._rejections.labels(reason_name(reason))
        for field in feedback_pb2.SubmitFeedbackRequest.DESCRIPTOR.oneofs_by_name["signal"].fields:
            self._submitted.labels(field.name)
        self._backlog = families.gauge(
            f"{PREFIX}generation_records_waiting",
            "Records of answers that wait in memory because Redis is slow or away.",
        )

    def _declare_checkpoints(self) -> None:
        families = self.families
        self._swaps = families.histogram(
            f"{PREFIX}swap_seconds",
            "From noticing a checkpoint to having it ready to answer.",
            buckets=_SWAP_BUCKETS,
        )
        self._refusals = families.counter(
            f"{PREFIX}swap_refusals_total", "Checkpoints that could not be taken up.", "reason"
        )
        self._refused = families.gauge(
            f"{PREFIX}checkpoints_refused",
            "Checkpoints that an alias points at, and that this server can't take up.",
        )
        self._to_serving = families.histogram(
            f"{PREFIX}feedback_to_serving_seconds",
            "From a piece of feedback to this server answering by the checkpoint that learned it.",
            buckets=_LEARNING_BUCKETS,
        )
        families.at_scrape((_LIVE_INFO, _AGE), self._read_live)

    # The engine

    def watch_engine(self, stats: Callable[[], EngineStats]) -> None:
        """Reads how busy the engine is from here on, whenever somebody scrapes."""
        self._stats = stats

    def first_token(self, request: GenerationRequest, time: float) -> None:
        """Notes the first token of a generation."""
        self._first_token.observe(time - request.arrived, exemplar_of(request.trace_id))

    def between_tokens(self, seconds: float, count: int) -> None:
        """Notes that so many answers went on after this time."""
        self._between_tokens.add(seconds, count)

    def finished(self, request: GenerationRequest, finished: Finished) -> None:
        """Notes the end of a generation."""
        example = exemplar_of(request.trace_id)
        self._whole.observe(finished.finished - request.arrived, example)
        if finished.started is not None:
            self._queued.observe(finished.started - request.arrived, example)
            self._prompt_tokens.inc(finished.prompt_tokens)
        self._generation_tokens.inc(finished.completion_tokens)
        for end in finished.candidates:
            self._ends.labels(self._model_name, end.reason.name.lower()).inc()

    def _read_engine(self) -> Iterable[Reading]:
        if self._stats is None:
            return []
        stats = self._stats()
        figures = {
            _RUNNING: stats.running,
            _WAITING: stats.waiting,
            _CACHE: stats.pages_used / stats.pages_total,
            _QUERIES: stats.prefix_queries,
            _HITS: stats.prefix_hits,
            _STEPS: stats.steps,
        }
        return [(family, (self._model_name,), value) for family, value in figures.items()]

    # The edge

    def expect_calls(self, method: tuple[str, str]) -> None:
        """Lets a method's calls begin at 0, those that went well and those that took too long."""
        for code in ("OK", "DEADLINE_EXCEEDED"):
            self._handled.labels(*method, code)

    def call_began(self, method: tuple[str, str]) -> None:
        """Notes that a call of a service's method has come."""
        self._inside.labels(*method).inc()

    def call_ended(self, method: tuple[str, str], code: str, seconds: float) -> None:
        """Notes how a call ended, and what it took."""
        self._inside.labels(*method).dec()
        self._handled.labels(*method, code).inc()
        self._handling.labels(*method).observe(seconds, exemplar())

    def refused(self, error: CallError) -> None:
        """Notes that a call ended with an error of ours."""
        self._rejections.labels(reason_name(error.reason)).inc()

    def feedback_taken(self, kind: str) -> None:
        """Notes that a piece of feedback was queued."""
        self._submitted.labels(kind).inc()

    def watch_backlog(self, backlog: Callable[[], int]) -> None:
        """Reads from here on how many records wait in memory."""
        self._backlog.set_function(backlog)

    # Checkpoints

    def base_is_live(self, name: str, digest: str) -> None:
        """Notes that the base model answers."""
        self._live = name, digest

    def loaded(self, manifest: Manifest, digest: str, seconds: float) -> None:
        """Notes that a checkpoint was made ready."""
        self._swaps.observe(seconds, exemplar())
        self._loaded[manifest.name] = digest, manifest

    def swap_refused(self, error: Exception) -> None:
        """Notes that a checkpoint could not be taken up."""
        self._refusals.labels(type(error).__name__).inc()

    def refused_now(self, count: int) -> None:
        """Notes how many checkpoints are pointed at and can't be taken up."""
        self._refused.set(count)

    def now_live(self, name: str, digest: str, dropped: Iterable[str]) -> None:
        """Notes which checkpoint answers, and which ones are let go."""
        self._live = name, digest
        for gone in dropped:
            self._loaded.pop(gone, None)

    def learned(self, name: str, aliases: Aliases) -> None:
        """Notes how long feedback took to be served, when a checkpoint has just become live.

        A checkpoint that is live again, after a rollback, brings nothing new.
        """
        times = sum(move.alias == LIVE and move.after == name for move in aliases.moves)
        if name not in self._loaded or times > 1:
            return
        now, manifest = time.time_ns(), self._loaded[name][1]
        example = exemplar_of(trace_id_of(manifest.traceparent))
        for feedback_id in manifest.feedback_ids:
            self._to_serving.observe((now - feedback_time_ns(feedback_id)) / 1e9, example)

    def _read_live(self) -> Iterable[Reading]:
        if self._live is None:
            return []
        name, digest = self._live
        loaded = self._loaded.get(name)
        parent = loaded[1].parent if loaded else ""
        readings: list[Reading] = [(_LIVE_INFO, (name, digest, parent), 1.0)]
        if loaded:
            readings.append((_AGE, (), (now_ms() - loaded[1].create_ms) / 1000))
        return readings
