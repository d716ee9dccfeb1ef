"""The objectives against their formulas, written out number by number."""

from __future__ import annotations

import math

import pytest
import torch

from learnback_trainer.objectives import distillation, dpo, imitation, kto, sft
from learnback_trainer.objectives.distillation import Divergence
from learnback_trainer.objectives.dpo import Dpo
from learnback_trainer.objectives.kto import Kto

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


def _divergence(p: list[float], q: list[float]) -> float:
    return sum(one * math.log(one / other) for one, other in zip(p, q, strict=True))


def _jsd(p: list[float], q: list[float], share: float) -> float:
    mixture = [share * one + (1 - share) * other for one, other in zip(p, q, strict=True)]
    return share * _divergence(p, mixture) + (1 - share) * _divergence(q, mixture)


def _rows(teacher: torch.Tensor, student: torch.Tensor) -> list[tuple[list[float], list[float]]]:
    pairs = zip(teacher.tolist(), student.tolist(), strict=True)
    return [(_probabilities(p), _probabilities(q)) for p, q in pairs]


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_other_divergences(share: float) -> None:
    teacher, student = _logits(1), _logits(2)
    rows, log_probs = _rows(teacher, student), teacher.log_softmax(dim=-1)
    reverse = distillation.loss(student, log_probs, Divergence.REVERSE_KL)
    assert reverse.item() == pytest.approx(sum(_divergence(q, p) for p, q in rows) / TOKENS)
    jsd = distillation.loss(student, log_probs, Divergence.JSD, share)
    assert jsd.item() == pytest.approx(sum(_jsd(p, q, share) for p, q in rows) / TOKENS)


def test_the_tail_stands_for_all_other_pieces() -> None:
    teacher, student, count = _logits(1), _logits(2), 3
    expected = 0.0
    for p, q in _rows(teacher, student):
        top = sorted(range(VOCABULARY), key=p.__getitem__, reverse=True)[:count]
        short = [[row[v] for v in top] + [1 - sum(row[v] for v in top)] for row in (p, q)]
        expected += _divergence(*short) / TOKENS
    pieces = distillation.likeliest(teacher, count)
    found = distillation.loss(
        distillation.bucketed(student, pieces), distillation.bucketed(teacher, pieces)
    )
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("count", [0, VOCABULARY, 100])
def test_a_small_vocabulary_is_compared_exactly(count: int) -> None:
    teacher = _logits(1)
    pieces = distillation.likeliest(teacher, count)
    assert pieces is None
    assert torch.equal(distillation.bucketed(teacher, pieces), teacher.log_softmax(dim=-1))


def test_imitation_is_the_cross_entropy_of_the_refinement() -> None:
    logits, answer = _logits(5), [1, 2, 3, 4, 10]
    rows = zip(logits.tolist(), answer, strict=True)
    expected = sum(-math.log(_probabilities(row)[token]) for row, token in rows) / TOKENS
    assert imitation.loss(logits, torch.tensor(answer)).item() == pytest.approx(expected)


def test_the_best_refinement_is_likely_and_leaves_nothing_to_change() -> None:
    # Sums of nats: 3.1, 1.5, 2.0, 1.5; of the two best the first.
    assert imitation.best([0.1, 1.0, 2.0, 0.5], [3.0, 0.5, 0.0, 1.0]) == 1


@pytest.mark.parametrize("ratio", [-7.0, 0.0, 3.0])
@pytest.mark.parametrize("mismatched", [[], [-2.0, 1.0], [4.0, 1.0]])
def test_kto_is_its_equation(ratio: float, mismatched: list[float]) -> None:
    settings = Kto(beta=0.3, desirable=1.5, undesirable=0.7)
    z = max(0.0, sum(mismatched) / len(mismatched)) if mismatched else 0.0
    point = kto.reference_point(torch.tensor(mismatched))
    good, bad = (
        kto.loss(torch.tensor(ratio), point, good=good, settings=settings).item()
        for good in (True, False)
    )
    assert good == pytest.approx(1.5 * (1 - 1 / (1 + math.exp(-0.3 * (ratio - z)))))
    assert bad == pytest.approx(0.7 * (1 - 1 / (1 + math.exp(-0.3 * (z - ratio)))))


def test_dpo_is_its_equation() -> None:
    found = dpo.loss(torch.tensor(1.5), torch.tensor(-2.0), settings=Dpo(0.1))
    assert found.item() == pytest.approx(-math.log(1 / (1 + math.exp(-0.1 * 3.5))))


def test_dpo_holds_the_preferred_answer_by_its_own_likelihood() -> None:
    ratios = torch.tensor(1.5), torch.tensor(-2.0)
    alone = dpo.loss(*ratios, settings=Dpo(0.1))
    held = dpo.loss(*ratios, torch.tensor(3.0), Dpo(0.1, likelihood=0.5))
    assert (held - alone).item() == pytest.approx(1.5)


def test_what_is_struck_out_leaves_the_rest_as_likely_as_it_was_to_itself() -> None:
    # Answers of two tokens out of three; the second depends on the first.
    first, second = _logits(6)[0, :3].softmax(-1), _logits(7)[:3, :3].softmax(-1)
    answer = (1, 2)
    left = 1 - float(first[1] * second[1, 2])
    found = kto.struck_out(torch.stack([first, second[1]]).log(), torch.tensor(answer)).exp()
    for token in range(3):
        whole = [float(first[token] * second[token, other]) for other in range(3)]
        if token == answer[0]:
            spared = [p for other, p in enumerate(whole) if other != answer[1]]
            assert float(found[0, token]) == pytest.approx(sum(spared) / left, rel=1e-5)
        else:
            assert float(found[0, token]) == pytest.approx(sum(whole) / left, rel=1e-5)
    assert float(found[1, answer[1]]) == 0
    assert float(found[1].sum()) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("sureness", [0.0, 4.0, 40.0, 400.0])
def test_what_is_left_can_be_learned_however_sure_the_answer_was(sureness: float) -> None:
    sure = torch.zeros(2, 4)
    sure[0, 1] = sure[1, 2] = sureness
    found = kto.struck_out(sure.log_softmax(-1), torch.tensor([1, 2]))
    assert found[1].argmax().item() != 2
    student = sure.clone().requires_grad_()
    distillation.loss(student, found).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
