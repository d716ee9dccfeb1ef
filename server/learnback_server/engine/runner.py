"""Runs the model on a step: index arrays in, logits of the completing rows out.

It chooses by device how to attend and how to decode (a trace on the CPU, CUDA graphs on a GPU); the
step loop above does not know which.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from transformers import PreTrainedModel

from learnback_server.engine.attention import (
    KeyValueCache,
    PagedAttention,
    PagedForward,
    PreparedStep,
)
from learnback_server.engine.batch import StepBatch, StepRow
from learnback_server.engine.graphs import Limits, graphed
from learnback_server.engine.reproducible import FEWEST_ROWS, fewest_rows
from learnback_server.engine.sdpa import SdpaAttention, SdpaStep
from learnback_server.engine.traced import StepTraces
from learnback_server.engine.varlen import (
    FLASH_PAGE_TOKENS,
    VarlenAttention,
    VarlenStep,
    suits_flash,
)


class Stepper(Protocol):
    """A faster way to compute steps of some kinds."""

    def compute(self, batch: StepBatch, ready: Callable[[], None]) -> torch.Tensor | None:
        """Logits of the tokens `batch.last`, of shape (tokens, vocabulary), until the next call.

        Args:
            batch: The step.
            ready: See `ModelRunner.run`.

        Returns:
            None if it can't compute this step.
        """
        ...


def _nobody() -> None:
    """Who does not mind when the inputs are ready."""


class ModelRunner:
    """The model, its key-value cache, and the way to attend that suits the device."""

    def __init__(self, model: PreTrainedModel, cache: KeyValueCache) -> None:
        """Runs `model` on `cache`, which models of one shape may share."""
        self._model = model
        self._device = model.device
        self._cache = cache
        self._attention = _attention_for(model, cache.page_tokens)
        # (The kernels for bfloat16 do not differ.)
        padded = self._device.type == "cpu" and model.dtype == torch.float32
        self._smallest_step = fewest_rows() if padded else 0
        self._stepper: Stepper | None = None

    @property
    def smallest_step(self) -> int:
        """Tokens that a smaller step is padded to.

        Else a row's result would depend on how many rows run beside it.
        """
        return self._smallest_step

    @torch.inference_mode()
    def warm_up(self, traces: StepTraces, largest: Limits | None = None) -> None:
        """Allocates the cache by a first pass, and prepares the fast way of computing steps.

        Args:
            traces: Recorded steps over the same cache, for the CPU.
            largest: The largest step, for CUDA graphs; without it none are captured.
        """
        batch = StepBatch([], self._cache.page_tokens, pad_to=FEWEST_ROWS)
        step = self._attention.prepare(batch, self._device)
        self._run(batch, step)
        if isinstance(step, VarlenStep):
            if largest is not None and self._device.type == "cuda":
                self._stepper = graphed(self._logits, self._device, largest)
        elif isinstance(step, SdpaStep) and self._device.type == "cpu":
            self._stepper = traces.stepper(self._model, step.windows)

    @torch.inference_mode()
    def run(self, rows: list[StepRow], ready: Callable[[], None] = _nobody) -> torch.Tensor:
        """Computes the rows and returns the logits of those that complete.

        Args:
            rows: What the step computes.
            ready: Called when the inputs are ready and only the pass is left, for which a recorded
                step needs nothing of Python: other threads have its lock to themselves then.

        Returns:
            Of shape (completing rows, vocabulary); good until the next call.
        """
        batch = StepBatch(rows, self._cache.page_tokens, pad_to=self._smallest_step)
        logits = None if self._stepper is None else self._stepper.compute(batch, ready)
        if logits is None:
            ready()
            logits = self.compute(batch)
        return logits[: batch.completing]

    @torch.inference_mode()
    def states(self, rows: list[StepRow]) -> torch.Tensor:
        """Computes the rows the plain way, without logits.

        Returns:
            The last hidden states of the completing rows, behind the final norm, of shape
            (completing rows, hidden).
        """
        batch = StepBatch(rows, self._cache.page_tokens, pad_to=self._smallest_step)
        output = self._model.base_model(
            input_ids=torch.from_numpy(batch.ids).to(self._device).unsqueeze(0),
            position_ids=torch.from_numpy(batch.positions).to(self._device).unsqueeze(0),
            use_cache=False,
            paged=self._paged(self._attention.prepare(batch, self._device)),
        )
        states: torch.Tensor = output.last_hidden_state[0]
        return states[torch.from_numpy(batch.last[: batch.completing]).to(self._device)]

    def compute(self, batch: StepBatch) -> torch.Tensor:
        """Logits of the tokens `batch.last`, computed the plain way."""
        return self._run(batch, self._attention.prepare(batch, self._device))

    def _run(self, batch: StepBatch, step: PreparedStep) -> torch.Tensor:
        """Logits of the tokens `batch.last`."""
        ids = torch.from_numpy(batch.ids).to(self._device)
        positions = torch.from_numpy(batch.positions).to(self._device)
        last = torch.from_numpy(batch.last).to(self._device)
        return self._logits(ids, positions, step, last)

    def _logits(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        step: PreparedStep,
        last: torch.Tensor,
    ) -> torch.Tensor:
        """Logits of the tokens `last`, of shape (tokens, vocabulary)."""
        output = self._model(
            input_ids=ids.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            use_cache=False,
            paged=self._paged(step),
            logits_to_keep=last,
        )
        logits: torch.Tensor = output.logits[0]
        return logits

    def _paged(self, step: PreparedStep) -> PagedForward:
        return PagedForward(self._attention, self._cache, step)


def _attention_for(model: PreTrainedModel, page_tokens: int) -> PagedAttention:
    if not suits_flash(model) or page_tokens % FLASH_PAGE_TOKENS:
        return SdpaAttention()
    from torch.nn.attention.varlen import varlen_attn

    return VarlenAttention(varlen_attn)
