"""Checkpoints as operators see them, and what moving an alias answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from learnback.v1 import checkpoints_pb2
from learnback_client.feedback import Objective
from learnback_client.protos import read_enum, read_time


class CheckpointKind(StrEnum):
    """What a checkpoint's files hold. Listed in the contract's order."""

    UNSPECIFIED = "unspecified"
    BASE = "base"
    """The base model itself, untrained by feedback."""
    ADAPTER = "adapter"
    """A LoRA adapter on the base model."""
    FULL = "full"
    """All weights."""


class CheckpointState(StrEnum):
    """Whether a checkpoint may serve. Listed in the contract's order."""

    UNSPECIFIED = "unspecified"
    PUBLISHED = "published"
    """Passed the gate and may serve."""
    REJECTED = "rejected"
    """Failed the gate; kept for inspection."""
    RETIRED = "retired"
    """No longer serves; its files may be gone."""


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """The decision of the gate, with its figures."""

    passed: bool
    reasons: tuple[str, ...]
    """Why not, in words; empty if it passed."""
    figures: Mapping[str, float]
    """The figures behind it by name."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint: what it learned, from which feedback, and how it was judged."""

    name: str
    digest: str
    """"sha256:" and 64 hexadecimal digits over its manifest and files."""
    parent: str
    """The checkpoint that it was trained from; empty for the base model."""
    kind: CheckpointKind
    state: CheckpointState
    base_model: str
    base_digest: str
    aliases: tuple[str, ...]
    """Those that point at it now."""
    feedback_ids: tuple[str, ...]
    """The feedback that it was trained on; empty in lists."""
    feedback_count: int
    objectives: tuple[Objective, ...]
    gate: GateVerdict | None
    """None if it was never judged."""
    created: datetime | None
    size_bytes: int
    library_versions: Mapping[str, str]
    raw: checkpoints_pb2.Checkpoint = field(repr=False, compare=False)
    """The message of the contract."""


@dataclass(frozen=True, slots=True)
class Move:
    """An alias was moved, by promotion or by rolling back."""

    checkpoint: Checkpoint
    """The one that the alias points at now."""
    previous: str
    """Name of the one that it pointed at before; empty if there was none."""


def read_checkpoint(checkpoint: checkpoints_pb2.Checkpoint) -> Checkpoint:
    """Reads one checkpoint."""
    return Checkpoint(
        name=checkpoint.name,
        digest=checkpoint.digest,
        parent=checkpoint.parent,
        kind=read_enum(CheckpointKind, checkpoint.kind),
        state=read_enum(CheckpointState, checkpoint.state),
        base_model=checkpoint.base_model,
        base_digest=checkpoint.base_digest,
        aliases=tuple(checkpoint.aliases),
        feedback_ids=tuple(checkpoint.feedback_ids),
        feedback_count=checkpoint.feedback_count,
        objectives=tuple(read_enum(Objective, each) for each in checkpoint.objectives),
        gate=_read_verdict(checkpoint.gate) if checkpoint.HasField("gate") else None,
        created=read_time(checkpoint, "create_time"),
        size_bytes=checkpoint.size_bytes,
        library_versions=dict(checkpoint.library_versions),
        raw=checkpoint,
    )


def _read_verdict(verdict: checkpoints_pb2.GateVerdict) -> GateVerdict:
    return GateVerdict(verdict.passed, tuple(verdict.reasons), dict(verdict.figures))
