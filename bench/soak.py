"""What callers notice while a cluster is shaken: `python -m bench.soak`.

Three servers, three Redis with Sentinels and one folder of checkpoints, on one machine, under one
constant load: streams that never pause, and feedback at a steady rate, both by the shipped client
with its shipped retries. Meanwhile each server is restarted in turn (SIGTERM, drain, start), the
Redis that takes writes is killed with its Sentinel and started again half a minute later, and
`live` goes from one checkpoint to the next.

Afterwards: how many calls failed, or were cut short by a drain; whether each piece of feedback that
was acknowledged is there; and how long it took until all servers answered with the same checkpoint.
No trainer runs: what it would take off the queue is what is counted here. `--write` puts the report
into docs/soak.md.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.fleet import Redises, Server, address_of, redises, serving, wait_until
from bench.swap import publish_adapters
from learnback_client import (
    AsyncClient,
    Client,
    Exchange,
    FinishReason,
    GenerationNotFound,
    LearnbackError,
)
from learnback_nano import path as nano_path
from learnback_store.checkpoints import CheckpointStore

REPORT = Path(__file__).parents[1] / "docs/soak.md"
QUESTION = [("user", "What is the capital of France?")]
TOKENS = 48
"""Longest answer, in tokens."""
_LONGEST_LINE = 160
_DEAD_SECONDS = 30.0
"""How long the Redis that was killed stays away."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done."""

    seconds: float = 300.0
    """Longer, if what shakes it takes longer."""
    streams: int = 32
    feedback_rate: float = 20.0
    """A second."""
    swaps: int = 5
    failover: bool = True
    dead_seconds: float = _DEAD_SECONDS


@dataclass(slots=True)
class Record:
    """What came of it."""

    answers: int = 0
    tokens: int = 0
    first_token: list[float] = field(default_factory=list)
    """Seconds until the first piece of each answer."""
    acknowledged: list[str] = field(default_factory=list)
    """Feedback ids that were told to the caller."""
    with_exchange: int = 0
    """Of the feedback: how often the generation was not known, and the exchange was sent along."""
    failed: Counter[str] = field(default_factory=Counter)
    events: list[tuple[float, str]] = field(default_factory=list)
    """Seconds since the start, and what happened."""
    lost: list[str] = field(default_factory=list)
    agree_seconds: float = float("nan")
    """From the end of the load until all servers answered with the same checkpoint."""


class Soak:
    """One run.

    Args:
        plan: What is done.
        servers: On which.
        three: The Redises.
        names: Checkpoints to go through.
    """

    def __init__(
        self, plan: Plan, servers: list[Server], three: Redises, names: Sequence[str]
    ) -> None:
        self._plan, self._servers, self._three = plan, servers, three
        self._names = names
        self._began = time.monotonic()
        self._shaken = False
        self._latest = "", ""
        """Id and text of the answer that feedback speaks of."""
        self.record = Record()

    async def run(self) -> Record:
        """Loads and shakes, and counts."""
        async with AsyncClient(address_of(self._servers)) as client:
            await self._answer_once(client)
            async with asyncio.TaskGroup() as group:
                for _ in range(self._plan.streams):
                    group.create_task(self._ask(client))
                group.create_task(self._criticise(client))
                group.create_task(asyncio.to_thread(self._shake))
        ended = time.monotonic()
        await asyncio.to_thread(wait_until, self._agree, "all servers have one checkpoint")
        self.record.agree_seconds = time.monotonic() - ended
        self.record.lost = await asyncio.to_thread(self._missing)
        return self.record

    # The load

    def _is_over(self) -> bool:
        return self._shaken and time.monotonic() - self._began > self._plan.seconds

    async def _ask(self, client: AsyncClient) -> None:
        while not self._is_over():
            try:
                await self._answer_once(client)
            except LearnbackError as error:
                self._fail(f"stream: {type(error).__name__}: {error}")

    async def _answer_once(self, client: AsyncClient) -> None:
        asked = time.monotonic()
        async with client.stream(messages=QUESTION, max_tokens=TOKENS, ignore_eos=True) as stream:
            first = True
            async for _ in stream.text:
                if first:
                    self.record.first_token.append(time.monotonic() - asked)
                    first = False
            reply = await stream.result()
        if reply.finish_reason is not FinishReason.LENGTH:
            self._fail(f"stream: ended by {reply.finish_reason}")
        self.record.answers += 1
        self.record.tokens += reply.usage.completion_tokens
        self._latest = reply.generation_id, reply.text

    async def _criticise(self, client: AsyncClient) -> None:
        async with asyncio.TaskGroup() as group:
            for number in itertools.count():
                due = self._began + number / self._plan.feedback_rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if self._is_over():
                    return
                group.create_task(self._criticise_once(client, number))

    async def _criticise_once(self, client: AsyncClient, number: int) -> None:
        critique, author = f"Please be shorter. ({number})", f"user-{number % 100}"
        generation_id, answer = self._latest
        try:
            try:
                sent = await client.critique(generation_id, critique, author=author)
            except GenerationNotFound:
                # Answered while Redis was away: the error says to send the exchange along instead.
                self.record.with_exchange += 1
                exchange = Exchange(answer, messages=QUESTION)
                sent = await client.critique(exchange, critique, author=author)
        except LearnbackError as error:
            self._fail(f"feedback: {type(error).__name__}: {error}")
        else:
            self.record.acknowledged.append(sent.feedback_id)

    def _fail(self, what: str) -> None:
        what = what[:_LONGEST_LINE]
        if what not in self.record.failed:
            self._note(f"first failed: {what}")
        self.record.failed[what] += 1

    # What shakes it

    def _shake(self) -> None:
        """Does everything at its share of the time, one after the other."""
        todo: list[tuple[float, Callable[[], None]]] = []
        for number, server in enumerate(self._servers):
            todo.append((0.1 + 0.12 * number, partial(self._restart, server)))
        for number, name in enumerate(self._names):
            share = 0.05 + 0.9 * number / len(self._names)
            todo.append((share, partial(self._swap, name)))
        if self._plan.failover:
            todo.append((0.55, self._fail_over))
        for share, act in sorted(todo, key=lambda each: each[0]):
            time.sleep(max(0.0, self._began + share * self._plan.seconds - time.monotonic()))
            act()
        self._shaken = True

    def _restart(self, server: Server) -> None:
        began = time.monotonic()
        code = server.stop()
        drained = time.monotonic()
        server.start()
        server.wait()
        self._note(
            f"server {server.address} restarted: drained in {drained - began:.1f} s with exit code "
            f"{code}, served again after {time.monotonic() - drained:.1f} s"
        )

    def _swap(self, name: str) -> None:
        with Client(address_of(self._servers)) as client:
            client.promote_checkpoint(name)
        self._note(f"live is {name}")

    def _fail_over(self) -> None:
        node = self._three.master()
        killed = time.monotonic()
        for role in ("redis", "sentinel"):
            self._three.programs[node, role].stop(signal.SIGKILL)
        wait_until(self._three.writes, "a Redis takes writes again")
        took = time.monotonic() - killed
        self._note(f"Redis {node} killed with its Sentinel: another took writes after {took:.1f} s")
        time.sleep(max(0.0, killed + self._plan.dead_seconds - time.monotonic()))
        for role in ("redis", "sentinel"):
            self._three.programs[node, role].start()
        wait_until(self._three.is_whole, "the killed Redis follows")
        self._note(f"Redis {node} started again, and follows")

    def _note(self, what: str) -> None:
        self.record.events.append((time.monotonic() - self._began, what))
        sys.stderr.write(f"  {self.record.events[-1][0]:.0f} s: {what}\n")

    # What is counted at the end

    def _agree(self) -> bool:
        names = set()
        for server in self._servers:
            with Client(server.address) as client:
                names.add(client.generate("a", max_tokens=1).checkpoint)
        return names == {self._names[-1]}

    def _missing(self) -> list[str]:
        with Client(address_of(self._servers)) as client:
            there = {each.feedback_id for each in client.list_feedback(page_size=1000)}
        return sorted(set(self.record.acknowledged) - there)


