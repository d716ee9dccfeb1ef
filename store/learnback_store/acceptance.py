"""The acceptance head of a checkpoint: what trainer and server know of its file.

`acceptance.safetensors` lies in the checkpoint's folder beside the weights, is listed in the
manifest like every file, and is missing where there is no head: the base model has none, nor has a
checkpoint that too little was said about. It holds

    weight   float32, of shape (hidden,)
    bias     float32, of shape (1,)

The calibrated probability that an answer is accepted is sigmoid(weight · state + bias), where the
state is the last hidden state of the checkpoint's own network, after its final norm, at the last
token of prompt and answer: the end token, where the answer came to its end. The calibration is in
both tensors. The metadata of the file is `HeadFacts`. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from learnback_store.codec import require_finite

HEAD_FILE = "acceptance.safetensors"
"""Its name in the folder of a checkpoint."""

WEIGHT = "weight"
BIAS = "bias"

SCHEMA = "learnback.acceptance/1"

EXAMPLES_FIGURE = "acceptance_examples"
AUC_FIGURE = "acceptance_auc"
ECE_FIGURE = "acceptance_ece"
"""Names of the facts among the figures of a manifest's verdict."""


class HeadFormatError(ValueError):
    """The metadata of a head is not what is written here."""


@dataclass(frozen=True, slots=True)
class HeadFacts:
    """How much a head is to be trusted, measured on prompts that it was not fitted to."""

    examples: int
    """Answers that it was fitted to."""
    auc: float
    """Share of pairs of an accepted and a criticised answer that are told apart, 0 to 1."""
    ece: float
    """Expected calibration error: how far probabilities are from shares in the mean, 0 to 1."""

    def __post_init__(self) -> None:
        require_finite("the facts of a head", [self.auc, self.ece])

    @property
    def figures(self) -> dict[str, float]:
        """The facts as figures of a verdict."""
        return {EXAMPLES_FIGURE: self.examples, AUC_FIGURE: self.auc, ECE_FIGURE: self.ece}

    def to_metadata(self) -> dict[str, str]:
        """Returns the metadata of the file."""
        return {
            "schema": SCHEMA,
            "examples": str(self.examples),
            "auc": repr(self.auc),
            "ece": repr(self.ece),
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self:
        """Reads what `to_metadata` wrote.

        Raises:
            HeadFormatError: It is something else, or of another version.
        """
        if metadata.get("schema") != SCHEMA:
            raise HeadFormatError(
                f"a head of schema {metadata.get('schema')!r} where {SCHEMA} was expected; it may "
                "be of a newer version of this program"
            )
        try:
            return cls(int(metadata["examples"]), float(metadata["auc"]), float(metadata["ece"]))
        except (KeyError, ValueError) as error:
            raise HeadFormatError(f"the facts of a head are unreadable: {error}") from error
