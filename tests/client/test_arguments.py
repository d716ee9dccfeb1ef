"""Arguments that the contract can't carry are refused by name before any network."""

from __future__ import annotations

import math

import pytest

from learnback_client import (
    AnswerText,
    Correction,
    Exchange,
    GenerationRef,
    InvalidRequest,
)

HALF = "half \ud83d of an emoji"
CHAT = [("user", "Hi")]

BAD_GENERATIONS = {
    "nothing asked": ({}, "prompt"),
    "two inputs": ({"prompt": "a", "messages": CHAT}, "messages"),
    "three inputs": ({"prompt": "a", "messages": CHAT, "token_ids": [1]}, "token_ids"),
    "prompt of bytes": ({"prompt": b"a"}, "prompt"),
    "prompt with a lone surrogate": ({"prompt": HALF}, "prompt"),
    "messages as one string": ({"messages": "Hi"}, "messages"),
    "messages as one message": ({"messages": {"role": "user", "content": "a"}}, "messages"),
    "message without content": ({"messages": [{"role": "user"}]}, "messages[0]"),
    "message with a name": (
        {"messages": [{"role": "user", "content": "a", "name": "b"}]},
        "messages[0]",
    ),
    "message as a string": ({"messages": [*CHAT, "Hi"]}, "messages[1]"),
    "unknown role": ({"messages": [("tool", "a")]}, "messages[0].role"),
    "unspecified role": ({"messages": [("unspecified", "a")]}, "messages[0].role"),
    "role of a wrong type": ({"messages": [(1, "a")]}, "messages[0].role"),
    "content in parts": ({"messages": [("user", ["a"])]}, "messages[0].content"),
    "content with a lone surrogate": ({"messages": [("user", HALF)]}, "messages[0].content"),
    "tokens as a string": ({"token_ids": "12"}, "token_ids"),
    "tokens of floats": ({"token_ids": [1, 2.0]}, "token_ids[1]"),
    "token over 31 bits": ({"token_ids": [2**31]}, "token_ids[0]"),
    "temperature as a string": ({"prompt": "a", "temperature": "hot"}, "temperature"),
    "temperature as a bool": ({"prompt": "a", "temperature": True}, "temperature"),
    "temperature not a number": ({"prompt": "a", "temperature": math.nan}, "temperature"),
    "infinite top_p": ({"prompt": "a", "top_p": math.inf}, "top_p"),
    "top_k as a float": ({"prompt": "a", "top_k": 1.5}, "top_k"),
    "seed below zero": ({"prompt": "a", "seed": -1}, "seed"),
    "seed over 53 bits": ({"prompt": "a", "seed": 2**53}, "seed"),
    "max_tokens over 31 bits": ({"prompt": "a", "max_tokens": 2**31}, "max_tokens"),
    "n below 32 bits": ({"prompt": "a", "n": -(2**31) - 1}, "n"),
    "n as a bool": ({"prompt": "a", "n": True}, "n"),
    "logprobs as a bool": ({"prompt": "a", "logprobs": True}, "logprobs"),
    "ignore_eos as a number": ({"prompt": "a", "ignore_eos": 1}, "ignore_eos"),
    "acceptance as a number": ({"prompt": "a", "acceptance": 1}, "acceptance"),
    "rerank as a string": ({"prompt": "a", "rerank": "yes"}, "rerank"),
    "stop of numbers": ({"prompt": "a", "stop": [1]}, "stop[0]"),
    "stop as a number": ({"prompt": "a", "stop": 1}, "stop"),
    "stop with a lone surrogate": ({"prompt": "a", "stop": ["b", HALF]}, "stop[1]"),
    "labels as a list": ({"prompt": "a", "labels": ["b"]}, "labels"),
    "label that is no string": ({"prompt": "a", "labels": {"b": 1}}, "labels['b']"),
    "checkpoint that is no string": ({"prompt": "a", "checkpoint": 1}, "checkpoint"),
    "author with a lone surrogate": ({"prompt": "a", "author": HALF}, "author"),
    "request_id of bytes": ({"prompt": "a", "request_id": b"x"}, "request_id"),
    "priority as a string": ({"prompt": "a", "priority": "high"}, "priority"),
    "queue_timeout not a number": ({"prompt": "a", "queue_timeout": math.nan}, "queue_timeout"),
    "time_limit of ages": ({"prompt": "a", "time_limit": 1e300}, "time_limit"),
    "timeout of zero": ({"prompt": "a", "timeout": 0}, "timeout"),
    "timeout not a number": ({"prompt": "a", "timeout": math.nan}, "timeout"),
}

