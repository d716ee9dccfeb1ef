"""The corpus as batches of padded rows, the same for everybody who has the same seed.

Dialogues are drawn in pools, sorted by length within a pool, and cut into batches, so that little
is padded. Each pool has a seed of its own: a training can go on from the start of any pool.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerFast

from learnback_nano.dialogues import PHASES, Message, Mix, sample_dialogue
from learnback_nano.recipe import Recipe

BATCHES_A_POOL = 8
_USER_LOSS_SHARE = 0.3  # users' words cost as much to learn from, so few dialogues do it


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded rows: the tokens, what follows each of them, and how much that counts."""

    tokens: Tensor
    targets: Tensor
    weights: Tensor


Row = tuple[list[int], list[float]]


def encode(tok: PreTrainedTokenizerFast, dialogue: list[Message]) -> Row:
    """A dialogue as the chat template writes it, and the weight of each token."""
    end = cast(int, tok.eos_token_id)
    ids: list[int] = []
    weights: list[float] = []
    for message in dialogue:
        body = [*tok.encode(message.content, add_special_tokens=False), end]
        ids += [cast(int, tok.convert_tokens_to_ids(f"<|{message.role}|>")), *body]
        weights += [0.0, *[message.weight] * len(body)]
    return ids, weights


class Corpus(IterableDataset[Batch]):
    """Batches of dialogues of like length, pool after pool; each pool has a seed of its own."""

    def __init__(self, tok: PreTrainedTokenizerFast, recipe: Recipe, first_step: int) -> None:
        self._tok = tok
        self._recipe = recipe
        self._first_step = first_step

    def __iter__(self) -> Iterator[Batch]:
        for step in range(self._first_step, self._recipe.steps, BATCHES_A_POOL):
            mix = PHASES[max(start for start in PHASES if start <= step)]
            yield from self._pool(Random(f"{self._recipe.seed}/{step}"), mix)

    def _pool(self, rng: Random, mix: Mix) -> list[Batch]:
        size = self._recipe.dialogues_a_batch
        rows = [self._row(rng, mix) for _ in range(size * BATCHES_A_POOL)]
        rows.sort(key=lambda row: len(row[0]))
        batches = [_padded(rows[n : n + size]) for n in range(0, len(rows), size)]
        rng.shuffle(batches)
        return batches

    def _row(self, rng: Random, mix: Mix) -> Row:
        ids, weights = encode(self._tok, sample_dialogue(rng, mix))
        scale = self._recipe.user_weight_scale if rng.random() < _USER_LOSS_SHARE else 0.0
        return ids, [w if w in (0.0, 1.0) else w * scale for w in weights]


def _padded(rows: list[Row]) -> Batch:
    length = max(len(ids) for ids, _ in rows) - 1
    tokens, targets = torch.zeros((2, len(rows), length), dtype=torch.long)
    weights = torch.zeros(len(rows), length)
    for n, (ids, row_weights) in enumerate(rows):
        size = len(ids) - 1
        tokens[n, :size] = torch.tensor(ids[:-1])
        targets[n, :size] = torch.tensor(ids[1:])
        weights[n, :size] = torch.tensor(row_weights[1:])
    return Batch(tokens, targets, weights)
