"""What is made from the code is up to date where it is checked in."""

from __future__ import annotations

import pytest

pytest.importorskip("prometheus_client", reason="server and trainer need it")

from dashboards.__main__ import ROOT, files
from dashboards.exported import exported, names_in, unknown_in


@pytest.mark.parametrize("file", sorted(files()), ids=lambda file: file.name)
def test_what_is_checked_in_is_up_to_date(file) -> None:
    assert file.read_text(encoding="utf-8") == files()[file], "run: make dashboards"


def test_the_table_names_every_metric_once() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    for one in exported():
        assert text.count(f"\n| `{one.family.name}` |") == 1


def test_names_are_found_in_expressions() -> None:
    expression = "sum by (le) (rate(learnback_a_seconds_bucket[5m])) / learnback:b:rate5m > 0"
    assert names_in(expression) == {"learnback_a_seconds_bucket"}
    assert unknown_in([expression, "learnback_redis_up"]) == {"learnback_a_seconds_bucket"}
