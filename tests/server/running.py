"""A real server on a thread of the test process, so that tests can look into it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import uvloop
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from learnback.v1 import inference_pb2 as pb
from learnback.v1.inference_pb2_grpc import InferenceServiceStub
from learnback_server import app
from learnback_server.config import ServerConfig
from learnback_server.metrics import ServerMetrics
from learnback_telemetry.tracing import open_tracer
from tests.tiny import write_tiny_model

# Only a hang would take so long.
PATIENCE_SECONDS = 60.0
LONG_CONTEXT_TOKENS = 16384


class RunningServer:
    """A server from `start` to `drain`, and a channel to it."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=uvloop.run, args=[self._live()])
        self._thread.start()
        assert self._ready.wait(PATIENCE_SECONDS)
        if self._failure is not None:
            raise self._failure
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        self.stub = InferenceServiceStub(self.channel)

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()
        try:
            self.metrics = ServerMetrics(self.config.model)
            tracer = open_tracer("learnback-server", self.config.otlp_endpoint)
            server, self.port = app.new_server(self.config, self.metrics, tracer)
            model = app.load(self.config)
            self.app = app.build(self.config, server, model, self.metrics, tracer)
            await self.app.start()
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._ready.set()
        await self._stop.wait()
        await self.app.drain(self._hurry)

    @property
    def engine(self):
        return self.app.engine

    def begin_drain(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    def hurry(self) -> None:
        self._loop.call_soon_threadsafe(self._hurry.set)

    def stopped(self) -> bool:
        return not self._thread.is_alive()

    def close(self) -> None:
        """Ends everything without grace."""
        if not self.stopped():
            self.begin_drain()
            self.hurry()
            self._thread.join(PATIENCE_SECONDS)
        self.channel.close()

    def generate(self, spec: pb.GenerationSpec, **options) -> pb.GenerateResponse:
        return self.stub.Generate(pb.GenerateRequest(spec=spec), **options)

    def stream(self, spec: pb.GenerationSpec, **options):
        return self.stub.GenerateStream(pb.GenerateStreamRequest(spec=spec), **options)

    def wait_until_idle(self) -> None:
        wait_until(lambda: self.engine.stats().running == 0 and self.engine.stats().waiting == 0)


def wait_until(condition) -> None:
    """Waits for something that another thread brings about; fails if it never does."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < give_up, "it never came about"
        time.sleep(0.005)


def write_long_model(folder: Path) -> Path:
    """A tiny model whose context is so long that an answer goes on until it is ended."""
    write_tiny_model(folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["max_position_embeddings"] = LONG_CONTEXT_TOKENS
    file.write_text(json.dumps(config))
    return folder


def endless(**fields) -> pb.GenerationSpec:
    """A request that runs for as long as the long model's context lasts."""
    sampling = pb.Sampling(temperature=0, ignore_eos=True, max_tokens=LONG_CONTEXT_TOKENS - 100)
    return pb.GenerationSpec(prompt="on and on", sampling=sampling, **fields)


def greedy(prompt: str, max_tokens: int, **fields) -> pb.GenerationSpec:
    sampling = pb.Sampling(temperature=0, ignore_eos=True, max_tokens=max_tokens)
    return pb.GenerationSpec(prompt=prompt, sampling=sampling, **fields)


def caught(call, *arguments, **options) -> grpc.RpcError:
    """The error that a call ends with."""
    with pytest.raises(grpc.RpcError) as raised:
        _read_to_the_end(call(*arguments, **options))
    return raised.value


def _read_to_the_end(answer: object) -> None:
    if isinstance(answer, Iterator):  # a stream fails when it is read
        deque(answer, maxlen=0)


def details_of(error: grpc.RpcError, kind: type[Message]) -> list[Message]:
    """The details of one type in an error's status."""
    status = rpc_status.from_call(error)
    found = []
    for detail in status.details if status else ():
        message = kind()
        if detail.Unpack(message):
            found.append(message)
    return found


def info_of(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    """The one ErrorInfo of an error of ours."""
    (info,) = details_of(error, error_details_pb2.ErrorInfo)
    assert info.domain == "learnback"
    return info


def violations_of(error: grpc.RpcError) -> dict[str, str]:
    """What is wrong, by path of the field."""
    return {
        violation.field: violation.description
        for bad in details_of(error, error_details_pb2.BadRequest)
        for violation in bad.field_violations
    }
