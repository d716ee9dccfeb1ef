"""Dashboards ask for what is exported, in PromQL that parses, and are what Grafana imports."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="server and trainer need it")
pytest.importorskip("grafana_foundation_sdk", reason="the dashboards are made with it")

import yaml

from dashboards.exported import names_in, unknown_in
from dashboards.pages import PAGES
from dashboards.panels import resolved
from tests.rules.prometheus import RULES, promtool

RECORDED = {
    rule["record"]
    for group in yaml.safe_load((RULES / "recording.yaml").read_text())["groups"]
    for rule in group["rules"]
}


def expressions_in(part: Any) -> list[str]:
    """Every expression in the JSON of a dashboard, wherever it stands."""
    if isinstance(part, list):
        return [text for one in part for text in expressions_in(one)]
    if not isinstance(part, dict):
        return []
    own = [part["expr"]] if "expr" in part else []
    return own + [text for one in part.values() for text in expressions_in(one)]


@pytest.mark.parametrize("name", sorted(PAGES))
class TestPage:
    def test_what_is_asked_stands_in_the_json(self, name: str) -> None:
        made = json.loads(PAGES[name].to_json())
        assert sorted(expressions_in(made)) == sorted(PAGES[name].expressions)
        assert made["uid"] == f"learnback-{name}"

    def test_every_expression_names_what_is_exported_or_recorded(self, name: str) -> None:
        for expression in PAGES[name].expressions:
            recorded = set(re.findall(r"learnback:[\w:]+", expression))
            assert recorded <= RECORDED
            assert unknown_in([expression]) == set()
            assert recorded or names_in(expression) or "ALERTS" in expression

    def test_every_expression_parses(self, name: str, tmp_path: Path) -> None:
        rules = [
            {"record": "parsed", "expr": resolved(expression, "1m", "1h"), "labels": {"n": str(n)}}
            for n, expression in enumerate(PAGES[name].expressions)
        ]
        file = tmp_path / "rules.yaml"
        file.write_text(json.dumps({"groups": [{"name": "parsed", "rules": rules}]}))
        promtool("check", "rules", file)
