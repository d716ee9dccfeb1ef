"""Splitting a step over processes: whatever the split, the gradient is that of the whole."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from learnback_store.records import Correction, Critique, Preference, Preferred, Rating
from learnback_trainer.anchors import Anchor
from learnback_trainer.config import ConfigError, read_command_line
from learnback_trainer.errors import ModelError, TeamError
from learnback_trainer.lessons import Exercise, make_exercises
from learnback_trainer.losses import Teacher, step_loss
from learnback_trainer.mixture import Mixture
from learnback_trainer.publishing import open_pupil
from learnback_trainer.pupil import Base, LoraShape, Pupil
from learnback_trainer.students import Method
from learnback_trainer.team import Team, dealt, join, woven
from tests.trainer.critics import ANSWER_TOKENS, asked, views

_Item = TypeVar("_Item")

CAPITAL, OPPOSITE = "What is the capital of France?", "What is the opposite of hot?"
RECORDS = [
    asked(CAPITAL, "Paris.", Correction("Lyon, of course.")),
    asked(OPPOSITE, "The opposite of hot is cold.", Rating(1.0)),
    asked("Tell me the opposite of false.", "The opposite of false is true.", Rating(-0.5)),
    asked(CAPITAL, "Paris.", Preference("Paris, of course.", Preferred.OTHER)),
    asked(OPPOSITE, "The opposite of hot is cold.", Critique("Please use capital letters.")),
]
# Sums in another order, in float32: about 1e-6 of the whole, over some layers.
NEAR = 1e-4
# Seeds are those of the whole process.
_SEEDED = threading.Lock()


class Table:
    """Where the threads of one step meet."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=60)
        self.parts: list[Sequence[Any]] = [()] * size


class Seat(Team):
    """One of several threads that share a step, as processes do."""

    def __init__(self, rank: int, table: Table) -> None:
        self.rank, self.size, self._table = rank, len(table.parts), table

    def share(self, items: Sequence[_Item], start: int = 0) -> Sequence[_Item]:
        return dealt(items, self.rank, self.size, start)

    def joined(self, own: Sequence[_Item]) -> Sequence[_Item]:
        self._table.parts[self.rank] = own
        self._table.barrier.wait()
        found = woven(self._table.parts)
        self._table.barrier.wait()
        return found


@pytest.fixture(scope="module")
def exercises(base: Base) -> list[Exercise]:
    """One of each kind."""
    with Pupil(base, None) as pupil:
        made = make_exercises(views(RECORDS), pupil, ANSWER_TOKENS).made
    assert len(made) == len(RECORDS)
    return made


def _gradient(
    base: Base, team: Team, exercises: Sequence[Exercise], anchors: Sequence[Anchor]
) -> Tensor:
    """That of a step by this process, with the two losses at its end."""
    own = replace(base, network=copy.deepcopy(base.network), team=team)
    with _SEEDED:
        pupil = Pupil(own, None, LoraShape(2, 4))
    # A new adapter has zeros in its second factor, and so no gradient in the first.
    generator = torch.Generator().manual_seed(1)
    for weight in pupil.weights():
        weight.data.add_(torch.randn(weight.shape, generator=generator), alpha=0.02)
    loss = step_loss(pupil, Teacher(pupil, Mixture()), exercises, anchors, Mixture())
    (loss.lessons + loss.anchors).backward()  # type: ignore[no-untyped-call]
    grads = [weight.grad.flatten() for weight in pupil.weights() if weight.grad is not None]
    return torch.cat([*grads, loss.lessons.detach()[None], loss.anchors.detach()[None]])


@settings(max_examples=12)
@given(data=st.data())
def test_any_split_has_the_gradient_of_the_whole(
    data: st.DataObject, base: Base, exercises: list[Exercise]
) -> None:
    size = data.draw(st.integers(2, 4), label="processes")
    kinds = data.draw(st.lists(st.sampled_from(range(5)), min_size=1, max_size=6), label="lessons")
    weights = st.sampled_from([0.25, 1.0])
    drawn = [replace(exercises[one], weight=data.draw(weights)) for one in kinds]
    anchors = [Anchor(one.prompt, one.target) for one in exercises]
    held = data.draw(st.lists(st.sampled_from(anchors), max_size=5), label="anchors")

    whole = _gradient(base, Team(), drawn, held)
    table = Table(size)
    with ThreadPoolExecutor(size) as threads:
        parts = threads.map(
            lambda rank: _gradient(base, Seat(rank, table), drawn, held), range(size)
        )
        total = torch.stack(list(parts)).sum(dim=0)
    assert (total - whole).norm() <= NEAR * whole.norm()


@given(items=st.lists(st.integers()), size=st.integers(1, 5), start=st.integers(0, 7))
def test_all_is_dealt_once_and_evenly(items: list[int], size: int, start: int) -> None:
    shares = [dealt(items, rank, size, start) for rank in range(size)]
    assert sorted(one for share in shares for one in share) == sorted(items)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert woven([dealt(items, rank, size) for rank in range(size)]) == items


@pytest.mark.parametrize(
    ("flags", "named"),
    [(["--method", "full"], "--method lora"), (["--device", "cuda:1"], "--device cuda")],
    ids=["full", "one gpu"],
)
def test_what_several_processes_cannot_do_is_refused(flags: list[str], named: str) -> None:
    needed = ["--redis-url", "redis://x", "--checkpoint-dir", "c", "--archive-file", "a"]
    assert read_command_line([*needed, *flags], {"WORLD_SIZE": "1"})
    with pytest.raises(ConfigError, match=named):
        read_command_line([*needed, *flags], {"WORLD_SIZE": "2"})


def test_more_processes_than_gpus_are_refused() -> None:
    many = str(torch.cuda.device_count() + 1)
    started = {"WORLD_SIZE": many, "LOCAL_WORLD_SIZE": many, "LOCAL_RANK": "0", "RANK": "0"}
    if many == "1":
        started |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    with pytest.raises(TeamError, match="need a GPU each"):
        join("cuda", started)


def test_full_weights_are_not_opened_by_several(base: Base, checkpoints: Any) -> None:
    several = replace(base, team=Seat(0, Table(2)))
    with pytest.raises(ModelError, match="--nproc-per-node 1"):
        open_pupil(several, checkpoints, "base", LoraShape(), 0, Method.FULL)
