"""The load that learnback gets: closed loops of streamed calls over gRPC, on raw stubs.

It runs in a process of its own, as a client would. Raw stubs rather than the client library, so
that what is measured is the server.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import grpc.aio
import uvloop

from bench.figures import Trace
from bench.workload import Lengths, Task, Workload, draw_tasks
from learnback.v1 import inference_pb2, inference_pb2_grpc


def run(address: str, workload: Workload) -> list[Trace]:
    """Works off a workload against a server, and returns what came when."""
    return uvloop.run(_run(address, iter(workload.tasks), workload.streams))


def run_until(
    over: Path, address: str, streams: int, lengths: Lengths, vocab_size: int, seed: int
) -> list[Trace]:
    """Sends one request after the other on each stream, until there is a file called `over`."""
    tasks = draw_tasks(lengths, vocab_size, seed)
    in_time = itertools.takewhile(lambda _: not over.exists(), tasks)
    return uvloop.run(_run(address, in_time, streams))


async def _run(address: str, tasks: Iterator[Task], streams: int) -> list[Trace]:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        traces: list[Trace] = []
        await asyncio.gather(*(_caller(stub, tasks, traces) for _ in range(streams)))
        return traces


async def _caller(
    stub: inference_pb2_grpc.InferenceServiceAsyncStub, tasks: Iterator[Task], traces: list[Trace]
) -> None:
    """Sends the next request as soon as the last one is answered."""
    for task in tasks:
        request = _request(task)
        sent = time.perf_counter()
        tokens: list[float] = []
        async for response in stub.GenerateStream(request):
            if response.HasField("delta"):
                now = time.perf_counter()
                tokens += [now] * len(response.delta.token_ids)
        if len(tokens) != task.new_tokens:
            raise RuntimeError(f"{len(tokens)} tokens came instead of {task.new_tokens}")
        traces.append(Trace(sent, tuple(tokens)))


def _request(task: Task) -> inference_pb2.GenerateStreamRequest:
    return inference_pb2.GenerateStreamRequest(
        spec=inference_pb2.GenerationSpec(
            token_ids=inference_pb2.TokenIds(ids=task.prompt_ids),
            sampling=inference_pb2.Sampling(
                temperature=0, max_tokens=task.new_tokens, ignore_eos=True
            ),
        )
    )
