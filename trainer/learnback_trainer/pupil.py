"""The model of a round: frozen as it lives, and the copy of it that is being taught.

`students.py` tells how both stand in memory. An adapter in training begins as a copy of the
parent's and goes on from there, so what is published always applies to the *base model* alone, and
never to a chain of adapters: the server merges one adapter, whatever came before. The price is that
all rounds share one low rank; an adapter that has filled up is for consolidation to mend, which
trains anew from the base.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from learnback_nano import path as nano_path
from learnback_store.digests import model_digest
from learnback_store.manifest import CheckpointKind
from learnback_trainer.errors import ModelError
from learnback_trainer.reader import Ids, Pair, Reader
from learnback_trainer.students import Frozen, Method, student_of
from learnback_trainer.team import ALONE, Team

_log = logging.getLogger(__name__)

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Pupil = TypeVar("_Pupil", bound="Pupil")

NANO = "nano"
"""Stands for the embedded model, which is a folder inside a package rather than a name."""

# Logits that are made at once while nothing is learned; in float32 they take 1.2 GB. With a
# vocabulary of 150,000 that is four answers of 500 tokens.
_MOST_LOGITS = 300_000_000
# Sequences that go through the model at once while nothing is learned; while decoding, only the
# last token has logits.
_ANSWER_BATCH = 64
# Layers in which it is looked at what prompts have in common, if there are so many.
_MEANING_LAYERS = 8
# Rows of other lengths go apart before they would fill up a pass with more padding, in tokens.
_MOST_PADDING = {"cpu": 128}
# Other devices are slower to begin a pass than to work through some padding.
_MOST_PADDING_ELSEWHERE = 4096
# What frozen models expect is kept up to this size. Anchors are asked for first, and there is room
# for all of nano's; with a vocabulary of 150,000, for 450 tokens.
_REMEMBERED_BYTES = 256 * 1024 * 1024

_MODEL_FILES = ("*.json", "*.jinja", "*.model", "*.safetensors", "*.txt")


@dataclass(frozen=True, slots=True)
class Base:
    """The base model that every checkpoint stands on."""

    name: str
    digest: str
    """`learnback_store.digests.model_digest` of its folder."""
    network: PreTrainedModel
    reader: Reader
    team: Team = ALONE
    """The processes that hold it."""


@dataclass(frozen=True, slots=True)
class LoraShape:
    """The size of the adapters that are made anew; one that goes on keeps its own."""

    rank: int = 8
    alpha: int = 16


def load_base(name: str, *, device: str = "auto", dtype: str = "auto", team: Team = ALONE) -> Base:
    """Loads the base model.

    Args:
        name: "nano", a folder, or a name of the hub.
        device: "cpu", "cuda", "cuda:N" or "auto".
        dtype: Name of a torch dtype; "auto" is float32 on the CPU and as stored on CUDA.
        team: The processes that hold it, each a part.

    Raises:
        ModelError: There is no such model, or it can't be taught here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    _require(device)
    folder = _folder(name)
    kind: Any = "auto" if dtype == "auto" and device != "cpu" else _dtype(dtype)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=kind)
        network = team.place(network.eval(), device)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{name}: the model can't be loaded: {error}") from error
    network.requires_grad_(requires_grad=False)
    context = int(network.config.get_text_config().max_position_embeddings)
    reader = Reader(tokenizer, _end_ids(network, tokenizer), context)
    return Base(name, model_digest(folder), network, reader, team)


def _require(device: str) -> None:
    if device.startswith("cuda") and (torch.device(device).index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"device is {device}, but torch sees {torch.cuda.device_count()} CUDA devices; use cpu "
            "or auto"
        )


def _folder(name: str) -> Path:
    if name == NANO:
        return nano_path()
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, allow_patterns=list(_MODEL_FILES)))
    except (HFValidationError, RepositoryNotFoundError, OSError) as error:
        raise ModelError(f"{name}: neither a folder nor a model of the hub: {error}") from error


def _dtype(name: str) -> torch.dtype:
    return torch.float32 if name == "auto" else getattr(torch, name)


def _end_ids(network: Any, tokenizer: Any) -> tuple[int, ...]:
    configured = network.generation_config.eos_token_id
    if configured is None:
        configured = tokenizer.eos_token_id
    if configured is None:
        return ()
    return tuple(configured) if isinstance(configured, list) else (int(configured),)


