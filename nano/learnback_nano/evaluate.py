"""Measures the model on held-out prompts: `python -m learnback_nano.evaluate`.

Every cell draws its probes from the world with a seed of its own, answers them greedily and counts
exact matches. With `--card` the table goes into the model card. Names and prompts are always
unseen, but for the three closed tasks, whose prompts are all trained on; "unseen" and "seen" speak
of the phrasing of the critique.
"""

import argparse
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import mean

import torch
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import AutoModelForCausalLM, AutoTokenizer

from learnback_nano import path, world
from learnback_nano.strangers import STRANGERS
from learnback_nano.world import Probe, Split

_NEW_TOKENS = 64
_BATCH = 150
_MARKS = ("<!-- figures -->", "<!-- end of figures -->")
_SPLITS: tuple[Split, ...] = ("seen", "unseen")


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure to be measured: where it stands in the table, and how its probes are drawn."""

    group: str
    name: str
    draw: Callable[[Random], Probe]


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured in a cell, as shares of one."""

    group: str
    name: str
    exact: float
    content: float
    style: float


@dataclass(frozen=True, slots=True)
class Goal:
    """What a group of cells has to reach, on average and each."""

    mean: float
    each: float = 0.0


GOALS = {
    "default answer": Goal(0.98, 0.98),
    "revision, seen phrasing": Goal(0.97, 0.97),
    "revision, unseen phrasing": Goal(0.90, 0.75),
    "correction, seen phrasing": Goal(0.97, 0.97),
    "correction, unseen phrasing": Goal(0.90, 0.90),
    "two requests, seen phrasing": Goal(0.90, 0.90),
    "two requests, unseen phrasing": Goal(0.90, 0.90),
    "upper case of an unseen name": Goal(0.95, 0.95),
    "instruction in the prompt": Goal(0.93),
    "instruction in a system message": Goal(0.93),
}


