"""Generating, whole and streamed, by both clients."""

from __future__ import annotations

import pytest

from learnback_client import (
    Cancelled,
    ChatMessage,
    Delta,
    Finished,
    FinishReason,
    LearnbackError,
    Role,
    Started,
)
from tests.client.double import DIGEST, PIECES, TEXT, wait_until


def test_a_reply_tells_all_that_the_contract_tells(client):
    reply = client.generate("Tell me.", logprobs=1, seed=0)
    assert reply.text == TEXT
    assert reply.generation_id == reply.candidates[0].generation_id == "gen-1"
    assert reply.finish_reason is FinishReason.STOP
    assert (reply.checkpoint, reply.checkpoint_digest) == ("ckpt-2", DIGEST)
    assert reply.usage.prompt_tokens == 3
    assert reply.usage.cached_tokens == 1
    assert (reply.timings.first_token, reply.timings.total) == (0.02, 1.5)
    assert reply.seed == 0
    assert reply.request_id
    position = reply.candidates[0].logprobs[-1]
    assert position.token.decode() == PIECES[-1]
    assert position.top[0].logprob == -0.25
    assert reply.raw.candidates[0].text == TEXT


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        [("system", "Be brief."), ("user", "Hi")],
        (ChatMessage(Role.SYSTEM, "Be brief."), ChatMessage(Role.USER, "Hi")),
    ],
)
def test_messages_come_in_three_forms(client, server, messages):
    client.generate(messages=messages)
    sent = server.last.request.spec.chat.messages
    assert [(each.role, each.content) for each in sent] == [(1, "Be brief."), (2, "Hi")]


def test_tokens_and_the_rest_of_the_spec(client, server):
    client.generate(
        token_ids=[0, 5],
        checkpoint="canary",
        author="ann",
        labels={"team": "a"},
        request_id="mine",
        priority=-3,
        queue_timeout=0.5,
        time_limit=2,
        stop="\n",
    )
    spec = server.last.request.spec
    assert list(spec.token_ids.ids) == [0, 5]
    assert (spec.checkpoint, spec.author, dict(spec.labels)) == ("canary", "ann", {"team": "a"})
    assert (spec.request_id, spec.priority) == ("mine", -3)
    assert (spec.queue_timeout.nanos, spec.time_limit.seconds) == (500_000_000, 2)
    assert list(spec.sampling.stop) == ["\n"]


SCALARS = {
    "temperature": 0.0,
    "top_p": 0.5,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "seed": 0,
    "max_tokens": 1,
    "logprobs": 0,
    "n": 1,
    "ignore_eos": False,
}


@pytest.mark.parametrize("name", SCALARS)
def test_zero_is_set_and_none_is_not(client, server, name):
    client.generate("a", **{name: SCALARS[name]})
    sampling = server.last.request.spec.sampling
    assert [each.name for each, _ in sampling.ListFields()] == [name]
    client.generate("a", **{name: None})
    assert not server.last.request.spec.HasField("sampling")


def test_a_stream_is_started_deltas_finished(client):
    events = list(client.stream("a"))
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert all(isinstance(each, Delta) for each in events[1:-1])
    assert tuple(each.text for each in events[1:-1]) == PIECES
    assert events[-1].finish_reasons == (FinishReason.STOP,)


@pytest.mark.parametrize(
    "options", [{}, {"logprobs": 2}, {"n": 3, "logprobs": 0}, {"n": 3, "acceptance": True}]
)
def test_a_stream_ends_in_the_reply_of_the_single_call(client, options):
    stream = client.stream("a", request_id="r", **options)
    assert stream.generation_id == ""
    assert "".join(stream.text) == TEXT
    assert stream.generation_id == "gen-1"
    assert stream.result() == client.generate("a", request_id="r", **options)


def test_result_reads_what_is_left(client):
    stream = client.stream("a")
    assert isinstance(next(stream), Started)
    assert next(stream).text == PIECES[0]
    assert stream.result().text == TEXT
    with pytest.raises(StopIteration):
        next(stream)


def test_acceptance_is_told_where_it_is_asked_for(client, server):
    assert [one.acceptance for one in client.generate("a", n=2).candidates] == [None, None]
    assert not server.last.request.spec.HasField("acceptance")
    asked = client.generate("a", n=2, acceptance=True)
    assert [one.acceptance for one in asked.candidates] == [1 / 8, 2 / 8]
    *_, finished = client.stream("a", n=2, acceptance=True)
    assert finished.acceptances == (1 / 8, 2 / 8)


def test_a_reranked_reply_is_its_best_answer(client, server):
    reply = client.generate("a", n=3, rerank=True)
    assert [one.index for one in reply.candidates] == [2, 1, 0]
    assert reply.text == reply.candidates[0].text
    client.rate(reply, "up")
    assert server.last.request.generation.candidate == 2


def test_a_closed_stream_has_no_result(client, server):
    server.hang_after = 1
    stream = client.stream("a")
    next(stream)
    stream.close()
    stream.close()
    assert wait_until(server.cancelled.is_set)
    with pytest.raises(Cancelled):
        stream.result()
    with pytest.raises(Cancelled):
        next(stream)


def test_a_stream_fails_with_a_typed_error(client, server):
    server.hang_after = 2
    stream = client.stream("a", timeout=0.3)
    seen = []
    with pytest.raises(LearnbackError) as caught:
        seen.extend(stream.text)
    assert tuple(seen) == PIECES[:2]
    assert caught.value.code.name == "DEADLINE_EXCEEDED"