def _frozen(
    method: Callable[Concatenate[_Pupil, _Arguments], _Result],
) -> Callable[Concatenate[_Pupil, _Arguments], _Result]:
    """Makes a method keep no gradients."""

    @functools.wraps(method)
    def frozen(self: _Pupil, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        # What FSDP gathers in inference mode it could not use for teaching any more.
        mode = torch.inference_mode if self.team.size == 1 else torch.no_grad
        with mode():
            return method(self, *args, **kwargs)

    return frozen


class Pupil:
    """A base model that is taught, for one round. A context manager frees it.

    Methods speak of the student, and inside `as_frozen` of a model that it comes from.

    Args:
        base: The base model; must not be used otherwise meanwhile.
        parent: The folder of the live checkpoint; None if the base itself is live.
        shape: Size of the adapter, if a new one is made.
        seed: Of a new adapter's first values.
        method: What is taught.

    Raises:
        ModelError: The live checkpoint can't be loaded, or can't be taught on by this method.
    """

    def __init__(
        self,
        base: Base,
        parent: Path | None,
        shape: LoraShape | None = None,
        seed: int = 0,
        method: Method = Method.LORA,
    ) -> None:
        self.reader, self.team = base.reader, base.team
        self._asked: Frozen | None = None
        """Which model is spoken of; None is the student."""
        self._expected: dict[tuple[Frozen, Pair], Tensor] = {}
        """What frozen models were found to expect while their answers were confirmed."""
        self._room = _REMEMBERED_BYTES
        self.course: Any = None
        """What `update.py` keeps between two steps of teaching."""
        shape = shape or LoraShape()
        self._student = student_of(base.network, parent, method, shape.rank, shape.alpha, seed)
        self._model.eval()

    def __enter__(self) -> Pupil:
        return self

    def __exit__(self, *_: object) -> None:
        self.course = None
        self._student.close()

    @property
    def _model(self) -> Any:
        return self._student.network

    @property
    def kind(self) -> CheckpointKind:
        """What a checkpoint of the student is."""
        return self._student.kind

    def together(
        self,
        work: Callable[Concatenate[Pupil, _Arguments], _Result],
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> _Result:
        """Does a piece of work on all processes that hold the model; here there is one."""
        return work(self, *args, **kwargs)

    def evenly(self) -> contextlib.AbstractContextManager[None]:
        """Within this, each process may ask the model as often as it needs."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def as_frozen(self, which: Frozen) -> Iterator[None]:
        """Within this, the model is a frozen one."""
        outside, self._asked = self._asked, Frozen.BASE if self.live_is_base else which
        try:
            with self._student.as_frozen(which):
                yield
        finally:
            self._asked = outside

    def as_live(self) -> contextlib.AbstractContextManager[None]:
        """Within this, the model is the live one, frozen."""
        return self.as_frozen(Frozen.LIVE)

    @property
    def live_is_base(self) -> bool:
        """Whether nothing has been learned yet."""
        return self._student.live_is_base

    @property
    def blind_nats(self) -> float:
        """What a token costs that is drawn blindly from the vocabulary."""
        return math.log(self._model.config.get_text_config().vocab_size)

    @contextlib.contextmanager
    def with_weights(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """Within this, the student has other weights; they are exchanged, not copied."""
        self._exchange(weights)
        try:
            yield
        finally:
            self._exchange(weights)

    def _exchange(self, others: Sequence[Tensor]) -> None:
        for weight, other in zip(self.weights(), others, strict=True):
            weight.data, other.data = other.data, weight.data

    def weights(self) -> list[torch.nn.Parameter]:
        """Returns what is taught: the student's adapter, or all its weights."""
        return [weight for weight in self._model.parameters() if weight.requires_grad]

    def save(self, folder: Path, base_name: str) -> None:
        """Writes the student, with the name of its base and no path.

        Args:
            folder: An empty folder.
            base_name: What the base model is called in the configuration.
        """
        self._student.save(folder, base_name)

    # Asking

    @_frozen
    def answer(
        self,
        prompts: Sequence[Ids],
        max_tokens: int,
        seed: int | None = None,
        likely: Mapping[Ids, Ids] | None = None,
    ) -> list[Ids]:
        """Returns answers, each with its end token unless it was cut off.

        Args:
            prompts: Inputs up to the model's turn.
            max_tokens: Longest answer.
            seed: Of answers that are drawn; None: the greedy ones.
            likely: What may well be the greedy answers to some prompts. To read whether it is takes
                half as long as to find out what is.
        """
        known = likely if likely and seed is None else {}
        guesses = {one: known[one] for one in prompts if one in known}
        answers = self._confirmed(guesses, max_tokens)
        # Alike in length side by side, so that little is padding; each question only once.
        waiting = sorted(set(prompts) - answers.keys(), key=lambda prompt: (len(prompt), prompt))
        for start in range(0, len(waiting), _ANSWER_BATCH):
            batch = waiting[start : start + _ANSWER_BATCH]
            answers |= zip(batch, self._generate(batch, max_tokens, seed), strict=True)
        return [answers[prompt] for prompt in prompts]

    def _confirmed(self, guesses: Mapping[Ids, Ids], max_tokens: int) -> dict[Ids, Ids]:
        """Those guesses that are the greedy answers."""
        whole = [
            (prompt, answer)
            for prompt, answer in guesses.items()
            if len(answer) == max_tokens or (len(answer) < max_tokens and self.reader.ended(answer))
        ]
        found = {}
        for places in self._batches(whole):
            batch = [whole[place] for place in places]
            for (prompt, answer), logits in zip(batch, self._logits_together(batch), strict=True):
                if tuple(logits.argmax(dim=-1).tolist()) == answer:
                    found[prompt] = answer
                    self._remember((prompt, answer), logits)
        return found

    def _remember(self, pair: Pair, logits: Tensor) -> None:
        # Most will be anchors, and the teacher is asked for these. What several processes know must
        # not differ, for they ask the model together.
        if self._asked is None or self.team.size > 1 or logits.nbytes > self._room:
            return
        self._room -= logits.nbytes
        self._expected[self._asked, pair] = logits.log_softmax(dim=-1)

    def _generate(self, prompts: Sequence[Ids], max_tokens: int, seed: int | None) -> list[Ids]:
        ids, mask = self._left_padded(prompts)
        kind: Any = GenerationConfig  # untyped
        # Drawn from all that the model expects, which transformers would cut to 50 pieces.
        drawing = {} if seed is None else {"do_sample": True, "top_k": 0, "temperature": 1.0}
        settings = kind(
            **({"do_sample": False} | drawing),
            max_new_tokens=max_tokens,
            eos_token_id=sorted(self.reader.end_ids) or None,
            pad_token_id=self.reader.pad_id,
        )
        with _seeded(seed):
            output = self._model.generate(
                input_ids=ids, attention_mask=mask, generation_config=settings, synced_gpus=False
            )
        return [self._until_end(row[ids.shape[1] :]) for row in output.tolist()]

    def _until_end(self, row: Sequence[int]) -> Ids:
        for place, token in enumerate(row):
            if token in self.reader.end_ids:
                return tuple(row[: place + 1])
        return tuple(row)

    # Reading along

    def logits(self, pairs: Sequence[Pair]) -> list[Tensor]:
        """Returns what the model expects at each token of given answers; keeps the gradient.

        Args:
            pairs: Inputs, each with an answer of at least one token.

        Returns:
            For each, logits in float32 of shape [tokens of the answer, vocabulary].
        """
        found: dict[int, Tensor] = {}
        for places in self._batches(pairs):
            some = self._logits_together([pairs[place] for place in places])
            found |= zip(places, some, strict=True)
        return [found[place] for place in range(len(pairs))]

    def _logits_together(self, pairs: Sequence[Pair]) -> list[Tensor]:
        rows = [prompt + answer for prompt, answer in pairs]
        ids, mask = self._left_padded(rows)
        # The answers stand at the right edge, so that only there logits need to be made: at the
        # token before each of an answer's. Places make one dense product of it, a slice many.
        lengths = [len(answer) for _, answer in pairs]
        longest, width = max(lengths), ids.shape[1]
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            logits_to_keep=torch.arange(width - longest - 1, width - 1, device=ids.device),
            use_cache=False,
        )
        # In one piece, for a gradient of each row apart is as large as that of all.
        places = [
            row * longest + place
            for row, length in enumerate(lengths)
            for place in range(longest - length, longest)
        ]
        logits = output.logits.flatten(0, 1)[torch.tensor(places, device=ids.device)]
        return list(logits.float().split(lengths))

    def losses(self, pairs: Sequence[Pair]) -> list[float]:
        """Returns the negative log-likelihood of given answers, in nats a token."""
        return [fmean(one) for one in self.token_losses(pairs)]

    @_frozen
    def token_losses(self, pairs: Sequence[Pair]) -> list[list[float]]:
        """Returns the negative log-likelihood of each token of given answers, in nats."""
        found: dict[int, list[float]] = {}
        for places in self._batches(pairs):
            batch = [pairs[place] for place in places]
            for place, logits in zip(places, self._logits_together(batch), strict=True):
                target = torch.tensor(pairs[place][1], device=logits.device)
                nats = torch.nn.functional.cross_entropy(logits, target, reduction="none")
                found[place] = nats.tolist()
        return [found[place] for place in range(len(pairs))]

    @_frozen
    def distributions(self, pairs: Sequence[Pair]) -> list[Tensor]:
        """Returns log-probabilities at each token of given answers, shaped as `logits` does."""
        found: dict[Pair, Tensor] = {}
        if which := self._asked:
            known = {one: self._expected.get((which, one)) for one in pairs}
            found = {one: log_probs for one, log_probs in known.items() if log_probs is not None}
        new = [one for one in pairs if one not in found]
        for places in self._batches(new):
            batch = [new[place] for place in places]
            logits = self._logits_together(batch)
            found |= zip(batch, (one.log_softmax(dim=-1) for one in logits), strict=True)
        return [found[one] for one in pairs]

    def _batches(self, pairs: Sequence[Pair]) -> list[list[int]]:
        """Places of rows that go through the model at once, those alike in length together."""
        vocabulary = self._model.config.get_text_config().vocab_size
        answers = [len(answer) + 1 for _, answer in pairs]
        found = []
        for batch in self._alike_in_length([len(prompt) + len(answer) for prompt, answer in pairs]):
            most = max(1, _MOST_LOGITS // (vocabulary * max(answers[place] for place in batch)))
            found += [batch[start : start + most] for start in range(0, len(batch), most)]
        return found

    def _alike_in_length(self, lengths: Sequence[int]) -> list[list[int]]:
        """The places of rows that go through the model together, with little padding."""
        most = _MOST_PADDING.get(self._model.device.type, _MOST_PADDING_ELSEWHERE)
        batches: list[list[int]] = []
        padding = 0
        for place in sorted(range(len(lengths)), key=lengths.__getitem__):
            own = batches[-1] if batches else []
            padding += len(own) * (lengths[place] - lengths[own[-1]]) if own else 0
            if own and len(own) < _ANSWER_BATCH and padding <= most:
                own.append(place)
            else:
                batches.append([place])
                padding = 0
        return batches

    @_frozen
    def meaning(self, prompts: Sequence[Ids]) -> Tensor:
        """Returns what layers make of each prompt: of some the mean state, and of some the last.

        Returns:
            In float32, of shape [prompts, twice the layers that were looked at, hidden size].
        """
        found: dict[int, Tensor] = {}
        for places in self._alike_in_length([len(one) for one in prompts]):
            layers, mask = self._states([prompts[place] for place in places])
            seen = mask[:, :, None]
            looked_at = layers[-1 :: -max(1, len(layers) // _MEANING_LAYERS)]
            means = [(states.float() * seen).sum(dim=1) / seen.sum(dim=1) for states in looked_at]
            ends = [states[:, -1].float() for states in looked_at]
            found |= zip(places, torch.stack(means + ends, dim=1), strict=True)
        return torch.stack([found[place] for place in range(len(prompts))])

    @_frozen
    def states(self, pairs: Sequence[Pair]) -> Tensor:
        """Returns the last layer's state at the end of each answer, behind the final norm.

        Args:
            pairs: Inputs up to the model's turn, each with an answer.

        Returns:
            In float32, of shape [pairs, hidden size].
        """
        rows = [prompt + answer for prompt, answer in pairs]
        found: dict[int, Tensor] = {}
        for places in self._alike_in_length([len(one) for one in rows]):
            layers, _ = self._states([rows[place] for place in places])
            found |= zip(places, layers[-1][:, -1].float(), strict=True)
        return torch.stack([found[place] for place in range(len(rows))])

    def _states(self, rows: Sequence[Ids]) -> tuple[Sequence[Tensor], Tensor]:
        """The states behind each layer, and which tokens are no padding.

        The states are of shape [rows, tokens, hidden size], and those behind the last layer have
        been through the final norm.
        """
        ids, mask = self._left_padded(rows)
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            output_hidden_states=True,
            use_cache=False,
            logits_to_keep=1,
        )
        return output.hidden_states[1:], mask

    def _left_padded(self, rows: Sequence[Ids]) -> tuple[Tensor, Tensor]:
        """Rows of tokens as one tensor, filled up on the left, and the mask of what is real."""
        width = max(map(len, rows))
        filled = [[self.reader.pad_id] * (width - len(row)) + list(row) for row in rows]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
        device = self._model.device
        return torch.tensor(filled, device=device), torch.tensor(mask, device=device)


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Within this, what is drawn follows from the seed, and disturbs nothing outside."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
