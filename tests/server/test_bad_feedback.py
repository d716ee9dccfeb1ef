"""Malformed requests of FeedbackService and CheckpointService: refused by name, nothing queued."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc
import pytest
from google.protobuf.message import Message

from learnback.v1 import checkpoints_pb2 as checkpoints
from learnback.v1 import feedback_pb2 as pb
from learnback.v1 import inference_pb2
from learnback_store.feedback import FeedbackQueue
from tests.server.feedback_calls import answered, submit, told, trainers_side
from tests.server.running import caught, info_of, violations_of

FEEDBACK = "/learnback.v1.FeedbackService/"
CHECKPOINTS = "/learnback.v1.CheckpointService/"
NAN, INF = float("nan"), float("inf")
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
USER, ASSISTANT = inference_pb2.ROLE_USER, inference_pb2.ROLE_ASSISTANT


@dataclass(frozen=True)
class Case:
    name: str
    method: str
    request: Message | bytes
    fields: tuple[str, ...]
    """Exactly the fields that are to be named."""
    reason: str = "INVALID_FIELD"
    code: grpc.StatusCode = field(default=grpc.StatusCode.INVALID_ARGUMENT)


def submission(name: str, *fields: str, **changes) -> Case:
    """A good submission but for these changes."""
    return Case(name, FEEDBACK + "SubmitFeedback", told(**changes), fields)


def bare(name: str, *fields: str, **parts) -> Case:
    return Case(name, FEEDBACK + "SubmitFeedback", pb.SubmitFeedbackRequest(**parts), fields)


def signal(name: str, *fields: str, **parts) -> Case:
    exchange = pb.Exchange(prompt="p", answer="a")
    return bare(name, *fields, exchange=exchange, **parts)


def target(name: str, *fields: str, generation_id: str = "gen-1", candidate: int = 0) -> Case:
    ref = pb.GenerationRef(generation_id=generation_id, candidate=candidate)
    paths = [f"generation.{each}" for each in fields]
    return bare(name, *paths, generation=ref, critique=pb.Critique(text="no"))


def exchange(name: str, *fields: str, **parts) -> Case:
    paths = [f"exchange.{each}" for each in fields]
    return submission(name, *paths, exchange=pb.Exchange(**parts))


def turns(name: str, *fields: str, said: list[tuple[int, str]]) -> Case:
    messages = [inference_pb2.Message(role=role, content=text) for role, text in said]
    paths = [f"chat.messages{each}" for each in fields]
    return exchange(name, *paths, chat=inference_pb2.Chat(messages=messages), answer="a")


def preference(name: str, *fields: str, **parts) -> Case:
    return signal(name, *(f"preference.{each}" for each in fields), preference=_preference(**parts))


def _preference(**parts) -> pb.Preference:
    return pb.Preference(**({"text": "other", "preferred": pb.PREFERRED_TARGET} | parts))


def listing(name: str, *fields: str, **parts) -> Case:
    return Case(name, FEEDBACK + "ListFeedback", pb.ListFeedbackRequest(**parts), fields)


def erasure(name: str, *fields: str, **parts) -> Case:
    return Case(name, FEEDBACK + "EraseAuthor", pb.EraseAuthorRequest(**parts), fields)


def lookup(name: str, *fields: str, feedback_id: str, reason: str = "INVALID_FIELD") -> Case:
    code = grpc.StatusCode.NOT_FOUND if not fields else grpc.StatusCode.INVALID_ARGUMENT
    request = pb.GetFeedbackRequest(feedback_id=feedback_id)
    return Case(name, FEEDBACK + "GetFeedback", request, fields, reason, code)


def unknown_generation(name: str, **parts) -> Case:
    request = pb.SubmitFeedbackRequest(**parts)
    code, reason = grpc.StatusCode.NOT_FOUND, "GENERATION_NOT_FOUND"
    return Case(name, FEEDBACK + "SubmitFeedback", request, (), reason, code)


def operator(name: str, method: str, request: Message, *fields: str) -> Case:
    return Case(name, CHECKPOINTS + method, request, fields)


def refused(name: str, method: str, request: Message, reason: str) -> Case:
    code = {
        "CHECKPOINT_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    }[reason]
    return Case(name, method, request, (), reason, code)


CASES = [
    # The request itself.
    bare("nothing at all", "target", "signal"),
    Case("bytes that are no protobuf", FEEDBACK + "SubmitFeedback", b"\xff\xff\xff", ("",)),
    Case("a critique in latin-1", FEEDBACK + "SubmitFeedback", b"\x1a\x04\x0a\x02\xe9\xe9", ("",)),
    bare("no target", "target", critique=pb.Critique(text="no")),
    signal("no signal", "signal"),
    # The target.
    target("no generation id", "generation_id", generation_id=""),
    target("a generation id with a space", "generation_id", generation_id="gen 1"),
    target("a generation id of two lines", "generation_id", generation_id="gen-1\n"),
    target("a generation id in Chinese", "generation_id", generation_id="队"),
    target("a generation id too long", "generation_id", generation_id="x" * 129),
    target("a candidate below zero", "candidate", candidate=-1),
    target("a candidate that no generation has", "candidate", candidate=8),
    target("a candidate far out", "candidate", candidate=INT32_MAX),
    unknown_generation(
        "a generation that nobody made",
        generation=pb.GenerationRef(generation_id="gen-none"),
        critique=pb.Critique(text="no"),
    ),
    exchange("an empty exchange", "input", "answer"),
    exchange("no question", "input", answer="a"),
    exchange("an empty question", "prompt", prompt="", answer="a"),
    exchange("no answer", "answer", prompt="p"),
    exchange("a chat of no turns", "chat.messages", chat=inference_pb2.Chat(), answer="a"),
    turns("a turn of nobody", "[0].role", said=[(0, "Hi")]),
    turns("an empty turn", "[0].content", said=[(USER, "")]),
    turns("the assistant speaks last", "[1].role", said=[(USER, "Hi"), (ASSISTANT, "Hello")]),
    # Critique, correction.
    signal("an empty critique", "critique.text", critique=pb.Critique()),
    signal("a blank critique", "critique.text", critique=pb.Critique(text=" \n\u3000")),
    signal("a critique too long", "critique.text", critique=pb.Critique(text="x" * 4097)),
    signal("an empty correction", "correction.text", correction=pb.Correction()),
    signal("a blank correction", "correction.text", correction=pb.Correction(text="\t")),
    signal("a correction too long", "correction.text", correction=pb.Correction(text="长" * 32769)),
    # Rating.
    signal("a rating of nothing", "rating.value", rating=pb.Rating()),
    signal("a score too high", "rating.score", rating=pb.Rating(score=1.01)),
    signal("a score too low", "rating.score", rating=pb.Rating(score=-2)),
    signal("a score not a number", "rating.score", rating=pb.Rating(score=NAN)),
    signal("a score infinite", "rating.score", rating=pb.Rating(score=INF)),
    signal("a thumb of nobody", "rating.thumb", rating=pb.Rating(thumb=pb.THUMB_UNSPECIFIED)),
    signal("a third thumb", "rating.thumb", rating=pb.Rating(thumb=3)),
    # Preference.
    preference("no preferred", "preferred", preferred=pb.PREFERRED_UNSPECIFIED),
    preference("a third preferred", "preferred", preferred=9),
    preference("an empty other answer", "text", text=""),
    preference("a blank other answer", "text", text="  "),
    preference("an other answer too long", "text", text="x" * 32769),
    signal(
        "nothing to compare with",
        "preference.other",
        preference=pb.Preference(preferred=pb.PREFERRED_OTHER),
    ),
    signal(
        "an other generation without id",
        "preference.generation.generation_id",
        preference=pb.Preference(generation=pb.GenerationRef(), preferred=pb.PREFERRED_OTHER),
    ),
    bare(
        "an answer compared with itself",
        "preference.generation",
        generation=pb.GenerationRef(generation_id="gen-1"),
        preference=pb.Preference(
            generation=pb.GenerationRef(generation_id="gen-1"), preferred=pb.PREFERRED_OTHER
        ),
    ),
    unknown_generation(
        "an other generation that nobody made",
        exchange=pb.Exchange(prompt="p", answer="a"),
        preference=pb.Preference(
            generation=pb.GenerationRef(generation_id="gen-none"), preferred=pb.PREFERRED_OTHER
        ),
    ),
    # Who, and what for.
    submission("an author too long", "author", author="x" * 129),
    submission("a request_id too long", "request_id", request_id="x" * 129),
    submission("a request_id of two lines", "request_id", request_id="a\n"),
    submission("too many labels", "labels", labels={f"k{i}": "" for i in range(17)}),
    submission("a label in capitals", "labels[Team]", labels={"Team": "v"}),
    submission("a label value too long", "labels[k]", labels={"k": "v" * 257}),
    submission(
        "several faults at once",
        "critique.text",
        "author",
        "request_id",
        critique=pb.Critique(),
        author="x" * 200,
        request_id="é",
    ),
    # Looking up.
    lookup("no feedback id", "feedback_id", feedback_id=""),
    lookup("a feedback id too long", "feedback_id", feedback_id="x" * 129),
    lookup("feedback that nobody gave", feedback_id="fb-1", reason="FEEDBACK_NOT_FOUND"),
    listing("a page of fewer than none", "page_size", page_size=-1),
    listing("a page too large", "page_size", page_size=1001),
    listing("a page token of nobody", "page_token", page_token="?"),
    listing("a page token too long", "page_token", page_token="x" * 100_000),
    listing("a page token in Chinese", "page_token", page_token="队"),
    listing("no state by name", "states[0]", states=[pb.FEEDBACK_STATE_UNSPECIFIED]),
    listing("a state of tomorrow", "states[1]", states=[pb.FEEDBACK_STATE_QUEUED, 99]),
    listing("very many states", "states", states=[pb.FEEDBACK_STATE_QUEUED] * 100_000),
    listing("a checkpoint with a path in it", "checkpoint", checkpoint="../x"),
    listing("an author too long in a list", "author", author="x" * 129),
    listing("a generation id with a space in a list", "generation_id", generation_id="a b"),
    listing("a label in capitals in a list", "labels[K]", labels={"K": ""}),
    erasure("an erasure of nobody", "author", request_id="r"),
    erasure("an erasure without an id", "request_id", author="ada"),
    erasure("an erasure of too long a name", "author", author="x" * 129, request_id="r"),
    # Checkpoints.
    operator(
        "a checkpoint page too large",
        "ListCheckpoints",
        checkpoints.ListCheckpointsRequest(page_size=INT32_MIN),
        "page_size",
    ),
    operator(
        "a checkpoint state of tomorrow",
        "ListCheckpoints",
        checkpoints.ListCheckpointsRequest(states=[99]),
        "states[0]",
    ),
    operator(
        "a checkpoint page token of nobody",
        "ListCheckpoints",
        checkpoints.ListCheckpointsRequest(page_token="AAAA"),
        "page_token",
    ),
    operator(
        "no checkpoint to get", "GetCheckpoint", checkpoints.GetCheckpointRequest(), "checkpoint"
    ),
    operator(
        "a checkpoint that climbs",
        "GetCheckpoint",
        checkpoints.GetCheckpointRequest(checkpoint="../../etc"),
        "checkpoint",
    ),
    operator(
        "no checkpoint to promote, to an alias of nobody",
        "PromoteCheckpoint",
        checkpoints.PromoteCheckpointRequest(alias="best", request_id="é"),
        "checkpoint",
        "alias",
        "request_id",
    ),
    operator(
        "an alias that moves by itself",
        "PromoteCheckpoint",
        checkpoints.PromoteCheckpointRequest(checkpoint="base", alias="previous"),
        "alias",
    ),
    operator(
        "a rollback to capitals",
        "RollbackCheckpoint",
        checkpoints.RollbackCheckpointRequest(checkpoint="BASE", request_id="x" * 129),
        "checkpoint",
        "request_id",
    ),
    refused(
        "a checkpoint that is not there",
        CHECKPOINTS + "GetCheckpoint",
        checkpoints.GetCheckpointRequest(checkpoint="ckpt-000042"),
        "CHECKPOINT_NOT_FOUND",
    ),
    refused(
        "an alias that points nowhere",
        CHECKPOINTS + "GetCheckpoint",
        checkpoints.GetCheckpointRequest(checkpoint="canary"),
        "CHECKPOINT_NOT_FOUND",
    ),
    refused(
        "a promotion of what is not there",
        CHECKPOINTS + "PromoteCheckpoint",
        checkpoints.PromoteCheckpointRequest(checkpoint="ckpt-000042"),
        "CHECKPOINT_NOT_FOUND",
    ),
    refused(
        "a rollback to what is not there",
        CHECKPOINTS + "RollbackCheckpoint",
        checkpoints.RollbackCheckpointRequest(checkpoint="ckpt-000042"),
        "CHECKPOINT_NOT_FOUND",
    ),
]


def send(server, case: Case) -> grpc.RpcError:
    raw = case.request if isinstance(case.request, bytes) else case.request.SerializeToString()
    return caught(server.channel.unary_unary(case.method), raw)


def test_no_case_stands_twice():
    assert len({case.name for case in CASES}) == len(CASES) >= 60


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_is_refused_by_name_and_queues_nothing(learning, case):
    with trainers_side(learning) as (client, keys):
        queue = FeedbackQueue(client, keys)
        before = queue.stats().depth
        error = send(learning, case)
        assert (error.code(), info_of(error).reason) == (case.code, case.reason)
        assert set(violations_of(error)) == set(case.fields)
        assert all(violations_of(error).values())
        assert error.details()
        assert queue.stats().depth == before
    assert learning.app.handover.calls.inside == 0


@pytest.mark.parametrize("method", ["WatchFeedback"])
def test_a_stream_refuses_alike(learning, method):
    call = learning.channel.unary_stream(FEEDBACK + method)
    assert set(violations_of(caught(call, b""))) == {"feedback_id"}
    request = pb.WatchFeedbackRequest(feedback_id="fb-1").SerializeToString()
    assert info_of(caught(call, request)).reason == "FEEDBACK_NOT_FOUND"
    assert learning.app.handover.watchers.inside == 0


def test_a_candidate_that_this_generation_lacks_is_named(learning):
    ref = pb.GenerationRef(generation_id=answered(learning), candidate=1)
    request = pb.SubmitFeedbackRequest(generation=ref, critique=pb.Critique(text="no"))
    assert set(violations_of(caught(submit, learning, request))) == {"generation.candidate"}


def test_what_is_at_its_bound_is_taken(learning):
    request = told(
        critique=pb.Critique(text="长" * 4096),
        author="a" * 128,
        request_id="~" * 128,
        labels={f"k{i}": "v" * 256 for i in range(16)},
    )
    assert submit(learning, request).critique.text == "长" * 4096
    assert submit(learning, told(correction=pb.Correction(text="长" * 32768), critique=None))
