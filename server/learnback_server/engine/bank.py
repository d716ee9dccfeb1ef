"""Adapters side by side over one base network, several of them in one forward pass.

The bank's network shares every weight with the base; its linear layers add, to the rows of each
adapter, what that adapter adds. Rows of one adapter lie next to one another (the engine sorts
them), so each adapter costs two narrow products of a slice a layer, and nothing is gathered. Rows
of the bare base get nothing added, and so what they get from the base network, to the last bit.

An adapter is here as long as somebody holds it: nothing is registered, and nothing has to be taken
out. Adding one touches no weight of the base.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from learnback_server.engine.adapter import Adapter, UnusualAdapterError
from learnback_server.engine.attention import KeyValueCache
from learnback_server.engine.batch import StepBatch, StepRow
from learnback_server.engine.runner import SMALLEST_STEP_TOKENS, ModelRunner
from learnback_server.engine.weights import shell

AdapterOf = Callable[[StepRow], Adapter | None]
"""Says by which adapter a row is computed; None is the bare base."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one adapter, `start` to `end`.

    The products are computed for `first` to `last`, which is more where the span is so short that
    other kernels would compute it (see `SMALLEST_STEP_TOKENS`).
    """

    adapter: Adapter
    start: int
    end: int
    first: int
    last: int


@dataclass(slots=True)
class Route:
    """Which tokens of the pass that is being computed belong to which adapter."""

    spans: list[Span] = field(default_factory=list)


class _BankedLinear(torch.nn.Module):
    """A linear layer of the base, with what the adapters of the route add to it."""

    def __init__(self, layer: torch.nn.Module, name: str, route: Route) -> None:
        super().__init__()
        self.layer = layer
        self._name = name
        self._route = route

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layer(inputs)
        flat, into = inputs.flatten(0, -2), outputs.view(-1, outputs.shape[-1])
        for span in self._route.spans:
            factors = span.adapter.factors.get(self._name)
            if factors is None:
                continue
            narrow = torch.nn.functional.linear(flat[span.first : span.last], factors.down)
            added = torch.nn.functional.linear(narrow, factors.up)
            own = added[span.start - span.first : span.end - span.first]
            into[span.start : span.end].add_(own)
        return outputs


class BankRunner:
    """Runs steps whose rows belong to several adapters, or to none."""

    def __init__(
        self,
        base: PreTrainedModel,
        cache: KeyValueCache,
        adapter_of: AdapterOf,
        *,
        context_tokens: int,
    ) -> None:
        """Stands beside `base`, whose weights it shares, on the same cache."""
        self._base = base
        self._cache = cache
        self._context_tokens = context_tokens
        self._adapter_of = adapter_of
        self._route = Route()
        self._runner = self._new_runner(self._route)

    def _new_runner(self, route: Route) -> ModelRunner:
        network = _banked(self._base, route)
        return ModelRunner(network, self._cache, context_tokens=self._context_tokens)

    def run(self, rows: list[StepRow]) -> torch.Tensor:
        """See `ModelRunner.run`; rows of one adapter are best next to one another."""
        adapters = [self._adapter_of(row) for row in rows]
        counts = [row.count for row in rows]
        self._route.spans = _spans(adapters, counts, self._runner.smallest_step)
        return self._runner.run(rows)

    @torch.inference_mode()
    def prove(self, adapter: Adapter) -> None:
        """Computes a few tokens by an adapter, beside the running steps, on any thread.

        Raises:
            UnusualAdapterError: The network can't be computed with it.
        """
        route = Route([Span(adapter, 0, SMALLEST_STEP_TOKENS, 0, SMALLEST_STEP_TOKENS)])
        batch = StepBatch([], self._cache.page_tokens, pad_to=SMALLEST_STEP_TOKENS)
        try:
            self._new_runner(route).compute(batch)
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise UnusualAdapterError(f"it can't be computed unmerged: {error}") from error


def _banked(base: PreTrainedModel, route: Route) -> PreTrainedModel:
    """The base network over again, with layers that heed `route`.

    The output layer stays as it is: it sees only the tokens whose logits are wanted.
    """
    network = shell(base)
    output = network.get_output_embeddings()  # type: ignore[no-untyped-call]
    linear = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not output
    ]
    for name, module in linear:
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, _BankedLinear(module, name, route))
    return network


def _spans(adapters: Sequence[Adapter | None], counts: Sequence[int], smallest: int) -> list[Span]:
    """Where the tokens of each adapter lie, for rows of `counts` tokens."""
    total = max(sum(counts), smallest)
    bounds: list[tuple[Adapter | None, int, int]] = []
    start = 0
    for adapter, count in zip(adapters, counts, strict=True):
        if bounds and bounds[-1][0] is adapter:
            bounds[-1] = (adapter, bounds[-1][1], start + count)
        else:
            bounds.append((adapter, start, start + count))
        start += count
    spans = []
    for adapter, start, end in bounds:
        if adapter is not None:
            last = min(total, max(end, start + smallest))
            spans.append(Span(adapter, start, end, min(start, max(0, last - smallest)), last))
    return spans
