"""Work beside the engine leaves no threads behind."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from learnback_server.engine.aside import aside

PARALLEL = """
import os, time
import torch
from learnback_server.engine.aside import aside

def compute():
    torch.set_num_threads(3)
    return float(torch.ones(3_000_000).mul(2).sum())

def threads():
    '''How many there are, once no more of them end.'''
    seen = [0]
    while len(set(seen[-5:])) > 1 or len(seen) < 5:
        time.sleep(0.05)
        seen.append(len(os.listdir("/proc/self/task")))
    return seen[-1]

assert aside(compute) == 6_000_000  # torch starts some of its own, once
before = threads()
for _ in range(3):
    aside(compute)
between = threads()
compute()
print(between - before, threads() - between)
"""


def test_it_returns_what_the_work_returns() -> None:
    assert aside(divmod, 7, 2) == (3, 1)


def test_it_raises_what_the_work_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        aside(divmod, 7, 0)


def test_the_thread_is_another_and_ends() -> None:
    thread = aside(threading.current_thread)
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads as Linux tells them")
def test_the_helpers_of_parallel_work_end_with_it() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PARALLEL], capture_output=True, text=True, check=True, timeout=120
    )
    left_aside, left_here = map(int, ran.stdout.split())
    assert left_aside == 0
    assert left_here == 2  # without `aside`, they stay
