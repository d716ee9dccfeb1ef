"""Paged attention by PyTorch's `varlen_attn` with a block table: the way for CUDA.

The kernel (FlashAttention 2) reads pages where they lie, so nothing is gathered or padded. It reads
from memory, too, where rows begin and how long they are, so that steps of one size can be captured
in a CUDA graph (`graphs.py`). It takes numbers of 16 bits only; a model in float32 is computed by
`SdpaAttention`, on a GPU as well.

The kernel is an argument, so that what is handed to it can be tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from learnback_server.engine.attention import Pages
from learnback_server.engine.batch import Ints, StepBatch

FLASH_PAGE_TOKENS = 256
"""FlashAttention 2 takes pages of a multiple of this many tokens."""

FLASH_CAPABILITY = (8, 0)
"""The oldest GPUs that it runs on (Ampere)."""

FLASH_HEAD_UNIT = 8
FLASH_LARGEST_HEAD = 256
"""Sizes of heads that it takes: multiples of the one up to the other."""

ONE_SPLIT = 1
"""Keys are never split over thread blocks: a row's result must not depend on its neighbours."""

Kernel = Callable[..., Any]


def suits_flash(model: PreTrainedModel) -> bool:
    """Whether FlashAttention computes a model where it is: on such a GPU, in 16 bits."""
    if model.device.type != "cuda" or model.dtype not in (torch.bfloat16, torch.float16):
        return False
    config = model.config.get_text_config()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    capable = torch.cuda.get_device_capability(model.device) >= FLASH_CAPABILITY
    return capable and head % FLASH_HEAD_UNIT == 0 and head <= FLASH_LARGEST_HEAD


@dataclass(frozen=True, slots=True)
class VarlenStep:
    """A step as the kernel wants it; all tensors int32 but `slots`.

    Attributes:
        slots: Where new keys and values go, of shape (T,).
        starts: Cumulative queries of the rows, of shape (R + 1,).
        key_starts: Cumulative keys of the rows, of shape (R + 1,).
        lengths: Keys of each row, of shape (R,).
        tables: Pages of each row, of shape (R, most pages).
        most_queries: Of any row.
        most_keys: Of any row.
    """

    slots: torch.Tensor
    starts: torch.Tensor
    key_starts: torch.Tensor
    lengths: torch.Tensor
    tables: torch.Tensor
    most_queries: int
    most_keys: int


class VarlenAttention:
    """Hands pages and their table to a kernel of `varlen_attn`'s signature."""

    def __init__(self, kernel: Kernel) -> None:
        """Uses `kernel`: `torch.nn.attention.varlen.varlen_attn`, or one like it."""
        self._kernel = kernel

    def prepare(self, batch: StepBatch, device: torch.device) -> VarlenStep:
        """Copies the index arrays of a step to the device."""
        return VarlenStep(
            slots=torch.from_numpy(batch.slots).to(device, non_blocking=True),
            starts=_int32(batch.starts, device),
            key_starts=_int32(cumulative(batch.lengths), device),
            lengths=_int32(batch.lengths, device),
            tables=_int32(batch.tables, device),
            most_queries=int(batch.counts.max()),
            most_keys=int(batch.lengths.max()),
        )

    def attend(
        self,
        step: VarlenStep,
        query: torch.Tensor,
        keys: Pages,
        values: Pages,
        *,
        scale: float | None,
        window: int | None,
    ) -> torch.Tensor:
        """See `PagedAttention.attend`."""
        output: torch.Tensor = self._kernel(
            query.contiguous(),
            keys.paged,
            values.paged,
            step.starts,
            step.key_starts,  # it asks for them, though tables and lengths say all
            step.most_queries,
            step.most_keys,
            scale=scale,
            # Tokens to the left of the query, itself not counted.
            window_size=(-1 if window is None else window - 1, 0),
            enable_gqa=query.shape[1] != keys.paged.shape[2],
            seqused_k=step.lengths,
            block_table=step.tables,
            num_splits=ONE_SPLIT,
        )
        return output


def cumulative(lengths: Ints) -> Ints:
    """Where each of some pieces begins, and the last one ends."""
    starts: Ints = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def _int32(array: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.int32)).to(device, non_blocking=True)
