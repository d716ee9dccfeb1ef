"""One client and two servers: it goes round them, and leaves out the one that drains."""

from __future__ import annotations

import time

import pytest
from grpc_health.v1 import health_pb2

from learnback_client import Health, Unavailable
from tests.client.double import Double

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
PATIENCE_SECONDS = 60.0
ROUND = 8


@pytest.fixture
def pair():
    servers = [Double(), Double()]
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture
def client(connect, pair):
    return connect("ipv4:" + ",".join(server.address for server in pair))


def _shares(client, pair):
    """How many of some calls each server got."""
    before = [len(server.seen) for server in pair]
    for _ in range(ROUND):
        client.generate("a")
    return [len(server.seen) - count for server, count in zip(pair, before, strict=True)]


def _wait_for_shares(client, pair, accept):
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not accept(_shares(client, pair)):
        assert time.monotonic() < give_up, "it never came about"


def test_both_get_calls(client, pair):
    _wait_for_shares(client, pair, lambda shares: shares == [ROUND // 2, ROUND // 2])


def test_one_that_drains_gets_none_until_it_serves_again(client, pair):
    _wait_for_shares(client, pair, all)
    pair[0].health.set("", NOT_SERVING)
    _wait_for_shares(client, pair, lambda shares: shares == [0, ROUND])
    pair[0].health.set("", SERVING)
    _wait_for_shares(client, pair, all)


def test_when_all_drain_calls_fail_and_health_still_answers(client, pair):
    for server in pair:
        server.health.set("", NOT_SERVING)
    with pytest.raises(Unavailable):
        client.generate("a", timeout=PATIENCE_SECONDS)
    assert client.health() is Health.NOT_SERVING
