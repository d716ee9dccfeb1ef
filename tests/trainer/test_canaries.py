"""The operator's canaries: what a file may hold, and what is said of one that is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from learnback_store.records import Message, Role
from learnback_trainer.canaries import read_canaries
from learnback_trainer.errors import CanaryError

GOOD = (
    '{"prompt": "What is the capital of France?", "expected": "Paris"}\n'
    "\n"
    '{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+6"}],'
    ' "expected": ["8", "eight"]}\n'
    '{"prompt": "你好"}\n'
)
WRONG = (
    *("no json", "[]", "3", '"text"', "{}", '{"prompt": 3}', '{"prompt": " "}', '{"prompt": null}'),
    *('{"messages": "hello"}', '{"messages": []}', '{"messages": [3]}', '{"messages": [{}]}'),
    '{"messages": [{"role": "king", "content": "a"}]}',
    '{"messages": [{"role": "user", "content": 3}]}',
    *(r'{"prompt": "\ud800"}', "[" * 100_000),
    *('{"prompt": "a", "expected": 3}', '{"prompt": "a", "expected": ["b", ""]}'),
)


def test_texts_and_dialogues_with_what_is_expected(tmp_path: Path) -> None:
    file = tmp_path / "canaries.jsonl"
    file.write_text(GOOD, encoding="utf-8")
    first, second, third = read_canaries(file)
    assert first.exchange.chat == (Message(Role.USER, "What is the capital of France?"),)
    assert first.expected == ("Paris",)
    assert [one.role for one in second.exchange.chat] == [Role.SYSTEM, Role.USER]
    assert second.expected == ("8", "eight")
    assert third.expected == ()


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_line_is_told_by_its_number(tmp_path: Path, line: str) -> None:
    file = tmp_path / "canaries.jsonl"
    file.write_text(GOOD + line, encoding="utf-8")
    with pytest.raises(CanaryError, match=r"line 5 of .*canaries\.jsonl is no canary.*must be"):
        read_canaries(file)


def test_a_file_that_is_not_there_or_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "canaries.jsonl"
    with pytest.raises(CanaryError, match="can't be read"):
        read_canaries(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(CanaryError, match="can't be read"):
        read_canaries(file)


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("--canary-file", "wrong.jsonl", "line 1 of wrong.jsonl is no canary"),
        ("--redis-url", "ftp://nowhere", "Redis URL must specify"),
        ("--redis-url", "redis+sentinel://nowhere", "a Sentinel URL is"),
    ],
)
def test_the_trainer_refuses_before_it_loads_a_model(
    tmp_path: Path, flag: str, value: str, says: str
) -> None:
    (tmp_path / "wrong.jsonl").write_text("no json", encoding="utf-8")
    settings = {
        "--model": "a-model-that-is-not-there",
        "--redis-url": "redis://127.0.0.1:1",
        "--checkpoint-dir": "checkpoints",
        "--archive-file": "archive.sqlite",
        flag: value,
    }
    flags = [text for pair in settings.items() for text in pair]
    ended = subprocess.run(
        [sys.executable, "-m", "learnback_trainer", *flags],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert says in ended.stderr
    assert "a-model-that-is-not-there" not in ended.stderr
