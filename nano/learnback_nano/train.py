"""The training recipe: `python -m learnback_nano.train` makes the shipped weights.

One pass over an endless corpus, seeded: AdamW for embeddings and norms, Muon for the matrices, bf16
autocast where the processor has bf16, the learning rate flat and then falling to nothing. It can be
stopped at any time; the same command goes on from the last checkpoint. Equal bits need equal
versions and machines.
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from learnback_nano import path, tokenizer
from learnback_nano.batches import BATCHES_A_POOL, Batch, Corpus
from learnback_nano.loss_log import LossLog
from learnback_nano.muon import Muon
from learnback_nano.recipe import Recipe, rate_at
from learnback_nano.spreading import spread

# Emulated, a pass in bfloat16 took 7.5 times as long as one in float32.
_HAS_BFLOAT16 = any(
    torch.cpu.get_capabilities().get(n) for n in ("avx512_bf16", "amx_bf16", "bf16")
)


def build_model(recipe: Recipe, tok: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A fresh Llama of the recipe's shape."""
    config = LlamaConfig(
        vocab_size=len(tok),
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        intermediate_size=recipe.intermediate,
        max_position_embeddings=tokenizer.CONTEXT_TOKENS,
        tie_word_embeddings=True,
        pad_token_id=tok.pad_token_id,
        bos_token_id=None,
        eos_token_id=tok.eos_token_id,
    )
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(config)


def loss_of(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """Weighted cross-entropy, with logits only where a weight asks for them."""
    hidden = model.model(input_ids=batch.tokens, use_cache=False).last_hidden_state
    counted = batch.weights > 0
    logits = model.lm_head(hidden[counted]).float()
    losses = nn.functional.cross_entropy(logits, batch.targets[counted], reduction="none")
    weights = batch.weights[counted]
    return (losses * weights).sum() / weights.sum()


class Optimiser:
    """Muon on the matrices, AdamW on the rest, under one schedule."""

    def __init__(self, model: LlamaForCausalLM, recipe: Recipe) -> None:
        matrices, others = _divided(model)
        self._recipe = recipe
        self.parts: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=recipe.matrix_rate, weight_decay=recipe.weight_decay),
            torch.optim.AdamW(
                others, lr=recipe.other_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
            ),
        ]
        for part in self.parts:
            for group in part.param_groups:
                group["peak"] = group["lr"]

    def step(self, step: int) -> None:
        """Move, and forget the gradients."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = group["peak"] * rate_at(self._recipe, step)
            part.step()
            part.zero_grad(set_to_none=True)


def _divided(model: LlamaForCausalLM) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The matrices between hidden vectors; and the rest: norms and the (tied) embedding."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    return matrices, [p for name, p in named if p.ndim != 2 or "embed" in name]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One file that a stopped training goes on from."""

    file: Path

    def save(self, step: int, model: LlamaForCausalLM, optimiser: Optimiser) -> None:
        """Write aside, then rename: a half-written checkpoint never has the name."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        aside = self.file.with_suffix(".part")
        parts = [part.state_dict() for part in optimiser.parts]
        torch.save({"step": step, "model": model.state_dict(), "optimiser": parts}, aside)
        aside.replace(self.file)

    def load(self, model: LlamaForCausalLM, optimiser: Optimiser) -> int:
        """The step to go on from, 0 where there is no checkpoint."""
        if not self.file.exists():
            return 0
        state: dict[str, Any] = torch.load(self.file, weights_only=True)
        model.load_state_dict(state["model"])
        for part, saved in zip(optimiser.parts, state["optimiser"], strict=True):
            part.load_state_dict(saved)
        return int(state["step"])


@dataclass(frozen=True, slots=True)
class Start:
    """Where a training begins that has no checkpoint: with fresh weights, or with finished ones."""

    weights: Path | None = None
    """A folder of weights alone; the optimiser begins anew."""
    step: int = 0

    def load(self, model: LlamaForCausalLM) -> int:
        """The first step."""
        if self.weights is None:
            return 0
        found = LlamaForCausalLM.from_pretrained(self.weights, dtype=torch.float32)
        model.load_state_dict(found.state_dict())
        return self.step


FRESH = Start()
"""From the very beginning."""


def train(
    recipe: Recipe, work: Path, artefact: Path, checkpoint_every: int, start: Start = FRESH
) -> None:
    """Make the model, from the tokenizer to the files that are shipped."""
    tok = tokenizer.build(recipe.seed)
    model = build_model(recipe, tok)
    optimiser = Optimiser(model, recipe)
    checkpoint = Checkpoint(work / "checkpoint.pt")
    first = checkpoint.load(model, optimiser) or start.load(model)
    losses = LossLog(work / "loss.csv", first)
    batches = DataLoader(Corpus(tok, recipe, first), batch_size=None, num_workers=1)
    bar = tqdm(batches, initial=first, total=recipe.steps, unit="step", mininterval=5)
    for step, batch in enumerate(bar, start=first):
        with torch.autocast("cpu", torch.bfloat16, enabled=_HAS_BFLOAT16):
            loss = loss_of(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step(step)
        losses.add(step, loss.item())
        if (step + 1) % (checkpoint_every * BATCHES_A_POOL) == 0:
            checkpoint.save(step + 1, model, optimiser)
            bar.set_postfix(loss=f"{losses.recent:.4f}")
    save(model, tok, recipe, artefact)
    losses.plot(work / "loss.png")


def save(model: LlamaForCausalLM, tok: PreTrainedTokenizerFast, recipe: Recipe, to: Path) -> None:
    """Write the artefact: weights in bf16, configs, the tokenizer without what was hardly seen."""
    to.mkdir(parents=True, exist_ok=True)
    shipped = build_model(recipe, tok)
    shipped.bfloat16()
    shipped.load_state_dict(model.state_dict())
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight.float().clone()
        spread(embedding)
        shipped.model.embed_tokens.weight.copy_(embedding)
    shipped.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
        do_sample=False,
        max_new_tokens=96,
    )
    shipped.save_pretrained(to)
    tokenizer.save(tokenizer.pruned(tok, recipe.seed), to)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=Path(".state/nano"), help="checkpoints and the plot"
    )
    parser.add_argument("--artefact", type=Path, default=path(), help="the finished model")
    parser.add_argument("--weights", type=Path, help="begin with these instead of fresh ones")
    parser.add_argument("--from-step", type=int, default=0, help="the step that --weights are at")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--checkpoint-every", type=int, default=25, metavar="POOLS")
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    chosen = vars(parser.parse_args())
    torch.set_num_threads(chosen["threads"])
    recipe = Recipe(**{name: chosen[name] for name in asdict(Recipe())})
    start = Start(chosen["weights"], chosen["from_step"])
    train(recipe, chosen["work"], chosen["artefact"], chosen["checkpoint_every"], start)


if __name__ == "__main__":
    main()
