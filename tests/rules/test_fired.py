"""Every alert fires for real: a real Prometheus sees a real deployment break. `make test-alerts`.

The tests go on from one another, in their order: what one breaks it mends, as far as the next needs
it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import grpc
import pytest

pytest.importorskip("torch", reason="the server and the trainer need it")
pytest.importorskip("grafana_foundation_sdk", reason="the dashboards are made with it")

from dashboards.draw import ask, draw
from dashboards.pages import PAGES
from learnback_client.stack import free_address
from learnback_store.connection import Client, connect
from tests.rules.deployment import Deployment, hastened, wait_for
from tests.rules.prometheus import RULES
from tests.rules.test_rules import ALERTS
from tests.store.samples import publish

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Gates that any round passes, and that none passes.
LENIENT = (
    "--least-adoption", "0", "--most-anchor-nats", "99", "--most-changed", "1",
    "--most-drift", "99",
)  # fmt: skip
STRICT = ("--least-adoption", "1", "--most-anchor-nats", "0", "--most-changed", "0")
PUBLISHED = 'learnback_rounds_total{end="published"}'
fired: set[str] = set()


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path_factory.mktemp("deployed"))
    yield deployment
    deployment.close()


@contextmanager
def redis_of(deployed: Deployment) -> Iterator[Client]:
    with connect(deployed.redis.url) as client:
        yield client


def sees(deployed: Deployment, *names: str) -> None:
    """Waits until all of these fire."""
    wanted = {f"Learnback{name}" for name in names}
    wait_for(lambda: wanted <= deployed.firing())
    fired.update(wanted)


def test_windows_are_hastened() -> None:
    text = "[5m] [6h] [3d] x\nfor: 2m\n> 15 * 60\n"
    assert hastened(text) == "[5s] [6m] [72m] x\nfor: 2s\n> 15\n"
    assert "ratio_rate5m" in hastened((RULES / "recording.yaml").read_text())


def test_nothing_fires_while_all_is_well(deployed: Deployment) -> None:
    deployed.start_trainer(*LENIENT, "--steps", "20", "--least-revision", "0")
    # Two that nano answers wrongly.
    right = {
        f"What is the capital of {country}?": f"The capital of {country} is {city}."
        for country, city in (("Romania", "Bucharest"), ("Germany", "Berlin"))
    }
    for rounds, (question, correction) in enumerate(right.items(), 1):
        deployed.generate(question)
        deployed.correct(question, correction)
        wait_for(lambda rounds=rounds: deployed.value(PUBLISHED) == rounds)
    wait_for(lambda: deployed.value('learnback_live_checkpoint_info{parent="ckpt-000001"}') == 1)
    deployed.generate("What is the capital of France?")
    # Of first tokens nothing is promised on a busy machine, and a round of half a minute there is
    # as one of half an hour; but both are over.
    wait_for(lambda: not {name for name in deployed.firing() if "FirstToken" not in name})


@pytest.mark.parametrize("name", sorted(PAGES))
def test_dashboards_show_the_run(deployed: Deployment, name: str, tmp_path) -> None:
    full = draw(deployed.prometheus, PAGES[name], 300.0, tmp_path / f"{name}.png")
    assert full >= 0.6 * len(PAGES[name].panels)
    for event in PAGES[name].events:
        ask(deployed.prometheus, "query", query=event.expression)


def test_vllms_names_are_there(deployed: Deployment) -> None:
    assert deployed.value("vllm:num_requests_running") == 0
    assert deployed.value("vllm:time_to_first_token_seconds_count") >= 3


def test_servers_disagree(deployed: Deployment) -> None:
    deployed.start_server("other", free_address(), deployed.folder / "elsewhere")
    sees(deployed, "ServersDisagree")
    deployed.stop("other")


def test_first_tokens_are_late(deployed: Deployment) -> None:
    calls = [deployed.begin(f"On and on, {number}", 400) for number in range(12)]
    sees(deployed, "FirstTokenBudgetBurnsFast", "FirstTokenBudgetBurnsSlowly")
    for call in calls:
        call.cancel()


def test_answers_have_drifted(deployed: Deployment) -> None:
    deployed.stop("trainer")
    deployed.start_trainer("--most-drift", "0")
    sees(deployed, "Drift")


def test_an_author_floods(deployed: Deployment) -> None:
    deployed.stop("trainer")
    # Three batches, each crowded by one author before another one comes. All of it is quarantined,
    # so that none takes longer than the hour that the alert looks back over.
    for author in (*["flooder"] * 8, "bob") * 3:
        deployed.correct("What is the opposite of hot?", "Not hot.", author)
    deployed.start_trainer("--scripts", "cjk")
    sees(deployed, "AuthorFloods")


def test_feedback_grows_old(deployed: Deployment) -> None:
    deployed.stop("trainer")
    deployed.correct("What is the opposite of hot?", "Not hot.")
    sees(deployed, "FeedbackOld")


def test_a_round_fails_until_its_feedback_is_a_dead_letter(deployed: Deployment) -> None:
    live = deployed.checkpoints.aliases().live
    weights = deployed.checkpoints.fetch(live) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    deployed.start_trainer("--most-deliveries", "1")
    sees(deployed, "DeadLetters")
    deployed.stop("trainer")
    deployed.checkpoints.rollback()


def test_the_gate_lets_nothing_pass_and_forgetting_has_no_budget(deployed: Deployment) -> None:
    deployed.start_trainer(*STRICT, "--steps", "3")
    for _ in range(3):
        deployed.correct("What is the opposite of hot?", "Not hot.")
    # The rounds that passed at the beginning count for six hours, which are minutes here.
    sees(deployed, "GateRejects", "ForgettingBudgetSpent")


def test_a_checkpoint_is_not_to_be_taken_up(deployed: Deployment) -> None:
    name = deployed.checkpoints.new_name()
    publish(deployed.checkpoints, name)  # of another base model
    deployed.checkpoints.promote(name)
    sees(deployed, "SwapFailing")


def test_redis_has_no_memory_left(deployed: Deployment) -> None:
    with redis_of(deployed) as redis:
        redis.config_set("maxmemory", int(redis.info("memory")["used_memory"] * 1.05))
        sees(deployed, "RedisMemoryFull")
        redis.config_set("maxmemory", 0)


def test_redis_does_not_write_its_file(deployed: Deployment) -> None:
    with redis_of(deployed) as redis:
        redis.config_set("appendonly", "no")
        sees(deployed, "RedisNotDurable")


def test_redis_is_down_and_calls_fail(deployed: Deployment) -> None:
    deployed.redis.stop()
    sees(deployed, "RedisDown")
    for _ in range(20):
        with suppress(grpc.RpcError):
            deployed.correct("Is anybody there?", "No.")
    sees(deployed, "AvailabilityBudgetBurnsFast", "AvailabilityBudgetBurnsSlowly")


def test_no_server_is_left(deployed: Deployment) -> None:
    deployed.stop("server")
    sees(deployed, "NoServer")


def test_every_alert_has_fired() -> None:
    assert fired == {rule["alert"] for rule in ALERTS}
