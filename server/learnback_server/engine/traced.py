"""Steps on the CPU as traced graphs, with no Python between their operations.

It does on the CPU what CUDA graphs do on a GPU (`graphs.py`). A decoding step of a small model is
some 300 operations of a few microseconds each, and Python takes as long again to call them, all the
while holding the lock that the edge needs too. `torch.jit.trace` records the step once; the record
runs the same operations, to the last bit, without Python and without its lock.

Most steps are of three kinds, and each has a record: everybody decodes; one prompt is read beside
those who decode; one prompt is read alone. Others, as of two prompts at once, go the plain way.

Weights are inputs of a record, as tokens are. So checkpoints of one base model share it: another
one costs a comparison, not a tracing, which would hold Python's lock for as long as many steps.

A record is used for a network only after it has been compared with that network's untraced step, on
other sizes than it was recorded with; if it differs, or if the model can't be traced, such steps
stay untraced. Tracing is deprecated in torch in favour of compilers, which need a C++ compiler
where the server runs and were slower here (`docs/log.md`); the pinned torch has it.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from learnback_server.engine.attention import KeyValueCache
from learnback_server.engine.batch import StepBatch
from learnback_server.engine.flat import (
    FlatStep,
    Kind,
    Tensors,
    Windows,
    inputs_of,
    kind_of,
)
from learnback_server.engine.kept import KeptRows
from learnback_server.engine.weights import shell

logger = logging.getLogger(__name__)

SETTLING_RUNS = 2
"""A record is made faster while it runs for the first times, which nobody should wait for."""


class StepTraces:
    """The records of steps, shared by networks of one structure."""

    def __init__(self, cache: KeyValueCache, records: list[StepTrace] | None = None) -> None:
        """Computes steps over `cache`.

        Args:
            cache: Has all layers when the first step is asked for.
            records: Those that are known, to which its own are added; none if not given. Engines of
                one process may share them, as torch never frees what it has recorded.
        """
        self._cache = cache
        self._lock = threading.Lock()
        self._traces = [] if records is None else records

    @property
    def count(self) -> int:
        """How many structures have been recorded."""
        return len(self._traces)

    def stepper(self, model: PreTrainedModel, windows: Windows) -> TracedStepper | None:
        """Steps of a model by records that were proved for it; the cache has all its layers.

        Returns:
            None, with a line in the log, if that is not to be had.
        """
        with self._lock:  # else two threads would record the same
            try:
                return self._known(model, windows) or self._recorded(model, windows)
            except (RuntimeError, TypeError, ValueError, AttributeError) as error:
                logger.warning("steps stay untraced: %s", error)
                return None

    def _known(self, model: PreTrainedModel, windows: Windows) -> TracedStepper | None:
        """By records that are here."""
        weights = _weights(model)
        for trace in self._traces:
            if trace.fits(weights, windows):
                stepper = TracedStepper(trace, weights, self._cache)
                if stepper.proves(model):
                    return stepper
        return None

    def _recorded(self, model: PreTrainedModel, windows: Windows) -> TracedStepper | None:
        """By records of its own."""
        trace = StepTrace(model, self._cache, windows)
        stepper = TracedStepper(trace, _weights(model), self._cache)
        for _ in range(SETTLING_RUNS):
            for kind in trace.kinds - stepper.prove(model):
                name = type(model).__name__
                logger.warning("%s steps of %s stay untraced: the trace differs", kind.name, name)
                trace.forget(kind)
        if not trace.kinds:
            return None
        self._traces.append(trace)
        return stepper


class StepTrace:
    """The steps of one structure, recorded."""

    def __init__(self, model: PreTrainedModel, cache: KeyValueCache, windows: Windows) -> None:
        """Records the steps of `model`, whose layers use `windows`."""
        weights = _weights(model)
        self.windows = tuple(windows)
        self._names = tuple(weights)
        self._records: dict[Kind, Any] = {}
        record: Any = torch.jit.trace  # untyped, and a function of many uses
        for kind in Kind:
            step = _OpenStep(FlatStep(shell(model), kind, self.windows), self._names)
            inputs = _sample(kind, RECORDED, self.windows, cache)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what a trace can't follow: it is compared
                self._records[kind] = record(
                    step.run, (*weights.values(), *inputs), check_trace=False
                )
            step.forget()  # torch keeps what it has recorded

    @property
    def kinds(self) -> frozenset[Kind]:
        """What it has records of."""
        return frozenset(self._records)

    def forget(self, kind: Kind) -> None:
        """Gives a record up."""
        del self._records[kind]

    def fits(self, weights: Mapping[str, torch.Tensor], windows: Windows) -> bool:
        """Whether a network with these weights may compute by it; agreeing proves it."""
        return self._names == tuple(weights) and self.windows == tuple(windows)

    def run(
        self, kind: Kind, weights: Rows[torch.Tensor], inputs: Rows[torch.Tensor]
    ) -> torch.Tensor:
        """Logits of the tokens that are wanted, of shape (tokens, vocabulary)."""
        logits: torch.Tensor = self._records[kind](*weights, *inputs)
        return logits


class TracedStepper:
    """Computes steps by records and the weights of one network."""

    def __init__(
        self, trace: StepTrace, weights: Mapping[str, torch.Tensor], cache: KeyValueCache
    ) -> None:
        """Computes by `trace` with these weights on the cache."""
        self._trace = trace
        self._weights = tuple(weights.values())
        self._cache = cache
        self._kept = KeptRows(cache)

    def compute(self, batch: StepBatch, ready: Callable[[], None]) -> torch.Tensor | None:
        """Logits of the tokens `batch.last`, of shape (tokens, vocabulary).

        Args:
            batch: The step.
            ready: See `ModelRunner.run`.

        Returns:
            None if there is no record of such a step, or no room for its rows.
        """
        kind = kind_of(batch)
        if kind is None or kind not in self._trace.kinds:
            return None
        inputs = inputs_of(kind, batch, self._trace.windows, self._cache, self._kept)
        if inputs is None:
            return None
        try:
            ready()
            return self._trace.run(kind, self._weights, inputs)
        except BaseException:
            self._kept.forget()
            raise

    def prove(self, model: PreTrainedModel) -> frozenset[Kind]:
        """The kinds of which the model computes the same, in steps unlike those recorded.

        May run beside the engine's steps: it has a small cache of its own.
        """
        return frozenset(kind for kind in self._trace.kinds if self._agrees(model, kind))

    def proves(self, model: PreTrainedModel) -> bool:
        """Whether the model computes the same in steps of every kind."""
        try:
            return self.prove(model) == self._trace.kinds
        except RuntimeError:  # of other sizes than were recorded
            return False

    def _agrees(self, model: PreTrainedModel, kind: Kind) -> bool:
        windows = self._trace.windows
        inputs = _sample(kind, COMPARED, windows, self._cache)
        expected = FlatStep(model, kind, windows)(*(one.clone() for one in inputs))
        return torch.equal(self._trace.run(kind, self._weights, inputs), expected)


@dataclass(frozen=True, slots=True)
class _Size:
    """A step to record, or to compare."""

    rows: int
    """Of those who decode."""
    tokens: int
    """Of the prompt."""
    pages: int
    """That each of them has, at least."""


RECORDED = _Size(rows=5, tokens=11, pages=1)
COMPARED = _Size(rows=9, tokens=26, pages=3)


@dataclass(slots=True)
class _SampleSequence:
    """Stands for a sequence whose last tokens are to be computed."""

    computed: int
    tokens: list[int]
    pages: list[int]


@dataclass(frozen=True, slots=True)
class _SampleRow:
    """Stands for a row of a step."""

    sequence: _SampleSequence
    count: int
    completes: bool = True


def _sample(kind: Kind, size: _Size, windows: Windows, cache: KeyValueCache) -> Tensors:
    """The inputs of a step of this kind, on random keys and values of their own."""
    counts = [1] * size.rows if kind is not Kind.PROMPT else []
    counts += [size.tokens] if kind is not Kind.DECODE else []
    length = max(size.pages * cache.page_tokens - 1, size.tokens + 1)
    each = -(-length // cache.page_tokens)
    rows = []
    for place, count in enumerate(counts):
        pages = [1 + place * each + page for page in range(each)]
        tokens = [place + token for token in range(length)]
        rows.append(_SampleRow(_SampleSequence(length - count, tokens, pages), count))
    own = cache.random(1 + each * len(rows))
    inputs = inputs_of(kind, StepBatch(rows, cache.page_tokens), windows, own, KeptRows(own))
    if inputs is None:
        raise ValueError("a step of a few rows has no room")
    return inputs


class _OpenStep:
    """A step with the weights as its first inputs."""

    def __init__(self, step: FlatStep, names: Rows[str]) -> None:
        """Takes the weights out of the network, which is good for nothing else from here on."""
        self._step = step
        self._places = []
        for name in names:
            parent, _, own = name.rpartition(".")
            module = step.model.get_submodule(parent)
            delattr(module, own)  # registered as a parameter, it could not be any tensor
            self._places.append((module, own))

    def run(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Logits of the tokens that are wanted."""
        weights, others = inputs[: len(self._places)], inputs[len(self._places) :]
        for (module, own), weight in zip(self._places, weights, strict=True):
            setattr(module, own, weight)
        logits: torch.Tensor = self._step(*others)
        return logits

    def forget(self) -> None:
        """Lets go of the weights that it was run with last."""
        for module, own in self._places:
            delattr(module, own)


def _weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """All that a network of one structure has of its own, tied weights under each of their names.

    Detached, because a record is made again for tensors that want gradients.
    """
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {name: tensor.detach() for name, tensor in named}
