"""64 streams of all sorts at once over gRPC: each ends as it should, and nothing is left behind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import torch
from google.protobuf.duration_pb2 import Duration
from transformers import AutoModelForCausalLM

from learnback.v1 import inference_pb2 as pb
from learnback_server.config import ServerConfig
from tests.server.running import RunningServer, caught, endless, greedy

STREAMS = 64


@pytest.fixture
def long(long_folder):
    config = ServerConfig(listen="127.0.0.1:0", model=str(long_folder), device="cpu", threads=1)
    running = RunningServer(config)
    yield running
    running.close()


def _expected(server: RunningServer, prompt: str, tokens: int) -> list[int]:
    reference = AutoModelForCausalLM.from_pretrained(server.config.model, dtype=torch.float32)
    ids = server.app.model.tokenizer(prompt, return_tensors="pt").input_ids
    with torch.inference_mode():
        output = reference.generate(
            ids, max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    return output[0, ids.shape[1] :].tolist()


def _whole(server: RunningServer, number: int) -> tuple[str, list[int]]:
    """The tokens of a stream that comes to its end."""
    events = list(server.stream(greedy(f"stream {number}", 8 + 3 * number)))
    assert events[-1].finished.candidates[0].finish_reason == pb.FINISH_REASON_LENGTH
    return "whole", [one for event in events for one in event.delta.token_ids]


def _cancelled(server: RunningServer, number: int) -> tuple[str, list[int]]:
    """Hung up on after some messages."""
    call = server.stream(endless())
    for _ in range(2 + number % 5):
        next(call)
    call.cancel()
    with pytest.raises(grpc.RpcError) as raised:
        next(call)
    assert raised.value.code() is grpc.StatusCode.CANCELLED
    return "cancelled", []


def _limited(server: RunningServer, number: int) -> tuple[str, list[int]]:
    """Given so much time, and answered with what there was by then."""
    limit = Duration(nanos=100_000_000 + 10_000_000 * number)
    *_, last = server.stream(endless(time_limit=limit))
    assert last.finished.candidates[0].finish_reason == pb.FINISH_REASON_DEADLINE
    return "limited", []


def _late(server: RunningServer, number: int) -> tuple[str, list[int]]:
    """Past the deadline of the call."""
    error = caught(server.stream, endless(), timeout=0.2 + 0.01 * number)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    return "late", []


SORTS = (_whole, _cancelled, _limited, _late)


def test_64_streams_of_all_sorts_end_as_they_should(long):
    with ThreadPoolExecutor(STREAMS) as threads:
        ends = list(threads.map(lambda n: SORTS[n % len(SORTS)](long, n), range(STREAMS)))
    assert [end for end, _ in ends[:4]] == ["whole", "cancelled", "limited", "late"]
    for number in range(0, STREAMS, len(SORTS)):
        assert ends[number][1] == _expected(long, f"stream {number}", 8 + 3 * number)
    long.wait_until_idle()
    assert long.engine.stats().pages_used == 0