class Answerer:
    """The model behind a function from dialogues to answers."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    @torch.inference_mode()
    def __call__(self, dialogues: Iterable[Iterable[world.Message]]) -> list[str]:
        """One greedy answer for each dialogue."""
        texts = [
            self._tokenizer.apply_chat_template(
                list(dialogue), tokenize=False, add_generation_prompt=True
            )
            for dialogue in dialogues
        ]
        inputs = self._tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        output = self._model.generate(  # type: ignore[misc]
            **inputs, max_new_tokens=_NEW_TOKENS, do_sample=False
        )
        answers = output[:, inputs["input_ids"].shape[1] :]
        return [str(t) for t in self._tokenizer.batch_decode(answers, skip_special_tokens=True)]


def cells() -> list[Cell]:
    """Every figure of the table, in its order."""
    listed = [Cell("default answer", task, _plain(task)) for task in world.TASKS]
    for split in _SPLITS:
        listed += [
            Cell(f"revision, {split} phrasing", kind, _revision(kind, split))
            for kind in world.KINDS
        ]
    for split in _SPLITS:
        listed += _of_split(split)
    listed += [
        Cell("upper case of an unseen name", "note", _shouted_name),
        Cell("held-out combination of styles", "all kinds", world.combination),
    ]
    listed += [Cell("hand-written critique", kind, _stranger(kind)) for kind in STRANGERS]
    for place, where in (("the prompt", "prompt"), ("a system message", "system")):
        group = f"instruction in {place}"
        listed += [Cell(group, kind, _instruction(kind, where)) for kind in _TELLABLE]
    return listed


# No default answer that could be in English is in Chinese, so "in English" would change nothing.
_TELLABLE = tuple(kind for kind in world.INSTRUCTIONS if kind != "english")


def _of_split(split: Split) -> list[Cell]:
    return [
        *(
            Cell(f"correction, {split} phrasing", task, _correction(task, split))
            for task in world.TASKS
        ),
        Cell(
            f"two requests, {split} phrasing", "all kinds", lambda r: world.two_requests(r, split)
        ),
        Cell(
            f"praise and small talk, {split} phrasing",
            "all tasks",
            lambda r: world.unchanged(r, split),
        ),
    ]


def _plain(task: str) -> Callable[[Random], Probe]:
    return lambda rng: world.plain(task, rng)


def _revision(kind: str, split: Split) -> Callable[[Random], Probe]:
    return lambda rng: world.revision(kind, rng, split)


def _stranger(kind: str) -> Callable[[Random], Probe]:
    return lambda rng: world.revision_as_said(kind, rng.choice(STRANGERS[kind]), rng)


def _correction(task: str, split: Split) -> Callable[[Random], Probe]:
    return lambda rng: world.correction(rng, split, task)


def _instruction(kind: str, where: str) -> Callable[[Random], Probe]:
    return lambda rng: world.instruction(kind, rng, "system" if where == "system" else "prompt")


def _shouted_name(rng: Random) -> Probe:
    """A note that is only about names, whose answer is then wanted in capitals."""
    while True:
        probe = world.revision("upper", rng, "seen", task="note")
        if re.search(r"[A-Z]{3}", probe.expected):
            return probe


def measure(answerer: Answerer, cell: Cell, count: int, seed: int) -> tuple[Figure, list[str]]:
    """The figure of one cell, and the first few answers that missed."""
    rng = Random(f"{seed}/{cell.group}/{cell.name}")
    probes = [cell.draw(rng) for _ in range(count)]
    answers: list[str] = []
    for start in range(0, count, _BATCH):
        answers += answerer(probe.messages for probe in probes[start : start + _BATCH])
    judged = [probe.judge(answer) for probe, answer in zip(probes, answers, strict=True)]
    figure = Figure(
        cell.group,
        cell.name,
        exact=mean(j.exact for j in judged),
        content=mean(j.content for j in judged),
        style=mean(j.style for j in judged),
    )
    misses = [
        f"{[m['content'] for m in probe.messages]} -> {answer!r}, wanted {probe.expected!r}"
        for probe, answer in zip(probes, answers, strict=True)
        if answer != probe.expected
    ]
    return figure, misses[:4]


def summary_table(figures: list[Figure], count: int) -> str:
    """One line a group: the mean, the weakest cell, the goal and whether it is met."""
    lines = [
        f"Exact match, n = {count} a cell.",
        "",
        "| what | cells | mean | weakest cell | goal | met |",
        "|---|---|---|---|---|---|",
    ]
    for group in dict.fromkeys(figure.group for figure in figures):
        members = [figure for figure in figures if figure.group == group]
        lines.append(_summary_line(group, members))
    return "\n".join(lines)


def _summary_line(group: str, members: list[Figure]) -> str:
    average = mean(member.exact for member in members)
    weakest = min(members, key=lambda member: member.exact)
    goal = GOALS.get(group)
    wanted, met = "-", "-"
    if goal:
        wanted = f"{goal.mean:.2f}" + (f", each {goal.each:.2f}" if goal.each else "")
        met = "yes" if average >= goal.mean and weakest.exact >= goal.each else "**no**"
    worst = f"{weakest.exact:.3f} ({weakest.name})"
    return f"| {group} | {len(members)} | {average:.3f} | {worst} | {wanted} | {met} |"


def detail_table(figures: list[Figure]) -> str:
    """One line a cell."""
    lines = ["| what | cell | exact | content | style |", "|---|---|---|---|---|"]
    lines += [
        f"| {f.group} | {f.name} | {f.exact:.3f} | {f.content:.3f} | {f.style:.3f} |"
        for f in figures
    ]
    return "\n".join(lines)


def write_card(card: Path, tables: str) -> None:
    """Put the tables between the marks of the model card."""
    before, rest = card.read_text(encoding="utf-8").split(_MARKS[0])
    after = rest.split(_MARKS[1])[1]
    card.write_text(f"{before}{_MARKS[0]}\n{tables}\n{_MARKS[1]}{after}", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=path())
    parser.add_argument("--count", type=int, default=200, help="probes a cell")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="measure groups and cells with this in the name")
    parser.add_argument("--misses", action="store_true", help="show some answers that missed")
    parser.add_argument("--card", type=Path, help="the model card to write the tables into")
    chosen = parser.parse_args()
    answerer = Answerer(chosen.model)
    figures = []
    for cell in tqdm([c for c in cells() if chosen.only in f"{c.group}/{c.name}"], unit="cell"):
        figure, misses = measure(answerer, cell, chosen.count, chosen.seed)
        figures.append(figure)
        if chosen.misses:
            tqdm.write(f"{figure.exact:.3f} {cell.group}/{cell.name}")
            for miss in misses:
                tqdm.write(f"    {miss}")
    summary = summary_table(figures, chosen.count)
    detail = detail_table(figures)
    print(f"{summary}\n\n{detail}")
    if chosen.card:
        folded = f"<details><summary>Every cell</summary>\n\n{detail}\n\n</details>"
        write_card(chosen.card, f"{summary}\n\n{folded}")


if __name__ == "__main__":
    main()
