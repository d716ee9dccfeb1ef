"""Answers: what comes back over gRPC is what was asked for."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from google.protobuf.duration_pb2 import Duration
from transformers import AutoModelForCausalLM

from learnback.v1 import inference_pb2 as pb
from tests.server.running import endless, greedy, wait_until

STREAMS = 24


def joined(events: list[pb.GenerateStreamResponse], index: int = 0) -> tuple[str, list[int]]:
    deltas = [event.delta for event in events if event.WhichOneof("event") == "delta"]
    mine = [delta for delta in deltas if delta.index == index]
    return "".join(delta.text for delta in mine), [i for delta in mine for i in delta.token_ids]


def test_a_stream_says_what_the_whole_answer_says(server):
    spec = greedy("the same twice", 60)
    whole = server.generate(spec)
    events = list(server.stream(spec))
    assert joined(events) == (whole.candidates[0].text, list(whole.candidates[0].token_ids))
    assert events[-1].finished.usage.completion_tokens == whole.usage.completion_tokens == 60
    assert events[-1].finished.candidates[0].finish_reason == whole.candidates[0].finish_reason


def test_a_stream_is_started_then_deltas_then_finished(server):
    spec = greedy("in order", 20, request_id="call 7")
    kinds = [event.WhichOneof("event") for event in server.stream(spec)]
    assert kinds[0] == "started"
    assert kinds[-1] == "finished"
    assert set(kinds[1:-1]) == {"delta"}


def test_greedy_is_what_transformers_generates(server):
    prompt = "compare with the reference"
    reference = AutoModelForCausalLM.from_pretrained(server.config.model, dtype=torch.float32)
    ids = server.app.model.tokenizer(prompt, return_tensors="pt").input_ids
    with torch.inference_mode():
        output = reference.generate(
            ids, max_new_tokens=50, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    answer = server.generate(greedy(prompt, 50)).candidates[0]
    assert list(answer.token_ids) == output[0, ids.shape[1] :].tolist()


def test_a_chat_is_rendered_by_the_template(server):
    turns = [
        pb.Message(role=pb.ROLE_SYSTEM, content="Be brief."),
        pb.Message(role=pb.ROLE_USER, content="你好"),
        pb.Message(role=pb.ROLE_ASSISTANT, content="你好!"),
        pb.Message(role=pb.ROLE_USER, content="Why?"),
    ]
    text = (
        "<|system|>Be brief.<|end|><|user|>你好<|end|><|assistant|>你好!<|end|><|user|>Why?<|end|>"
    )
    prompt = greedy(text + "<|assistant|>", 20)
    chat = pb.GenerationSpec(chat=pb.Chat(messages=turns), sampling=prompt.sampling)
    answers = [server.generate(spec) for spec in (prompt, chat)]
    assert answers[0].usage.prompt_tokens == answers[1].usage.prompt_tokens
    assert answers[0].candidates[0].token_ids == answers[1].candidates[0].token_ids


def test_token_ids_are_continued_as_they_stand(server):
    text = greedy("bytes are ids", 20)
    ids = server.app.model.tokenizer("bytes are ids").input_ids
    same = pb.GenerationSpec(token_ids=pb.TokenIds(ids=ids), sampling=text.sampling)
    assert server.generate(same).candidates == server.generate(text).candidates


def test_a_long_prompt_is_tokenised_like_a_short_one(narrow):
    # Beyond the bound up to which the event loop does it itself.
    spec = greedy("all the same " * 500, 4)
    assert narrow.generate(spec).usage.prompt_tokens == len("all the same ") * 500


def test_an_unset_seed_is_fresh_and_told_and_reproduces(server):
    asked = pb.Sampling(temperature=1, max_tokens=30, ignore_eos=True)
    first = server.generate(pb.GenerationSpec(prompt="by chance", sampling=asked))
    second = server.generate(pb.GenerationSpec(prompt="by chance", sampling=asked))
    assert first.seed != second.seed
    asked.seed = first.seed
    again = server.generate(pb.GenerationSpec(prompt="by chance", sampling=asked))
    assert again.seed == first.seed
    assert again.candidates == first.candidates
    assert second.candidates != first.candidates


def test_a_seed_of_zero_is_a_seed(server):
    asked = pb.Sampling(temperature=1, max_tokens=5, seed=0)
    assert server.generate(pb.GenerationSpec(prompt="zero", sampling=asked)).seed == 0


def test_candidates_differ_and_come_by_index(server):
    asked = pb.Sampling(temperature=1, max_tokens=20, n=8, ignore_eos=True, seed=1)
    spec = pb.GenerationSpec(prompt="eight of them", sampling=asked)
    whole = server.generate(spec)
    assert [candidate.index for candidate in whole.candidates] == list(range(8))
    assert len({candidate.text for candidate in whole.candidates}) > 1
    assert whole.usage.completion_tokens == 160
    events = list(server.stream(spec))
    for candidate in whole.candidates:
        assert joined(events, candidate.index) == (candidate.text, list(candidate.token_ids))
    assert [end.index for end in events[-1].finished.candidates] == list(range(8))


def test_a_stop_string_ends_the_answer_and_is_not_in_it(server):
    whole = server.generate(greedy("stop me", 80)).candidates[0]
    stop = whole.text[20:23]
    spec = greedy("stop me", 80)
    spec.sampling.stop.append(stop)
    stopped = server.generate(spec).candidates[0]
    assert stopped.finish_reason == pb.FINISH_REASON_STOP
    assert stopped.matched_stop == stop
    assert stopped.text == whole.text[: whole.text.index(stop)]


@pytest.mark.parametrize("count", [0, 3])
def test_logprobs_stand_beside_their_tokens(server, count):
    spec = greedy("how likely", 12)
    spec.sampling.logprobs = count
    answer = server.generate(spec).candidates[0]
    assert [entry.token_id for entry in answer.logprobs] == list(answer.token_ids)
    assert all(len(entry.top) == count and entry.logprob <= 0 for entry in answer.logprobs)
    if count:  # greedy takes the likeliest
        assert all(entry.top[0].token_id == entry.token_id for entry in answer.logprobs)


def test_no_logprobs_unless_asked(server):
    assert not server.generate(greedy("no figures", 5)).candidates[0].logprobs


def test_the_answer_bears_checkpoint_digest_and_request_id(server):
    facts = server.app.model.facts
    for name in ("", "live", facts.checkpoint):
        reply = server.generate(greedy("who made you", 3, checkpoint=name, request_id="r-1"))
        assert (reply.checkpoint, reply.checkpoint_digest) == (facts.checkpoint, facts.digest)
        assert reply.request_id == "r-1"
    started = next(iter(server.stream(greedy("who made you", 3, request_id="r-2")))).started
    assert (started.checkpoint, started.checkpoint_digest) == (facts.checkpoint, facts.digest)
    assert started.request_id == "r-2"
    assert started.prompt_tokens == len("who made you")


def test_generation_ids_sort_by_time(server):
    ids = []
    for _ in range(3):
        ids.append(server.generate(greedy("next", 1)).generation_id)
        time.sleep(0.002)  # ids of one millisecond are in no order
    assert ids == sorted(ids)
    assert len(set(ids)) == 3
    assert all(generation_id.startswith("gen-") for generation_id in ids)


def test_max_tokens_defaults_to_the_configuration_and_the_room_left(server):
    sampling = pb.Sampling(temperature=0, ignore_eos=True)
    prompt = "x" * 412
    reply = server.generate(pb.GenerationSpec(prompt=prompt, sampling=sampling))
    assert reply.usage.completion_tokens == 100
    assert reply.candidates[0].finish_reason == pb.FINISH_REASON_LENGTH


def test_the_whole_context_can_be_used(server):
    reply = server.generate(greedy("x" * 12, 500))
    assert reply.usage.prompt_tokens + reply.usage.completion_tokens == 512


def test_a_prompt_seen_before_comes_from_the_cache(server):
    spec = greedy("a prompt that fills several pages of the cache, so that it is worth keeping", 4)
    first, second = server.generate(spec), server.generate(spec)
    assert second.usage.cached_tokens > first.usage.cached_tokens
    assert second.candidates == first.candidates


def test_timings_add_up(server):
    timings = server.generate(greedy("how long", 10)).timings
    queue, first, total = (
        part.ToNanoseconds()
        for part in (timings.queue_duration, timings.time_to_first_token, timings.total_duration)
    )
    assert 0 <= queue <= first <= total


def test_time_limit_ends_well_with_what_there_is(narrow):
    reply = narrow.generate(endless(time_limit=Duration(nanos=200_000_000)))
    assert reply.candidates[0].finish_reason == pb.FINISH_REASON_DEADLINE
    assert len(reply.candidates[0].token_ids) == reply.usage.completion_tokens
    narrow.wait_until_idle()


def test_time_limit_in_the_queue_ends_well_with_nothing(narrow):
    running = narrow.stream(endless())
    next(running)
    events = list(narrow.stream(endless(time_limit=Duration(nanos=50_000_000))))
    running.cancel()
    assert [event.WhichOneof("event") for event in events] == ["started", "finished"]
    assert events[1].finished.candidates[0].finish_reason == pb.FINISH_REASON_DEADLINE
    assert not events[1].finished.timings.HasField("time_to_first_token")
    narrow.wait_until_idle()


def test_priority_goes_first(narrow):
    running = narrow.stream(endless())
    next(running)
    order: list[str] = []

    def ask(name: str, priority: int, tokens: int) -> None:
        narrow.generate(greedy(name, tokens, priority=priority))
        order.append(name)

    with ThreadPoolExecutor(2) as threads:
        # So long that its end can't be taken for that of the other one.
        low = threads.submit(ask, "low", -5, 500)
        wait_until(lambda: narrow.engine.stats().waiting == 1)
        high = threads.submit(ask, "high", 5, 1)
        wait_until(lambda: narrow.engine.stats().waiting == 2)
        running.cancel()
        low.result()
        high.result()
    assert order == ["high", "low"]


def test_many_streams_at_once_each_get_their_own(server):
    specs = [greedy(f"stream {i}", 20 + i) for i in range(STREAMS)]
    alone = [server.generate(spec).candidates[0].text for spec in specs]
    with ThreadPoolExecutor(STREAMS) as threads:
        together = list(threads.map(lambda spec: joined(list(server.stream(spec)))[0], specs))
    assert together == alone
    server.wait_until_idle()
    assert server.engine.stats().pages_used == 0
