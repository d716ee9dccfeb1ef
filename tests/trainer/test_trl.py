"""SFT, DPO and KTO against TRL: the same loss on the same batch, by the same models.

TRL's own trainers tokenise, pad and compute; ours are given the tokens of the batch that they made.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

from learnback_nano import path as nano_path
from learnback_trainer.objectives import dpo, kto, sft
from learnback_trainer.objectives.dpo import Dpo
from learnback_trainer.objectives.kto import Kto

BETA = 0.3
Models = tuple[Any, Any, Any]


@pytest.fixture(scope="module")
def models() -> Models:
    """A student, the frozen model that it began as, and their tokenizer."""
    folder = nano_path()
    frozen = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    student = copy.deepcopy(frozen)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in student.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=generator)
    return student, frozen, AutoTokenizer.from_pretrained(folder)


def _settings(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "seed": 0,
    }


def _batch_and_loss(trainer: Any, student: Any) -> tuple[dict[str, Tensor], float]:
    batch = next(iter(trainer.get_train_dataloader()))
    student.eval()
    with torch.no_grad():
        return batch, float(trainer.compute_loss(student, dict(batch)))


def _logits(model: Any, ids: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
    """What a model expects at each token of a row's answer, and the answer."""
    places = answer.nonzero()[:, 0]
    with torch.no_grad():
        logits = model(input_ids=ids[None, : int(places[-1]) + 1]).logits[0]
    return logits[places - 1].float(), ids[places]


def _log_ratios(models: Models, rows: Tensor, masks: Tensor) -> Tensor:
    found = []
    for ids, mask in zip(rows, masks, strict=True):
        student, frozen = (
            -sft.loss(*_logits(model, ids, mask)) * mask.sum() for model in models[:2]
        )
        found.append(student - frozen)
    return torch.stack(found)


PROMPTS = ("What is the capital of France?", "Name the opposite of hot.", "And of big?")
GOOD, BAD = ("Paris.", "Cold.", "That is small."), ("Rome, I think.", "Hot.", "Big!")


def test_sft(models: Models, tmp_path: Path) -> None:
    student, _, tokenizer = models
    # One row: TRL divides by the tokens of a batch, and a round by those of each lesson.
    rows = Dataset.from_dict({"prompt": [PROMPTS[0]], "completion": [GOOD[0]]})
    trainer = SFTTrainer(
        student, SFTConfig(**_settings(tmp_path)), train_dataset=rows, processing_class=tokenizer
    )
    batch, expected = _batch_and_loss(trainer, student)
    found = sft.loss(*_logits(student, batch["input_ids"][0], batch["labels"][0] != -100))
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_dpo(models: Models, tmp_path: Path) -> None:
    student, frozen, tokenizer = models
    rows = Dataset.from_dict({"prompt": PROMPTS, "chosen": GOOD, "rejected": BAD})
    trainer = DPOTrainer(
        student,
        frozen,
        DPOConfig(beta=BETA, **_settings(tmp_path)),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    batch, expected = _batch_and_loss(trainer, student)
    ratios = _log_ratios(models, batch["input_ids"], batch["completion_mask"])
    pairs = zip(*ratios.chunk(2), strict=True)
    found = [dpo.loss(chosen, rejected, settings=Dpo(BETA)) for chosen, rejected in pairs]
    assert float(torch.stack(found).mean()) == pytest.approx(expected, rel=1e-4)


def test_kto(models: Models, tmp_path: Path) -> None:
    student, frozen, tokenizer = models
    rows = Dataset.from_dict(
        {"prompt": PROMPTS, "completion": [GOOD[0], BAD[1], GOOD[2]], "label": [True, False, True]}
    )
    settings = Kto(BETA, desirable=1.5, undesirable=0.7)
    trainer = KTOTrainer(
        student,
        frozen,
        KTOConfig(beta=BETA, desirable_weight=1.5, undesirable_weight=0.7, **_settings(tmp_path)),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    batch, expected = _batch_and_loss(trainer, student)
    point = kto.reference_point(
        _log_ratios(models, batch["KL_input_ids"], batch["KL_completion_mask"])
    )
    ratios = _log_ratios(models, batch["input_ids"], batch["completion_mask"])
    found = [
        kto.loss(ratio, point, good=bool(good), settings=settings)
        for ratio, good in zip(ratios, batch["label"], strict=True)
    ]
    assert float(torch.stack(found).mean()) == pytest.approx(expected, rel=1e-4)
