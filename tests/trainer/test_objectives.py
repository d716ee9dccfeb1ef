"""The objectives against their formulas, written out number by number."""

from __future__ import annotations

import math

import torch

from learnback_trainer.objectives import distillation, sft

TOKENS, VOCABULARY = 5, 11


def _logits(seed: int) -> torch.Tensor:
    return torch.randn(TOKENS, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def _probabilities(row: list[float]) -> list[float]:
    whole = sum(math.exp(value) for value in row)
    return [math.exp(value) / whole for value in row]


def test_distillation_is_the_forward_divergence_a_token() -> None:
    teacher, student = _logits(1), _logits(2)
    expected = 0.0
    for p_row, q_row in zip(teacher.tolist(), student.tolist(), strict=True):
        pairs = zip(_probabilities(p_row), _probabilities(q_row), strict=True)
        expected += sum(p * math.log(p / q) for p, q in pairs) / TOKENS
    found = distillation.loss(student, teacher.log_softmax(dim=-1))
    torch.testing.assert_close(found.item(), expected, rtol=1e-5, atol=0)


def test_distillation_pulls_the_student_alone_to_the_teacher() -> None:
    teacher, student = _logits(1).log_softmax(dim=-1), _logits(2).requires_grad_()
    distillation.loss(student, teacher).backward()
    assert student.grad is not None
    # The gradient of the forward divergence by the logits is (q - p) / T.
    torch.testing.assert_close(student.grad, (student.softmax(-1) - teacher.exp()) / TOKENS)


def test_distillation_of_oneself_is_nothing() -> None:
    logits = _logits(3)
    assert distillation.loss(logits, logits.log_softmax(dim=-1)).item() == 0.0


def test_sft_is_the_cross_entropy_a_token() -> None:
    logits, answer = _logits(4), [3, 0, 10, 7, 7]
    rows = zip(logits.tolist(), answer, strict=True)
    expected = sum(-math.log(_probabilities(row)[token]) for row, token in rows) / TOKENS
    found = sft.loss(logits, torch.tensor(answer))
    torch.testing.assert_close(found.item(), expected, rtol=1e-5, atol=0)
