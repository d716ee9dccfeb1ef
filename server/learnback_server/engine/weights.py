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
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from learnback_server.engine.adapter import Adapter, WeightsError

_ORIGIN = ("_name_or_path", "transformers_version", "dtype", "use_cache", "architectures")
"""What a configuration says besides how to compute."""


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
        WeightsError: They are not the weights of a model like the base.
    """
    require_like(base, folder)
    load: Any = AutoModelForCausalLM.from_pretrained  # whose result depends on its arguments
    try:
        network, loaded = load(folder, dtype=base.dtype, output_loading_info=True)
        placed: PreTrainedModel = network.to(base.device).eval()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"the weights can't be loaded: {error}") from error
    if loaded["missing_keys"]:  # transformers would answer by random ones
        missing = ", ".join(sorted(loaded["missing_keys"])[:3])
        raise WeightsError(f"{len(loaded['missing_keys'])} weights are missing: {missing}")
    return placed


def require_like(base: PreTrainedModel, folder: Path) -> None:
    """Refuses a model in `folder` that is not configured as the base; reads no weights.

    Raises:
        WeightsError: It is not, or its configuration can't be read.
    """
    try:
        own = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise WeightsError(f"its configuration can't be read: {error}") from error
    theirs, ours = _shape_of(own), _shape_of(base.config)
    other = sorted(key for key in theirs | ours if theirs.get(key) != ours.get(key))
    if other:
        raise WeightsError(f"it is another model than the base: other {', '.join(other[:5])}")


def _shape_of(config: PreTrainedConfig) -> dict[str, Any]:
    """What a configuration says of the computation, without where it comes from."""
    return {key: value for key, value in config.to_dict().items() if key not in _ORIGIN}
