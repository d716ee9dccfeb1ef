"""The calls of InferenceService, and what is asked by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from learnback.v1 import inference_pb2
from learnback_client import checks
from learnback_client.call import Call, request_id
from learnback_client.errors import invalid
from learnback_client.generation import Event, Reply, read_event, read_reply
from learnback_client.messages import write_chat
from learnback_client.options import GenerationOptions, SamplingOptions, refuse_unknown

_SERVICE = "/learnback.v1.InferenceService/"
# How much longer than `time_limit` a call may take, so that its answer arrives before the deadline.
_TIME_LIMIT_SLACK_S = 10.0


def generate(
    prompt: str | None, options: GenerationOptions
) -> Call[inference_pb2.GenerateResponse, Reply]:
    """Generate."""
    spec = _build_spec(prompt, options)
    return Call(
        _SERVICE + "Generate",
        inference_pb2.GenerateRequest(spec=spec),
        inference_pb2.GenerateResponse,
        read_reply,
        options.get("timeout"),
        _least_timeout(spec),
        spec.request_id,
    )


def stream(
    prompt: str | None, options: GenerationOptions
) -> Call[inference_pb2.GenerateStreamResponse, Event | None]:
    """GenerateStream."""
    spec = _build_spec(prompt, options)
    return Call(
        _SERVICE + "GenerateStream",
        inference_pb2.GenerateStreamRequest(spec=spec),
        inference_pb2.GenerateStreamResponse,
        read_event,
        options.get("timeout"),
        _least_timeout(spec),
        spec.request_id,
    )


def _least_timeout(spec: inference_pb2.GenerationSpec) -> float:
    if not spec.HasField("time_limit"):
        return 0.0
    return spec.time_limit.ToTimedelta().total_seconds() + _TIME_LIMIT_SLACK_S


def _seed(field: str, value: object) -> int:
    return checks.integer(field, value, 0, checks.SEED_MAX)


def _stops(field: str, value: object) -> list[str]:
    if isinstance(value, str):
        return [checks.text(field, value)]
    if not isinstance(value, Sequence):
        raise invalid(field, f"must be a string or a list of strings, not {type(value).__name__}")
    return [checks.text(f"{field}[{i}]", each) for i, each in enumerate(value)]


_SAMPLING: dict[str, Callable[[str, object], object]] = {
    "temperature": checks.real,
    "top_p": checks.real,
    "top_k": checks.integer,
    "min_p": checks.real,
    "repetition_penalty": checks.real,
    "presence_penalty": checks.real,
    "frequency_penalty": checks.real,
    "seed": _seed,
    "max_tokens": checks.integer,
    "stop": _stops,
    "logprobs": checks.integer,
    "n": checks.integer,
    "ignore_eos": checks.flag,
}
_ABOUT: dict[str, Callable[[str, object], object]] = {
    "checkpoint": checks.text,
    "author": checks.text,
    "labels": lambda _, value: checks.labels(value),
    "request_id": checks.text,
    "priority": checks.integer,
    "queue_timeout": checks.duration,
    "time_limit": checks.duration,
    "acceptance": checks.flag,
    "rerank": checks.flag,
}


def _build_spec(prompt: str | None, options: GenerationOptions) -> inference_pb2.GenerationSpec:
    refuse_unknown(options, GenerationOptions.__optional_keys__)
    given: dict[str, Any] = {**options, "request_id": request_id(options.get("request_id"))}
    spec = inference_pb2.GenerationSpec(**_checked(_ABOUT, given))
    sampling = _build_sampling(options)
    if sampling is not None:
        spec.sampling.CopyFrom(sampling)
    _put_input(spec, prompt, options)
    return spec


def _build_sampling(options: SamplingOptions) -> inference_pb2.Sampling | None:
    fields = _checked(_SAMPLING, dict(options))
    return inference_pb2.Sampling(**fields) if fields else None


def _checked(
    table: dict[str, Callable[[str, object], object]], given: dict[str, Any]
) -> dict[str, Any]:
    """Returns the arguments that are set, each checked as the table says."""
    return {
        name: check(name, given[name])
        for name, check in table.items()
        if given.get(name) is not None
    }


def _put_input(
    spec: inference_pb2.GenerationSpec, prompt: str | None, options: GenerationOptions
) -> None:
    messages, token_ids = options.get("messages"), options.get("token_ids")
    inputs = {"prompt": prompt, "messages": messages, "token_ids": token_ids}
    given = [name for name, value in inputs.items() if value is not None]
    if len(given) != 1:
        found = " and ".join(given) if given else "none"
        raise invalid(
            given[-1] if given else "prompt",
            f"exactly one of prompt, messages and token_ids is required, not {found}",
        )
    if prompt is not None:
        spec.prompt = checks.text("prompt", prompt)
    if messages is not None:
        spec.chat.CopyFrom(write_chat("messages", messages))
    if token_ids is not None:
        spec.token_ids.CopyFrom(_write_tokens(token_ids))


def _write_tokens(token_ids: object) -> inference_pb2.TokenIds:
    if isinstance(token_ids, str | bytes) or not isinstance(token_ids, Sequence):
        raise invalid("token_ids", f"must be a list of integers, not {type(token_ids).__name__}")
    return inference_pb2.TokenIds(
        ids=[checks.integer(f"token_ids[{i}]", each) for i, each in enumerate(token_ids)]
    )
