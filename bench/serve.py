"""Serving speed of learnback against transformers: `python -m bench.serve`.

The same requests (mixed lengths, greedy, random prompts) go to every contender at 1, 4, 16 and 64
streams, in rounds, one contender after the other, each round in another order. The table gives
medians over the rounds; a ratio is the median of the ratios within the rounds, so that what else
the machine does weighs on both sides of it, and its range stands beside it. The others call the
library in their own process; learnback answers over gRPC to a client in another.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench import shapes
from bench.contenders import PEERS, Contender, Learnback, start
from bench.figures import Figures, median_of
from bench.workload import Lengths, make_workload

STREAMS = (1, 4, 16, 64)

OURS = Learnback.name

WARM_UP = 4
"""Requests that each contender answers unmeasured, at each number of streams."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is asked of a model, so that a run takes minutes on two cores."""

    lengths: Lengths
    requests_per_stream: dict[int, int]
    rounds: int
    threads: int
    cache_tokens: int
    """Enough for all streams at once; 8,192 of the 0.6B shape take 0.9 GB."""


SCALES = {
    # A model this small is fastest on one thread, with every contender.
    "nano": Scale(
        Lengths((16, 128), (16, 96)),
        {1: 8, 4: 6, 16: 5, 64: 4},
        rounds=5,
        threads=1,
        cache_tokens=65_536,
    ),
    "qwen3-0.6b": Scale(
        Lengths((16, 64), (8, 24)),
        {1: 2, 4: 1, 16: 1, 64: 1},
        rounds=1,
        threads=os.cpu_count() or 1,
        cache_tokens=8_192,
    ),
}


GPU_SCALE = Scale(
    Lengths((16, 128), (16, 96)),
    {1: 4, 4: 4, 16: 5, 64: 4},
    rounds=3,
    threads=1,
    cache_tokens=65_536,
)
"""For any model on a GPU."""


def measure(
    contenders: Sequence[Contender], streams: int, scale: Scale, vocab_size: int
) -> dict[str, list[Figures]]:
    """Measures every contender at one number of streams, once a round."""
    requests = streams * scale.requests_per_stream[streams]
    taken: dict[str, list[Figures]] = {contender.name: [] for contender in contenders}
    warm_up = make_workload(streams, min(streams, WARM_UP), scale.lengths, vocab_size, seed=0)
    for contender in contenders:
        contender.measure(warm_up)
    for seed in range(1, scale.rounds + 1):
        workload = make_workload(streams, requests, scale.lengths, vocab_size, seed)
        first = seed % len(contenders)
        for contender in [*contenders[first:], *contenders[:first]]:
            found = contender.measure(workload)
            taken[contender.name].append(found)
            told = f"{contender.name}, {found.tokens_per_second:.0f} tokens/s"
            note(f"  {streams} streams, round {seed}: {told}")
    return taken


def table(streams: int, taken: dict[str, list[Figures]]) -> list[str]:
    """Rows of the table; how much faster learnback is stands in the last column."""
    return [
        f"| {streams} | {name} | {one.requests_per_second:.1f} | {one.tokens_per_second:.0f} "
        f"| {one.ttft_p50 * 1e3:.1f} | {one.itl_p50 * 1e3:.2f} | {one.itl_p99 * 1e3:.2f} "
        f"| {'' if name == OURS else speedup(taken[OURS], taken[name])} |"
        for name, one in ((name, median_of(rounds)) for name, rounds in taken.items())
    ]


def speedup(ours: Sequence[Figures], theirs: Sequence[Figures]) -> str:
    """Tokens a second of ours for each of theirs: the median over the rounds, and the range."""
    ratios = sorted(
        our.tokens_per_second / their.tokens_per_second
        for our, their in zip(ours, theirs, strict=True)
    )
    middle = f"**{statistics.median(ratios):.2f}x**"
    return middle if len(ratios) == 1 else f"{middle} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


HEADER = [
    "| streams | contender | requests/s | tokens/s | TTFT p50 ms | ITL p50 ms | ITL p99 ms "
    "| learnback is |",
    "|--:|---|--:|--:|--:|--:|--:|--:|",
]


def note(text: str) -> None:
    """Tells whoever waits how far it is."""
    sys.stderr.write(text + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Measures the models asked for and prints a table of each."""
    parser = argparse.ArgumentParser(prog="python -m bench.serve", description=__doc__)
    parser.add_argument("models", nargs="*", default=["nano"], help="nano, qwen3-0.6b (random)")
    parser.add_argument("--streams", type=int, nargs="+", default=list(STREAMS))
    parser.add_argument("--rounds", type=int, help="instead of as many as the model usually has")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--against", nargs="*", choices=PEERS, default=list(PEERS))
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            scale = SCALES[name] if arguments.device == "cpu" else GPU_SCALE
            scale = replace(scale, rounds=arguments.rounds or scale.rounds)
            model = shapes.make(name, Path(folder))
            note(f"{name}: starting the contenders")
            loaded = (str(model.folder), scale.threads, scale.cache_tokens, arguments.device)
            contenders = start(arguments.against, *loaded)
            rows = list(HEADER)
            for streams in arguments.streams:
                rows += table(streams, measure(contenders, streams, scale, model.vocab_size))
            for contender in contenders:
                contender.close()
            sys.stdout.write(f"\n{name}, {scale.threads} threads\n\n" + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
