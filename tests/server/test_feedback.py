"""Feedback is joined to what it speaks of, queued once, and accounted for."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from learnback.v1 import feedback_pb2 as pb
from learnback.v1 import inference_pb2
from learnback_server.config import ServerConfig
from learnback_store.feedback import FeedbackQueue
from learnback_store.live_views import LiveViews
from learnback_store.records import (
    Account,
    Correction,
    Critique,
    FeedbackRecord,
    FeedbackState,
    FeedbackView,
    Preference,
    Preferred,
    Rating,
    Thumb,
)
from tests.server.feedback_calls import (
    about,
    answered,
    get,
    listed,
    stub_of,
    submit,
    told,
    trainers_side,
)
from tests.server.running import RunningServer, caught, greedy, info_of, wait_until

SUBMITTERS = 100
SERVICES = {"learnback.v1.FeedbackService", "learnback.v1.CheckpointService"}


def queued(server, feedback_id: str):
    """The record as the trainer finds it in the queue."""
    with trainers_side(server) as (client, keys):
        entries = client.xrange(keys.queue)
        return [fields["record"] for _, fields in entries if fields["id"] == feedback_id]


def record_of(server, feedback: pb.Feedback):
    (text,) = queued(server, feedback.feedback_id)
    return FeedbackRecord.from_json(text)


def move(server, feedback: pb.Feedback, *states: FeedbackState, **more) -> None:
    """Does what the trainer does when it is through with feedback."""
    record = record_of(server, feedback)
    account = Account.queued(record)
    for state in states:
        account = account.moved(state, "because", **more)
    with trainers_side(server) as (client, keys):
        LiveViews(client, keys).publish([FeedbackView(record, account)])


class TestSubmitting:
    def test_on_an_answer_of_the_service(self, learning):
        reply = learning.generate(greedy("Capital of France?", 6, author="ada"))
        request = about(reply.generation_id, author="bob", labels={"team": "blue"})
        feedback = submit(learning, request)
        assert feedback.state == pb.FEEDBACK_STATE_QUEUED
        assert feedback.generation == request.generation
        assert feedback.exchange.prompt == "Capital of France?"
        assert feedback.exchange.answer == reply.candidates[0].text
        assert (feedback.author, feedback.labels["team"]) == ("bob", "blue")
        assert feedback.answered_by == "base"
        assert [each.state for each in feedback.history] == [pb.FEEDBACK_STATE_QUEUED]
        assert get(learning, feedback.feedback_id) == feedback
        record = record_of(learning, feedback)
        assert record.signal == Critique("too long")
        assert record.answer_ids == tuple(reply.candidates[0].token_ids)
        assert len(record.prompt_ids) == reply.usage.prompt_tokens
        assert record.answered_by_digest == reply.checkpoint_digest

    def test_on_an_exchange_that_is_sent_along(self, learning):
        turns = [inference_pb2.Message(role=inference_pb2.ROLE_USER, content="你好 🌍")]
        exchange = pb.Exchange(chat=inference_pb2.Chat(messages=turns), answer="Hello")
        feedback = submit(learning, told(exchange=exchange))
        assert feedback.exchange == exchange
        assert not feedback.HasField("generation")
        assert (feedback.answered_by, record_of(learning, feedback).answer_ids) == ("", ())

    @pytest.mark.parametrize(
        ("signal", "kept"),
        [
            ({"critique": pb.Critique(text="no")}, Critique("no")),
            ({"correction": pb.Correction(text="Paris")}, Correction("Paris")),
            ({"rating": pb.Rating(score=-0.5)}, Rating(-0.5)),
            ({"rating": pb.Rating(score=0)}, Rating(0.0)),
            ({"rating": pb.Rating(thumb=pb.THUMB_DOWN)}, Rating(-1.0, Thumb.DOWN)),
            (
                {"preference": pb.Preference(text="Lyon", preferred=pb.PREFERRED_OTHER)},
                Preference("Lyon", Preferred.OTHER),
            ),
        ],
    )
    def test_every_kind_of_signal(self, learning, signal, kept):
        request = about(answered(learning), **signal)
        feedback = submit(learning, request)
        name = next(iter(signal))
        assert getattr(feedback, name) == signal[name]
        assert record_of(learning, feedback).signal == kept

    def test_on_the_candidate_that_is_named(self, learning):
        sampling = inference_pb2.Sampling(n=3, seed=1, max_tokens=8, temperature=2)
        spec = inference_pb2.GenerationSpec(prompt="abc", sampling=sampling)
        reply = learning.generate(spec)
        for candidate in reply.candidates:
            feedback = submit(learning, about(reply.generation_id, candidate.index))
            assert feedback.exchange.answer == candidate.text

    def test_a_preference_between_two_answers_to_one_question(self, learning):
        first, second = answered(learning, "Which?"), answered(learning, "Which?")
        other = pb.GenerationRef(generation_id=second)
        preference = pb.Preference(generation=other, preferred=pb.PREFERRED_TARGET)
        feedback = submit(learning, about(first, preference=preference))
        assert feedback.preference == preference
        kept = record_of(learning, feedback).signal
        assert kept.other == feedback.exchange.answer  # greedy, so equal

    def test_a_preference_between_answers_to_two_questions_is_refused(self, learning):
        other = pb.GenerationRef(generation_id=answered(learning, "Where?"))
        preference = pb.Preference(generation=other, preferred=pb.PREFERRED_TARGET)
        error = caught(submit, learning, about(answered(learning), preference=preference))
        assert info_of(error).reason == "INVALID_FIELD"
        assert "same input" in error.details()


class TestOnce:
    def test_a_repeat_gets_the_first_answer(self, learning):
        request = about(answered(learning), author="repeats", request_id="repeats-1")
        first = submit(learning, request)
        assert [submit(learning, request) for _ in range(3)] == [first] * 3
        assert len(queued(learning, first.feedback_id)) == 1
        assert len(listed(learning, author="repeats")) == 1

    def test_the_same_id_for_something_else_is_refused(self, learning):
        first = submit(learning, told(author="reuses", request_id="reuses-1"))
        other = told(author="reuses", request_id="reuses-1", critique=pb.Critique(text="other"))
        error = caught(submit, learning, other)
        assert error.code() == grpc.StatusCode.ALREADY_EXISTS
        assert info_of(error).reason == "REQUEST_ID_REUSED"
        assert [each.feedback_id for each in listed(learning, author="reuses")] == [
            first.feedback_id
        ]

    def test_without_an_id_nothing_is_deduplicated(self, learning):
        ids = {submit(learning, told(author="insists")).feedback_id for _ in range(2)}
        assert {each.feedback_id for each in listed(learning, author="insists")} == ids
        assert len(ids) == 2

    def test_a_race_between_repeats_queues_one(self, learning):
        request = told(author="racer", request_id="race-1")
        with ThreadPoolExecutor(16) as pool:
            ids = {
                each.feedback_id
                for each in pool.map(lambda _: submit(learning, request), range(16))
            }
        assert len(ids) == 1
        assert len(listed(learning, author="racer")) == 1


class TestConcurrency:
    def test_a_hundred_at_once_are_all_queued(self, learning):
        generation_id = answered(learning)
        calls = [
            stub_of(learning).SubmitFeedback.future(
                about(generation_id, author="crowd", critique=pb.Critique(text=f"critique {i}"))
            )
            for i in range(SUBMITTERS)
        ]
        ids = {call.result().feedback.feedback_id for call in calls}
        assert len(ids) == SUBMITTERS
        found = listed(learning, author="crowd", page_size=7)
        assert {each.critique.text for each in found} == {
            f"critique {i}" for i in range(SUBMITTERS)
        }
        for feedback_id in ids:
            assert len(queued(learning, feedback_id)) == 1

    def test_an_answer_can_be_criticised_the_moment_it_ends(self, learning):
        def ask_and_criticise(number: int) -> str:
            for event in learning.stream(greedy(f"question {number}", 3)):
                if event.HasField("started"):
                    generation_id = event.started.generation_id
                if event.HasField("finished"):
                    return submit(learning, about(generation_id)).exchange.prompt
            raise AssertionError("the stream did not finish")

        with ThreadPoolExecutor(8) as pool:
            prompts = list(pool.map(ask_and_criticise, range(64)))
        assert prompts == [f"question {number}" for number in range(64)]

    def test_every_other_server_finds_it_too(self, learning):
        config = learning.config.model_copy(update={"listen": "127.0.0.1:0"})
        other = RunningServer(config)
        try:
            for _ in range(5):
                assert submit(other, about(answered(learning))).answered_by == "base"
        finally:
            other.close()


@pytest.fixture(scope="module")
def texts(learning):
    """Twelve critiques by "lister", oldest first; every third is labelled."""
    texts = [f"remark {i}" for i in range(12)]
    for i, text in enumerate(texts):
        labels = {"third": "yes"} if i % 3 == 0 else {}
        request = told(author="lister", labels=labels, critique=pb.Critique(text=text))
        submit(learning, request)
    return texts


class TestListing:
    @pytest.mark.parametrize("page_size", [0, 1, 5, 12, 1000])
    def test_newest_first_page_by_page(self, learning, texts, page_size):
        found = listed(learning, author="lister", page_size=page_size)
        assert [each.critique.text for each in found] == texts[::-1]

    def test_by_labels(self, learning, texts):
        found = listed(learning, author="lister", labels={"third": "yes"}, page_size=3)
        assert [each.critique.text for each in found] == texts[9::-3]

    def test_by_generation(self, learning):
        generation_id = answered(learning)
        ours = [submit(learning, about(generation_id)).feedback_id for _ in range(3)]
        found = listed(learning, generation_id=generation_id)
        assert [each.feedback_id for each in found] == ours[::-1]

    def test_by_state_and_checkpoint(self, learning):
        learned, other = (submit(learning, told(author="pupil")) for _ in range(2))
        move(learning, learned, FeedbackState.LEARNING, FeedbackState.LEARNED, checkpoint="ckpt-7")
        (found,) = listed(learning, author="pupil", states=[pb.FEEDBACK_STATE_LEARNED])
        assert (found.feedback_id, found.checkpoint) == (learned.feedback_id, "ckpt-7")
        assert listed(learning, checkpoint="ckpt-7") == [found]
        (waiting,) = listed(learning, author="pupil", states=[pb.FEEDBACK_STATE_QUEUED])
        assert waiting.feedback_id == other.feedback_id

    @pytest.mark.usefixtures("texts")
    def test_a_token_belongs_to_its_filters(self, learning):
        stub = stub_of(learning)
        page = stub.ListFeedback(pb.ListFeedbackRequest(author="lister", page_size=2))
        stolen = pb.ListFeedbackRequest(author="somebody", page_token=page.next_page_token)
        assert info_of(caught(stub.ListFeedback, stolen)).reason == "INVALID_FIELD"

    def test_no_page_is_larger_than_a_client_takes(self, learning):
        answer = "x" * 1_000_000
        exchange = pb.Exchange(prompt="p", answer=answer)
        for _ in range(8):
            submit(learning, told(author="epic", exchange=exchange))
        # The channel takes gRPC's default of 4 MiB.
        found = listed(learning, author="epic", page_size=1000)
        assert [each.exchange.answer for each in found] == [answer] * 8


class TestWatching:
    def watch(self, learning, feedback_id: str):
        return stub_of(learning).WatchFeedback(pb.WatchFeedbackRequest(feedback_id=feedback_id))

    def test_tells_each_state_until_the_final_one(self, learning):
        feedback = submit(learning, told())
        watch = self.watch(learning, feedback.feedback_id)
        assert next(watch).feedback == feedback
        move(learning, feedback, FeedbackState.LEARNING)
        assert next(watch).feedback.state == pb.FEEDBACK_STATE_LEARNING
        move(learning, feedback, FeedbackState.LEARNING, FeedbackState.NOT_LEARNED)
        last = next(watch).feedback
        assert (last.state, last.state_reason) == (pb.FEEDBACK_STATE_NOT_LEARNED, "because")
        assert list(watch) == []
        wait_until(lambda: learning.app.handover.watchers.inside == 0)

    def test_of_what_is_settled_tells_once(self, learning):
        feedback = submit(learning, told())
        move(learning, feedback, FeedbackState.QUARANTINED)
        (only,) = self.watch(learning, feedback.feedback_id)
        assert only.feedback.state == pb.FEEDBACK_STATE_QUARANTINED

    def test_leaving_frees_the_place(self, learning):
        watch = self.watch(learning, submit(learning, told()).feedback_id)
        next(watch)
        assert learning.app.handover.watchers.inside == 1
        watch.cancel()
        wait_until(lambda: learning.app.handover.watchers.inside == 0)

    def test_a_drain_waits_for_no_watcher(self, learning):
        feedback = submit(learning, told())
        other = RunningServer(learning.config)
        watch = self.watch(other, feedback.feedback_id)
        next(watch)
        other.begin_drain()
        error = caught(lambda: watch)
        assert info_of(error).reason == "SERVER_DRAINING"
        wait_until(other.stopped)
        other.close()


class TestOffering:
    @pytest.mark.parametrize("service", sorted(SERVICES))
    def test_is_healthy(self, learning, service):
        stub = health_pb2_grpc.HealthStub(learning.channel)
        reply = stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING

    def test_reflection_tells_the_services(self, learning):
        stub = reflection_pb2_grpc.ServerReflectionStub(learning.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (reply,) = stub.ServerReflectionInfo(iter([request]))
        assert {each.name for each in reply.list_services_response.service} >= SERVICES

    @pytest.mark.parametrize(
        ("method", "hint"),
        [
            ("FeedbackService/SubmitFeedback", "--redis-url"),
            ("FeedbackService/WatchFeedback", "--redis-url"),
            ("CheckpointService/ListCheckpoints", "--checkpoint-dir"),
        ],
    )
    def test_without_redis_says_how_to_have_it(self, server, method, hint):
        error = caught(server.channel.unary_unary(f"/learnback.v1.{method}"), b"")
        assert info_of(error).reason == "UNIMPLEMENTED"
        assert hint in error.details()

    def test_without_a_folder_there_are_no_checkpoints(self, learning):
        config = ServerConfig(
            **learning.config.model_dump() | {"checkpoint_dir": "", "listen": "127.0.0.1:0"}
        )
        other = RunningServer(config)
        try:
            call = other.channel.unary_unary("/learnback.v1.CheckpointService/GetCheckpoint")
            assert "--checkpoint-dir" in caught(call, b"").details()
            assert submit(other, told())
        finally:
            other.close()


def test_a_full_house_refuses_and_recovers(learning, monkeypatch):
    calls = learning.app.handover.calls
    monkeypatch.setattr(calls, "_places", 0)
    error = caught(submit, learning, told())
    assert info_of(error).reason == "QUEUE_FULL"
    monkeypatch.undo()
    assert submit(learning, told())


def test_streams_of_others_go_on_while_feedback_pours_in(learning):
    spec = greedy("a quiet bystander", 300)
    expected = learning.generate(spec).candidates[0].text
    texts: list[str] = []
    reading = threading.Thread(
        target=lambda: texts.append("".join(e.delta.text for e in learning.stream(spec)))
    )
    reading.start()
    calls = [stub_of(learning).SubmitFeedback.future(told(author="flood")) for _ in range(200)]
    assert all(call.result().feedback.feedback_id for call in calls)
    reading.join()
    assert texts == [expected]


def test_what_the_trainer_reads_is_what_was_submitted(tiny_folder, redis_server):
    config = ServerConfig(
        listen="127.0.0.1:0",
        model=str(tiny_folder),
        device="cpu",
        threads=1,
        redis_url=redis_server.url,
        redis_namespace="pair",
    )
    running = RunningServer(config)
    try:
        ids = [submit(running, told()).feedback_id for _ in range(3)]
        with trainers_side(running) as (client, keys):
            batch = FeedbackQueue(client, keys).read_batch(10)
        assert [delivery.feedback_id for delivery in batch] == ids
    finally:
        running.close()
