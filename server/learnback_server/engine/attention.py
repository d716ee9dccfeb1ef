"""Attention over pages: the one seam between the step loop and the model's layers.

A transformers model calls the attention function that its configuration names, through the public
`AttentionInterface`. Ours, registered as "learnback_paged", stores the new keys and values in pages
and hands the rest to a `PagedAttention`, of which there are two: `SdpaAttention` (any device; the
one for CPU) and `VarlenAttention` (CUDA). What a step needs is made once by `prepare` and travels
through the model's keyword arguments to every layer.

What this seam can't carry (a soft cap on scores, learned sinks, a position bias, cross-attention)
is refused by name with `UnsupportedAttentionError`, never computed wrongly.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from transformers import AttentionInterface

from learnback_server.engine.batch import StepBatch

IMPLEMENTATION = "learnback_paged"
"""The name under which models call us."""

_REFUSED = ("softcap", "s_aux", "position_bias", "position_biases")
"""Keyword arguments of transformers that change the scores in a way that is not done here."""


class UnsupportedAttentionError(Exception):
    """The model asks for a kind of attention that the paged cache can't do."""


class Pages:
    """Keys, or values, of all pages in one layer, seen in three ways that share their memory.

    Attributes:
        paged: Of shape (pages, page_tokens, heads, head size).
        by_token: Of shape (pages * page_tokens, heads, head size).
        by_page: Of shape (pages, page_tokens * heads * head size).
    """

    def __init__(self, paged: torch.Tensor) -> None:
        """Wraps a tensor of shape (pages, page_tokens, heads, head size)."""
        self.paged = paged
        self.by_token = paged.flatten(0, 1)
        self.by_page = paged.flatten(1)

    def store(self, slots: torch.Tensor, new: torch.Tensor) -> None:
        """Puts those of new tokens, of shape (tokens, heads, head size), into `slots`."""
        self.by_token.index_copy_(0, slots, new)


class KeyValueCache:
    """Keys and values of all pages, in every layer.

    A layer's are allocated at its first use, when its heads are known: layers may differ.
    """

    def __init__(self, pages: int, page_tokens: int) -> None:
        """Holds `pages` pages besides the scratch page."""
        self.page_tokens = page_tokens
        self._pages = pages + 1
        self.clearings = 0
        """How often pages have been cleared."""
        self._layers: dict[int, tuple[Pages, Pages]] = {}

    def layer(self, index: int, key: torch.Tensor, value: torch.Tensor) -> tuple[Pages, Pages]:
        """The pages of a layer, made to suit `key` and `value` of shape (tokens, heads, size)."""
        if index not in self._layers:
            self._layers[index] = (self._like(key), self._like(value))
        return self._layers[index]

    @torch.inference_mode()
    def clear(self, pages: list[int]) -> None:
        """Overwrites pages with zeros."""
        self.clearings += 1
        for layer in self._layers.values():
            for own in layer:
                own.by_page[pages] = 0

    def _like(self, tensor: torch.Tensor) -> Pages:
        return Pages(tensor.new_zeros(self._pages, self.page_tokens, *tensor.shape[1:]))

    def tensors(self) -> list[torch.Tensor]:
        """Keys and values of each layer in turn, by layer."""
        return [pages.paged for _, pair in sorted(self._layers.items()) for pages in pair]

    def room(self, pages: int) -> list[torch.Tensor]:
        """Room for so many pages of each of `tensors`, full of zeros."""
        return [one.new_zeros(pages, *one.shape[1:]) for one in self.tensors()]

    def random(self, pages: int) -> KeyValueCache:
        """A cache of so many pages with the same layers, full of random numbers."""
        other = KeyValueCache(pages, self.page_tokens)
        for index, (keys, values) in self._layers.items():
            for own in other.layer(index, keys.paged[0], values.paged[0]):
                own.paged.normal_()
        return other

    @property
    def pages(self) -> int:
        """How many pages there are, the scratch page among them."""
        return self._pages

    @property
    def page_width(self) -> int:
        """Numbers in one page of keys, or of values, in the layer that has most."""
        return max(pages[0].numel() for pages in self.tensors())

    @property
    def dtype(self) -> torch.dtype:
        """The type of the numbers."""
        return self.tensors()[0].dtype


class PreparedStep(Protocol):
    """A step as an attention implementation wants it."""

    @property
    def slots(self) -> torch.Tensor:
        """Where new keys and values are stored, of shape (tokens,)."""
        ...


class PagedAttention(Protocol):
    """How queries meet the pages of their sequences."""

    def prepare(self, batch: StepBatch, device: torch.device) -> PreparedStep:
        """Makes the tensors of a step, once for all layers."""
        ...

    def attend(
        self,
        step: Any,
        query: torch.Tensor,
        keys: Pages,
        values: Pages,
        *,
        scale: float | None,
        window: int | None,
    ) -> torch.Tensor:
        """Causal attention of (tokens, heads, size) queries to a layer's pages; same shape back.

        `window` is the number of tokens that a query sees, itself included; None is all.
        """
        ...


class LayeredCache(Protocol):
    """Where each layer finds its pages."""

    def layer(self, index: int, key: torch.Tensor, value: torch.Tensor) -> tuple[Pages, Pages]:
        """The pages of a layer, suiting `key` and `value` of shape (tokens, heads, size)."""
        ...


class PagedForward:
    """What travels through the model: the step, the cache, and how to attend."""

    def __init__(self, attention: PagedAttention, cache: LayeredCache, step: PreparedStep) -> None:
        """Binds the three for one forward pass."""
        self._attention = attention
        self._cache = cache
        self._step = step

    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scale: float | None,
        window: int | None,
    ) -> torch.Tensor:
        """Stores the new keys and values, then attends. All are (tokens, heads, size)."""
        keys, values = self._cache.layer(layer, key, value)
        keys.store(self._step.slots, key)
        values.store(self._step.slots, value)
        return self._attention.attend(self._step, query, keys, values, scale=scale, window=window)


def _paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    paged: PagedForward | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """The function that models call, with tensors of shape (1, heads, tokens, size)."""
    if paged is None:
        raise UnsupportedAttentionError("the model does not hand keyword arguments to its layers")
    refused = [name for name in _REFUSED if others.get(name) is not None]
    if refused:
        raise UnsupportedAttentionError(f"attention with {', '.join(refused)}")
    if not getattr(module, "is_causal", True):
        raise UnsupportedAttentionError("attention that is not causal")
    output = paged(
        module.layer_idx,  # type: ignore[arg-type]
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        scale=scaling,
        window=sliding_window,
    )
    return output.unsqueeze(0), None


def register() -> None:
    """Makes the implementation known to transformers. May be called again."""
    AttentionInterface.register(IMPLEMENTATION, _paged_attention)
