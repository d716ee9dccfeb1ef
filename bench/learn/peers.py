"""Other ways to learn the same lessons, on the same model and asked in the same way.

Each is the plain form that its paper or its users start from, without what learnback puts around
it: no practice on other questions, no anchors, no gate. The refinements are those that the base
model writes when it is shown the critique, and the size of the adapter, the optimiser, its learning
rate and the number of steps are learnback's.

    in context      nothing is trained: a critique stands in a system message from then on
    imitation       cross-entropy on the refinement (ILF, Scheurer et al. 2023)
    distillation    KL to the model that has read the critique (SDPO, Huebotter et al. 2026)
    preference      the refinement over the criticised answer (DPO, Rafailov et al. 2023), beta 0.1
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from statistics import mean

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, logsigmoid

from bench.learn.figures import Figure, naming
from bench.learn.measuring import compliance, kept, user
from bench.learn.service import Service, fresh
from bench.learn.users import WISHES, Wish, question
from learnback_nano import world
from learnback_store.checkpoints import CheckpointStore
from learnback_store.manifest import BASE, CheckpointKind, Manifest
from learnback_trainer.pupil import NANO, Base, Pupil, load_base
from learnback_trainer.reader import Ids

COUNTS = (1, 8)
"""Numbers of critiques."""
_STEPS, _BATCH, _RATE = 60, 8, 2e-3
_BETA = 0.1
_ANSWER_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Told:
    """A critique with all that the methods make of it."""

    words: str
    prompt: Ids
    answer: Ids
    dialogue: Ids
    refinement: Ids


Loss = Callable[[Pupil, Sequence[Told]], Tensor]


def _imitation(pupil: Pupil, told: Sequence[Told]) -> Tensor:
    logits = pupil.logits([(one.prompt, one.refinement) for one in told])
    return cross_entropy(torch.cat(logits), torch.tensor(sum((t.refinement for t in told), ())))


def _distillation(pupil: Pupil, told: Sequence[Told]) -> Tensor:
    with pupil.as_live():
        teacher = pupil.distributions([(one.dialogue, one.refinement) for one in told])
    student = pupil.logits([(one.prompt, one.refinement) for one in told])
    log_probs = torch.cat(student).log_softmax(dim=-1)
    return kl_div(log_probs, torch.cat(teacher), reduction="batchmean", log_target=True)


def _preference(pupil: Pupil, told: Sequence[Told]) -> Tensor:
    pairs = [(one.prompt, answer) for one in told for answer in (one.refinement, one.answer)]
    with pupil.as_live(), torch.no_grad():
        live = _log_likelihoods(pupil, pairs)
    gained = _log_likelihoods(pupil, pairs) - live
    return -logsigmoid(_BETA * (gained[::2] - gained[1::2])).mean()


def _log_likelihoods(pupil: Pupil, pairs: Sequence[tuple[Ids, Ids]]) -> Tensor:
    found = zip(pupil.logits(pairs), pairs, strict=True)
    return torch.stack([-cross_entropy(x, torch.tensor(a), reduction="sum") for x, (_, a) in found])


_TRAINED: dict[str, Loss] = {
    "imitation": _imitation,
    "distillation": _distillation,
    "preference": _preference,
}


def peers(seed: int) -> Iterator[Figure]:
    """The peers on the wish of `lessons.counts`."""
    torch.set_num_threads(1)
    base, wish = load_base(NANO, device="cpu"), WISHES[3 * seed % len(WISHES)]
    with fresh(0) as service:
        yield naming("peers", "base", seed)("compliance", compliance(service, [wish], seed))
        for count in COUNTS:
            told = _told(base, wish, seed, count)
            setting = f"{count} critique{'s' if count > 1 else ''}"
            if count == max(COUNTS):
                obeyed = [compliance(service, [wish], seed, before=[_rule(one)]) for one in told]
                yield naming("peers", "in context", seed)("compliance", mean(obeyed))
            for name, loss in _TRAINED.items():
                checkpoint = f"{name}-{count}"
                with Pupil(base, None) as pupil:
                    _train(pupil, loss, told, seed)
                    _serve(service, base, pupil, checkpoint)
                named = naming("peers", f"{name}, {setting}", seed)
                yield named("compliance", compliance(service, [wish], seed))
                yield from kept(named, service, {wish.task}, seed)


def _told(base: Base, wish: Wish, seed: int, count: int) -> list[Told]:
    """What `lessons.counts` says with this seed: the same prompts and words."""
    rng, said = Random(f"told/{seed}"), []
    for _ in range(count):
        item, _ = question([wish], rng, "seen")
        said.append((item, world.phrase(wish.kind, rng, "seen", language="en")))
    with Pupil(base, None) as pupil:
        prompts = [base.reader.chat([user(item.prompt)]) for item, _ in said]
        answers = pupil.answer(prompts, _ANSWER_TOKENS)
        dialogues = [
            base.reader.chat([user(item.prompt), _assistant(base.reader.text(answer)), user(words)])
            for (item, words), answer in zip(said, answers, strict=True)
        ]
        refinements = pupil.answer(dialogues, _ANSWER_TOKENS)
    rows = zip(said, prompts, answers, dialogues, refinements, strict=True)
    return [Told(words, *rest) for (_, words), *rest in rows]


def _train(pupil: Pupil, loss: Loss, told: Sequence[Told], seed: int) -> None:
    optimiser = torch.optim.AdamW(pupil.weights(), lr=_RATE, weight_decay=0.0)
    rng = Random(f"peers/{seed}")
    for _ in range(_STEPS):
        optimiser.zero_grad()
        loss(pupil, rng.sample(told, k=min(_BATCH, len(told)))).backward()
        optimiser.step()


def _serve(service: Service, base: Base, pupil: Pupil, name: str) -> None:
    """Makes a student the live checkpoint."""
    store = CheckpointStore(service.checkpoints)
    manifest = Manifest(name, CheckpointKind.ADAPTER, BASE, base.name, base.digest)
    with store.draft() as draft:
        pupil.save(draft, base.name)
        store.publish(draft, manifest)
    store.promote(name)
    service.await_serving({name})


def _rule(told: Told) -> world.Message:
    return {"role": "system", "content": told.words}


def _assistant(content: str) -> world.Message:
    return {"role": "assistant", "content": content}
