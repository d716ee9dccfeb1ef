"""The acceptance head: its loss and its calibration, what it learns from, and what it is worth."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from random import Random
from statistics import mean

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from learnback_nano import world
from learnback_server.engine.acceptance import read_head
from learnback_store.acceptance import HEAD_FILE, HeadFacts
from learnback_store.records import (
    Account,
    Critique,
    FeedbackRecord,
    FeedbackState,
    FeedbackView,
    Lesson,
    Objective,
    Preference,
    Preferred,
    Rating,
)
from learnback_trainer import acceptance
from learnback_trainer.__main__ import _curriculum
from learnback_trainer.acceptance import (
    Example,
    Head,
    Terms,
    auc,
    balance,
    calibration_error,
    examples_of,
    fit_head,
    fitted,
    folds_of,
    linear,
    loss,
    platt,
)
from learnback_trainer.anchors import Amounts, Anchor, make_anchors
from learnback_trainer.config import read_command_line
from learnback_trainer.errors import ModelError
from learnback_trainer.gate import Budget, Held, judge
from learnback_trainer.lessons import Exercise, make_exercises
from learnback_trainer.pupil import Base, Pupil
from learnback_trainer.questions import shipped_questions
from learnback_trainer.reader import Ids
from learnback_trainer.school import Curriculum, Sources, hold_round
from learnback_trainer.update import Recipe, teach
from tests.trainer.critics import (
    ANSWER_TOKENS,
    asked,
    correction,
    criticisable,
    criticism,
    views,
)

HIDDEN = 6
DECAY = 0.01


def drawn(seed: int, count: int, hidden: int = HIDDEN) -> tuple[Tensor, Tensor]:
    """Random states, with labels that a direction among them tells in part."""
    draw = torch.Generator().manual_seed(seed)
    states = torch.randn(count, hidden, generator=draw, dtype=torch.float64)
    noise = torch.randn(count, generator=draw, dtype=torch.float64)
    labels = (states[:, 0] + noise > 0).double()
    labels[0], labels[1] = 0.0, 1.0
    return states, labels


seeds = st.integers(0, 10_000)


# The loss


@settings(max_examples=20)
@given(seed=seeds, count=st.integers(2, 20))
def test_the_loss_and_its_gradient_are_those_written_out(seed: int, count: int) -> None:
    states, labels = drawn(seed, count)
    at = torch.linspace(-1, 1, HIDDEN + 1, dtype=torch.float64).requires_grad_()
    value = loss(at, states, labels, DECAY)
    value.backward()  # type: ignore[no-untyped-call]

    weight, bias = at.detach()[:-1], at.detach()[-1]
    accepted = labels.sum()
    expected, slope = 0.0, torch.zeros(HIDDEN + 1, dtype=torch.float64)
    for state, label in zip(states, labels, strict=True):
        share = 0.5 / (accepted if label else count - accepted)
        probability = 1 / (1 + torch.exp(-(state @ weight + bias)))
        right = probability if label else 1 - probability
        expected -= float(share * torch.log(right))
        slope += share * (probability - label) * torch.cat([state, torch.ones(1)])
    expected += float(DECAY / 2 * weight @ weight)
    slope[:-1] += DECAY * weight
    assert float(value.detach()) == pytest.approx(expected)
    assert at.grad is not None
    assert torch.allclose(at.grad, slope)


@settings(max_examples=20)
@given(seed=seeds, count=st.integers(4, 40))
def test_what_is_fitted_is_where_the_loss_is_least(seed: int, count: int) -> None:
    states, labels = drawn(seed, count)
    found = acceptance._minimised(
        lambda at: loss(at, states, labels, DECAY), states.new_zeros(HIDDEN + 1)
    )
    # The loss is strictly convex in the weight, so this is the only place without a slope.
    at = found.clone().requires_grad_()
    loss(at, states, labels, DECAY).backward()  # type: ignore[no-untyped-call]
    assert at.grad is not None
    assert at.grad.abs().max() < 1e-6


@settings(max_examples=10)
@given(seed=seeds, times=st.integers(2, 5))
def test_more_of_one_sort_weigh_no_more(seed: int, times: int) -> None:
    states, labels = drawn(seed, 20)
    again = labels > 0.5
    more = torch.cat([labels, *[labels[again]] * (times - 1)])
    assert float(balance(more) @ more) == pytest.approx(0.5)
    assert float(balance(labels).sum()) == pytest.approx(1.0)
    both = torch.cat([states, *[states[again]] * (times - 1)])
    parameters = torch.ones(HIDDEN + 1, dtype=torch.float64)
    one, many = (loss(parameters, *pair, DECAY) for pair in ((states, labels), (both, more)))
    assert float(one) == pytest.approx(float(many))


def test_a_state_of_another_scale_or_origin_makes_no_difference() -> None:
    states, labels = drawn(3, 40)
    weight, bias = linear(states, labels)
    moved = states * 100 + 7
    other_weight, other_bias = linear(moved, labels)
    assert torch.allclose(states @ weight + bias, moved @ other_weight + other_bias, atol=1e-4)


# The calibration


@settings(max_examples=30)
@given(seed=seeds, scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
def test_calibration_undoes_any_line_through_the_log_odds(
    seed: int, scale: float, shift: float
) -> None:
    states, labels = drawn(seed, 40)
    logits = states[:, 0]
    slope, offset = platt(logits, labels)
    other_slope, other_offset = platt(scale * logits + shift, labels)
    assert other_slope * scale == pytest.approx(slope, rel=1e-3, abs=1e-4)
    assert other_slope * shift + other_offset == pytest.approx(offset, rel=1e-3, abs=1e-3)


@settings(max_examples=30)
@given(seed=seeds, count=st.integers(4, 60))
def test_calibrated_probabilities_come_true_as_often_as_told(seed: int, count: int) -> None:
    states, labels = drawn(seed, count)
    slope, offset = platt(states[:, 0], labels)
    told = (slope * states[:, 0] + offset).sigmoid()
    accepted, rejected = labels.sum(), (1 - labels).sum()
    targets = torch.where(labels > 0.5, (accepted + 1) / (accepted + 2), 1 / (rejected + 2))
    assert float(balance(labels) @ (told - targets)) == pytest.approx(0.0, abs=1e-6)
    assert ((told > 0) & (told < 1)).all()


def test_nothing_is_certain_even_if_all_is_told_apart() -> None:
    labels = torch.tensor([0.0] * 8 + [1.0] * 8, dtype=torch.float64)
    slope, offset = platt(labels * 200 - 100, labels)
    told = (slope * (labels * 200 - 100) + offset).sigmoid()
    assert told.tolist() == pytest.approx([0.1] * 8 + [0.9] * 8, abs=1e-4)


# The measures

scored = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).filter(
    lambda pairs: len({label for _, label in pairs}) == 2
)


@given(pairs=scored)
def test_auc_is_the_share_of_pairs_in_order(pairs: list[tuple[int, bool]]) -> None:
    scores = torch.tensor([float(one) for one, _ in pairs], dtype=torch.float64)
    labels = torch.tensor([float(label) for _, label in pairs], dtype=torch.float64)
    better = [one for one, label in pairs if label]
    worse = [one for one, label in pairs if not label]
    order = mean((a > b) + 0.5 * (a == b) for a in better for b in worse)
    assert auc(scores, labels) == pytest.approx(order)
    assert auc(scores.exp() * 3, labels) == pytest.approx(order)
    assert auc(-scores, labels) == pytest.approx(1 - order)


def test_calibration_error_by_hand() -> None:
    labels = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    even = torch.full((4,), 0.5, dtype=torch.float64)
    assert calibration_error(even, labels) == pytest.approx(0.0)
    assert calibration_error(labels, labels) == pytest.approx(0.0)
    assert calibration_error(1 - labels, labels) == pytest.approx(1.0)
    # Two bins: .2 is told of a half that is never accepted, .9 of a half that always is.
    told = torch.tensor([0.9, 0.2, 0.9, 0.2], dtype=torch.float64)
    assert calibration_error(told, labels) == pytest.approx(0.5 * 0.1 + 0.5 * 0.2)


@given(pairs=scored)
def test_a_calibration_error_is_a_share(pairs: list[tuple[int, bool]]) -> None:
    told = torch.tensor([(one + 3) / 6 for one, _ in pairs], dtype=torch.float64)
    labels = torch.tensor([float(label) for _, label in pairs], dtype=torch.float64)
    assert 0 <= calibration_error(told, labels) <= 1


# Folds


@given(
    sorts=st.lists(st.sampled_from(["both", "accepted", "rejected"]), min_size=1, max_size=20),
    seed=seeds,
)
def test_no_prompt_is_in_two_folds_and_each_leaves_both_sorts(sorts: list[str], seed: int) -> None:
    examples = [
        Example((place,), (label,), accepted=label == 1)
        for place, sort in enumerate(sorts)
        for label in {"both": (0, 1), "accepted": (1,), "rejected": (0,)}[sort]
    ]
    folds = folds_of(examples, Random(seed))
    own: dict[Ids, set[int]] = {}
    for one, fold in zip(examples, folds, strict=True):
        own.setdefault(one.prompt, set()).add(fold)
    assert all(len(found) == 1 for found in own.values())
    for fold in range(max(folds, default=0) + 1):
        others = [one for one, at in zip(examples, folds, strict=True) if at != fold]
        if max(folds) > 0:
            assert {one.accepted for one in others} == {True, False}


def test_what_is_learned_by_heart_is_not_counted() -> None:
    # Each prompt has a direction of its own, and is either accepted or criticised as a whole.
    draw = torch.Generator().manual_seed(0)
    directions = torch.randn(40, 64, generator=draw, dtype=torch.float64)
    prompts = torch.arange(40).repeat_interleave(4)
    labels = (torch.arange(40) % 2).double()[prompts]
    states = directions[prompts] + 0.01 * torch.randn(160, 64, generator=draw, dtype=torch.float64)
    weight, bias = linear(states, labels)
    assert auc(states @ weight + bias, labels) > 0.95
    _, by_prompt = fitted(states, labels, prompts % 5)
    _, by_answer = fitted(states, labels, torch.arange(160) % 4)
    assert by_answer.auc > 0.95
    assert by_prompt.auc < 0.7


def test_what_can_be_told_is_told_on_what_was_not_seen() -> None:
    states, labels = drawn(5, 200)
    head, facts = fitted(states, labels, torch.arange(200) % 5)
    assert facts.examples == 200
    assert facts.auc > 0.75
    assert facts.ece < 0.15
    fresh, truth = drawn(6, 2000)
    scores = head.scores(fresh.float())
    assert auc(scores, truth) == pytest.approx(facts.auc, abs=0.08)
    assert calibration_error(scores, truth) < 0.1


# The file


def test_the_server_scores_as_the_trainer_does(base: Base, tmp_path: Path) -> None:
    hidden = base.network.config.hidden_size
    states = torch.randn(7, hidden, generator=torch.Generator().manual_seed(0))
    assert Head.load(tmp_path) is None
    Head(torch.linspace(-1, 1, hidden).double(), 0.3).save(tmp_path, HeadFacts(40, 0.9, 0.05))
    own, served = Head.load(tmp_path), read_head(tmp_path, base.network)
    assert own is not None
    assert served is not None
    assert [served.score(one.to(base.network.device)) for one in states] == pytest.approx(
        own.scores(states).tolist()
    )


def test_a_broken_head_is_said_so(tmp_path: Path) -> None:
    (tmp_path / HEAD_FILE).write_bytes(b"nothing")
    with pytest.raises(ModelError, match="acceptance head"):
        Head.load(tmp_path)


# What it learns from


def learned(record: FeedbackRecord, refinement: str) -> FeedbackView:
    lesson = Lesson(Objective.DISTILLATION, refinement)
    account = Account.queued(record).moved(FeedbackState.LEARNED, lessons=(lesson,))
    return FeedbackView(record, account)


def texts(base: Base, examples: list[Example]) -> list[tuple[str, bool]]:
    return [(base.reader.text(one.answer), one.accepted) for one in examples]


def test_what_feedback_accepts_and_criticises(base: Base) -> None:
    said = [
        learned(asked("A?", "a", Critique("longer")), "a!"),
        learned(correction("B?", "b", "right"), "right"),
        learned(asked("C?", "c", Rating(1.0)), "c"),
        learned(asked("D?", "d", Rating(-0.5)), "d"),
        learned(asked("E?", "e", Preference("other", Preferred.TARGET)), "e"),
        learned(asked("F?", "f", Preference("better", Preferred.OTHER)), "better"),
        learned(asked("G?", "g", Critique("nothing came of it")), ""),
        learned(asked("H?", "h", Rating(0.0)), "h"),
    ]
    found = examples_of([], said, [], base.reader, 256)
    assert texts(base, found) == [
        ("a", False), ("a!", True), ("b", False), ("right", True), ("c", True), ("d", False),
        ("e", True), ("other", False), ("f", False), ("better", True),
    ]  # fmt: skip
    assert all(base.reader.ended(one.answer) for one in found)


def test_what_was_said_last_counts(base: Base) -> None:
    newer = asked("A?", "a", Rating(1.0))
    older = asked("A?", "a", Rating(-1.0))
    exercise = Exercise(newer, Objective.KTO, (1,), base.reader.answer("a"))
    found = examples_of([exercise], [learned(older, "a")], [], base.reader, 256)
    assert texts(base, found) == [("a", True)]


def test_anchors_are_as_many_as_were_criticised_at_most(base: Base) -> None:
    said = [learned(correction(f"{i}?", "wrong", f"right {i}"), f"right {i}") for i in range(5)]
    anchors = [Anchor((i, 1), (2, 0)) for i in range(50)]
    found = examples_of([], said, anchors, base.reader, 256)
    assert [one.accepted for one in found] == [False, True] * 5 + [True] * 5
    few = examples_of([], said, anchors, base.reader, 8)
    assert len(few) == 8
    assert few[:6] == found[:6]


def test_too_few_examples_make_no_head(base: Base) -> None:
    examples = [
        Example((i,), (accepted, 0), accepted == 1) for i in range(7) for accepted in (0, 1)
    ]
    with Pupil(base, None) as pupil:
        assert fit_head(pupil, examples, Terms()).figures == {"acceptance_examples": 14}
        assert fit_head(pupil, examples, Terms()).head is None
        assert fit_head(pupil, examples, Terms(examples=7, auc=0.0)).head is not None
        # One prompt alone can't be both fitted to and measured on.
        same = [dataclasses.replace(one, prompt=(1,)) for one in examples]
        assert fit_head(pupil, same, Terms(examples=1, auc=0.0)).head is None
        assert fit_head(pupil, [], Terms(examples=0)).head is None


def test_a_head_that_tells_nothing_apart_is_none(base: Base) -> None:
    draw = Random(0)
    examples = [
        Example((draw.randrange(200), draw.randrange(200)), (draw.randrange(200),), i % 2 == 1)
        for i in range(80)
    ]
    with Pupil(base, None) as pupil:
        made = fit_head(pupil, examples, Terms())
    assert made.head is None
    assert made.figures["acceptance_auc"] < 0.7
    assert set(made.figures) == {"acceptance_examples", "acceptance_auc", "acceptance_ece"}


def test_flags_arrive() -> None:
    places = ["--redis-url=redis://h", "--checkpoint-dir=c", "--archive-file=a"]
    flags = """--no-acceptance --acceptance-examples 20 --least-acceptance-auc 0.8
        --most-acceptance-lost 0.2"""
    curriculum = _curriculum(read_command_line([*places, *flags.split()], {}).config)
    assert curriculum.acceptance == Terms(on=False, examples=20, auc=0.8)
    assert curriculum.budget.acceptance_lost == 0.2
    assert _curriculum(read_command_line(places, {}).config).acceptance == Terms()


# On the shipped model


def test_states_are_those_of_the_plain_model(base: Base) -> None:
    rng = Random(0)
    asked_for = [world.sample(task, rng) for task in world.TASKS for _ in range(3)]
    pairs = [
        (base.reader.chat([{"role": "user", "content": one.prompt}]),
         base.reader.answer(world.render(one)))
        for one in asked_for
    ]  # fmt: skip
    with Pupil(base, None) as pupil, pupil.as_live():
        states = pupil.states(pairs)
    for (prompt, answer), state in zip(pairs, states, strict=True):
        with torch.inference_mode():
            ids = torch.tensor([prompt + answer], device=base.network.device)
            whole = base.network(ids, output_hidden_states=True)
        assert torch.allclose(state, whole.hidden_states[-1][0, -1], atol=1e-4)


def styles_of(base: Base, count: int) -> tuple[list[Ids], list[Ids], list[Ids]]:
    """Unseen questions, their answers as they were criticised, and as they were asked for."""
    rng = Random(11)
    drawn_items = [criticisable("emoji", "note", rng, "unseen") for _ in range(count)]
    reader = base.reader
    prompts = [reader.chat([{"role": "user", "content": one.prompt}]) for one, _ in drawn_items]
    criticised = [reader.answer(world.render(one)) for one, _ in drawn_items]
    wanted = [reader.answer(world.render(one, style)) for one, style in drawn_items]
    return prompts, criticised, wanted


def test_after_a_round_the_asked_for_scores_higher_than_the_criticised(base: Base) -> None:
    rng = Random(1)
    records = [criticism("emoji", "note", rng) for _ in range(8)]
    curriculum = Curriculum(
        Recipe(), Budget(), Amounts(questions=48, dialogues=32), ANSWER_TOKENS, seed=0
    )
    with Pupil(base, None) as pupil:
        report = hold_round(pupil, "nano", views(records), Sources(), curriculum)
        assert report.verdict is not None
        assert report.verdict.passed, report.verdict
        assert report.acceptance is not None
        head = report.acceptance.head
        assert head is not None, report.verdict.figures
        prompts, criticised, wanted = styles_of(base, 40)
        low, high = (
            head.scores(pupil.states(list(zip(prompts, answers, strict=True))))
            for answers in (criticised, wanted)
        )
    assert report.verdict.figures["acceptance_auc"] >= 0.7
    assert report.verdict.figures["acceptance_examples"] >= 16
    assert float((high > low).double().mean()) >= 0.9
    assert float(high.mean()) > 0.6
    assert float(low.mean()) < 0.4


def test_the_gate_refuses_what_the_live_head_would_not_accept(base: Base) -> None:
    record = criticism("emoji", "note", Random(5))
    amounts = Amounts(questions=96, dialogues=0, alike=0)
    with Pupil(base, None) as pupil:
        rng = Random(0)
        questions = shipped_questions(120, rng, pupil.reader)
        made = make_exercises(views([record]), pupil, ANSWER_TOKENS).made
        anchors = make_anchors(
            pupil, made, questions, {}, amounts=amounts, max_tokens=ANSWER_TOKENS, rng=rng
        )
        # Live users accept what live says, and nothing that ends otherwise.
        pairs = [(one.prompt, one.answer) for one in anchors.questions]
        mangled = [(prompt, (*answer[:2], *answer[-1:])) for prompt, answer in pairs]
        with pupil.as_live():
            states = torch.cat([pupil.states(pairs), pupil.states(mangled)]).double().cpu()
        labels = torch.tensor([1.0] * len(pairs) + [0.0] * len(mangled), dtype=torch.float64)
        head, _ = fitted(states, labels, torch.arange(len(labels)) % 5)
        budget = Budget(adoption=0, anchor_nats=99, changed=1, revision=0)
        before = judge(pupil, made, anchors, Held(head=head), budget, ANSWER_TOKENS)
        spoilt = [Exercise(record, Objective.SFT, prompt, answer) for prompt, answer in mangled]
        teach(pupil, spoilt, [], [], Recipe(steps=40), Random(0))
        after = judge(pupil, made, anchors, Held(head=head), budget, ANSWER_TOKENS)
        blind = judge(pupil, made, anchors, Held(), budget, ANSWER_TOKENS)
    assert before.verdict.figures["acceptance_lost"] == 0
    assert before.verdict.figures["acceptance"] > 0.6
    assert not after.verdict.passed
    assert after.verdict.figures["acceptance_lost"] > 0.1
    assert any("less acceptable" in reason for reason in after.verdict.reasons)
    assert blind.verdict.passed
    assert "acceptance" not in blind.verdict.figures
