"""Makes the network of a checkpoint, aside from the one that is answering.

A merged adapter runs at the speed of the bare model. Its network shares every weight with the base
but those of the layers that the adapter changes, which are new. Full weights share none.

peft is imported with this module, that is at the start of the server: importing it takes seconds,
which running answers should not notice.
"""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from learnback_server.engine.adapter import Adapter, WeightsError


def shell(network: PreTrainedModel) -> PreTrainedModel:
    """The modules of a network over again, around the very same tensors and configuration."""
    shared: dict[int, Any] = {id(network.config): network.config}
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        shared[id(tensor)] = tensor
    return copy.deepcopy(network, shared)


@torch.inference_mode()
def merge(base: PreTrainedModel, adapter: Adapter) -> PreTrainedModel:
    """A network like `base`, with what `adapter` adds in the weights of the layers it adds to.

    Args:
        base: Its weights stay as they are, and are shared where the adapter has nothing to add.
        adapter: Factors in float32, as they were read.
    """
    network = shell(base)
    for name, factors in adapter.factors.items():
        layer = network.get_submodule(name)
        weight: Any = layer.weight
        added = factors.up.to(weight.device) @ factors.down.to(weight.device)
        added = added.T if isinstance(layer, Conv1D) else added
        merged = (weight.float() + added).to(weight.dtype)
        layer.weight = torch.nn.Parameter(merged, requires_grad=False)
    return network


def merge_by_peft(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """A copy of `base` with the PEFT adapter of `folder`, of whatever sort, merged into it.

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
