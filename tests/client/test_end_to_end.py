"""The client against the real server, a process of its own with a tiny random model."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest

from learnback_client import (
    CheckpointNotFound,
    ContextLengthExceeded,
    DeadlineExceeded,
    FinishReason,
    Health,
    InvalidRequest,
    MessageTooLarge,
    Unimplemented,
)

pytest.importorskip("torch", reason="the server needs it; the client does not")

# The first start of torch on a busy machine takes a while.
START_S = 90
GREEDY = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def address(tiny_llama, tmp_path_factory):
    """Where a server listens."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LEARNBACK_")}
    flags = ("--listen", "127.0.0.1:0", "--device", "cpu", "--threads", "1")
    process = subprocess.Popen(
        [sys.executable, "-m", "learnback_server", "--model", tiny_llama, *flags],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    reaper = threading.Timer(START_S, process.kill)
    reaper.start()
    seen = []
    for line in process.stderr:
        seen.append(line)
        found = re.search(r"on port (\d+)", line)
        if found:
            break
    else:
        pytest.fail("the server did not start: " + "".join(seen[-5:]))
    reaper.cancel()
    drain = threading.Thread(target=process.stderr.read)
    drain.start()
    yield f"127.0.0.1:{found.group(1)}"
    process.send_signal(signal.SIGTERM)
    assert process.wait(START_S) == 0
    drain.join()


@pytest.fixture
def client(connect, address):
    return connect(address)


def test_a_stream_and_a_single_call_say_the_same(client):
    stream = client.stream("The tower", logprobs=2, **GREEDY)
    pieces = "".join(stream.text)
    streamed, whole = stream.result(), client.generate("The tower", logprobs=2, **GREEDY)
    assert pieces == streamed.text == whole.text
    assert streamed.generation_id != whole.generation_id
    assert streamed.candidates[0].token_ids == whole.candidates[0].token_ids
    assert [each.token_id for each in whole.candidates[0].logprobs] == list(
        whole.candidates[0].token_ids
    )
    assert whole.checkpoint_digest == streamed.checkpoint_digest != ""
    assert whole.usage.prompt_tokens == len("The tower")
    assert whole.timings.total > 0


def test_the_seed_of_a_reply_makes_it_again(client):
    messages = [("system", "Be brief."), ("user", "When was it built? 你好 🌍")]
    first = client.generate(messages=messages, max_tokens=16)
    again = client.generate(messages=messages, max_tokens=16, seed=first.seed)
    assert again.text == first.text
    assert again.seed == first.seed


def test_candidates_and_request_ids(client):
    reply = client.generate("a", n=3, max_tokens=4, request_id="mine")
    assert [each.index for each in reply.candidates] == [0, 1, 2]
    assert reply.request_id == "mine"


def test_a_time_limit_ends_the_answer_and_a_timeout_the_call(client):
    reply = client.generate("a", time_limit=0.001, max_tokens=400, ignore_eos=True)
    assert reply.finish_reason is FinishReason.DEADLINE
    with pytest.raises(DeadlineExceeded):
        client.generate("a", timeout=0.02, max_tokens=500, ignore_eos=True)


def test_leaving_early_leaves_the_server_well(client):
    for _ in range(3):
        for _ in client.stream("a", max_tokens=400, ignore_eos=True).text:
            break
    assert client.generate("a", **GREEDY).text


BAD = {
    "temperature below zero": ({"temperature": -1}, InvalidRequest, "temperature"),
    "no answers": ({"n": 0}, InvalidRequest, "n"),
    "empty stop": ({"stop": [""]}, InvalidRequest, "stop"),
    "unknown checkpoint": ({"checkpoint": "nowhere"}, CheckpointNotFound, None),
    "answer longer than the context": ({"max_tokens": 10_000}, ContextLengthExceeded, None),
}


@pytest.mark.parametrize("case", BAD)
def test_the_server_names_what_is_wrong(client, case):
    options, kind, field = BAD[case]
    with pytest.raises(kind) as caught:
        client.generate("a", **options)
    assert caught.value.request_id
    if field:
        assert any(field in each.field for each in caught.value.violations)


def test_a_prompt_of_ten_megabytes(client):
    with pytest.raises((MessageTooLarge, ContextLengthExceeded)):
        client.generate("x" * 10_000_000)


def test_health(client):
    assert client.health() is Health.SERVING
    assert client.health("learnback.v1.InferenceService") is Health.SERVING


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.critique("gen-0", "No."),
        lambda client: list(client.list_feedback()),
        lambda client: client.get_checkpoint("live"),
        lambda client: client.rollback_checkpoint(),
    ],
)
def test_what_comes_later_says_so(client, call):
    with pytest.raises(Unimplemented):
        call(client)


def test_the_command_streams_and_tells_errors(address):
    def run(*arguments):
        command = [sys.executable, "-c", "from learnback_client.cli import main; main()"]
        return subprocess.run(
            [*command, "generate", "Hello", "--address", address, *arguments],
            capture_output=True,
            text=True,
        )

    streamed = run("--temperature", "0", "--max-tokens", "8")
    whole = json.loads(run("--temperature", "0", "--max-tokens", "8", "--json").stdout)
    assert streamed.stdout.rstrip("\n") == whole["candidates"][0]["text"].rstrip("\n")
    failed = run("--temperature", "9")
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert "temperature" in failed.stderr
    assert failed.stderr.count("\n") == 1
