"""The acceptance head of a checkpoint: how likely a user is to accept an answer.

`learnback_store.acceptance` tells what the head is and how it is stored. Its product is computed in
float64 and row by row, so that a score does not depend on how many others are made beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from learnback_server.engine.adapter import WeightsError
from learnback_store.acceptance import BIAS, HEAD_FILE, WEIGHT, HeadFacts, HeadFormatError


@dataclass(frozen=True, eq=False, slots=True)
class AcceptanceHead:
    """A linear layer on the last hidden state, with its calibration in it.

    Attributes:
        weight: Float64, of shape (hidden,), on the device of the network.
        bias: What is added.
    """

    weight: torch.Tensor
    bias: float

    def score(self, state: torch.Tensor) -> float:
        """The calibrated probability of acceptance, 0 to 1.

        Args:
            state: The last hidden state of an answer's last token, of shape (hidden,).

        Returns:
            NaN if the state is not finite.
        """
        logit = torch.dot(state.to(torch.float64), self.weight) + self.bias
        return float(torch.sigmoid(logit))


def read_head(folder: Path, network: PreTrainedModel) -> AcceptanceHead | None:
    """Reads the head of the checkpoint in `folder`; None if it has none.

    Args:
        folder: Of the checkpoint.
        network: The model that the head is to stand on.

    Raises:
        WeightsError: It can't be read, does not fit the network, or is not all finite numbers.
    """
    file = folder / HEAD_FILE
    if not file.exists():
        return None
    try:
        with safe_open(file, framework="pt") as tensors:
            HeadFacts.from_metadata(tensors.metadata() or {})
            weight, bias = tensors.get_tensor(WEIGHT), tensors.get_tensor(BIAS)
    except (OSError, SafetensorError, HeadFormatError) as error:
        raise WeightsError(f"the acceptance head can't be read: {error}") from error
    hidden = int(network.config.get_text_config().hidden_size)
    if weight.shape != (hidden,) or bias.shape != (1,):
        raise WeightsError(
            f"the tensors of the acceptance head are {tuple(weight.shape)} and "
            f"{tuple(bias.shape)}, which does not fit a hidden size of {hidden}"
        )
    weight, bias = weight.to(torch.float64), bias.to(torch.float64)
    if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        raise WeightsError("the acceptance head is not all finite numbers")
    return AcceptanceHead(weight.to(network.device), float(bias))
