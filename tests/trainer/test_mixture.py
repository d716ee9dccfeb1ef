"""What can be chosen of the objectives, from the flag to what it does to a lesson."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from learnback_store.records import Objective
from learnback_trainer.__main__ import _curriculum
from learnback_trainer.acceptance import Terms
from learnback_trainer.anchors import Amounts
from learnback_trainer.config import read_command_line
from learnback_trainer.gate import Budget
from learnback_trainer.lessons import SWITCHED_OFF, make_exercises
from learnback_trainer.mixture import Mixture
from learnback_trainer.objectives.distillation import Divergence
from learnback_trainer.objectives.dpo import Dpo
from learnback_trainer.objectives.kto import Kto
from learnback_trainer.pupil import Base, Pupil
from learnback_trainer.students import Method
from learnback_trainer.update import Recipe, teach
from tests.trainer.critics import ANSWER_TOKENS, correction, criticism, views

PLACES = ["--redis-url=redis://h", "--checkpoint-dir=c", "--archive-file=a"]


def test_flags_arrive() -> None:
    flags = """--critique-objective imitation --refinements 4 --divergence jsd --teacher-pieces 100
        --teacher-decay 0.9 --kto-beta 0.2 --dpo-beta 0.3 --dpo-likelihood 0.4
        --critique-weight 0.9 --correction-weight 0.8 --rating-weight 0.1 --preference-weight 0
        --method full"""
    command = read_command_line([*PLACES, *flags.split()], {})
    recipe = _curriculum(command.config).recipe
    assert recipe.mixture == Mixture(
        critiques=Objective.IMITATION,
        refinements=4,
        divergence=Divergence.JSD,
        teacher_pieces=100,
        teacher_decay=0.9,
        weights={
            Objective.DISTILLATION: 0.9,
            Objective.IMITATION: 0.9,
            Objective.SFT: 0.8,
            Objective.KTO: 0.1,
            Objective.DPO: 0.0,
        },
        kto=Kto(0.2),
        dpo=Dpo(0.3, 0.4),
    )
    assert (recipe.method, recipe.learning_rate) == (Method.FULL, 3e-4)
    assert not command.consolidate
    assert read_command_line([*PLACES, "--consolidate"], {}).consolidate


def test_the_default_is_distillation_by_a_frozen_teacher() -> None:
    recipe = _curriculum(read_command_line(PLACES, {}).config).recipe
    assert (recipe.method, recipe.learning_rate) == (Method.LORA, Recipe().learning_rate)
    assert (recipe.mixture.critiques, recipe.mixture.teacher_decay) == (Objective.DISTILLATION, 1)


def test_a_service_teaches_as_it_was_measured_unless_told_otherwise() -> None:
    found = _curriculum(read_command_line(PLACES, {}).config)
    assert replace(found.recipe, mixture=Mixture()) == Recipe()
    assert (found.budget, found.amounts, found.acceptance) == (Budget(), Amounts(), Terms())


@pytest.mark.parametrize(
    "mixture",
    [
        Mixture(critiques=Objective.IMITATION, refinements=3),
        pytest.param(Mixture(divergence=Divergence.JSD), marks=pytest.mark.slow),
        pytest.param(Mixture(teacher_pieces=50), marks=pytest.mark.slow),
        Mixture(teacher_decay=0.95),
    ],
    ids=["imitation", "jsd", "pieces", "average"],
)
def test_a_critique_is_learned_by_what_is_chosen(base: Base, mixture: Mixture) -> None:
    record = criticism("emoji", "note", Random(5))
    recipe = Recipe(steps=20, settle_steps=3, lessons=1, renew_steps=10, mixture=mixture)
    with Pupil(base, None) as pupil:
        [exercise] = make_exercises(views([record]), pupil, ANSWER_TOKENS, mixture).made
        assert exercise.objective is mixture.critiques
        pair = [(exercise.prompt, exercise.target)]
        [before] = pupil.losses(pair)
        teach(pupil, [exercise], [], [], recipe, Random(0))
        [after] = pupil.losses(pair)
        with pupil.as_live():
            assert pupil.losses(pair) == [before]
    assert after < before / 4


def test_what_has_no_weight_is_not_taught(base: Base) -> None:
    off = Mixture(weights={Objective.SFT: 0.0})
    record = correction("What is the capital of France?", "Paris.", "Lyon.")
    with Pupil(base, None) as pupil:
        found = make_exercises(views([record]), pupil, ANSWER_TOKENS, off)
    assert (found.made, list(found.excused.values())) == ([], [SWITCHED_OFF])
