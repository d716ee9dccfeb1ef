"""Processes that hold one model together: `torchrun` starts them, the first leads, the rest follow.

The leader alone knows the outside world: it reads the queue, decides and publishes. What is to be
done with the model it tells the others by an order, and all of them carry it out, each on its share
(`team_pupil.py`, `following.py`). The base model is in shards, by FSDP2: each process keeps its
part of each layer and borrows the others' parts while the layer computes. So every forward pass is
one that all must take part in. How many a process needs depends on its share; who needs no more
lends a hand with a pass about one token, until nobody does (`Crew.others_work`).

There are two ways of waiting, and a group for each:

    orders    over gloo, without a limit worth the name: feedback may not come for days
    work      over the device's own (NCCL, or gloo on the CPU), for `_WORK_LIMIT` at most: who is
              waited for longer has gone

A process that fails or dies ends them all, with an error that says so. `torchrun` starts them anew,
and the round is recovered as after any crash.

Limits: each process reads the whole base model into memory before it keeps its part. All of them
must see the checkpoints under the same path, so that they are meant for one machine; several were
never tried. Nor were NCCL and GPUs.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # it is documented
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.rendezvous import rendezvous

from learnback_trainer.errors import ModelError, TeamError

_log = logging.getLogger(__name__)

# In the middle of work nobody waits for more than one pass of another.
_WORK_LIMIT = timedelta(minutes=10)
# For the next order. That the leader has gone is noticed by its connection, not by this.
_ORDER_LIMIT = timedelta(days=365)

_Item = TypeVar("_Item")


# Orders


@dataclass(frozen=True, slots=True)
class Open:
    """A round begins: open the model."""

    parent: Path | None
    shape: Any
    """A `pupil.LoraShape`."""
    seed: int


@dataclass(frozen=True, slots=True)
class Work:
    """Do something with the model that is open."""

    function: Callable[..., Any]
    """Of a module, so that its name is enough; takes the pupil first."""
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    frozen: Any
    """A `students.Frozen`: which model it is meanwhile; None: the student."""


@dataclass(frozen=True, slots=True)
class Close:
    """The round is over."""


@dataclass(frozen=True, slots=True)
class End:
    """There will be no more orders."""


Order = Open | Work | Close | End


# Teams


class Team:
    """The team of one process that is alone. `Crew` is that of several."""

    rank = 0
    """0 leads."""
    size = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that knows the outside world."""
        return self.rank == 0

    def share(self, items: Sequence[_Item], start: int = 0) -> Sequence[_Item]:
        """Returns what of some items this process has to do.

        Args:
            items: All that is to be done.
            start: How many have been dealt out already, so that whoever was next is.
        """
        del start
        return items

    def joined(self, own: Sequence[_Item]) -> Sequence[_Item]:
        """Returns what all have made of their shares, in the order of the items."""
        return own

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Puts the sums over all processes in place of tensors."""

    def place(self, network: Any, device: str) -> Any:
        """Brings a model to its device, or to the team's."""
        return network.to(device)

    def end(self) -> None:
        """Lets the others go, if this process leads."""


ALONE = Team()


