"""Which objectives a round uses, and how much each counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from learnback_store.records import Objective
from learnback_trainer.objectives.distillation import Divergence
from learnback_trainer.objectives.dpo import Dpo
from learnback_trainer.objectives.kto import Kto


@dataclass(frozen=True, slots=True)
class Mixture:
    """The objectives of a round. What is not in `weights` counts whole."""

    critiques: Objective = Objective.DISTILLATION
    """What critiques are learned by: DISTILLATION or IMITATION."""
    refinements: int = 1
    """Revisions of which the best is taken. One: the likeliest, without sampling."""
    divergence: Divergence = Divergence.FORWARD_KL
    teacher_pieces: int = 0
    """The teacher's likeliest pieces that are compared one by one; 0: all."""
    teacher_decay: float = 1.0
    """Of the teacher's weights towards the student's, a step; 1: it is the frozen base model."""
    weights: Mapping[Objective, float] = field(default_factory=dict)
    """0 to 1. Feedback whose objective has weight 0 is not taught."""
    kto: Kto = field(default_factory=Kto)
    dpo: Dpo = field(default_factory=Dpo)

    def weight(self, objective: Objective) -> float:
        """Returns how much a lesson of this objective counts beside others."""
        return self.weights.get(objective, 1.0)
