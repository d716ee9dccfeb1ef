"""From logits to tokens, one row a sequence.

Each row is drawn by one uniform number of its sequence's own generator, by inversion of the
cumulative distribution: what a row draws depends on its own logits and seed alone, whatever else is
in the batch. The order is that of the field: penalties, temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch

from learnback_server.engine.messages import SamplingParams, TokenLogprob, TopLogprob
from learnback_server.engine.sequence import Sequence
from learnback_server.engine.text import Vocabulary

GREEDY = 0.0
"""The temperature at which the likeliest token is taken."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The token chosen for a row."""

    token: int
    valid: bool
    """False if the row's logits are not numbers, in which case the token means nothing."""
    logprob: TokenLogprob | None = None


def choose(logits: torch.Tensor, rows: Rows[Sequence], vocabulary: Vocabulary) -> list[Choice]:
    """Chooses a token for each row.

    Args:
        logits: Of shape (rows, vocabulary), any floating type.
        rows: The sequences, in the order of the logits.
        vocabulary: For the bytes of reported tokens.
    """
    logits = logits.float()
    penalised = _penalise(logits, rows)
    tokens = _likeliest(penalised)
    best = penalised.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    if any(row.sampling.temperature != GREEDY for row in rows):
        tokens = _draw_rows(penalised, tokens, rows)
    logprobs = _logprobs(logits, tokens, rows, vocabulary)
    valid = torch.isfinite(best)
    return [
        Choice(token, ok, logprob)
        for token, ok, logprob in zip(tokens.tolist(), valid.tolist(), logprobs, strict=True)
    ]


def _likeliest(logits: torch.Tensor) -> torch.Tensor:
    """The index of the largest logit of each row; of the first that is no number, if any is."""
    if logits.device.type == "cpu":
        return torch.from_numpy(logits.numpy().argmax(axis=-1))  # 10 times as fast as torch's own
    return logits.argmax(dim=-1)


def _penalise(logits: torch.Tensor, rows: Rows[Sequence]) -> torch.Tensor:
    """Applies repetition, presence and frequency penalties, on a copy if there are any."""
    if all(row.seen is None for row in rows):
        return logits
    logits = logits.clone()
    for i, row in enumerate(rows):
        if row.seen is None:
            continue
        seen = torch.tensor(row.seen.all(), device=logits.device)
        values = logits[i, seen]
        penalty = row.sampling.repetition_penalty
        logits[i, seen] = torch.where(values > 0, values / penalty, values * penalty)
        if row.seen.answer:
            answered = torch.tensor(list(row.seen.answer), device=logits.device)
            counts = torch.tensor(list(row.seen.answer.values()), device=logits.device)
            once, each = row.sampling.presence_penalty, row.sampling.frequency_penalty
            logits[i, answered] -= once + each * counts
    return logits


def _draw_rows(logits: torch.Tensor, greedy: torch.Tensor, rows: Rows[Sequence]) -> torch.Tensor:
    """Replaces the greedy token of every row that has a temperature by a drawn one."""
    drawn = [i for i, row in enumerate(rows) if row.sampling.temperature != GREEDY]
    params = [rows[i].sampling for i in drawn]
    uniform = torch.tensor([rows[i].uniform for i in drawn], dtype=torch.float64)
    index = torch.tensor(drawn, device=logits.device)
    temperature = _column([p.temperature for p in params], logits)
    # The likeliest goes to 0 first: a temperature next to zero then can't carry it to infinity.
    logits = logits[index]
    scaled = (logits - logits.max(dim=-1, keepdim=True).values) / temperature
    tokens = draw(torch.softmax(scaled, dim=-1), params, uniform.to(logits.device))
    return greedy.index_copy(0, index, tokens)


def draw(probs: torch.Tensor, params: Rows[SamplingParams], uniform: torch.Tensor) -> torch.Tensor:
    """Draws one token a row from truncated distributions.

    Args:
        probs: Probabilities at the row's temperature, of shape (rows, vocabulary).
        params: Truncation of each row.
        uniform: One number in [0, 1) a row, float64.

    Returns:
        Token ids, of shape (rows,).
    """
    tokens = _invert(probs, uniform)
    # A row is drawn in order of ids or of probabilities by its own settings, not its neighbours'.
    truncated = [i for i, p in enumerate(params) if p.top_k or p.top_p < 1.0 or p.min_p > 0.0]
    if not truncated:
        return tokens
    index = torch.tensor(truncated, device=probs.device)
    ordered, ids = probs[index].sort(dim=-1, descending=True, stable=True)
    kept = ordered * _keep(ordered, [params[i] for i in truncated])
    places = _invert(kept, uniform[index]).unsqueeze(-1)
    return tokens.index_copy_(0, index, ids.gather(-1, places).squeeze(-1))


def _keep(ordered: torch.Tensor, params: Rows[SamplingParams]) -> torch.Tensor:
    """Which entries of descending probabilities survive top-k, top-p and min-p."""
    size = ordered.shape[-1]
    top_k = _column([p.top_k or size for p in params], ordered)
    keep = torch.arange(size, device=ordered.device) < top_k
    # top-p looks at what top-k has left, as a distribution of its own.
    ordered = ordered * keep
    ordered = ordered / ordered.sum(dim=-1, keepdim=True)
    before = ordered.cumsum(dim=-1) - ordered
    keep &= before < _column([p.top_p for p in params], ordered)
    keep &= ordered >= _column([p.min_p for p in params], ordered) * ordered[:, :1]
    keep[:, 0] = True
    return keep


def _invert(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The first index at which the cumulative weight exceeds `uniform` of the whole."""
    cumulative = weights.double().cumsum(dim=-1)
    total = cumulative[:, -1:]
    # Rounding may carry the product up to the total, behind which only weights of zero lie.
    target = torch.minimum(uniform.unsqueeze(-1) * total, total.nextafter(torch.zeros_like(total)))
    index = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return index.clamp_(max=weights.shape[-1] - 1)  # a row that is no numbers ends behind its end


def _column(values: list[float] | list[int], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, device=like.device, dtype=torch.float32).unsqueeze(-1)


def _logprobs(
    logits: torch.Tensor, tokens: torch.Tensor, rows: Rows[Sequence], vocabulary: Vocabulary
) -> list[TokenLogprob | None]:
    """What the model itself thought, for the rows that want to know."""
    reported: list[TokenLogprob | None] = [None] * len(rows)
    for i, row in enumerate(rows):
        if row.sampling.logprobs is None:
            continue
        logprobs = torch.log_softmax(logits[i], dim=-1)
        token = int(tokens[i])
        values, ids = logprobs.topk(min(row.sampling.logprobs, len(logprobs)))
        top = tuple(
            TopLogprob(id_, vocabulary.bytes_of(id_), value)
            for id_, value in zip(ids.tolist(), values.tolist(), strict=True)
        )
        chosen = float(logprobs[token])
        reported[i] = TokenLogprob(token, vocabulary.bytes_of(token), chosen, top)
    return reported
