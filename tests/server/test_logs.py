"""Log lines bear the ids of the call that they speak of, and no text of users unless asked for."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from learnback.v1 import inference_pb2 as pb
from learnback_server.config import ServerConfig
from learnback_telemetry.logs import JsonFormatter
from tests.server.feedback_calls import about, submit
from tests.server.running import RunningServer, caught, greedy, wait_until

TRACE = "0af7651916cd43dd8448eb211c80319c"
METADATA = [("traceparent", f"00-{TRACE}-b7ad6b7169203331-01")]


class Lines:
    """What has been logged so far."""

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[dict[str, str]]:
        return map(json.loads, self._stream.getvalue().splitlines())

    def of_calls(self, method: str) -> list[dict[str, str]]:
        return [line for line in self if line["message"].startswith(f"{method} ended")]


@contextmanager
def logged() -> Iterator[Lines]:
    """The lines of a server at its most talkative."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    level, before = root.level, logging.getLogger("learnback_server").level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    logging.getLogger("learnback_server").setLevel(logging.DEBUG)
    try:
        yield Lines(stream)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        logging.getLogger("learnback_server").setLevel(before)


def test_lines_bear_ids_and_no_texts(learning) -> None:
    with logged() as lines:
        spec = greedy("a secret question", 8, request_id="req-1")
        answer = learning.generate(spec, metadata=METADATA)
        told = submit(learning, about(answer.generation_id, request_id="logs-1"))
        bad = pb.GenerationSpec(prompt="a secret question", checkpoint="nowhere")
        error = caught(learning.generate, bad, metadata=METADATA)
        wait_until(lambda: len(lines.of_calls("Generate")) == 2)
    assert error.code() is grpc.StatusCode.NOT_FOUND
    generated, refused = lines.of_calls("Generate")
    assert generated["generation_id"] == answer.generation_id
    assert generated["request_id"] == "req-1"
    assert generated["trace_id"] == TRACE
    assert (generated["level"], refused["level"]) == ("debug", "info")
    (submitted,) = lines.of_calls("SubmitFeedback")
    assert submitted["feedback_id"] == told.feedback_id
    assert submitted["generation_id"] == answer.generation_id
    assert submitted["request_id"] == "logs-1"
    assert "trace_id" not in submitted
    everything = json.dumps(list(lines))
    for text in ("secret", "too long", answer.candidates[0].text):
        assert text not in everything


def test_texts_are_logged_if_that_is_switched_on(tiny_folder, redis_server, tmp_path) -> None:
    config = ServerConfig(
        listen="127.0.0.1:0", model=str(tiny_folder), device="cpu", threads=1,
        redis_url=redis_server.url, redis_namespace="logs", log_texts=True,
    )  # fmt: skip
    running = RunningServer(config)
    with logged() as lines:
        answer = running.generate(greedy("a secret question", 4))
        submit(running, about(answer.generation_id))
        running.close()
    asked, said = (
        next(line for line in lines if words in line["message"]) for words in ("asked", "says")
    )
    assert "a secret question" in asked["message"]
    assert repr(answer.candidates[0].text) in asked["message"]
    assert asked["generation_id"] == answer.generation_id
    assert "too long" in said["message"]
    assert said["generation_id"] == answer.generation_id


def test_an_exception_stays_on_its_line() -> None:
    try:
        raise ValueError("broken")  # noqa: TRY301
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
    record = logging.LogRecord("learnback_server", logging.ERROR, "", 0, "it %s", ("fell",), info)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == "it fell"
    assert "ValueError: broken" in json.loads(line)["exception"]
