"""Three servers and three Redis as real processes, shaken under load. Slow: `make test-cluster`.

`bench.soak` is the same for five minutes, under more load.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from bench.fleet import redises, wait_until
from bench.soak import Plan, hold
from learnback_store.connection import connect

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_restarts_a_failover_and_swaps_fail_nothing_and_lose_nothing(tmp_path: Path) -> None:
    plan = Plan(seconds=60, streams=4, feedback_rate=3, swaps=2, dead_seconds=2)
    record = hold(plan, tmp_path)
    assert record.failed == {}
    assert record.lost == []
    assert record.answers > 0
    assert len(record.acknowledged) > 0
    happened = " ".join(what for _, what in record.events)
    assert happened.count("restarted") == 3
    assert "with exit code 0" in happened
    assert "another took writes" in happened
    assert happened.count("live is") == 2


def test_what_a_failover_took_over_outlives_a_restart_of_all_nodes(tmp_path: Path) -> None:
    with redises(tmp_path) as three:
        first = three.master()
        with connect(three.url) as redis:
            redis.set("before", "1")
        for role in ("redis", "sentinel"):
            three.programs[first, role].stop(signal.SIGKILL)
        wait_until(three.writes, "another takes writes")
        with connect(three.url) as redis:
            redis.set("after", "1")
            redis.wait(1, 0)  # the third has it too
        for program in three.programs.values():
            program.stop(signal.SIGKILL)
        for program in three.programs.values():
            program.start()
        # The first remembers itself as the master, and must not win the others back.
        wait_until(three.is_whole, "all follow one master")
        with connect(three.url) as redis:
            assert redis.mget(["before", "after"]) == ["1", "1"]
