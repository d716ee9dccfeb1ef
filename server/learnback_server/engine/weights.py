"""Makes the network of a checkpoint, aside from the one that is answering.

An adapter is merged into a copy of the base model, so that it then runs at the speed of the bare
model. The price is memory: one copy of the weights for each checkpoint that is held. (Adapters that
stay unmerged and share the base weights in one batch are not done here.)

peft is imported with this module, that is at the start of the server: importing it takes seconds,
which running answers should not notice.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel


class WeightsError(Exception):
    """The files of a checkpoint do not make a network of the base model's shape."""


def merge_adapter(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """A copy of `base` with the PEFT adapter of `folder` merged into its weights.

    Raises:
        WeightsError: The adapter does not fit the base model.
    """
    try:
        adapted: Any = PeftModel.from_pretrained(copy.deepcopy(base), str(folder))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise WeightsError(f"the adapter can't be put on the base model: {error}") from error
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged.eval()  # type: ignore[no-untyped-call, no-any-return]


def load_full(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The network whose weights are all in `folder`, on the device and of the type of `base`.

    Raises:
        WeightsError: They are not the weights of a model of the base's shape.
    """
    try:
        network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=base.dtype)
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"the weights can't be loaded: {error}") from error
    if _shapes(network) != _shapes(base):
        raise WeightsError("the weights are of another shape than the base model's")
    placed: PreTrainedModel = network.to(base.device).eval()
    return placed


def _shapes(network: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in network.named_parameters()}
