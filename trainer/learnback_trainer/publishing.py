"""A candidate on disk: the student with its manifest, published or put aside."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from learnback_store.checkpoints import CheckpointStore
from learnback_store.manifest import BASE, CheckpointKind, GateVerdict, Manifest
from learnback_store.records import Objective
from learnback_store.rounds import Round
from learnback_telemetry.tracing import traceparent
from learnback_trainer.acceptance import Fitted
from learnback_trainer.errors import ModelError
from learnback_trainer.pupil import Base, LoraShape, Pupil
from learnback_trainer.students import FULL_WANTS_ONE, Method
from learnback_trainer.team_pupil import TeamPupil

# What computes the weights, and so belongs to their provenance.
_LIBRARIES = ("learnback", "peft", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a manifest will say of a round."""

    round: Round
    feedback_ids: tuple[str, ...]
    objectives: tuple[Objective, ...]
    verdict: GateVerdict
    acceptance: Fitted | None = None


def open_pupil(
    base: Base,
    checkpoints: CheckpointStore,
    parent: str,
    shape: LoraShape,
    seed: int,
    method: Method = Method.LORA,
) -> Pupil:
    """Returns the model of a round that begins at a checkpoint, after checking its every byte.

    Raises:
        CheckpointError: The checkpoint is missing, changed, or made for another base model.
        ModelError: It does not fit, or can't be taught on by this method.
    """
    folder = None
    if parent != BASE:
        checkpoints.verify(parent, base.digest)
        folder = checkpoints.fetch(parent)
    if base.team.size == 1:
        return Pupil(base, folder, shape, seed, method)
    if method is Method.FULL:
        raise ModelError(FULL_WANTS_ONE)
    return TeamPupil(base, folder, shape, seed)


def publish(
    checkpoints: CheckpointStore,
    name: str,
    base: Base,
    pupil: Pupil,
    candidate: Candidate,
    written: Callable[[], None],
) -> None:
    """Publishes the student; it exists by the last act or not at all.

    Args:
        checkpoints: Where to.
        name: A new name.
        base: The base model.
        pupil: The model, taught.
        candidate: What the manifest says.
        written: Told when the files lie aside, before the rename.
    """
    with checkpoints.draft() as draft:
        pupil.save(draft, base.name)
        if candidate.acceptance is not None:
            candidate.acceptance.save(draft)
        written()
        checkpoints.publish(draft, _manifest(name, base, pupil.kind, candidate))


def put_aside(checkpoints: CheckpointStore, base: Base, pupil: Pupil, candidate: Candidate) -> str:
    """Keeps a student that the gate refused, for inspection; returns its name."""
    name = checkpoints.new_name()
    with checkpoints.draft() as draft:
        pupil.save(draft, base.name)
        checkpoints.reject(draft, _manifest(name, base, pupil.kind, candidate))
    return name


def _manifest(name: str, base: Base, kind: CheckpointKind, candidate: Candidate) -> Manifest:
    return Manifest(
        name=name,
        kind=kind,
        parent=candidate.round.parent,
        base_model=base.name,
        base_digest=base.digest,
        round_id=candidate.round.round_id,
        feedback_ids=candidate.feedback_ids,
        objectives=candidate.objectives,
        gate=candidate.verdict,
        library_versions=_versions(_LIBRARIES),
        traceparent=traceparent(),
    )


def _versions(names: Sequence[str]) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in names}
