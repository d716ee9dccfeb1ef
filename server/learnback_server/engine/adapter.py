"""Reads a LoRA adapter, as PEFT writes it, into plain pairs of factors by module.

What a LoRA adapter adds to a linear layer is one product of two narrow matrices. That, with ranks,
scales and targets of any pattern, is all that is read here. What PEFT can do besides (DoRA, biases,
embeddings, whole modules saved beside the factors) is told apart by an error of its own, so that
such an adapter can still be merged by PEFT itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

SMALLEST_RANK = 2
"""A product with one column is computed by other kernels, whose last bits differ with the number
of rows: such factors are widened by zeros."""

_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")

_PLAIN = {
    "peft_type": "LORA",
    "use_dora": False,
    "bias": "none",
    "lora_bias": False,
    "modules_to_save": None,
    "trainable_token_indices": None,
    "target_parameters": None,
    "alora_invocation_tokens": None,
    "use_qalora": False,
    "layer_replication": None,
}
"""What each option of PEFT that changes the computation must be for plain factors to be all."""


class WeightsError(Exception):
    """The files of a checkpoint do not make a network of the base model's shape."""


class UnusualAdapterError(WeightsError):
    """The adapter does more than add products of two factors to linear layers."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """What is added to one linear layer: `x @ down.T @ up.T`.

    Attributes:
        down: Of shape (rank, inputs).
        up: Of shape (outputs, rank), with the adapter's scale in it.
    """

    down: torch.Tensor
    up: torch.Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Adapter:
    """The factors of an adapter, by the name of the module that they belong to."""

    factors: Mapping[str, LowRank]

    def beside(self, network: PreTrainedModel) -> Adapter:
        """The same adapter on the device and of the type of a network."""
        where: dict[str, Any] = {"device": network.device, "dtype": network.dtype}
        return Adapter(
            {
                module: LowRank(one.down.to(**where), one.up.to(**where))
                for module, one in self.factors.items()
            }
        )


def read_adapter(folder: Path, network: PreTrainedModel) -> Adapter:
    """Reads the adapter in `folder` and checks it against the network that it is to stand beside.

    Raises:
        UnusualAdapterError: It is more than pairs of factors on linear layers.
        WeightsError: It can't be read, or does not fit the network.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise WeightsError(f"the adapter can't be read: {error}") from error
    _require_plain(config)
    modules = dict(network.named_modules())
    pairs = _pairs(tensors)
    if not pairs:
        raise WeightsError("the adapter has no factors")
    return Adapter(
        {
            module: _low_rank(module, pair, modules, _scale(module, len(pair["A"]), config))
            for module, pair in pairs.items()
        }
    )


def _require_plain(config: Mapping[str, Any]) -> None:
    for option, plain in _PLAIN.items():
        if config.get(option, plain) not in (plain, None, [], {}):
            raise UnusualAdapterError(f"the adapter has {option} = {config[option]!r}")


def _pairs(tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise UnusualAdapterError(f"the adapter has weights other than factors: {key}")
        if tensor.dim() != 2:
            raise UnusualAdapterError(f"{key} is no matrix")
        pairs.setdefault(match["module"], {})[match["side"]] = tensor.float()
    for module, pair in pairs.items():
        if len(pair) == 1:
            raise WeightsError(f"the adapter has one factor for {module} instead of two")
    return pairs


def _scale(module: str, rank: int, config: Mapping[str, Any]) -> float:
    """What PEFT multiplies the product with: alpha over the rank, or over its root."""
    alpha = config.get("lora_alpha", 8)
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = own
            break
    return float(alpha / (rank**0.5 if config.get("use_rslora") else rank))


def _low_rank(
    module: str,
    pair: Mapping[str, torch.Tensor],
    modules: Mapping[str, torch.nn.Module],
    scale: float,
) -> LowRank:
    layer = modules.get(module)
    if layer is None:
        raise WeightsError(f"the base model has no module {module}")
    if not isinstance(layer, (torch.nn.Linear, Conv1D)):
        raise UnusualAdapterError(f"{module} is no linear layer")
    down, up = pair["A"], pair["B"] * scale
    inputs, outputs = sizes(layer)
    if down.shape != (up.shape[1], inputs) or up.shape[0] != outputs:
        raise WeightsError(
            f"the factors of {module} are {tuple(down.shape)} and {tuple(up.shape)}, "
            f"which does not fit {inputs} inputs and {outputs} outputs"
        )
    if not (torch.isfinite(down).all() and torch.isfinite(up).all()):
        raise WeightsError(f"the factors of {module} are not all finite numbers")
    missing = max(0, SMALLEST_RANK - len(down))
    pad = torch.nn.functional.pad
    return LowRank(pad(down, (0, 0, 0, missing)), pad(up, (0, missing)).contiguous())


def sizes(layer: torch.nn.Linear | Conv1D) -> tuple[int, int]:
    """Inputs and outputs of a linear layer; `Conv1D` keeps its weight the other way round."""
    one, other = layer.weight.shape
    return (int(one), int(other)) if isinstance(layer, Conv1D) else (int(other), int(one))
