"""What was asked and answered is recorded whole, before its end is told, and never in the way."""

from __future__ import annotations

import asyncio
import logging

import pytest

from learnback.v1 import inference_pb2 as pb
from learnback_server import records
from learnback_server.catalog import ServedCheckpoint
from learnback_server.engine.messages import (
    CandidateEnd,
    Delta,
    Finished,
    FinishReason,
    GenerationRequest,
    SamplingParams,
)
from learnback_server.intake import Asked
from learnback_server.records import GenerationRecorder
from learnback_store.records import GenerationRecord, Role
from tests.server.feedback_calls import trainers_side
from tests.server.running import caught, greedy, wait_until


def kept(server, generation_id: str) -> GenerationRecord:
    with trainers_side(server) as (client, keys):
        wait_until(lambda: client.exists(keys.generation(generation_id)))
        return GenerationRecord.from_json(client.get(keys.generation(generation_id)))


class TestOnTheServer:
    def test_everything_that_was_asked_and_answered(self, learning):
        sampling = pb.Sampling(temperature=0.5, seed=7, max_tokens=6, stop=["§"], n=2)
        spec = pb.GenerationSpec(
            prompt="Hello",
            sampling=sampling,
            author="ada",
            labels={"team": "blue"},
            request_id="call-1",
        )
        reply = learning.generate(spec)
        record = kept(learning, reply.generation_id)
        assert (record.prompt, record.chat) == ("Hello", ())
        assert len(record.prompt_ids) == reply.usage.prompt_tokens
        for told, written in zip(reply.candidates, record.candidates, strict=True):
            assert written.text == told.text
            assert written.token_ids == tuple(told.token_ids)
            assert f"FINISH_REASON_{written.finish_reason}" == pb.FinishReason.Name(
                told.finish_reason
            )
        assert (record.checkpoint, record.checkpoint_digest) == ("base", reply.checkpoint_digest)
        assert (record.author, record.labels, record.request_id) == (
            "ada",
            {"team": "blue"},
            "call-1",
        )
        known = ("temperature", "seed", "max_tokens", "n", "top_p", "ignore_eos")
        assert [record.sampling[name] for name in known] == [0.5, 7, 6, 2, 1.0, False]
        assert list(record.sampling["stop"]) == ["§"]

    def test_a_stream_leaves_the_same_as_a_single_call(self, learning):
        spec = greedy("stream or not", 20)
        events = list(learning.stream(spec))
        streamed = kept(learning, events[0].started.generation_id)
        whole = kept(learning, learning.generate(spec).generation_id)
        assert streamed.candidates == whole.candidates
        assert streamed.sampling == {**whole.sampling, "seed": events[0].started.seed}

    def test_a_conversation(self, learning):
        turns = [
            pb.Message(role=pb.ROLE_SYSTEM, content="Be brief."),
            pb.Message(role=pb.ROLE_USER, content="你好 🌍"),
        ]
        spec = pb.GenerationSpec(
            chat=pb.Chat(messages=turns), sampling=pb.Sampling(temperature=0, max_tokens=3)
        )
        record = kept(learning, learning.generate(spec).generation_id)
        assert record.prompt == ""
        assert [(turn.role, turn.content) for turn in record.chat] == [
            (Role.SYSTEM, "Be brief."),
            (Role.USER, "你好 🌍"),
        ]

    def test_token_ids_are_told_as_text_too(self, learning):
        ids = kept(learning, learning.generate(greedy("Hello", 1)).generation_id).prompt_ids
        sampling = pb.Sampling(temperature=0, max_tokens=1)
        spec = pb.GenerationSpec(token_ids=pb.TokenIds(ids=ids), sampling=sampling)
        record = kept(learning, learning.generate(spec).generation_id)
        assert (record.prompt, record.prompt_ids) == ("Hello", ids)

    def test_every_final_message_comes_after_its_record(self, learning):
        with trainers_side(learning) as (client, keys):
            for number in range(20):
                generation_id = learning.generate(greedy(f"n {number}", 2)).generation_id
                assert client.exists(keys.generation(generation_id))

    def test_a_stream_that_is_cut_off_leaves_what_was_told(self, learning):
        stream = learning.stream(greedy("stop me", 400))
        generation_id = next(stream).started.generation_id
        text = next(stream).delta.text
        stream.cancel()
        (candidate,) = kept(learning, generation_id).candidates
        assert candidate.text.startswith(text)
        assert candidate.finish_reason == "CANCELLED"

    def test_what_gave_no_answer_leaves_nothing(self, learning):
        with trainers_side(learning) as (client, keys):
            before = client.zcard(keys.generations)
            caught(learning.generate, pb.GenerationSpec())
            assert client.zcard(keys.generations) == before