class Crew(Team):
    """Several processes.

    Args:
        rank: Which of them this is.
        size: How many there are.
        device: Where its part of the model lies.
    """

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self.device = rank, size, device
        self._mesh = init_device_mesh(device.type, (size,))
        self._orders = dist.new_group(backend="gloo", timeout=_ORDER_LIMIT)
        self.at_work = False
        """Whether an order is being carried out."""
        self._helping = False
        """Whether this process has no passes of its own to make."""
        self._broken = False

    # Orders

    def order(self, order: Order) -> None:
        """Tells the others what to do. Only the leader does.

        Raises:
            TeamError: One of them has gone.
        """
        with self._unbroken():
            dist.broadcast_object_list([order], src=0, group=self._orders)

    def next_order(self) -> Order:
        """Waits for what the leader says.

        Raises:
            TeamError: The leader has gone.
        """
        found: list[Any] = [None]
        with self._unbroken():
            dist.broadcast_object_list(found, src=0, group=self._orders)
        order: Order = found[0]
        return order

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Within this, an order is carried out; what goes wrong leaves the team broken.

        Raises:
            TeamError: Something has gone wrong, here or with another.
        """
        self.at_work = True
        try:
            with self._unbroken():
                yield
        finally:
            self.at_work = False

    @contextlib.contextmanager
    def _unbroken(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # Where the others are cannot be known any more.
            self._broken = True
            raise TeamError(
                f"process {self.rank} of {self.size} can't go on with the others: "
                f"{type(error).__name__}: {error}; torchrun starts all of them anew if it may "
                "(--max-restarts)"
            ) from error

    @property
    def broken(self) -> bool:
        """Whether it is of no use to tell the others anything."""
        return self._broken

    def end(self) -> None:
        """Lets the others go, if this process leads, and leaves."""
        if self._broken:
            return
        if self.leads:
            self.order(End())
        dist.destroy_process_group()

    # Shares

    def share(self, items: Sequence[_Item], start: int = 0) -> Sequence[_Item]:
        """Returns what of some items this process has to do."""
        return dealt(items, self.rank, self.size, start)

    def joined(self, own: Sequence[_Item]) -> Sequence[_Item]:
        """Returns what all have made of their shares, in the order of the items."""
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, list(own))
        return woven(parts)

    def gathered(self, own: Sequence[_Item]) -> Sequence[_Item]:
        """Returns to the leader what all have made of their shares; nothing to the others."""
        parts: list[Any] | None = [None] * self.size if self.leads else None
        dist.gather_object(list(own), parts, dst=0)
        return woven(parts) if parts else []

    # Tensors

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Puts the sums over all processes in place of tensors; each gets the same bits."""
        whole = torch.cat([one.flatten().float() for one in tensors])
        dist.all_reduce(whole)
        start = 0
        for one in tensors:
            one.copy_(whole[start : start + one.numel()].view_as(one))
            start += one.numel()

    def equalise(self, tensors: Sequence[Tensor]) -> None:
        """Puts the leader's values in place of everybody's."""
        for one in tensors:
            dist.broadcast(one, src=0)

    # Forward passes

    def place(self, network: Any, device: str) -> Any:
        """Leaves of each layer this process's part, on its device.

        Raises:
            ModelError: The model does not say which its layers are.
        """
        del device  # of this process it is `self.device`
        names = getattr(network, "_no_split_modules", None) or ()
        layers = [one for one in network.modules() if type(one).__name__ in names]
        if not layers:
            raise ModelError(
                "this model does not say which its layers are (_no_split_modules), so that it "
                "can't be held by several processes; start one"
            )
        for one in (*layers, network):
            fully_shard(one, mesh=self._mesh)
        # Before FSDP's own, which asks all processes for their parts.
        network.register_forward_pre_hook(self._begin_pass, prepend=True)
        own = sum(one.to_local().numel() for one in network.parameters())
        _log.info(
            "%d processes hold the model; of its %d weights this one has %d",
            self.size, sum(one.numel() for one in network.parameters()), own,
        )  # fmt: skip
        return network

    def _begin_pass(self, *_: object) -> None:
        if not self.at_work:
            raise RuntimeError("a pass that the others know nothing of; Pupil.together tells them")
        if not self._helping:
            self._hands(1)

    def others_work(self) -> bool:
        """Whether another process begins a pass, which this one must then make, too."""
        return self._hands(0) > 0

    def _hands(self, up: int) -> float:
        count = torch.tensor(float(up), device=self.device)
        dist.all_reduce(count)
        # Who is at work anyhow need not wait for the count.
        return 0.0 if up else count.item()

    @contextlib.contextmanager
    def helping(self) -> Iterator[None]:
        """Within this, passes are made for the sake of others."""
        self._helping = True
        try:
            yield
        finally:
            self._helping = False


def dealt(items: Sequence[_Item], rank: int, size: int, start: int = 0) -> Sequence[_Item]:
    """Returns one process's share of items that are dealt out in turn, from `start` on."""
    return items[(rank - start) % size :: size]


def woven(parts: Sequence[Sequence[_Item]]) -> list[_Item]:
    """Returns items that were dealt out in turn, in the order they had before."""
    count = len(parts)
    return [parts[place % count][place // count] for place in range(sum(map(len, parts)))]


def join(device: str, environment: Mapping[str, str] = os.environ) -> Team:
    """Returns the team that `torchrun` has started this process in, if it has.

    Args:
        device: "cpu", "cuda" or "auto"; each process takes the GPU of its own number.
        environment: Where `torchrun` says so.

    Raises:
        TeamError: There are not as many GPUs as processes, or the others can't be reached.
    """
    size = int(environment.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    place, here = int(environment["LOCAL_RANK"]), int(environment["LOCAL_WORLD_SIZE"])
    own = torch.device("cpu")
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        gpus = torch.cuda.device_count()
        if gpus < here:
            raise TeamError(
                f"{here} processes need a GPU each, and there are {gpus}: start as many "
                "(torchrun --nproc-per-node), or say --device cpu"
            )
        own = torch.device("cuda", place)
        torch.cuda.set_device(own)
    backend = "gloo" if own.type == "cpu" else "cpu:gloo,cuda:nccl"
    try:
        store, rank, size = next(rendezvous("env://", timeout=_WORK_LIMIT))
        # torchrun keeps its store over a restart, with the addresses of processes that are gone
        # (pytorch/pytorch#135712).
        store = PrefixStore(environment.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=size, timeout=_WORK_LIMIT
        )
        return Crew(rank, size, own)
    except (RuntimeError, ValueError) as error:
        raise TeamError(f"the other processes can't be reached: {error}") from error
