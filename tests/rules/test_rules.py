"""Rules: each alert fires on what it is for and not beside it, by promtool's own arithmetic."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("prometheus_client", reason="server and trainer need it")

from dashboards.exported import exported, unknown_in
from tests.rules.prometheus import RULES, promtool

RUNBOOK = RULES.parent / "docs" / "runbook.md"
# Without it the alert that no server is scraped would join every other one.
SERVER = {'learnback_build_info{component="server"}': "1x6000"}
FIRING = 'count by (alertname) (ALERTS{alertstate="firing"})'


def groups() -> list[dict[str, Any]]:
    """What is recorded first, as alerts are made of it."""
    files = sorted(RULES.glob("*.yaml"), reverse=True)
    return [
        group
        for file in files
        for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
    ]


def rules() -> list[dict[str, Any]]:
    return [rule for group in groups() for rule in group["rules"]]


ALERTS = [rule for rule in rules() if "alert" in rule]


@dataclass(frozen=True)
class Case:
    """What is stored, sample by sample, and what fires at a time."""

    name: str
    series: dict[str, str]
    at: str
    fires: set[str] = field(default_factory=set)
    every: str = "1m"

    def as_test(self) -> dict[str, Any]:
        expected = [{"labels": f'{{alertname="Learnback{one}"}}', "value": 1} for one in self.fires]
        stored = {**SERVER, **self.series}
        return {
            "name": self.name,
            "interval": self.every,
            "input_series": [{"series": key, "values": it} for key, it in stored.items()],
            "promql_expr_test": [
                {"expr": FIRING, "eval_time": self.at, "exp_samples": expected},
            ],
        }


def first_tokens(in_time: str, all_: str) -> dict[str, str]:
    """Those that came within 2 s, and all."""
    name = "learnback_time_to_first_token_seconds"
    return {f'{name}_bucket{{le="2.0"}}': in_time, f"{name}_count": all_}


def calls(bad: str, all_: str, reason: str = "INTERNAL", slow: str = "0x6000") -> dict[str, str]:
    handled = "learnback_grpc_server_handled_total"
    return {
        f'learnback_rejections_total{{reason="{reason}"}}': bad,
        f'{handled}{{grpc_code="DEADLINE_EXCEEDED"}}': slow,
        f'{handled}{{grpc_code="OK"}}': all_,
    }


def rounds(refused: str, published: str) -> dict[str, str]:
    name = "learnback_rounds_total"
    return {f'{name}{{end="refused"}}': refused, f'{name}{{end="published"}}': published}


def live(*digests: str) -> dict[str, str]:
    return {
        f'learnback_live_checkpoint_info{{instance="{place}",digest="{digest}"}}': "1x60"
        for place, digest in enumerate(digests)
    }


def gauge(name: str, values: str, labels: str = "") -> dict[str, str]:
    return {f"learnback_{name}{labels}": values}


FIRST_FAST, FIRST_SLOW = "FirstTokenBudgetBurnsFast", "FirstTokenBudgetBurnsSlowly"
CALLS_FAST, CALLS_SLOW = "AvailabilityBudgetBurnsFast", "AvailabilityBudgetBurnsSlowly"

CASES = [
    Case("a third comes late", first_tokens("0+40x120", "0+60x120"), "70m",
         {FIRST_FAST, FIRST_SLOW}),
    Case("4 % come late", first_tokens("0+96x110", "0+100x110"), "25h", {FIRST_SLOW}, "15m"),
    Case("all come late, but for 2 minutes",
         first_tokens("0+60x300 18000x1 18060+60x60", "0+60x400"), "5h5m"),
    Case("half a percent comes late", first_tokens("0+995x300", "0+1000x300"), "73h", every="15m"),
    Case("nobody asks", first_tokens("5x300", "9x300"), "73h", every="15m"),
    Case("3 % break", calls("0+3x120", "0+97x120"), "70m", {CALLS_FAST, CALLS_SLOW}),
    Case("3 % find it full", calls("0+3x120", "0+97x120", "QUEUE_FULL"), "70m",
         {CALLS_FAST, CALLS_SLOW}),
    Case("3 % get no answer in time", calls("0x120", "0+97x120", slow="0+3x120"), "70m",
         {CALLS_FAST, CALLS_SLOW}),
    Case("4 in 1,000 break", calls("0+4x110", "0+996x110"), "25h", {CALLS_SLOW}, "15m"),
    Case("1 in 2,000 breaks", calls("0+1x300", "0+1999x300"), "73h", every="15m"),
    Case("callers err", calls("0+30x120", "0+70x120", "INVALID_FIELD"), "70m"),
    Case("no server", {**gauge("build_info", "1x10", '{component="trainer"}'),
                       'learnback_build_info{component="server"}': "1x5"}, "20m", {"NoServer"}),
    Case("a checkpoint is refused", gauge("checkpoints_refused", "1x60"), "10m", {"SwapFailing"}),
    Case("none is refused", gauge("checkpoints_refused", "0x60"), "10m"),
    Case("two digests", live("a", "a", "b"), "10m", {"ServersDisagree"}),
    Case("one digest", live("a", "a", "a"), "10m"),
    Case("a swap under way", {
        'learnback_live_checkpoint_info{instance="0",digest="a"}': "1x60",
        'learnback_live_checkpoint_info{instance="1",digest="a"}': "1x3 _x60",
        'learnback_live_checkpoint_info{instance="1",digest="b"}': "_x3 1 1 1 _x60",
    }, "6m"),
    Case("16 minutes old", gauge("feedback_oldest_age_seconds", "0+60x60"), "16m", {"FeedbackOld"}),
    Case("15 minutes old", gauge("feedback_oldest_age_seconds", "0+60x60"), "15m"),
    Case("a dead letter", gauge("feedback_dead_letters", "2x30 3x60"), "40m", {"DeadLetters"}),
    Case("old dead letters", gauge("feedback_dead_letters", "3x90"), "80m"),
    Case("three refused", rounds("0+1x3 3x60", "7x60"), "30m", {"GateRejects"}),
    Case("two refused", rounds("0+1x2 2x60", "7x60"), "30m"),
    Case("three refused, one published", rounds("0+1x3 3x60", "7x10 8x60"), "30m"),
    Case("much is forgotten", gauge("last_round_forgetting_spent_ratio", "0.95x9"), "5m",
         {"ForgettingBudgetSpent"}),
    Case("little is forgotten", gauge("last_round_forgetting_spent_ratio", "0.8x9"), "5m"),
    Case("it has drifted", gauge("drift_alarm", "0x9 1x60"), "20m", {"Drift"}),
    Case("it has drifted, until a consolidation", gauge("drift_alarm", "1x3 0x60"), "10m"),
    Case("three batches are crowded", gauge("authors_flooding_total", "0+1x3 3x60"), "30m",
         {"AuthorFloods"}),
    Case("two batches are crowded", gauge("authors_flooding_total", "0+1x2 2x60"), "30m"),
    Case("batches were crowded long ago", gauge("authors_flooding_total", "0+1x3 3x90"), "80m"),
    Case("no Redis", gauge("redis_up", "1x5 0x20"), "10m", {"RedisDown"}),
    Case("a Redis", gauge("redis_up", "1x20"), "10m"),
    Case("no memory left", gauge("redis_memory_used_bytes", "95x20")
         | gauge("redis_memory_max_bytes", "100x20"), "10m", {"RedisMemoryFull"}),
    Case("memory left", gauge("redis_memory_used_bytes", "85x20")
         | gauge("redis_memory_max_bytes", "100x20"), "10m"),
    Case("memory without a bound", gauge("redis_memory_used_bytes", "95x20")
         | gauge("redis_memory_max_bytes", "0x20"), "10m"),
    Case("no file", gauge("redis_aof_enabled", "0x20"), "10m", {"RedisNotDurable"}),
    Case("a bad file", gauge("redis_aof_enabled", "1x20") | gauge("redis_aof_ok", "0x20"), "10m",
         {"RedisNotDurable"}),
    Case("a good file", gauge("redis_aof_enabled", "1x20") | gauge("redis_aof_ok", "1x20"), "10m"),
]  # fmt: skip


def test_the_rules_are_rules() -> None:
    promtool("check", "rules", *sorted(RULES.glob("*.yaml")))


@pytest.mark.parametrize("every", ["1m", "15m"])
def test_each_alert_fires_on_what_it_is_for_and_not_beside_it(every: str, tmp_path: Path) -> None:
    whole = {
        "rule_files": [str(file) for file in sorted(RULES.glob("*.yaml"))],
        "evaluation_interval": every,
        "group_eval_order": [group["name"] for group in groups()],
        "tests": [case.as_test() for case in CASES if case.every == every],
    }
    file = tmp_path / "tests.yaml"
    file.write_text(json.dumps(whole))
    promtool("test", "rules", file)


def test_no_alert_is_left_out() -> None:
    tested = set[str]().union(*(case.fires for case in CASES))
    assert {rule["alert"] for rule in ALERTS} == {f"Learnback{name}" for name in tested}


def test_rules_name_what_is_exported_or_recorded() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    expressions = [rule["expr"] for rule in rules()]
    assert unknown_in(expressions) == set()
    used = {name for text in expressions for name in re.findall(r"learnback:[\w:]+", text)}
    assert used <= recorded
    labels = {label for one in exported() for label in one.family.labels}
    matched = {label for text in expressions for label in re.findall(r"(\w+)=~?\"", text)}
    assert matched <= labels | {"le"}


def test_vllms_histograms_are_whole() -> None:
    names = {rule["record"] for rule in rules() if rule.get("record", "").startswith("vllm:")}
    for name in names:
        if name.endswith("_bucket"):
            assert {name.replace("_bucket", end) for end in ("_sum", "_count")} <= names


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_each_alert_has_a_section_in_the_runbook(rule: dict[str, Any]) -> None:
    sections = re.findall(r"^## (\w+)$", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)
    assert rule["alert"] in sections
    assert rule["annotations"]["runbook_url"].endswith(f"docs/runbook.md#{rule['alert'].lower()}")
    assert rule["labels"]["severity"] in {"page", "ticket"}
