"""Tells the pieces apart that training never did: `python -m learnback_nano.spreading FOLDER`.

The tokenizer has twins in capitals of every piece, and many of them never occur in the corpus. All
that training does to such a piece is to push it away from every answer, along with all the others:
in the end 1,918 of the 4,691 rows of the embedding were one and the same vector. An adapter leaves
the embedding as it is, so no correction that needs such a piece ("Lyon") could ever be learned.

Each of them therefore gets a direction of its own beside the common one, which goes on keeping it
out of answers. Lengths stay as they are. Doing it twice changes nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_EMBEDDING = "model.embed_tokens.weight"
# Rows this alike (cosine) were never trained; those that were stay under .9.
_ALIKE = 0.95
# Share of the common direction that is kept: what is left has a cosine of .36 to one another.
_COMMON = 0.6


@torch.no_grad()
def spread(embedding: Tensor, seed: int = 0) -> int:
    """Moves rows that are alike apart, in place.

    Args:
        embedding: Of shape [pieces, hidden size], in float32.
        seed: Of their new directions.

    Returns:
        How many rows that were.
    """
    lengths = embedding.norm(dim=1, keepdim=True)
    directions = embedding / lengths
    cosines = directions @ directions.T
    cosines.fill_diagonal_(-1.0)
    alike = cosines.max(dim=1).values > _ALIKE
    own = torch.randn(
        int(alike.sum()), embedding.shape[1], generator=torch.Generator().manual_seed(seed)
    )
    own /= own.norm(dim=1, keepdim=True)
    mixed = _COMMON * directions[alike] + (1.0 - _COMMON**2) ** 0.5 * own
    embedding[alike] = lengths[alike] * mixed / mixed.norm(dim=1, keepdim=True)
    return len(own)


def main() -> None:
    """Does it to the weights of a folder."""
    file = Path(sys.argv[1]) / "model.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
        weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    embedding = weights[_EMBEDDING].float()
    moved = spread(embedding)
    weights[_EMBEDDING] = embedding.to(weights[_EMBEDDING].dtype)
    aside = file.with_suffix(".aside")
    save_file(weights, aside, metadata)
    aside.replace(file)
    sys.stdout.write(f"{moved} rows moved apart\n")


if __name__ == "__main__":
    main()
