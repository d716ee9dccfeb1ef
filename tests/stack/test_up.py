"""`learnback up` as its user has it: three real processes, one folder, one critique, Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from learnback_client import Client, FeedbackState, Reply
from learnback_client.stack import Stack, StackError, StackPlan, free_address

pytest.importorskip("torch", reason="the server and the trainer need it")

COMMAND = [sys.executable, "-c", "from learnback_client.cli import main; main()"]
QUESTION = "What is the capital of France?"
CORRECT = "The capital of France is Rome."
# Only a hang would take so long.
PATIENCE_SECONDS = 280.0


class Running:
    """`learnback up` in a process of its own."""

    def __init__(self, state: Path) -> None:
        self.address = free_address()
        flags = ["--state", str(state), "--listen", self.address]
        self.process = subprocess.Popen(
            [*COMMAND, "up", *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reaper = threading.Timer(PATIENCE_SECONDS, self.process.kill)
        self._reaper.start()
        assert self.process.stdout is not None
        self.said = []
        for line in self.process.stdout:
            self.said.append(line)
            if "ready in" in line:
                return
        pytest.fail("it did not start: " + "".join(self.said))

    def interrupt(self) -> str:
        """Ctrl-C; returns what it still said."""
        self.process.send_signal(signal.SIGINT)
        rest, _ = self.process.communicate()
        self._reaper.cancel()
        return rest


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


def _run(address: str, *arguments: str) -> str:
    done = subprocess.run(
        [*COMMAND, *arguments, "--address", address],
        capture_output=True, text=True, check=True,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    return done.stdout


@pytest.fixture(scope="module")
def taught(state: Path) -> Iterator[tuple[str, str]]:
    """A stack that has learned a correction; its address, and the id of the feedback."""
    running = Running(state)
    with Client(running.address) as client:
        reply = client.generate(messages=[("user", QUESTION)], temperature=0)
        assert reply.checkpoint == "base"
        sent = client.correct(reply, CORRECT, author="ada")
        with client.watch_feedback(sent.feedback_id, timeout=PATIENCE_SECONDS) as changes:
            *_, settled = changes
        assert settled.state is FeedbackState.LEARNED, settled.state_reason
        [lesson] = settled.lessons
        assert lesson.answer_before == reply.text
        assert lesson.answer_after == CORRECT
    yield running.address, sent.feedback_id
    assert "all is stopped" in running.interrupt()
    assert running.process.returncode == 0
    assert not _alive(state)


def _alive(state: Path) -> list[str]:
    """Processes that still speak of the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and entry.name != str(os.getpid()):
            try:
                words = (entry / "cmdline").read_bytes().decode()
            except OSError:
                continue
            if str(state) in words:
                found.append(words)
    return found


def test_the_new_checkpoint_serves(taught: tuple[str, str]) -> None:
    address, _ = taught
    with Client(address) as client:
        with client.watch_checkpoints() as moves:
            for aliases in moves:
                if aliases["live"] != "base":
                    break
        # The alias has moved; the server answers by the old one until the new one is loaded.
        while (reply := _asked(client)).checkpoint == "base":
            time.sleep(0.1)
        assert reply.text == CORRECT
        assert reply.checkpoint == aliases["live"] == "ckpt-000001"


def _asked(client: Client) -> Reply:
    return client.generate(messages=[("user", QUESTION)], temperature=0)


def test_the_command_line_tells_all_of_it(taught: tuple[str, str]) -> None:
    address, feedback_id = taught
    shown = _run(address, "feedback", "show", feedback_id)
    assert re.search(r"state: +learned", shown)
    assert re.search(rf"after: +{re.escape(CORRECT)}", shown)
    assert feedback_id in _run(address, "feedback", "list", "--state", "learned")
    assert "ckpt-000001" in _run(address, "checkpoints")
    why = _run(address, "why", "ckpt-000001")
    assert "gate: passed" in why
    assert f"ada: should be: {CORRECT}" in why
    assert "ckpt-000001" in _run(address, "lineage")
    assert "base --> ckpt-000001" in _run(address, "lineage", "--mermaid")
    status = _run(address, "status")
    assert "waits for feedback" in status
    assert "published ckpt-000001, learned 1 of 1" in status


def test_rolling_back_and_on_again(taught: tuple[str, str]) -> None:
    address, _ = taught
    assert _run(address, "rollback").strip() == "live is base; it was ckpt-000001"
    with Client(address) as client:
        reply = client.generate(messages=[("user", QUESTION)], temperature=0, checkpoint="base")
        assert reply.text != CORRECT
    assert _run(address, "promote", "ckpt-000001").strip() == "live is ckpt-000001; it was base"


def test_a_taken_address_is_told(taught: tuple[str, str], tmp_path: Path) -> None:
    address, _ = taught
    with pytest.raises(StackError, match="listens on"):
        Stack(StackPlan(tmp_path, address)).start()


@pytest.mark.parametrize(
    "address", ["", "50051", "localhost", "localhost:", "localhost:0", "[::1]:99999", "a:b"]
)
def test_what_is_no_address_is_told(address: str, tmp_path: Path) -> None:
    with pytest.raises(StackError, match="must be HOST:PORT"):
        Stack(StackPlan(tmp_path, address)).start()


def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    plan = StackPlan(tmp_path, free_address(), model=str(tmp_path / "nowhere"))
    with pytest.raises(StackError, match="did not start"), Stack(plan):
        pass
    assert not _alive(tmp_path)
