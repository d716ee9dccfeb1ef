"""What is taught in a round: an adapter on the base model, or all weights of a copy of it.

adapter   the base model stands once in memory; the live one and the student are adapters on it,
          and what is published always applies to the base model alone
full      the live model and the student are two models: twice the memory, and gradients and
          the optimiser's two moments of all weights besides. Begins at a published adapter too,
          whose weights are then merged; but no adapter can go on from full weights
"""

from __future__ import annotations

import contextlib
import copy
import enum
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from learnback_store.manifest import CheckpointKind
from learnback_trainer.errors import ModelError

# PEFT writes an adapter of this name to the folder itself, every other one to a folder below it.
_STUDENT = "default"
_LIVE = "live"
FULL_IS_LIVE = (
    "full weights are live, and no adapter can go on from them: go on with --method full, or begin "
    "anew from the base model with --consolidate"
)
FULL_WANTS_ONE = (
    "full weights are taught, and read, by one process: start the trainer without torchrun, or "
    "with --nproc-per-node 1"
)
# What tells a folder with an adapter from one with all weights.
_ADAPTER_FILE = "adapter_config.json"


class Method(enum.StrEnum):
    """What is taught."""

    LORA = "lora"
    FULL = "full"


class Frozen(enum.Enum):
    """A model that is not taught."""

    LIVE = enum.auto()
    BASE = enum.auto()


class Student(Protocol):
    """A model that is being taught, beside the frozen ones that it comes from."""

    kind: CheckpointKind
    network: Any
    """Is the student, and inside `as_frozen` another."""
    live_is_base: bool

    def as_frozen(self, which: Frozen) -> contextlib.AbstractContextManager[None]:
        """Within this, the network is a frozen one."""

    def save(self, folder: Path, base_name: str) -> None:
        """Writes the student, with the name of its base and no path."""

    def close(self) -> None:
        """Leaves the base model as it was."""


class AdapterStudent:
    """An adapter, beginning as a copy of the parent's.

    Args:
        base: The base model; must not be used otherwise meanwhile.
        parent: The folder of the live checkpoint; None if the base itself is live.
        rank: Of a new adapter.
        alpha: Likewise.
    """

    kind = CheckpointKind.ADAPTER

    def __init__(self, base: PreTrainedModel, parent: Path | None, rank: int, alpha: int) -> None:
        self.live_is_base = parent is None
        self.network: Any = (
            _new_adapter(base, rank, alpha) if parent is None else _parents_adapter(base, parent)
        )

    @contextlib.contextmanager
    def as_frozen(self, which: Frozen) -> Iterator[None]:
        """Within this, the network is a frozen one."""
        if which is Frozen.BASE or self.live_is_base:
            # As `disable_adapter` does, but that looks at all layers first, for twice the time.
            tuner = self.network.base_model
            tuner.disable_adapter_layers()
            try:
                yield
            finally:
                tuner.enable_adapter_layers()
            return
        self.network.set_adapter(_LIVE)
        try:
            yield
        finally:
            self.network.set_adapter(_STUDENT)

    def save(self, folder: Path, base_name: str) -> None:
        """Writes the adapter as PEFT does, with the name of its base and no path."""
        self.network.peft_config[_STUDENT].base_model_name_or_path = base_name
        self.network.save_pretrained(folder, selected_adapters=[_STUDENT])
        # A card with blanks to fill in, for people who share adapters on the hub.
        (folder / "README.md").unlink(missing_ok=True)

    def close(self) -> None:
        """Leaves the base model as it was."""
        self.network.unload()
        del self.network


class FullStudent:
    """A whole model, beginning as a copy of the live one.

    Args:
        base: The base model.
        parent: The folder of the live checkpoint, of either kind; None if the base itself is live.
    """

    kind = CheckpointKind.FULL

    def __init__(self, base: PreTrainedModel, parent: Path | None) -> None:
        self.live_is_base = parent is None
        self._base: Any = base
        self._live: Any = base if parent is None else _whole(base, parent)
        self._student: Any = copy.deepcopy(self._live)
        self._student.requires_grad_(requires_grad=True)
        self.network: Any = self._student

    @contextlib.contextmanager
    def as_frozen(self, which: Frozen) -> Iterator[None]:
        """Within this, the network is a frozen one."""
        self.network = self._base if which is Frozen.BASE else self._live
        try:
            yield
        finally:
            self.network = self._student

    def save(self, folder: Path, base_name: str) -> None:
        """Writes all weights as transformers does, with the name of the base and no path."""
        self._student.config._name_or_path = base_name  # there is no other way
        self._student.save_pretrained(folder)

    def close(self) -> None:
        """Lets go of all models."""
        del self.network, self._student, self._live, self._base


def _new_adapter(base: PreTrainedModel, rank: int, alpha: int) -> PeftModel:
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(base, config, adapter_name=_STUDENT)
    except ValueError as error:
        raise ModelError(f"no adapter fits this model: {error}") from error


def _parents_adapter(base: PreTrainedModel, parent: Path) -> PeftModel:
    if not (parent / _ADAPTER_FILE).exists():
        raise ModelError(FULL_IS_LIVE)
    try:
        model = PeftModel.from_pretrained(base, parent, adapter_name=_STUDENT, is_trainable=True)
        model.load_adapter(parent, _LIVE, is_trainable=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"the live checkpoint's adapter can't be loaded: {error}") from error
    model.set_adapter(_STUDENT)
    return model


def _whole(base: PreTrainedModel, parent: Path) -> PreTrainedModel:
    """The live checkpoint as a model of its own, frozen."""
    try:
        if (parent / _ADAPTER_FILE).exists():
            adapted: Any = PeftModel.from_pretrained(copy.deepcopy(base), parent)
            network: Any = adapted.merge_and_unload()
        else:
            network = AutoModelForCausalLM.from_pretrained(parent, dtype=base.dtype)
            network = network.to(base.device)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"the live checkpoint can't be loaded: {error}") from error
    network.eval().requires_grad_(requires_grad=False)
    return network  # type: ignore[no-any-return]


def student_of(
    base: PreTrainedModel, parent: Path | None, method: Method, rank: int, alpha: int, seed: int
) -> Student:
    """Returns the student of a round.

    Args:
        base: The base model.
        parent: The folder of the live checkpoint; None if the base itself is live.
        method: What is taught.
        rank: Of a new adapter.
        alpha: Likewise.
        seed: Of a new adapter's first values.

    Raises:
        ModelError: The live checkpoint can't be loaded, or can't be taught on by this method.
    """
    if method is Method.FULL:
        return FullStudent(base, parent)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AdapterStudent(base, parent, rank, alpha)
