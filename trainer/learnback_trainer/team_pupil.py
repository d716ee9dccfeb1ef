"""The model of a round, held by a team of processes.

To the leader it is a pupil like any other. What is asked of it, it orders from all of them: each
answers or reads its share, and the leader gets the whole. While an order is carried out, the same
methods speak of this process's share alone.

The base model is in shards; the adapters, which are a thousandth of it, every process holds whole.
Each sums up the gradients of all over its share of a step's lessons and anchors, and then moves the
adapter by itself, to the same bits: that leaves one sum a step to be exchanged, the optimiser as it
is for one process, and an adapter that the leader can write without asking anybody.

Limits: adapters alone; answers that are drawn (`--refinements` above 1) are as likely as those of
one process, and not the same; where greedy answers hang on a tie, they can differ, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from learnback_trainer.pupil import Base, LoraShape, Pupil
from learnback_trainer.reader import Ids, Pair
from learnback_trainer.students import Frozen
from learnback_trainer.team import Close, Crew, Open, Work

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class TeamPupil(Pupil):
    """This process's part of a model that is taught.

    Args:
        base: The base model, in shards.
        parent: The folder of the live checkpoint; None if the base itself is live.
        shape: Size of the adapter, if a new one is made.
        seed: Of a new adapter's first values.

    Raises:
        TeamError: The others have gone, or the live checkpoint can't be loaded.
    """

    team: Crew

    def __init__(
        self, base: Base, parent: Path | None, shape: LoraShape | None = None, seed: int = 0
    ) -> None:
        if not isinstance(base.team, Crew):
            raise TypeError("a model that one process holds is a Pupil")
        self._frozen: Frozen | None = None
        """Which model the leader speaks of; None is the student."""
        if base.team.leads:
            base.team.order(Open(parent, shape, seed))
        with base.team.working():
            super().__init__(base, parent, shape, seed)
            self.team.equalise([weight.detach() for weight in self.weights()])

    def __exit__(self, *_: object) -> None:
        if not self.team.broken:
            self.team.order(Close())
        self.close()

    def close(self) -> None:
        """Leaves the base model as it was."""
        self._student.close()

    @property
    def _model(self) -> Any:
        # The module that the shards hang on, with the adapters in it; PEFT's own would not call it.
        return self._student.network.get_base_model()

    # Orders

    def together(
        self,
        work: Callable[Concatenate[Any, _Arguments], _Result],
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> _Result:
        """Does a piece of work on all processes; returns what it came to here."""
        order = Work(work, args, kwargs, self._frozen)
        self.team.order(order)
        return self.carry_out(order)  # type: ignore[no-any-return]

    def carry_out(self, order: Work) -> Any:
        """Does what was ordered."""
        which = order.frozen
        frozen = contextlib.nullcontext() if which is None else super().as_frozen(which)
        with self.team.working(), frozen:
            return order.function(self, *order.arguments, **order.keywords)

    @contextlib.contextmanager
    def as_frozen(self, which: Frozen) -> Iterator[None]:
        """Within this, the model is a frozen one."""
        if self.team.at_work:
            with super().as_frozen(which):
                yield
            return
        before, self._frozen = self._frozen, which
        try:
            yield
        finally:
            self._frozen = before

    @contextlib.contextmanager
    def evenly(self) -> Iterator[None]:
        """Within this, processes may make as many passes as each needs; it ends for all at once."""
        yield
        with self.team.helping():
            while self.team.others_work():
                self._help()

    @torch.no_grad()
    def _help(self) -> None:
        ids = torch.tensor([[self.reader.pad_id]], device=self._model.device)
        self._model(input_ids=ids, use_cache=False, logits_to_keep=1)

    # Asking and reading along

    def answer(
        self,
        prompts: Sequence[Ids],
        max_tokens: int,
        seed: int | None = None,
        likely: Mapping[Ids, Ids] | None = None,
    ) -> list[Ids]:
        """Returns answers; see `Pupil.answer`."""
        if self.team.at_work:
            return super().answer(prompts, max_tokens, seed, likely)
        # Dealt out by length, so that all have the like.
        waiting = sorted(set(prompts), key=lambda prompt: (len(prompt), prompt))
        answers = dict(
            zip(waiting, self._dealt("answer", waiting, max_tokens, seed, likely), strict=True)
        )
        return [answers[prompt] for prompt in prompts]

    def logits(self, pairs: Sequence[Pair]) -> list[Tensor]:
        """Returns what the model expects; with gradient in one pass, as with everybody else."""
        return self._logits_together(pairs) if torch.is_grad_enabled() else super().logits(pairs)

    def token_losses(self, pairs: Sequence[Pair]) -> list[list[float]]:
        """Returns the negative log-likelihood of each token of given answers, in nats."""
        if self.team.at_work:
            return super().token_losses(pairs)
        return self._dealt("token_losses", pairs)

    def distributions(self, pairs: Sequence[Pair]) -> list[Tensor]:
        """Returns log-probabilities at each token of given answers, shaped as `logits` does."""
        if self.team.at_work:
            return super().distributions(pairs)
        return [one.to(self.team.device) for one in self._dealt("distributions", pairs)]

    def meaning(self, prompts: Sequence[Ids]) -> Tensor:
        """Returns what layers make of each prompt; see `Pupil.meaning`."""
        if self.team.at_work:
            return super().meaning(prompts)
        return torch.stack(self._dealt("meaning", prompts)).to(self.team.device)

    def states(self, pairs: Sequence[Pair]) -> Tensor:
        """Returns the last layer's state at the end of each answer, [pairs, hidden size]."""
        if self.team.at_work:
            return super().states(pairs)
        return torch.stack(self._dealt("states", pairs)).to(self.team.device)

    def _dealt(self, method: str, items: Sequence[Any], *settings: Any) -> list[Any]:
        return list(self.together(_share, method, items, settings)) if items else []

    def save(self, folder: Path, base_name: str) -> None:
        """Writes the adapter. Only the leader does."""
        # Reading the model out would do so here alone, and the next pass would wait for ever.
        self.together(_give_back)
        super().save(folder, base_name)


def _share(
    pupil: TeamPupil, method: str, items: Sequence[Any], settings: Sequence[Any]
) -> Sequence[Any]:
    """Asks something about each item, of which each process takes a share."""
    own = pupil.team.share(items)
    with pupil.evenly():
        found = list(getattr(pupil, method)(own, *settings)) if own else []
    return pupil.team.gathered([one.cpu() if isinstance(one, Tensor) else one for one in found])


def _give_back(pupil: TeamPupil) -> None:
    """Lets go of what was borrowed of the others' parts."""
    pupil._model.reshard()
