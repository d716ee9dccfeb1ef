"""From a spec to a request: what the table of malformed requests does not reach."""

from __future__ import annotations

import dataclasses

import pytest

from learnback.v1 import inference_pb2 as pb
from learnback_server.engine.options import ModelFacts
from learnback_server.errors import InvalidFieldError
from learnback_server.intake import (
    LEAST_REPETITION_PENALTY,
    LEAST_TEMPERATURE,
    resolve_sampling,
)
from learnback_server.prompts import PromptReader
from learnback_server.validation import SpecCheck
from tests.tiny import byte_tokenizer

FACTS = ModelFacts(
    name="tiny",
    checkpoint="base",
    digest="",
    vocab_size=260,
    context_tokens=512,
    has_chat_template=True,
    temperature=0.6,
    top_p=0.95,
    top_k=20,
    min_p=0.1,
    repetition_penalty=1.5,
)
CHAT = pb.GenerationSpec(
    chat=pb.Chat(messages=[pb.Message(role=pb.ROLE_USER, content="Hi")]),
)


def test_what_is_unset_takes_the_default_of_the_model():
    params = resolve_sampling(pb.Sampling(), 5, FACTS)
    assert (params.temperature, params.top_p, params.top_k) == (0.6, 0.95, 20)
    assert (params.min_p, params.repetition_penalty) == (0.1, 1.5)
    assert (params.presence_penalty, params.frequency_penalty) == (0, 0)
    assert (params.max_tokens, params.logprobs, params.ignore_eos) == (5, None, False)


def test_what_is_set_to_zero_is_set():
    asked = pb.Sampling(temperature=0, top_k=0, min_p=0, logprobs=0, seed=0)
    params = resolve_sampling(asked, 5, FACTS)
    assert (params.temperature, params.top_k, params.min_p) == (0, 0, 0)
    assert (params.logprobs, params.seed) == (0, 0)


def test_fresh_seeds_are_fresh_and_within_the_contract():
    seeds = {resolve_sampling(pb.Sampling(), 5, FACTS).seed for _ in range(50)}
    assert len(seeds) == 50
    assert all(0 <= seed < 2**53 for seed in seeds)


def test_values_too_small_for_float32_are_rounded_to_what_they_mean():
    asked = pb.Sampling(temperature=1e-38, repetition_penalty=1e-38)
    params = resolve_sampling(asked, 5, FACTS)
    assert params.temperature == 0
    assert params.repetition_penalty == LEAST_REPETITION_PENALTY
    assert resolve_sampling(pb.Sampling(temperature=1e-4), 5, FACTS).temperature > LEAST_TEMPERATURE


def test_a_chat_needs_a_template():
    plain = dataclasses.replace(FACTS, has_chat_template=False)
    with pytest.raises(InvalidFieldError, match=r"spec\.chat: this model has no chat template"):
        SpecCheck(plain).check(CHAT)
    SpecCheck(plain).check(pb.GenerationSpec(prompt="Hi"))


async def test_what_the_template_refuses_is_told():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InvalidFieldError, match=r"spec\.chat\.messages: .*roles must alternate"):
        await PromptReader(tokenizer, FACTS).read(CHAT)


async def test_a_prompt_of_which_no_token_is_left_is_refused():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{# says nothing #}"
    with pytest.raises(InvalidFieldError, match=r"spec\.chat: must give at least one token"):
        await PromptReader(tokenizer, FACTS).read(CHAT)


@pytest.mark.parametrize("chars", [10, 5000])
async def test_text_is_tokenised_alike_inline_and_beside_the_loop(chars):
    tokenizer = byte_tokenizer()
    text = "ü" * chars
    ids = await PromptReader(tokenizer, FACTS).read(pb.GenerationSpec(prompt=text))
    assert list(ids) == tokenizer(text).input_ids
