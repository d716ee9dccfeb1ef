"""The proof that a model may be served: paged and plain logits of a short text agree.

The text is computed in two chunks, the second over the pages of the first, in rows of two
sequences, so that storing, gathering, masking and positions are all used. Models that take another
path at greater lengths only (position scaling that depends on the length) are not caught here.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from learnback_server.engine.attention import (
    IMPLEMENTATION,
    KeyValueCache,
    UnsupportedAttentionError,
)
from learnback_server.engine.batch import StepRow
from learnback_server.engine.messages import GenerationRequest, SamplingParams
from learnback_server.engine.runner import ModelRunner
from learnback_server.engine.sequence import Generation, Sequence
from learnback_server.engine.text import Vocabulary

PROBE_TOKENS = 40
FIRST_CHUNK = 23
"""Not a multiple of a page, so that the second chunk begins inside one."""

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference of logits that rounding explains, as a share of the largest logit."""


@torch.inference_mode()
def probe(network: PreTrainedModel, vocabulary: Vocabulary, page_tokens: int) -> str:
    """Switches a model to paged attention and compares it with itself before.

    Args:
        network: The model.
        vocabulary: Its tokens.
        page_tokens: Tokens of a page.

    Returns:
        What is wrong, in words; empty if nothing is.
    """
    ids = [(7 * i + 3) % network.config.get_text_config().vocab_size for i in range(PROBE_TOKENS)]
    plain = network(input_ids=torch.tensor([ids], device=network.device)).logits[0, -1]
    network.set_attn_implementation(IMPLEMENTATION)
    try:
        paged = _paged_logits(network, vocabulary, ids, page_tokens)
    except UnsupportedAttentionError as error:
        return f"it needs {error}"
    except (RuntimeError, TypeError, AttributeError, IndexError, ValueError) as error:
        return f"it fails on the paged cache ({type(error).__name__}: {error})"
    difference = float((plain - paged).abs().max() / plain.abs().max())
    if difference > TOLERANCE.get(network.dtype, TOLERANCE[torch.float32]):
        return f"its logits through the paged cache differ by {difference:.1%}"
    return ""


def _paged_logits(
    network: PreTrainedModel, vocabulary: Vocabulary, ids: list[int], page_tokens: int
) -> torch.Tensor:
    """Logits after `ids`, computed in two chunks, the second beside another sequence."""
    runner = ModelRunner(network, KeyValueCache(8, page_tokens))
    first, second = (_sequence(name, ids, vocabulary) for name in ("first", "second"))
    first.pages, second.pages = [1, 2, 3], [4, 5, 6]
    runner.run([StepRow(first, FIRST_CHUNK)])
    first.computed = FIRST_CHUNK
    logits = runner.run([StepRow(first, first.pending), StepRow(second, second.pending)])
    return logits[0]


def _sequence(name: str, ids: list[int], vocabulary: Vocabulary) -> Sequence:
    request = GenerationRequest(
        generation_id=name,
        prompt_ids=tuple(ids),
        sampling=SamplingParams(max_tokens=1),
        checkpoint="probe",
    )
    return Generation(request, 0, vocabulary).sequences[0]
