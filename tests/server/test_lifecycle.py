"""Starting, refusing, letting go and shutting down."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from learnback.v1 import inference_pb2 as pb
from learnback.v1.inference_pb2_grpc import InferenceServiceStub
from learnback_server.config import ServerConfig
from tests.server.running import (
    PATIENCE_SECONDS,
    RunningServer,
    caught,
    details_of,
    endless,
    greedy,
    info_of,
    wait_until,
)

INFERENCE = "learnback.v1.InferenceService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def health_of(channel: grpc.Channel, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=service)).status


def trailing(error: grpc.RpcError, key: str) -> str | None:
    return dict(error.trailing_metadata()).get(key)


class TestServing:
    @pytest.mark.parametrize("service", ["", INFERENCE])
    def test_is_healthy(self, server, service):
        assert health_of(server.channel, service) == SERVING

    def test_an_unknown_service_has_no_health(self, server):
        assert caught(health_of, server.channel, "acme").code() == grpc.StatusCode.NOT_FOUND

    def test_reflection_tells_the_services(self, server):
        stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (reply,) = stub.ServerReflectionInfo(iter([request]))
        names = {service.name for service in reply.list_services_response.service}
        assert {INFERENCE, "grpc.health.v1.Health"} <= names

    def test_the_startup_check_left_nothing_behind(self, server):
        server.wait_until_idle()
        assert server.engine.stats().pages_used == 0


class TestLettingGo:
    """The narrow server runs one generation at a time, so a slot not freed would stop the rest."""

    @pytest.fixture(autouse=True)
    def _idle_afterwards(self, narrow):
        yield
        narrow.wait_until_idle()
        wait_until(lambda: narrow.app.admission.inside == 0)
        assert narrow.engine.stats().pages_used == 0

    def test_cancelling_a_stream_frees_its_slot(self, narrow):
        stream = narrow.stream(endless())
        next(stream)
        stream.cancel()
        narrow.wait_until_idle()

    def test_cancelling_a_unary_call_frees_its_slot(self, narrow):
        call = narrow.stub.Generate.future(pb.GenerateRequest(spec=endless()))
        wait_until(lambda: narrow.engine.stats().running == 1)
        call.cancel()
        narrow.wait_until_idle()

    def test_a_vanished_connection_frees_its_slot(self, narrow):
        channel = grpc.insecure_channel(f"127.0.0.1:{narrow.port}")
        stream = InferenceServiceStub(channel).GenerateStream(
            pb.GenerateStreamRequest(spec=endless())
        )
        next(stream)
        channel.close()
        narrow.wait_until_idle()

    def test_cancelling_in_the_queue_frees_the_place(self, narrow):
        running = narrow.stream(endless())
        next(running)
        waiting = narrow.stub.Generate.future(pb.GenerateRequest(spec=endless()))
        wait_until(lambda: narrow.engine.stats().waiting == 1)
        waiting.cancel()
        wait_until(lambda: narrow.engine.stats().waiting == 0)
        assert narrow.engine.stats().running == 1
        running.cancel()

    def test_the_deadline_of_the_call_holds_while_decoding(self, narrow):
        error = caught(narrow.stream, endless(), timeout=0.3)
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        narrow.wait_until_idle()

    def test_the_deadline_of_the_call_holds_in_the_queue(self, narrow):
        running = narrow.stream(endless())
        next(running)
        error = caught(narrow.generate, endless(), timeout=0.2)
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        wait_until(lambda: narrow.engine.stats().waiting == 0)
        assert narrow.engine.stats().running == 1
        running.cancel()

    def test_a_reader_that_does_not_read_holds_no_slot(self, narrow):
        # A window that does not grow, and more to write than it takes: writing stands still.
        channel = grpc.insecure_channel(
            f"127.0.0.1:{narrow.port}", options=[("grpc.http2.bdp_probe", 0)]
        )
        spec = greedy("to nobody", 1000)
        spec.sampling.logprobs = 20
        request = pb.GenerateStreamRequest(spec=spec)
        stream = InferenceServiceStub(channel).GenerateStream(request)
        next(stream)
        narrow.wait_until_idle()
        assert narrow.app.admission.inside == 1
        deltas = [len(event.delta.token_ids) for event in stream]
        assert sum(deltas) == 1000
        assert max(deltas) > 100  # what came meanwhile was gathered
        channel.close()


class TestRefusing:
    @pytest.fixture(autouse=True)
    def _idle_afterwards(self, narrow):
        yield
        narrow.wait_until_idle()

    def test_a_full_queue_refuses_and_says_when_to_try_again(self, narrow):
        running = narrow.stream(endless())
        next(running)
        waiting = [narrow.stream(endless()) for _ in range(2)]
        wait_until(lambda: narrow.engine.stats().waiting == 2)
        for call in (narrow.generate, narrow.stream):
            error = caught(call, endless())
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert info_of(error).reason == "QUEUE_FULL"
            (retry,) = details_of(error, error_details_pb2.RetryInfo)
            assert retry.retry_delay.ToMilliseconds() > 0
            assert int(trailing(error, "grpc-retry-pushback-ms")) > 0
        for stream in [*waiting, running]:
            stream.cancel()

    @pytest.mark.parametrize("method", ["generate", "stream"])
    def test_a_wait_longer_than_queue_timeout_is_refused(self, narrow, method):
        running = narrow.stream(endless())
        next(running)
        error = caught(getattr(narrow, method), endless(queue_timeout=Duration(nanos=10_000_000)))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert info_of(error).reason == "QUEUE_TIMEOUT"
        assert details_of(error, error_details_pb2.RetryInfo)
        running.cancel()


class TestDraining:
    def test_what_runs_is_cut_short_what_waits_is_refused_and_health_says_so(self, doomed):
        running = doomed.stream(endless())
        next(running)
        waiting = doomed.stub.Generate.future(pb.GenerateRequest(spec=endless()))
        wait_until(lambda: doomed.engine.stats().waiting == 1)

        doomed.begin_drain()
        wait_until(lambda: health_of(doomed.channel, INFERENCE) == NOT_SERVING)
        late = caught(doomed.generate, greedy("too late", 1))
        assert late.code() == grpc.StatusCode.UNAVAILABLE
        assert info_of(late).reason == "SERVER_DRAINING"
        assert details_of(late, error_details_pb2.RetryInfo)

        doomed.hurry()
        last = list(running)[-1]
        assert last.finished.candidates[0].finish_reason == pb.FINISH_REASON_ABORTED
        assert info_of(waiting.exception()).reason == "SERVER_DRAINING"
        wait_until(doomed.stopped)

    def test_what_ends_within_the_grace_ends_well(self, doomed):
        stream = doomed.stream(greedy("let me finish", 500))
        next(stream)
        doomed.begin_drain()
        assert list(stream)[-1].finished.candidates[0].finish_reason == pb.FINISH_REASON_LENGTH
        wait_until(doomed.stopped)

    def test_an_engine_that_has_stopped_is_reported(self, doomed):
        doomed.engine.stop()
        error = caught(doomed.generate, greedy("anyone there", 1))
        assert info_of(error).reason == "SERVER_DRAINING"
        assert doomed.app.lost.is_set()


def test_a_connection_past_its_age_lets_its_calls_end_and_is_replaced(long_folder):
    config = ServerConfig(
        listen="127.0.0.1:0",
        model=str(long_folder),
        device="cpu",
        threads=1,
        max_connection_age=1,
    )
    server = RunningServer(config)
    try:
        events = list(server.stream(endless(time_limit=Duration(seconds=2))))
        assert events[-1].finished.candidates[0].finish_reason == pb.FINISH_REASON_DEADLINE
        assert server.generate(greedy("on another connection", 1)).candidates
    finally:
        server.close()


class Process:
    """`learnback-server` as users run it."""

    def __init__(self, *flags: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "learnback_server", "--device=cpu", "--threads=1", *flags],
            stderr=subprocess.PIPE,
            text=True,
            env={key: value for key, value in os.environ.items() if "LEARNBACK" not in key},
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line)

    def said(self, pattern: str) -> re.Match[str] | None:
        return next((m for line in self.lines if (m := re.search(pattern, line))), None)

    def serving_port(self) -> int:
        wait_until(lambda: self.said(r"serving .* on port \d+") or self.process.poll() is not None)
        match = self.said(r"serving .* on port (\d+)")
        assert match, "".join(self.lines)
        return int(match[1])

    def ended(self) -> int:
        code = self.process.wait(PATIENCE_SECONDS)
        self._reader.join()
        return code


@pytest.fixture
def start():
    """Starts processes, and ends those that a test left behind."""
    started: list[Process] = []

    def one(*flags: str) -> Process:
        started.append(Process(*flags))
        return started[-1]

    yield one
    for process in started:
        process.process.kill()
        process.ended()


class TestProcess:
    def test_serves_drains_on_sigterm_and_stops_at_once_on_a_second_signal(
        self, start, long_folder
    ):
        server = start(f"--model={long_folder}", "--listen=127.0.0.1:0", "--log-format=json")
        channel = grpc.insecure_channel(f"127.0.0.1:{server.serving_port()}")
        stream = InferenceServiceStub(channel).GenerateStream(
            pb.GenerateStreamRequest(spec=endless())
        )
        next(stream)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: health_of(channel, INFERENCE) == NOT_SERVING)
        server.process.send_signal(signal.SIGINT)
        assert list(stream)[-1].finished.candidates[0].finish_reason == pb.FINISH_REASON_ABORTED
        assert server.ended() == 0
        assert server.said('"message": "stopped"')

    def test_a_port_in_use_is_told_before_the_model_is_loaded(self, start):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            server = start("--model=/nowhere", f"--listen={address}")
            assert server.ended() == 1
        assert server.said(f"can't listen on {address}")
        assert not server.said("Traceback")

    def test_a_model_that_is_not_there_is_told(self, start):
        server = start("--model=/nowhere", "--listen=127.0.0.1:0")
        assert server.ended() == 1
        assert server.said("can't load the model: /nowhere")
        assert not server.said("Traceback")