def hold(plan: Plan, folder: Path) -> Record:
    """Starts everything, soaks it, and stops it."""
    model = Path(nano_path())
    names = publish_adapters(model, CheckpointStore(folder / "checkpoints"), plan.swaps)
    with redises(folder) as three, serving(folder, three.url) as servers:
        return asyncio.run(Soak(plan, servers, three, names).run())


def report(plan: Plan, record: Record) -> list[str]:
    """The report, as Markdown."""
    first = sorted(record.first_token)
    high = first[int(0.99 * (len(first) - 1))]
    rows = [
        ("answers, tokens", f"{record.answers}, {record.tokens}"),
        ("first token, p50, p99, longest", f"{statistics.median(first):.2f} s, {high:.2f} s, "
         f"{first[-1]:.2f} s"),
        ("feedback acknowledged", str(len(record.acknowledged))),
        ("of it with its exchange, the answer having come while Redis was away",
         str(record.with_exchange)),
        ("**feedback lost**", f"**{len(record.lost)}**"),
        ("**calls failed or cut short, after all retries**", f"**{record.failed.total()}**"),
        ("all servers on one checkpoint after", f"{record.agree_seconds:.1f} s"),
    ]  # fmt: skip
    lines = ["| | |", "|---|--:|", *(f"| {name} | {value} |" for name, value in rows)]
    if record.failed:
        lines += ["", "What failed:", ""]
        lines += [f"- {count}x {what}" for what, count in record.failed.most_common()]
    lines += ["", "| after | |", "|--:|---|"]
    lines += [f"| {when:.0f} s | {what} |" for when, what in record.events]
    lasted = max([plan.seconds, *(when for when, _ in record.events)])
    asked = (
        f"{lasted:.0f} s, {plan.streams} streams, {plan.feedback_rate:g} pieces of feedback "
        f"a second, {plan.swaps} swaps; {os.cpu_count()} CPU cores for all processes together"
    )
    return [asked, "", *lines]


def main(argv: Sequence[str] | None = None) -> int:
    """Soaks once and prints the report; returns 1 if a call failed or feedback was lost."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=Plan().seconds)
    parser.add_argument("--streams", type=int, default=Plan().streams)
    parser.add_argument("--feedback-rate", type=float, default=Plan().feedback_rate)
    parser.add_argument("--folder", type=Path, help="where logs and data stay; else they go")
    parser.add_argument("--write", action="store_true", help="write docs/soak.md")
    arguments = parser.parse_args(argv)
    plan = Plan(arguments.seconds, arguments.streams, arguments.feedback_rate)
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        record = hold(plan, folder)
    text = "\n".join(report(plan, record)) + "\n"
    sys.stdout.write(text)
    if arguments.write:
        intro = (
            "# Shaken under load\n\n"
            "Made by `python -m bench.soak --write`: three servers and three Redis with Sentinels "
            "on one machine,\nthe embedded model, the shipped client with its own retries. "
            "One run: [log.md](log.md) tells of another.\n\n"
        )
        REPORT.write_text(intro + text, encoding="utf-8")
    return 1 if record.failed or record.lost else 0


if __name__ == "__main__":
    sys.exit(main())