class Log:
    """Stands in for the store's: keeps when it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked_for: list[GenerationRecord] = []
        self.fault: Exception | None = None

    async def keep(self, record: GenerationRecord) -> bool:
        self.asked_for.append(record)
        await self.go.wait()
        if self.fault is not None:
            raise self.fault
        return True


@pytest.fixture
async def log():
    return Log()


@pytest.fixture
async def recorder(log):
    async def text_of(_ids: tuple[int, ...]) -> str:
        return "text"

    recorder = GenerationRecorder(log, text_of)
    yield recorder
    log.go.set()
    await recorder.aclose()


def asked(n: int = 1) -> Asked:
    request = GenerationRequest("gen-1", (1,), SamplingParams(5), "base", n=n)
    return Asked(pb.GenerationSpec(prompt="p"), request, ServedCheckpoint("base", ""), "", None)


def ended(*reasons: FinishReason) -> Finished:
    ends = tuple(CandidateEnd(index, reason) for index, reason in enumerate(reasons))
    return Finished("gen-1", ends, 1, 1, 0, 1.0, 1.0, 1.0)


def delta(text: str, index: int = 0) -> Delta:
    return Delta("gen-1", index, text, (len(text),))


async def test_a_store_that_never_answers_holds_up_no_answer(recorder, log, monkeypatch):
    monkeypatch.setattr(records, "PATIENCE_SECONDS", 0.001)
    with recorder.recording(asked()) as recording:
        recording.add([delta("a")])
        await recording.complete(ended(FinishReason.STOP))
    assert len(log.asked_for) == 1


async def test_the_end_waits_for_a_store_that_is_about_to_answer(recorder, log):
    with recorder.recording(asked()) as recording:
        completing = asyncio.create_task(recording.complete(ended(FinishReason.STOP)))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not completing.done()
        log.go.set()
        await completing


async def test_a_caller_who_leaves_takes_no_record_along(recorder, log):
    with recorder.recording(asked()) as recording:
        recording.add([delta("a")])
        completing = asyncio.create_task(recording.complete(ended(FinishReason.STOP)))
        await asyncio.sleep(0)
        completing.cancel()
        await asyncio.gather(completing, return_exceptions=True)
    log.go.set()
    await recorder.aclose()
    (record,) = log.asked_for
    assert (record.candidates[0].text, record.candidates[0].finish_reason) == ("a", "STOP")


async def test_a_fault_is_logged_and_not_raised(recorder, log, caplog):
    log.fault = RuntimeError("out of luck")
    log.go.set()
    with caplog.at_level(logging.ERROR), recorder.recording(asked()) as recording:
        await recording.complete(ended(FinishReason.STOP))
    await recorder.aclose()
    await asyncio.sleep(0)
    assert "out of luck" in caplog.text


async def test_candidates_are_put_together_from_their_pieces(recorder, log):
    log.go.set()
    with recorder.recording(asked(3)) as recording:
        recording.add([delta("a"), delta("x", 2)])
        recording.add([delta("bc"), delta("y", 2)])
        await recording.complete(ended(FinishReason.STOP, FinishReason.STOP, FinishReason.LENGTH))
    (record,) = log.asked_for
    assert [(one.text, one.token_ids, one.finish_reason) for one in record.candidates] == [
        ("abc", (1, 2), "STOP"),
        ("", (), "STOP"),
        ("xy", (1, 1), "LENGTH"),
    ]


async def test_cut_off_it_keeps_what_was_told_once(recorder, log):
    log.go.set()
    with recorder.recording(asked(2)) as recording:
        recording.add([delta("a", 1)])
    await recorder.aclose()
    (record,) = log.asked_for
    assert [(one.text, one.finish_reason) for one in record.candidates] == [
        ("", "CANCELLED"),
        ("a", "CANCELLED"),
    ]


async def test_cut_off_before_anything_was_told_it_keeps_nothing(recorder, log):
    with recorder.recording(asked()):
        pass
    await recorder.aclose()
    assert log.asked_for == []
