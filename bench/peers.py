"""The contenders that run transformers itself: one at a time, static batches, its own batching.

Each runs in a process of its own that holds nothing else, calls the library directly (no server, no
network, which is to their advantage), and decodes greedily to the exact length asked for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    ContinuousBatchingConfig,
    GenerationConfig,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.utils import logging as transformers_logging

from bench.figures import Trace
from bench.workload import Task, Workload

Network = Any
"""A causal language model of transformers, whose `generate` and batching have no types."""

BFLOAT16_WIDTH = 512
"""Hidden size from which the server runs in bfloat16 on a CPU that multiplies it natively."""

NO_TOKEN = -1
"""An end-of-sequence id that never comes, so that every answer has its full length."""

PAGE_TOKENS = {"cpu": 32, "cuda": 256}
"""For transformers' batching: the best of 16, 32, 128 and 256 on the CPU of the report, and its
default on a GPU."""


def load(model: str, threads: int, device: str) -> Network:
    """Loads a model as the server does, with the same type of weights and number of threads."""
    torch.set_num_threads(threads)
    transformers_logging.set_verbosity_error()  # it warns of `NO_TOKEN` at every call
    config = AutoConfig.from_pretrained(model)
    wide = device != "cpu" or config.hidden_size >= BFLOAT16_WIDTH
    dtype = torch.bfloat16 if wide else torch.float32
    network: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()
    return network.to(device)


class Clock(StoppingCriteria):
    """Notes when each step of `generate` ended."""

    def __init__(self) -> None:
        """Starts with no step."""
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Notes the time; stops nobody."""
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def one_at_a_time(network: Network, workload: Workload) -> list[Trace]:
    """`model.generate` for each request, in order of arrival."""
    return [trace for task in workload.tasks for trace in _generate(network, (task,))]


def static_batches(network: Network, workload: Workload) -> list[Trace]:
    """`model.generate` on batches of as many requests as there are streams, padded on the left."""
    tasks, size = workload.tasks, workload.streams
    batches = [tasks[start : start + size] for start in range(0, len(tasks), size)]
    return [trace for batch in batches for trace in _generate(network, batch)]


def _generate(network: Network, tasks: tuple[Task, ...]) -> Iterator[Trace]:
    width = max(len(task.prompt_ids) for task in tasks)
    ids = torch.zeros(len(tasks), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, task in enumerate(tasks):
        ids[i, width - len(task.prompt_ids) :] = torch.tensor(task.prompt_ids)
        mask[i, width - len(task.prompt_ids) :] = 1
    clock = Clock()
    sent = time.perf_counter()
    network.generate(
        ids.to(network.device),
        attention_mask=mask.to(network.device),
        do_sample=False,
        max_new_tokens=max(task.new_tokens for task in tasks),
        eos_token_id=NO_TOKEN,
        pad_token_id=0,
        stopping_criteria=StoppingCriteriaList([clock]),
    )
    # A static batch goes on until its longest member is done; only what was asked for counts.
    for task in tasks:
        yield Trace(sent, tuple(clock.times[: task.new_tokens]))


class ContinuousBatching:
    """transformers' batching manager for a number of streams, fed as requests end.

    Its cache is as large as the server's.
    """

    def __init__(self, network: Network, streams: int, cache_tokens: int) -> None:
        """Starts the manager and its thread."""
        self._streams = streams
        page_tokens = PAGE_TOKENS[network.device.type]
        self._manager = network.init_continuous_batching(
            generation_config=GenerationConfig(
                do_sample=False, eos_token_id=NO_TOKEN, pad_token_id=0, max_new_tokens=1024
            ),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=page_tokens,
                num_blocks=cache_tokens // page_tokens,
                max_requests_per_batch=streams,
            ),
        )
        self._manager.start()

    def run(self, workload: Workload) -> list[Trace]:
        """Works off the requests, as many at a time as there are streams."""
        traces: list[Trace] = []
        sent: dict[str, float] = {}
        waiting = list(reversed(workload.tasks))
        while len(traces) < len(workload.tasks):
            while waiting and len(sent) < self._streams:
                now = time.perf_counter()
                sent[self._add(waiting.pop())] = now
            output = self._manager.get_result(timeout=1)
            if output is not None and output.is_finished():
                if not output.timestamps:
                    raise RuntimeError(f"transformers failed a request: {output.error}")
                traces.append(Trace(sent.pop(output.request_id), tuple(output.timestamps)))
        return traces

    def stop(self) -> None:
        """Stops the manager."""
        self._manager.stop(block=True)

    def _add(self, task: Task) -> str:
        name: str | None = self._manager.add_request(
            list(task.prompt_ids), max_new_tokens=task.new_tokens, record_timestamps=True
        )
        if name is None:
            raise RuntimeError("transformers refused a request")
        return name
