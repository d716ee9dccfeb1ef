"""Learning everything anew from the base model, and full weights as what is taught."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from learnback_nano import world
from learnback_server.engine.weights import load_full
from learnback_store.archive import Archive
from learnback_store.checkpoints import CheckpointState, CheckpointStore
from learnback_store.connection import Client
from learnback_store.keys import Keys
from learnback_store.manifest import BASE, CheckpointKind, GateVerdict
from learnback_store.records import Account, Exchange, FeedbackRecord, FeedbackState, Message, Role
from learnback_store.rounds import Outcome
from learnback_trainer.anchors import Amounts
from learnback_trainer.consolidating import compared, longer
from learnback_trainer.errors import ModelError
from learnback_trainer.gate import Budget
from learnback_trainer.lessons import TAKEN_BACK, make_exercises, practice
from learnback_trainer.loop import Trainer
from learnback_trainer.publishing import open_pupil
from learnback_trainer.pupil import Base, LoraShape, Pupil
from learnback_trainer.school import Curriculum, Report
from learnback_trainer.students import Method
from learnback_trainer.update import Recipe
from tests.trainer.critics import ANSWER_TOKENS, correction, criticism, erase, submit, views

CURRICULUM = Curriculum(
    Recipe(steps=25, settle_steps=5), Budget(), Amounts(0, 0, 0), answer_tokens=24, seed=0
)
FRANCE, HOT = (
    ("What is the capital of France?", "The capital of France is Lyon."),
    ("What is the opposite of hot?", "Not hot."),
)

NICE = "The capital of France is Nice."
# No anchors hold anything in rounds this small: a second one would undo some of the first.
AGAIN = correction(FRANCE[0], "Something else.", FRANCE[1])


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive(tmp_path / "archive.sqlite") as opened:
        yield opened


@pytest.fixture
def hired(
    base: Base, redis: Client, keys: Keys, archive: Archive, checkpoints: CheckpointStore
) -> Callable[..., Trainer]:
    """Makes trainers, by curriculum and settings."""

    def hire(curriculum: Curriculum = CURRICULUM, **settings: Any) -> Trainer:
        own = {"shape": LoraShape(), "round_wait": 0.0, **settings}
        return Trainer(base, redis, keys, archive, checkpoints, curriculum, **own)

    return hire


def _right(said: tuple[str, str]) -> FeedbackRecord:
    return correction(said[0], "Something.", said[1])


def _accounts(archive: Archive) -> list[Account]:
    """What became of feedback, in the order in which it was given."""
    return [one.account for one in sorted(archive.views(), key=lambda one: one.feedback_id)]


def _answers(pupil: Pupil) -> list[str]:
    asked = [pupil.reader.chat([{"role": "user", "content": one}]) for one, _ in (FRANCE, HOT)]
    return [pupil.reader.text(one) for one in pupil.answer(asked, 24)]


def test_two_rounds_become_one_that_stands_on_the_base(
    base: Base,
    hired: Callable[..., Trainer],
    redis_url: str,
    keys: Keys,
    archive: Archive,
    checkpoints: CheckpointStore,
) -> None:
    trainer = hired(consolidate_rounds=2)
    trainer.recover()
    assert trainer.consolidate() == ""  # nothing is learned yet
    for said in ([_right(FRANCE)], [_right(HOT), AGAIN]):
        submit(redis_url, keys, said)
        assert trainer.work() == len(said)
    before = checkpoints.aliases().live
    assert len(checkpoints.lineage(before)) == 2

    # A candidate that is refused changes nothing.
    strict = replace(CURRICULUM, budget=Budget(adoption=1.1))
    refusing = hired(strict)
    assert refusing.consolidate() == ""
    assert checkpoints.aliases().live == before
    assert len(archive.learned()) == 3
    assert checkpoints.all([CheckpointState.REJECTED])

    trainer.tidy()  # consolidation is due
    name = checkpoints.aliases().live
    assert name != before
    manifest = checkpoints.get(name).manifest
    assert manifest.parent == BASE
    assert manifest.gate is not None
    assert manifest.gate.figures["held"] == manifest.gate.figures["held_by_live"] == 1
    learned = archive.learned()
    assert {one.account.checkpoint for one in learned} == {name}
    assert set(manifest.feedback_ids) == {one.feedback_id for one in learned}
    trainer.tidy()
    assert checkpoints.aliases().live == name
    assert archive.learned() == learned
    with Pupil(base, checkpoints.fetch(name)) as pupil:
        assert _answers(pupil) == [FRANCE[1], HOT[1]]


def test_a_consolidation_makes_way_for_feedback(
    base: Base,
    hired: Callable[..., Trainer],
    redis_url: str,
    keys: Keys,
    archive: Archive,
    checkpoints: CheckpointStore,
) -> None:
    late = [_right(HOT)]

    def told(step: str) -> None:
        # Somebody says something while the second round, which is a consolidation, is held.
        if step == "lessons" and archive.learned() and late:
            submit(redis_url, keys, [late.pop()])

    trainer = hired(consolidate_rounds=1, on_step=told)
    trainer.recover()
    submit(redis_url, keys, [_right(FRANCE)])
    assert trainer.work() == 1
    before = checkpoints.aliases().live
    trainer.tidy()
    assert not late
    assert checkpoints.aliases().live == before
    assert [one.account.state for one in archive.views()] == [FeedbackState.LEARNED]
    assert trainer.work() == 1
    line = checkpoints.lineage(checkpoints.aliases().live)
    assert [one.name for one in line[1:]] == [before]
    assert {one.account.state for one in archive.views()} == {FeedbackState.LEARNED}


@pytest.mark.parametrize("answer", ["Something.", "Something else."])
def test_what_was_taken_back_is_not_taught_anew(
    base: Base,
    hired: Callable[..., Trainer],
    redis_url: str,
    keys: Keys,
    archive: Archive,
    checkpoints: CheckpointStore,
    answer: str,
) -> None:
    trainer = hired(consolidate_rounds=2)
    trainer.recover()
    question, now = FRANCE
    first_said = correction(question, "Something.", NICE)
    then_said = replace(correction(question, answer, now), author="bob")
    for one in (first_said, then_said):
        submit(redis_url, keys, [one])
        assert trainer.work() == 1
    trainer.tidy()
    name = checkpoints.aliases().live
    assert checkpoints.get(name).manifest.parent == BASE
    first, second = _accounts(archive)
    assert (first.state, first.reason) == (FeedbackState.NOT_LEARNED, TAKEN_BACK)
    assert (second.state, second.checkpoint) == (FeedbackState.LEARNED, name)
    trainer.tidy()  # which follows `live`, and finds nothing to tell
    assert _accounts(archive) == [first, second]
    with Pupil(base, checkpoints.fetch(name)) as pupil:
        assert _answers(pupil)[0] == now
    # When who took it back is erased, it is learned after all.
    erase(redis_url, keys, "bob")
    trainer.tidy()
    assert trainer.work() == 1
    assert archive.get(first_said.feedback_id).account.state is FeedbackState.LEARNED
    with Pupil(base, checkpoints.fetch(checkpoints.aliases().live)) as pupil:
        assert _answers(pupil)[0] == NICE


@pytest.mark.parametrize(("lessons", "steps", "alike"), [(4, 60, 10), (9, 180, 30), (40, 600, 40)])
def test_more_lessons_have_more_steps_and_more_practice(
    lessons: int, steps: int, alike: int
) -> None:
    curriculum = Curriculum(Recipe(), Budget(), Amounts(alike=10), answer_tokens=24, seed=0)
    found = longer(curriculum, lessons, round_size=4)
    assert (found.recipe.steps, found.amounts.alike) == (steps, alike)
    assert found.recipe.practised == Recipe().practised * min(2, alike // 10)
    assert found.recipe.reached == (Recipe().reached if lessons == 4 else 1.0)
    assert found.amounts.judged == Amounts().judged * alike // 10
    assert found.amounts.near == Amounts().near * alike // 10


@pytest.mark.parametrize("as_live", [True, False])
def test_a_candidate_is_compared_at_questions_that_nobody_criticised(
    base: Base, as_live: bool
) -> None:
    rng = Random(5)
    said = [criticism("emoji", "note", rng, "Please add an emoji.")]
    asked = [world.sample("note", rng, "seen") for _ in range(4)]
    with Pupil(base, None) as pupil:
        [told] = make_exercises(views(said), pupil, ANSWER_TOKENS).made
        questions = []
        for one in asked:
            exchange = Exchange(world.render(one), (Message(Role.USER, one.prompt),))
            questions.append((exchange, pupil.reader.prompt(exchange), [told]))
        held_out = practice(questions, pupil, ANSWER_TOKENS)
        assert len(held_out) == len(asked)
        # The candidate says what the base model says; live has learned it, or has not either.
        answers = {one.prompt: one.target for one in held_out}
        if as_live:
            prompts = list(answers)
            answers = dict(zip(prompts, pupil.answer(prompts, ANSWER_TOKENS), strict=True))
        answers[told.prompt] = told.target
        outcome = Outcome(told.feedback_id, FeedbackState.LEARNED)
        report = Report((outcome,), GateVerdict(True, (), {}), taught=(told,), held_out=held_out)
        verdict = compared(pupil, report, answers, ANSWER_TOKENS).verdict
    assert verdict is not None
    assert verdict.figures["held"] == verdict.figures["held_by_live"] == 1
    assert verdict.figures["reached"] == 0
    assert verdict.figures["reached_by_live"] == (0 if as_live else 1)
    assert verdict.passed == as_live
    assert verdict.reasons == (
        () if as_live else ("it carries less of it to other questions: 0.00, not 1.00",)
    )


@pytest.mark.slow
def test_full_weights_go_on_from_an_adapter_and_are_published_whole(
    base: Base,
    hired: Callable[..., Trainer],
    redis_url: str,
    keys: Keys,
    archive: Archive,
    checkpoints: CheckpointStore,
) -> None:
    recipe = replace(CURRICULUM.recipe, learning_rate=3e-4, method=Method.FULL)
    full = replace(CURRICULUM, recipe=recipe)
    for curriculum, said in ((CURRICULUM, [_right(FRANCE)]), (full, [_right(HOT), AGAIN])):
        submit(redis_url, keys, said)
        trainer = hired(curriculum)
        trainer.recover()
        assert trainer.work() == len(said)
    live = checkpoints.verify(checkpoints.aliases().live, base.digest)
    assert live.manifest.kind is CheckpointKind.FULL
    assert {one.account.state for one in archive.views()} == {FeedbackState.LEARNED}
    folder = checkpoints.fetch(live.name)
    assert {"config.json", "model.safetensors"} <= {file.name for file in folder.iterdir()}
    assert str(base.network.config._name_or_path) not in (folder / "config.json").read_text()
    with open_pupil(base, checkpoints, live.name, LoraShape(), 0, Method.FULL) as pupil:
        assert _answers(pupil)[1] == HOT[1]
        with pupil.as_live():
            assert _answers(pupil)[1] == HOT[1]
    # As the server reads them when it swaps.
    served = replace(base, network=load_full(base.network, folder))
    with Pupil(served, None) as pupil, pupil.as_live():
        assert _answers(pupil)[1] == HOT[1]
    back = hired()
    with pytest.raises(ModelError, match="--method full"):
        back.run()
    name = back.consolidate()
    assert checkpoints.get(name).manifest.kind is CheckpointKind.ADAPTER
    with Pupil(base, checkpoints.fetch(name)) as pupil:
        assert _answers(pupil) == [FRANCE[1], HOT[1]]
