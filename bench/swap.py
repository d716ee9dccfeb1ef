"""What a swap costs those who are being answered: `python -m bench.swap`.

A server answers streams that never pause, while the live alias goes to one adapter after the other,
and back to the bare model between them. The time between two tokens is told apart by when it was:

- bare: the bare model is live, and has been since before all that is being answered began.
- swap: from the call that moves the alias to an adapter until the last answer has ended that began
  before the adapter was merged. All that a swap is lies in it: reading, proving, merging, and two
  or three checkpoints that answer side by side.
- merged: an adapter is live, merged, and answers all there is.
- back: from the call that moves the alias back until the last answer of the adapter has ended.

Bare and merged take turns, so what else the machine does weighs on both. Ratios are within a round.
Then, without load and without merging, the memory that the server has of its own is read before
and after swaps, and set beside the size of the model and of the adapter.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from bench import load, shapes
from bench.contenders import worker
from bench.figures import P99, Trace
from bench.server import Server
from bench.workload import Lengths
from learnback_client import Client
from learnback_store.checkpoints import CheckpointStore
from learnback_store.digests import model_digest
from learnback_store.embedded import EmbeddedRedis
from learnback_store.manifest import BASE, CheckpointKind, Manifest

STREAMS = 8
RANK = 16
MEMORY_SWAPS = 12
"""Swaps over which memory is read; the first ones also fill what is kept between swaps."""

PHASES = ("bare", "swap", "merged", "back")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is asked of a model."""

    lengths: Lengths
    swaps: int
    steady_seconds: float
    """How long each of bare and merged lasts between two swaps."""
    threads: int


SCALES = {
    "nano": Scale(Lengths((16, 64), (24, 48)), swaps=6, steady_seconds=4.0, threads=1),
    "qwen3-0.6b": Scale(Lengths((16, 32), (16, 24)), swaps=2, steady_seconds=30.0, threads=2),
}


GPU_SCALE = Scale(Lengths((16, 64), (24, 48)), swaps=3, steady_seconds=4.0, threads=1)
"""For any model on a GPU."""


@dataclass(frozen=True, slots=True)
class Move:
    """One move of the alias: when it was asked for, and when what it brings was in place."""

    phase: str
    asked: float
    done: float


def publish_adapters(folder: Path, store: CheckpointStore, count: int) -> list[str]:
    """Publishes random adapters of the size that the trainer makes; returns their names."""
    network = AutoModelForCausalLM.from_pretrained(folder)
    adapted: Any = get_peft_model(network, LoraConfig(r=RANK, target_modules="all-linear"))
    names = []
    for seed in range(count):
        torch.manual_seed(seed)
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.02)
        names.append(store.new_name())
        with store.draft() as draft:
            adapted.save_pretrained(str(draft))
            digest = model_digest(folder)
            manifest = Manifest(names[-1], CheckpointKind.ADAPTER, BASE, folder.name, digest)
            store.publish(draft, manifest)
    return names


@contextmanager
def serving(model: Path, threads: int, folder: Path, *flags: str) -> Iterator[Server]:
    """A server with a Redis of its own, on the checkpoints in `folder`."""
    with EmbeddedRedis(folder / "redis") as redis:
        stored = ("--redis-url", redis.url, "--checkpoint-dir", str(folder / "checkpoints"))
        server = Server(str(model), threads, *stored, *flags)
        try:
            yield server
        finally:
            server.close()


def measure(
    model: shapes.Model, scale: Scale, rounds: int, folder: Path, device: str
) -> list[dict[str, list[float]]]:
    """Seconds between tokens by phase, of each round; all rounds are one server's."""
    store = CheckpointStore(folder / "checkpoints")
    names = publish_adapters(model.folder, store, rounds * scale.swaps)
    measured = []
    serving_it = serving(model.folder, scale.threads, folder, "--device", device)
    with serving_it as server, worker() as process:
        process.submit(time.perf_counter).result()  # it has to start, which takes a while
        for number in range(rounds):
            own = names[number * scale.swaps :][: scale.swaps]
            over = folder / f"over-{number}"
            load_of = (server.address, STREAMS, scale.lengths, model.vocab_size, number)
            loaded = process.submit(load.run_until, over, *load_of)
            try:
                moves = _move_about(server, own, scale)
            finally:
                over.touch()
            measured.append(gaps_by_phase(loaded.result(), moves))
            told = "; ".join(f"{name} {of(measured[-1]):.2f}" for name, of in RATIOS.items())
            note(f"  round {number + 1} of {rounds}: {told}")
    return measured


def _move_about(server: Server, names: Sequence[str], scale: Scale) -> list[Move]:
    """Goes to each checkpoint and back, under load."""
    moves = []
    with Client(server.address) as client:
        time.sleep(2 * scale.steady_seconds)  # the load has to begin
        for name in names:
            asked = time.perf_counter()
            client.promote_checkpoint(name)
            merged = max(server.wait_for(rf"{name} is {what}")[0] for what in ("merged", "live"))
            moves.append(Move("swap", asked, merged))
            _outlast(client, scale.lengths)
            time.sleep(scale.steady_seconds)
            back = time.perf_counter()
            client.promote_checkpoint(BASE)
            moves.append(Move("back", back, time.perf_counter()))
            _outlast(client, scale.lengths)
            time.sleep(scale.steady_seconds)
    return moves


