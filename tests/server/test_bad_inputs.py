"""Malformed requests: each is refused by name before anything is computed, and hurts nobody."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from learnback.v1 import inference_pb2 as pb
from tests.server.running import caught, greedy, info_of, violations_of
from tests.tiny import CONTEXT_TOKENS

GENERATE = "/learnback.v1.InferenceService/Generate"
STREAM = "/learnback.v1.InferenceService/GenerateStream"
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NAN, INF = float("nan"), float("inf")
VOCABULARY = 260
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


@dataclass(frozen=True)
class Case:
    name: str
    request: bytes
    fields: tuple[str, ...]
    """Exactly the fields that are to be named."""
    reason: str = "INVALID_FIELD"
    code: grpc.StatusCode = INVALID
    method: str = GENERATE


def spec(**fields) -> pb.GenerationSpec:
    if not {"prompt", "chat", "token_ids"} & fields.keys():
        fields["prompt"] = "Hello"
    return pb.GenerationSpec(**fields)


def wire(generation_spec: pb.GenerationSpec) -> bytes:
    # Both requests look the same on the wire.
    return pb.GenerateRequest(spec=generation_spec).SerializeToString()


def bad(name: str, *fields: str, **spec_fields) -> Case:
    return Case(name, wire(spec(**spec_fields)), fields)


def sampling(name: str, field: str, **values) -> Case:
    return bad(name, f"spec.sampling.{field}", sampling=pb.Sampling(**values))


def chat(name: str, *fields: str, turns: list[tuple[int, str]]) -> Case:
    messages = [pb.Message(role=role, content=content) for role, content in turns]
    paths = [f"spec.chat.messages{field}" for field in fields]
    return bad(name, *paths, chat=pb.Chat(messages=messages))


def ids(name: str, *fields: str, values: list[int]) -> Case:
    paths = [f"spec.token_ids.ids{field}" for field in fields]
    return bad(name, *paths, token_ids=pb.TokenIds(ids=values))


def too_long(name: str, field: str, **spec_fields) -> Case:
    return Case(name, wire(spec(**spec_fields)), (field,), "CONTEXT_LENGTH_EXCEEDED")


def unknown_checkpoint(name: str, checkpoint: str) -> Case:
    return Case(
        name,
        wire(spec(checkpoint=checkpoint)),
        (),
        "CHECKPOINT_NOT_FOUND",
        grpc.StatusCode.NOT_FOUND,
    )


def too_large(name: str, prompt_bytes: int) -> Case:
    return Case(
        name,
        wire(spec(prompt="x" * prompt_bytes)),
        (),
        "MESSAGE_TOO_LARGE",
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    )


def unimplemented(name: str, method: str) -> Case:
    return Case(name, b"", (), "UNIMPLEMENTED", grpc.StatusCode.UNIMPLEMENTED, method)


def raw_prompt(content: bytes) -> bytes:
    """A request whose prompt is these bytes, which no protobuf library would write."""
    inner = b"\x12" + bytes([len(content)]) + content
    return b"\x0a" + bytes([len(inner)]) + inner


SYSTEM, USER, ASSISTANT = pb.ROLE_SYSTEM, pb.ROLE_USER, pb.ROLE_ASSISTANT

CASES = [
    # The request itself.
    Case("nothing at all", b"", ("spec",)),
    Case("a spec with nothing in it", wire(pb.GenerationSpec()), ("spec.input",)),
    Case("bytes that are no protobuf", b"\xff\xff\xff\xff", ("",)),
    Case("a message that breaks off", b"\x0a\x7f\x12", ("",)),
    Case("a lone high surrogate", raw_prompt(b"\xed\xa0\x80"), ("",)),
    Case("a lone low surrogate", raw_prompt(b"\xed\xbf\xbf"), ("",)),
    Case("a surrogate pair as two characters", raw_prompt(b"\xed\xa0\xbd\xed\xb8\x80"), ("",)),
    Case("latin-1 instead of UTF-8", raw_prompt(b"caf\xe9"), ("",)),
    Case("an overlong encoding of a slash", raw_prompt(b"\xc0\xaf"), ("",)),
    too_large("a prompt of 10 MB", 10_000_000),
    too_large("a prompt one byte too large", 4 * 1024 * 1024),
    unimplemented("a method that nobody has", "/learnback.v1.InferenceService/Guess"),
    unimplemented("a service that nobody has", "/acme.v1.Shop/Buy"),
    unimplemented(
        "feedback, which is not offered yet", "/learnback.v1.FeedbackService/GetFeedback"
    ),
    unimplemented(
        "checkpoints, which are not offered yet", "/learnback.v1.CheckpointService/ListCheckpoints"
    ),
    unimplemented(
        "a stream that is not offered yet", "/learnback.v1.CheckpointService/WatchCheckpoints"
    ),
    # The input.
    bad("an empty prompt", "spec.prompt", prompt=""),
    bad("a chat of no turns", "spec.chat.messages", chat=pb.Chat()),
    chat("a turn of nobody", "[0].role", turns=[(0, "Hi")]),
    chat("a role of tomorrow", "[0].role", turns=[(7, "Hi")]),
    chat("a negative role", "[0].role", turns=[(-1, "Hi")]),
    chat("an empty turn", "[0].content", turns=[(USER, "")]),
    chat(
        "an empty turn in the middle",
        "[1].content",
        turns=[(USER, "Hi"), (ASSISTANT, ""), (USER, "?")],
    ),
    chat(
        "a system turn that comes late",
        "[1].role",
        turns=[(USER, "Hi"), (SYSTEM, "Be kind"), (USER, "?")],
    ),
    chat("a system turn twice", "[1].role", turns=[(SYSTEM, "a"), (SYSTEM, "b"), (USER, "?")]),
    chat("nobody asks", "[0].role", turns=[(SYSTEM, "Be kind")]),
    chat("the assistant speaks last", "[1].role", turns=[(USER, "Hi"), (ASSISTANT, "Hello")]),
    ids("no ids", "", values=[]),
    ids("a negative id", "[0]", values=[-1]),
    ids("an id just out of the vocabulary", "[1]", values=[5, VOCABULARY]),
    ids("ids far out", "[0]", "[1]", values=[INT32_MAX, INT32_MIN]),
    # Too long.
    too_long("more ids than context", "spec.token_ids.ids", token_ids=pb.TokenIds(ids=[1] * 513)),
    too_long("ids that leave no room", "spec.token_ids", token_ids=pb.TokenIds(ids=[1] * 512)),
    too_long("a prompt that leaves no room", "spec.prompt", prompt="x" * CONTEXT_TOKENS),
    too_long("a prompt of a megabyte", "spec.prompt", prompt="x" * 1_000_000),
    too_long("a prompt of Chinese", "spec.prompt", prompt="学" * 400),
    too_long(
        "a million empty turns",
        "spec.chat.messages",
        chat=pb.Chat(messages=[pb.Message()] * 1_000_000),
    ),
    too_long(
        "a long turn",
        "spec.chat",
        chat=pb.Chat(messages=[pb.Message(role=USER, content="x" * 600)]),
    ),
    too_long(
        "a very long turn",
        "spec.chat.messages",
        chat=pb.Chat(messages=[pb.Message(role=USER, content="x" * 100_000)]),
    ),
    too_long(
        "an answer as long as the context",
        "spec.sampling.max_tokens",
        sampling=pb.Sampling(max_tokens=CONTEXT_TOKENS),
    ),
    too_long(
        "the longest answer there is",
        "spec.sampling.max_tokens",
        sampling=pb.Sampling(max_tokens=INT32_MAX),
    ),
    # Sampling.
    sampling("temperature below zero", "temperature", temperature=-0.1),
    sampling("temperature above two", "temperature", temperature=2.1),
    sampling("temperature not a number", "temperature", temperature=NAN),
    sampling("temperature infinite", "temperature", temperature=INF),
    sampling("temperature minus infinite", "temperature", temperature=-INF),
    sampling("top_p of zero", "top_p", top_p=0),
    sampling("top_p above one", "top_p", top_p=1.01),
    sampling("top_p not a number", "top_p", top_p=NAN),
    sampling("top_k below zero", "top_k", top_k=-1),
    sampling("top_k beyond the vocabulary", "top_k", top_k=VOCABULARY + 1),
    sampling("min_p below zero", "min_p", min_p=-0.01),
    sampling("min_p above one", "min_p", min_p=1.5),
    sampling("min_p not a number", "min_p", min_p=NAN),
    sampling("repetition_penalty of zero", "repetition_penalty", repetition_penalty=0),
    sampling("repetition_penalty below zero", "repetition_penalty", repetition_penalty=-1),
    sampling("repetition_penalty above ten", "repetition_penalty", repetition_penalty=10.5),
    sampling("repetition_penalty infinite", "repetition_penalty", repetition_penalty=INF),
    sampling("presence_penalty too low", "presence_penalty", presence_penalty=-2.5),
    sampling("presence_penalty not a number", "presence_penalty", presence_penalty=NAN),
    sampling("frequency_penalty too high", "frequency_penalty", frequency_penalty=2.5),
    sampling("frequency_penalty infinite", "frequency_penalty", frequency_penalty=INF),
    sampling("seed below zero", "seed", seed=-1),
    sampling("seed beyond 53 bits", "seed", seed=2**53),
    sampling("the largest seed there is", "seed", seed=INT64_MAX),
    sampling("the smallest seed there is", "seed", seed=INT64_MIN),
    sampling("an answer of no tokens", "max_tokens", max_tokens=0),
    sampling("an answer of fewer than none", "max_tokens", max_tokens=INT32_MIN),
    sampling("a stop string of length zero", "stop[0]", stop=[""]),
    sampling("a second stop string of length zero", "stop[1]", stop=["a", ""]),
    sampling("a stop string too long", "stop[0]", stop=["x" * 257]),
    sampling("too many stop strings", "stop", stop=["x"] * 17),
    sampling("a million stop strings", "stop", stop=["x"] * 1_000_000),
    sampling("log-probabilities of fewer than none", "logprobs", logprobs=-1),
    sampling("log-probabilities of too many", "logprobs", logprobs=21),
    sampling("no candidates", "n", n=0),
    sampling("too many candidates", "n", n=9),
    sampling("fewer candidates than none", "n", n=-1),
    # Who and what for.
    bad("a checkpoint with a path in it", "spec.checkpoint", checkpoint="../../etc/passwd"),
    bad("a checkpoint in capitals", "spec.checkpoint", checkpoint="LIVE"),
    bad("a checkpoint name too long", "spec.checkpoint", checkpoint="x" * 64),
    unknown_checkpoint("a checkpoint that is not there", "ckpt-000042"),
    unknown_checkpoint("an alias that points nowhere", "canary"),
    bad("an author too long", "spec.author", author="x" * 129),
    bad("a request_id too long", "spec.request_id", request_id="x" * 129),
    bad("a request_id of two lines", "spec.request_id", request_id="a\nb"),
    bad("a request_id that ends a line", "spec.request_id", request_id="a\n"),
    bad("a request_id with an accent", "spec.request_id", request_id="é"),
    bad("a request_id with a zero byte", "spec.request_id", request_id="a\0"),
    bad("too many labels", "spec.labels", labels={f"k{i}": "" for i in range(17)}),
    bad("a label without a key", "spec.labels[]", labels={"": "v"}),
    bad("a label in capitals", "spec.labels[Team]", labels={"Team": "v"}),
    bad("a label with a space", "spec.labels[my team]", labels={"my team": "v"}),
    bad("a label in Chinese", r"spec.labels[\u961f]", labels={"队": "v"}),
    bad("a label key too long", f"spec.labels[{'k' * 60}...]", labels={"k" * 64: "v"}),
    bad("a label value too long", "spec.labels[k]", labels={"k": "v" * 257}),
    # When.
    bad("priority too high", "spec.priority", priority=11),
    bad("priority too low", "spec.priority", priority=-11),
    bad("a queue_timeout of zero", "spec.queue_timeout", queue_timeout=Duration()),
    bad("a negative queue_timeout", "spec.queue_timeout", queue_timeout=Duration(seconds=-1)),
    bad("a time_limit of zero", "spec.time_limit", time_limit=Duration()),
    bad("a time_limit a little negative", "spec.time_limit", time_limit=Duration(nanos=-1)),
    bad("a time_limit of two minds", "spec.time_limit", time_limit=Duration(seconds=1, nanos=-1)),
    bad("a time_limit of too many nanos", "spec.time_limit", time_limit=Duration(nanos=10**9)),
    bad("a time_limit beyond all time", "spec.time_limit", time_limit=Duration(seconds=INT64_MAX)),
    # How likely to be accepted.
    bad("one answer to be put in order", "spec.rerank", rerank=True),
    Case(
        "a stream to be put in order",
        wire(spec(rerank=True, sampling=pb.Sampling(n=2))),
        ("spec.rerank",),
        method=STREAM,
    ),
    # All at once.
    bad(
        "several faults at once",
        "spec.prompt",
        "spec.sampling.top_p",
        "spec.sampling.n",
        "spec.author",
        "spec.priority",
        prompt="",
        sampling=pb.Sampling(top_p=NAN, n=0),
        author="x" * 200,
        priority=100,
    ),
]


def send(server, case: Case, method: str) -> grpc.RpcError:
    if method.endswith("Stream"):
        return caught(server.channel.unary_stream(method), case.request)
    return caught(server.channel.unary_unary(method), case.request)


def check(error: grpc.RpcError, case: Case) -> None:
    assert (error.code(), info_of(error).reason) == (case.code, case.reason)
    assert set(violations_of(error)) == set(case.fields)
    assert all(violations_of(error).values())
    assert error.details()
    assert "Traceback" not in str(error)


def test_the_table_is_as_long_as_promised():
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_is_refused_by_name_before_any_compute(server, case):
    server.wait_until_idle()
    before = server.engine.stats()
    check(send(server, case, case.method), case)
    if case.method == GENERATE:
        check(send(server, case, STREAM), case)
    assert server.engine.stats() == before
    assert server.app.admission.inside == 0


def test_a_bystander_is_unharmed_by_all_of_them(server):
    spec = greedy("a quiet bystander", 300)
    expected = server.generate(spec).candidates[0].text
    done = threading.Event()
    answers: list[str] = []

    def stand_by() -> None:
        while not done.is_set():
            text = "".join(event.delta.text for event in server.stream(spec))
            answers.append(text)

    bystander = threading.Thread(target=stand_by)
    bystander.start()
    try:
        for case in CASES:
            check(send(server, case, case.method), case)
    finally:
        done.set()
        bystander.join()
    assert answers
    assert set(answers) == {expected}


def test_a_request_beyond_what_grpc_receives_is_refused_too(server):
    # Documented limit: this far out, gRPC itself refuses, and knows no ErrorInfo.
    request = wire(spec(prompt="x" * (17 * 1024 * 1024)))
    error = caught(server.channel.unary_unary(GENERATE), request)
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_request_that_swells_when_it_is_decompressed_is_refused_too(server):
    request = wire(spec(prompt="x" * (100 * 1024 * 1024)))
    call = server.channel.unary_unary(GENERATE)
    error = caught(call, request, compression=grpc.Compression.Gzip)
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_only_the_first_few_of_very_many_faults_are_told(server):
    turns = [pb.Message(role=99)] * 400
    error = caught(server.generate, spec(chat=pb.Chat(messages=turns)))
    assert len(violations_of(error)) == 10
    assert "(and 799 more)" in error.details()
