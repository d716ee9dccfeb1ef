"""SIGTERM while the model loads ends server and trainer, as process 1 of a container too."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the server and the trainer need it")

# A process that starts, in a namespace of its own in which it is process 1.
ALONE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
PATIENCE_SECONDS = 60.0

FLAGS = {
    "learnback_server": ["--listen", "127.0.0.1:0"],
    "learnback_trainer": [
        *("--redis-url", "redis://127.0.0.1:1"),
        *("--checkpoint-dir", "checkpoints"),
        *("--archive-file", "archive.sqlite"),
    ],
}


def _can_be_process_1() -> bool:
    if shutil.which(ALONE[0]) is None:
        return False
    return subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0


def _child_of(process: subprocess.Popen[bytes]) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not (found := children.read_text().split()):
        assert process.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.005)
    return int(found[0])


def _wait_until_it_loads(pid: int) -> None:
    """Until torch is being imported, with which loading begins and which takes a while."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while "libtorch_cpu" not in Path(f"/proc/{pid}/maps").read_text():
        assert time.monotonic() < give_up
        time.sleep(0.005)


@pytest.mark.skipif(not _can_be_process_1(), reason="no namespaces of one's own here")
@pytest.mark.parametrize("program", FLAGS)
def test_sigterm_ends_it_while_it_loads(program: str, tmp_path: Path) -> None:
    command = [*ALONE, sys.executable, "-m", program, *FLAGS[program]]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        try:
            child = _child_of(process)
            _wait_until_it_loads(child)
            os.kill(child, signal.SIGTERM)
            _, said = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 0, said.decode()
    assert b"serving" not in said
