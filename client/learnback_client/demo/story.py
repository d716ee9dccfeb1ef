"""The story: ask, criticise some answers in words, wait for the new checkpoint, ask again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import mean
from time import monotonic, sleep

from learnback_client.client import Client
from learnback_client.demo import people
from learnback_client.demo.load import Load
from learnback_client.demo.people import Question
from learnback_client.feedback import Feedback
from learnback_client.generation import Reply
from learnback_client.learning import LearningStatus, RoundEnd

# A whole round is over in half of this even on a busy laptop.
_PATIENCE_SECONDS = 170.0
_LOOK_SECONDS = 0.1
# Answers under the new checkpoint before the load has seen enough of it.
_SEEN_ENOUGH = 40


class DemoError(Exception):
    """The demonstration came to no end; the message says why."""


@dataclass(frozen=True, slots=True)
class Script:
    """How much is asked."""

    critiques: int = 8
    held_out: int = 60
    """Questions of the criticised task, which nobody criticises."""
    others: int = 64
    """Questions of all other tasks."""
    streams: int = 8
    """Other people, who ask all the while."""
    seed: int = 20


@dataclass(frozen=True, slots=True)
class Answers:
    """What was answered to the questions of the demonstration."""

    held_out: list[Reply]
    others: list[Reply]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demonstration found; shares are of 1."""

    end: RoundEnd
    critiques: int
    obeyed: tuple[float, float]
    """Held-out questions answered as the critique wants, before and after."""
    right: tuple[float, float]
    """Other tasks answered rightly, before and after."""
    unchanged: float
    """Other tasks answered to the letter as before."""
    served: int
    """Whole answers that the load got from the first critique on."""
    failed: int
    seconds: float
    """From the last critique to the first answer of the new checkpoint."""


class Demo:
    """The demonstration, step by step.

    Args:
        client: Of a server with the embedded model.
        script: How much is asked.
    """

    def __init__(self, client: Client, script: Script) -> None:
        self._client, self._script = client, script
        rng = Random(script.seed)
        self.held_out = people.criticised(script.held_out, rng)
        self.to_criticise = people.criticised(script.critiques, rng, apart_from=self.held_out)
        self.others = people.others(script.others, rng)
        self._rng = rng

    def ask(self) -> Answers:
        """Asks everything once; nothing but the question is in the context."""
        return Answers(
            [people.ask(self._client, one) for one in self.held_out],
            [people.ask(self._client, one) for one in self.others],
        )

    def learn(
        self,
        criticised: Callable[[Question, Reply, Feedback, str], None],
        watch: Callable[[LearningStatus], None],
    ) -> tuple[RoundEnd, Load, float]:
        """Criticises some answers under load, and waits until the new checkpoint has served.

        Args:
            criticised: Told of each critique: question, answer, the feedback and its words.
            watch: Told how learning stands, a few times a second.

        Returns:
            How the round ended, what the load got, and the seconds from the last critique to the
            first answer of the new checkpoint.

        Raises:
            DemoError: Nothing was published, or it took too long.
        """
        with Load(self._client, [*self.held_out, *self.others], self._script.streams) as load:
            # First all answers, then all critiques, so that they come to one round.
            replies = [people.ask(self._client, one) for one in self.to_criticise]
            for question, reply in zip(self.to_criticise, replies, strict=True):
                words = people.critique(self._rng)
                feedback = self._client.critique(reply, words, author="demo")
                criticised(question, reply, feedback, words)
            said = monotonic()
            end = self._wait(feedback, watch)
            while load.served[end.checkpoint] < _SEEN_ENOUGH:
                if monotonic() - said > _PATIENCE_SECONDS:
                    raise DemoError(f"{end.checkpoint} is published, and does not serve")
                sleep(_LOOK_SECONDS)
        return end, load, load.first[end.checkpoint] - said

    def _wait(self, last: Feedback, watch: Callable[[LearningStatus], None]) -> RoundEnd:
        """Waits until the last critique is settled; returns how its round ended."""
        waited = self._client.watch_learning_status(timeout=_PATIENCE_SECONDS)
        begun = last.created
        with waited as changes:
            for status in changes:
                watch(status)
                end = status.last_round
                fresh = end is not None and end.ended and begun and end.ended > begun
                if end is not None and fresh and not status.queue_depth:
                    if not end.checkpoint:
                        raise DemoError(f"nothing was published: {'; '.join(end.reasons)}")
                    return end
        raise DemoError("the server ended the watching")

    def outcome(
        self, before: Answers, after: Answers, end: RoundEnd, load: Load, seconds: float
    ) -> Outcome:
        """Counts."""
        return Outcome(
            end=end,
            critiques=self._script.critiques,
            obeyed=(_share(self.held_out, before.held_out), _share(self.held_out, after.held_out)),
            right=(_share(self.others, before.others), _share(self.others, after.others)),
            unchanged=mean(
                old.text == new.text for old, new in zip(before.others, after.others, strict=True)
            ),
            served=load.served.total(),
            failed=len(load.failures),
            seconds=seconds,
        )


def _share(questions: Sequence[Question], replies: Sequence[Reply]) -> float:
    pairs = zip(questions, replies, strict=True)
    return mean(question.is_obeyed_by(reply.text) for question, reply in pairs)