BAD_FEEDBACK = {
    "critique of nothing": (("critique", "", "a"), "about"),
    "critique of a wrong type": (("critique", 3, "a"), "about"),
    "critique that is no string": (("critique", "gen-1", 3), "critique"),
    "critique with a lone surrogate": (("critique", "gen-1", HALF), "critique"),
    "candidate that is no number": (("critique", GenerationRef("g", "0"), "a"), "about.candidate"),
    "exchange without input": (("critique", Exchange("a"), "b"), "about"),
    "exchange with two inputs": (("critique", Exchange("a", "b", CHAT), "b"), "about"),
    "exchange with a wrong role": (
        ("critique", Exchange("a", messages=[("me", "b")]), "b"),
        "about.messages[0].role",
    ),
    "rating by an unknown thumb": (("rate", "gen-1", "sideways"), "score"),
    "rating that is no number": (("rate", "gen-1", math.nan), "score"),
    "rating by a bool": (("rate", "gen-1", True), "score"),
    "preference between texts": (("prefer", AnswerText("a"), AnswerText("b")), "over"),
    "preference between exchanges": (("prefer", Exchange("a", "b"), Exchange("c", "b")), "better"),
    "preference over nothing": (("prefer", "gen-1", ""), "over"),
    "signal of a wrong type": (("submit_feedback", "gen-1", "bad"), "signal"),
    "feedback without an id": (("get_feedback", ""), "feedback_id"),
    "author without a name": (("erase_author", ""), "author"),
    "checkpoint without a name": (("get_checkpoint", ""), "checkpoint"),
    "promotion of nothing": (("promote_checkpoint", None), "checkpoint"),
}

BAD_CONNECTIONS = {
    "address with a scheme of the web": ({"address": "http://example.org"}, "address"),
    "address without a port": ({"address": "example.org"}, "address"),
    "timeout below zero": ({"timeout": -1}, "timeout"),
    "timeout as a string": ({"timeout": "5"}, "timeout"),
    "token with a line break": ({"token": "a\nb"}, "token"),
    "token in plaintext to another machine": (
        {"address": "example.org:1", "token": "a"},
        "token",
    ),
    "authorities that are not there": ({"ca_file": "/nonexistent.pem"}, "ca_file"),
}


def field_of(caught) -> str:
    (violation,) = caught.value.violations
    assert caught.value.message == f"{violation.field}: {violation.description}"
    assert caught.value.reason == "INVALID_FIELD"
    assert caught.value.code.name == "INVALID_ARGUMENT"
    return violation.field


@pytest.fixture
def nowhere(connect):
    """A client of no server: whatever reaches the network fails otherwise than expected."""
    return connect("127.0.0.1:1")


@pytest.mark.parametrize("method", ["generate", "stream"])
@pytest.mark.parametrize("case", BAD_GENERATIONS)
def test_bad_generations(nowhere, method, case):
    arguments, field = BAD_GENERATIONS[case]
    with pytest.raises(InvalidRequest) as caught:
        getattr(nowhere, method)(**arguments)
    assert field_of(caught) == field


@pytest.mark.parametrize("case", BAD_FEEDBACK)
def test_bad_feedback(nowhere, case):
    (method, *arguments), field = BAD_FEEDBACK[case]
    with pytest.raises(InvalidRequest) as caught:
        getattr(nowhere, method)(*arguments)
    assert field_of(caught) == field


@pytest.mark.parametrize("method", ["list_feedback", "list_checkpoints"])
@pytest.mark.parametrize("states", ["learned", ["lost"], 3])
def test_bad_states_are_refused_before_the_first_item(nowhere, method, states):
    with pytest.raises(InvalidRequest) as caught:
        getattr(nowhere, method)(states=states)
    assert field_of(caught) == "states"


@pytest.mark.parametrize("case", BAD_CONNECTIONS)
def test_bad_connections(connect, case):
    options, field = BAD_CONNECTIONS[case]
    address = options.get("address", "127.0.0.1:1")
    with pytest.raises(InvalidRequest) as caught:
        connect(address, **{k: v for k, v in options.items() if k != "address"})
    assert field_of(caught) == field


def test_unknown_keywords_are_refused_as_python_does(nowhere):
    with pytest.raises(TypeError, match="did you mean 'temperature'"):
        nowhere.generate("a", temprature=1)
    with pytest.raises(TypeError, match="'wait'"):
        nowhere.submit_feedback("gen-1", Correction("a"), wait=1)
