"""From what a caller asks to what the engine is given: checked, tokenised, defaults resolved."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import Literal

from google.protobuf.duration_pb2 import Duration

from learnback.v1 import inference_pb2 as pb
from learnback_server.catalog import Catalog, ServedCheckpoint
from learnback_server.engine.messages import GenerationRequest, SamplingParams
from learnback_server.engine.options import ModelFacts
from learnback_server.errors import (
    AcceptanceUnavailableError,
    ContextLengthError,
    QueueTimeoutError,
    Violation,
)
from learnback_server.ids import new_generation_id
from learnback_server.prompts import PromptReader
from learnback_server.validation import MAX_SEED, SpecCheck
from learnback_telemetry.context import TRACE_ID, ids_in_hand

# Smaller values would drive logits out of the range of float32. A temperature this low is greedy in
# all but name, and becomes so; a repetition penalty this low forbids nothing more when it falls.
LEAST_TEMPERATURE = 1e-5
LEAST_REPETITION_PENALTY = 1e-5
_NANOS = 1e-9


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the configuration says of requests that do not say it themselves."""

    max_tokens: int
    queue_timeout: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was found good: what goes to the engine, and what the reply repeats."""

    spec: pb.GenerationSpec
    request: GenerationRequest
    checkpoint: ServedCheckpoint
    request_id: str
    call_deadline: float | None
    """When the RPC itself ends, seconds of `time.monotonic()`. The engine has the earlier of this
    and `time_limit`; this tells which of them it was."""


class Intake:
    """Reads GenerationSpecs for one model.

    Args:
        facts: The model's bounds and sampling defaults.
        prompts: Tokenises inputs.
        catalog: The checkpoints that can answer.
        defaults: What the configuration adds.
    """

    def __init__(
        self, facts: ModelFacts, prompts: PromptReader, catalog: Catalog, defaults: Defaults
    ) -> None:
        self._facts = facts
        self._check = SpecCheck(facts)
        self._prompts = prompts
        self._catalog = catalog
        self._defaults = defaults

    async def read(
        self,
        spec: pb.GenerationSpec,
        arrived: float,
        call_deadline: float | None,
        *,
        streamed: bool = False,
    ) -> Asked:
        """Returns what is asked, with every default resolved.

        Args:
            spec: As it came.
            arrived: When it came, seconds of `time.monotonic()`.
            call_deadline: When the RPC ends, on the same clock; None for never.
            streamed: Whether the answer is told as it comes.

        Raises:
            BadCallError: The spec is malformed, or too long for the context.
            CheckpointNotFoundError: No checkpoint goes by that name.
            AcceptanceUnavailableError: Its answers can't be put in order by their acceptance.
            QueueTimeoutError: It waited too long for a checkpoint that is being exchanged.
        """
        self._check.check(spec, streamed=streamed)
        self._resolve(spec)  # or refuse it before the work of reading the prompt
        prompt_ids = await self._prompts.read(spec)
        wait = _seconds_of(spec, "queue_timeout")
        queue_deadline = arrived + (self._defaults.queue_timeout if wait is None else wait)
        await self._wait_for_swap(spec.checkpoint, queue_deadline)
        # Once more, because a swap may have come between; from here to the engine nothing waits.
        checkpoint = self._resolve(spec)
        max_tokens = self._max_tokens(spec, len(prompt_ids))
        limit = _seconds_of(spec, "time_limit")
        request = GenerationRequest(
            generation_id=new_generation_id(),
            prompt_ids=prompt_ids,
            sampling=resolve_sampling(spec.sampling, max_tokens, self._facts),
            checkpoint=checkpoint.name,
            n=spec.sampling.n if spec.sampling.HasField("n") else 1,
            scored=(spec.acceptance or spec.rerank) and checkpoint.scores,
            priority=spec.priority,
            arrived=arrived,
            queue_deadline=queue_deadline,
            deadline=_earliest(call_deadline, None if limit is None else arrived + limit),
            trace_id=ids_in_hand().get(TRACE_ID, ""),
        )
        return Asked(spec, request, checkpoint, spec.request_id, call_deadline)

    def _resolve(self, spec: pb.GenerationSpec) -> ServedCheckpoint:
        checkpoint = self._catalog.resolve(spec.checkpoint)
        if spec.rerank and not checkpoint.scores:
            raise AcceptanceUnavailableError(
                f"{checkpoint.name} has no acceptance head, so that rerank has nothing to go by; "
                "leave it out, or ask again when a checkpoint has learned from more feedback",
                checkpoint=checkpoint.name,
            )
        return checkpoint

    async def _wait_for_swap(self, checkpoint: str, until: float) -> None:
        """Waits while the checkpoint is exchanged for another, which counts as being queued."""
        try:
            async with asyncio.timeout(until - time.monotonic()):
                await self._catalog.settled(checkpoint)
        except TimeoutError:
            raise QueueTimeoutError(
                "its checkpoint was being exchanged for another all the time; try again later, "
                "or set a longer queue_timeout"
            ) from None

    def _max_tokens(self, spec: pb.GenerationSpec, prompt_tokens: int) -> int:
        context = self._facts.context_tokens
        room = context - prompt_tokens
        asked = spec.sampling.max_tokens if spec.sampling.HasField("max_tokens") else None
        if room >= (asked or 1):
            return asked or min(self._defaults.max_tokens, room)
        if room < 1:
            path = f"spec.{spec.WhichOneof('input')}"
            wrong = f"has {prompt_tokens} tokens, which leaves no room to answer"
        else:
            path = "spec.sampling.max_tokens"
            wrong = f"must be at most {room} beside {prompt_tokens} tokens of input, not {asked}"
        raise ContextLengthError(
            [Violation(path, f"{wrong}: the context has {context} tokens")],
            prompt_tokens=prompt_tokens,
            max_tokens=asked or 0,
            context_tokens=context,
        )


def resolve_sampling(asked: pb.Sampling, max_tokens: int, facts: ModelFacts) -> SamplingParams:
    """Returns how to sample: as asked, else as the model's generation configuration says."""
    given = {field.name: value for field, value in asked.ListFields()}
    temperature = given.get("temperature", facts.temperature)
    penalty = given.get("repetition_penalty", facts.repetition_penalty)
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature if temperature >= LEAST_TEMPERATURE else 0.0,
        top_p=given.get("top_p", facts.top_p),
        top_k=given.get("top_k", facts.top_k),
        min_p=given.get("min_p", facts.min_p),
        repetition_penalty=max(penalty, LEAST_REPETITION_PENALTY),
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        seed=given["seed"] if "seed" in given else secrets.randbelow(MAX_SEED + 1),
        stop=tuple(asked.stop),
        logprobs=given.get("logprobs"),
        ignore_eos=asked.ignore_eos,
    )


def _seconds_of(
    spec: pb.GenerationSpec, name: Literal["queue_timeout", "time_limit"]
) -> float | None:
    if not spec.HasField(name):
        return None
    duration: Duration = getattr(spec, name)
    return duration.seconds + duration.nanos * _NANOS


def _earliest(*times: float | None) -> float | None:
    return min((time for time in times if time is not None), default=None)