def _outlast(client: Client, lengths: Lengths) -> None:
    """Waits as long as the longest answer takes, so that those which began before are over."""
    client.generate(token_ids=[1, 2, 3], max_tokens=lengths.answer[1], ignore_eos=True)


def gaps_by_phase(traces: Sequence[Trace], moves: Sequence[Move]) -> dict[str, list[float]]:
    """Seconds between two tokens, told apart by the phase in which the later one came.

    The start, until as many answers as there are streams have ended, belongs to no phase; nor does
    what came after the last move.
    """
    began = sorted(trace.tokens[-1] for trace in traces)[STREAMS]
    spans: list[tuple[float, float, str]] = []
    steady, since = "bare", began
    for move in moves:
        ends = [trace.tokens[-1] for trace in traces if trace.sent <= move.done]
        until = max([move.done, *ends])
        spans += [(since, move.asked, steady), (move.asked, until, move.phase)]
        steady, since = ("merged" if move.phase == "swap" else "bare"), until
    gaps: dict[str, list[float]] = {phase: [] for phase in PHASES}
    for trace in traces:
        for before, after in zip(trace.tokens, trace.tokens[1:], strict=False):
            phase = next((name for start, end, name in spans if start <= after < end), None)
            if phase is not None:
                gaps[phase].append(after - before)
    return gaps


def p99(gaps: Sequence[float]) -> float:
    """The time that one gap in a hundred is longer than."""
    return sorted(gaps)[int(P99 * (len(gaps) - 1))]


RATIOS: dict[str, Callable[[dict[str, list[float]]], float]] = {
    "p99, swap to bare": lambda gaps: p99(gaps["swap"]) / p99(gaps["bare"]),
    "p99, swap to merged": lambda gaps: p99(gaps["swap"]) / p99(gaps["merged"]),
    "mean, swap to bare": lambda gaps: _mean(gaps, "swap") / _mean(gaps, "bare"),
    "mean, merged to bare": lambda gaps: _mean(gaps, "merged") / _mean(gaps, "bare"),
    "p99, back to bare": lambda gaps: p99(gaps["back"]) / p99(gaps["bare"]),
}


def _mean(gaps: dict[str, list[float]], phase: str) -> float:
    return statistics.fmean(gaps[phase])


def memory(model: shapes.Model, threads: int, folder: Path) -> list[str]:
    """What a swap of adapters adds to the memory of a server that does not merge."""
    store = CheckpointStore(folder / "checkpoints")
    names = publish_adapters(model.folder, store, MEMORY_SWAPS)
    lines = []
    with (
        serving(model.folder, threads, folder, "--merge", "never", "--device", "cpu") as server,
        Client(server.address) as client,
    ):
        before = server.memory
        for name in names:
            client.promote_checkpoint(name)
            server.wait_for(rf"{name} is live")
            client.generate(token_ids=[1, 2, 3], max_tokens=4)
            lines.append(f"{(server.memory - before) / 1e6:+.1f}")
            before = server.memory
    weights = sum(file.stat().st_size for file in model.folder.glob("*.safetensors"))
    adapter = store.get(names[0]).manifest.size_bytes
    return [
        f"model {weights / 1e6:.1f} MB, adapter {adapter / 1e6:.1f} MB; "
        f"memory of the server's own after each swap: {', '.join(lines)} MB"
    ]


def table(rounds: Sequence[dict[str, list[float]]]) -> list[str]:
    """Time between tokens by phase, medians over the rounds; then the ratios and their range."""
    rows = ["| phase | gaps | ITL mean ms | ITL p50 ms | ITL p99 ms |", "|---|--:|--:|--:|--:|"]
    for phase in PHASES:
        own = [gaps[phase] for gaps in rounds]
        means, middles, highs = (
            statistics.median(figure(gaps) for gaps in own) * 1e3
            for figure in (statistics.fmean, statistics.median, p99)
        )
        count = sum(map(len, own))
        rows.append(f"| {phase} | {count} | {means:.2f} | {middles:.2f} | {highs:.2f} |")
    rows += ["", "| ratio within a round | median | range |", "|---|--:|--:|"]
    for name, ratio in RATIOS.items():
        found = sorted(map(ratio, rounds))
        middle = statistics.median(found)
        rows.append(f"| {name} | **{middle:.2f}x** | {found[0]:.2f} to {found[-1]:.2f} |")
    return rows


def note(text: str) -> None:
    """Tells whoever waits how far it is."""
    sys.stderr.write(text + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Measures the models asked for and prints a table of each."""
    parser = argparse.ArgumentParser(prog="python -m bench.swap", description=__doc__)
    parser.add_argument("models", nargs="*", default=["nano"], help="nano, qwen3-0.6b (random)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args(argv)
    on_cpu = arguments.device == "cpu"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for asked in arguments.models:
            model = shapes.make(asked, folder)
            scale = SCALES[asked] if on_cpu else GPU_SCALE
            swaps = folder / f"{asked}-swaps"
            lines = table(measure(model, scale, arguments.rounds, swaps, arguments.device))
            if on_cpu:  # what a GPU holds is not the process's to tell
                lines += ["", *memory(model, scale.threads, folder / f"{asked}-memory")]
            sys.stdout.write(f"\n{asked}, {STREAMS} streams\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
