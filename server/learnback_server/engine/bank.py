"""Adapters side by side over one base network, several of them in one forward pass.

The bank's network shares every weight with the base; its linear layers add, to the rows of each
adapter, what that adapter adds. Rows of one adapter lie next to one another (the engine sorts
them), so each adapter costs two narrow products of a slice a layer, and nothing is gathered. Rows
of the bare base get nothing added, and so what they get from the base network, to the last bit.

A step whose rows all belong to one adapter, as most do, is computed by a network of that adapter's
own, over the same weights, whose decoding can be recorded (`traced.py`): one record serves all
adapters of the same layers. A row gets the same from either, to the last bit.

An adapter is here as long as somebody holds it: nothing is registered, and nothing has to be taken
out. Adding one touches no weight of the base.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from learnback_server.engine.adapter import (
    SMALLEST_RANK,
    Adapter,
    LowRank,
    UnusualAdapterError,
    sizes,
)
from learnback_server.engine.attention import KeyValueCache
from learnback_server.engine.batch import StepRow
from learnback_server.engine.runner import ModelRunner
from learnback_server.engine.traced import StepTraces
from learnback_server.engine.weights import shell


@dataclass(frozen=True, eq=False, slots=True)
class Member:
    """An adapter of the bank."""

    adapter: Adapter
    alone: ModelRunner
    """Runs steps that have rows of this adapter only."""


MemberOf = Callable[[StepRow], Member | None]
"""Says by which adapter a row is computed; None is the bare base."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one adapter, `start` to `end`.

    The products are computed for `first` to `last`, which is more where the span is so short that
    other kernels would compute it (see `reproducible.py`).
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


class _AdaptedLinear(torch.nn.Module):
    """A linear layer of the base, with what one adapter adds to it."""

    down: torch.Tensor
    up: torch.Tensor

    def __init__(self, layer: torch.nn.Module, factors: LowRank) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("down", factors.down)
        self.register_buffer("up", factors.up)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layer(inputs)
        narrow = torch.nn.functional.linear(inputs, self.down)
        return outputs.add_(torch.nn.functional.linear(narrow, self.up))


class BankRunner:
    """Runs steps whose rows belong to several adapters, or to none."""

    def __init__(self, base: PreTrainedModel, cache: KeyValueCache, member_of: MemberOf) -> None:
        """Stands beside `base`, whose weights it shares, on the same cache."""
        self._base = base
        self._cache = cache
        self._member_of = member_of
        self._route = Route()
        self._runner = self._new_runner(_banked(base, self._route))

    def _new_runner(self, network: PreTrainedModel) -> ModelRunner:
        return ModelRunner(network, self._cache)

    def run(self, rows: list[StepRow], ready: Callable[[], None]) -> torch.Tensor:
        """See `ModelRunner.run`; rows of one adapter are best next to one another."""
        return self._routed(rows).run(rows, ready)

    def states(self, rows: list[StepRow]) -> torch.Tensor:
        """See `ModelRunner.states`; rows of one adapter are best next to one another."""
        return self._routed(rows).states(rows)

    def _routed(self, rows: list[StepRow]) -> ModelRunner:
        """What computes these rows next."""
        members = [self._member_of(row) for row in rows]
        first = members[0]
        if first is not None and all(one is first for one in members):
            return first.alone
        adapters = [None if one is None else one.adapter for one in members]
        counts = [row.count for row in rows]
        self._route.spans = _spans(adapters, counts, self._runner.smallest_step)
        return self._runner

    def admit(self, adapter: Adapter, traces: StepTraces) -> Member:
        """Makes an adapter ready, beside the running steps, on any thread.

        Args:
            adapter: On the device of the base, and of its type.
            traces: See `ModelRunner.warm_up`.

        Raises:
            UnusualAdapterError: The network can't be computed with it.
        """
        try:
            alone = self._new_runner(_adapted(self._base, adapter))
            alone.warm_up(traces)  # without graphs: it is mostly here for a moment
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise UnusualAdapterError(f"it can't be computed unmerged: {error}") from error
        return Member(adapter, alone)

    def blank(self) -> Adapter:
        """An adapter of all layers that adapters add to, which adds nothing."""
        where: dict[str, Any] = {"device": self._base.device, "dtype": self._base.dtype}
        factors = {}
        for name, layer in _linear_layers(self._base):
            inputs, outputs = sizes(layer)
            down, up = (SMALLEST_RANK, inputs), (outputs, SMALLEST_RANK)
            factors[name] = LowRank(torch.zeros(down, **where), torch.zeros(up, **where))
        return Adapter(factors)


def _linear_layers(network: PreTrainedModel) -> list[tuple[str, torch.nn.Linear | Conv1D]]:
    """The layers that the bank adds to, by name.

    The output layer is not one: it sees only the tokens whose logits are wanted.
    """
    output = network.get_output_embeddings()  # type: ignore[no-untyped-call]
    return [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not output
    ]


def _banked(base: PreTrainedModel, route: Route) -> PreTrainedModel:
    """The base network over again, with layers that heed `route`."""
    network = shell(base)
    for name, layer in _linear_layers(network):
        _set_module(network, name, _BankedLinear(layer, name, route))
    return network


def _adapted(base: PreTrainedModel, adapter: Adapter) -> PreTrainedModel:
    """The base network over again, with layers to which `adapter` adds."""
    network = shell(base)
    layers = dict(_linear_layers(network))
    for name, factors in adapter.factors.items():
        if name not in layers:
            raise UnusualAdapterError(f"{name} can't be added to unmerged")
        _set_module(network, name, _AdaptedLinear(layers[name], factors))
    return network


def _set_module(network: PreTrainedModel, name: str, module: torch.nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, module)


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
