"""Deadlines, retries, tokens, encryption and addresses: what surrounds every call."""

from __future__ import annotations

import math
import shutil
import subprocess
import time

import grpc
import pytest

from learnback_client import (
    AsyncClient,
    DeadlineExceeded,
    Health,
    Internal,
    QueueFull,
    ResourceExhausted,
    ServerDraining,
    Unavailable,
)
from tests.client.double import TEXT, Double, Failure

UNAVAILABLE = Failure(grpc.StatusCode.UNAVAILABLE)


def about(seconds):
    """gRPC rounds deadlines up to a few digits, and some time has passed."""
    return pytest.approx(seconds, rel=0.1)


def test_a_call_has_a_deadline_by_default(client, server):
    client.generate("a")
    assert server.last.seconds_left == about(120)
    client.get_checkpoint("live")
    assert server.last.seconds_left == about(120)


def test_the_deadline_is_the_client_s_or_the_call_s(connect, server):
    client = connect(server.address, timeout=50)
    client.generate("a")
    assert server.last.seconds_left == about(50)
    client.stream("a", timeout=9).result()
    assert server.last.seconds_left == about(9)
    client.generate("a", timeout=math.inf)
    assert server.last.seconds_left is None or server.last.seconds_left > 1e6


def test_watching_has_a_longer_deadline(client, server):
    kept = client.critique("gen-1", "No.")
    list(client.watch_feedback(kept.feedback_id))
    assert server.last.seconds_left == about(3600)


def test_a_time_limit_lengthens_the_deadline(client, server):
    client.generate("a", time_limit=300)
    assert server.last.seconds_left == about(310)
    client.generate("a", time_limit=1)
    assert server.last.seconds_left == about(120)
    client.generate("a", time_limit=300, timeout=5)
    assert server.last.seconds_left == about(5)


def test_a_slow_answer_fails_at_the_deadline(client, server):
    server.hang_calls = True
    with pytest.raises(DeadlineExceeded):
        client.generate("a", timeout=0.2)


def test_unavailable_twice_then_an_answer(client, server):
    server.fail(UNAVAILABLE, UNAVAILABLE)
    assert client.generate("a").text == TEXT
    assert [each.method for each in server.seen] == ["Generate"] * 3


def test_a_stream_is_retried_before_its_first_event(client, server):
    server.fail(UNAVAILABLE)
    assert client.stream("a").result().text == TEXT
    assert len(server.seen) == 2


def test_a_stream_is_not_retried_once_it_has_begun(client, server):
    server.break_after = 1
    server.fail(UNAVAILABLE)
    with pytest.raises(Unavailable):
        client.stream("a").result()
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("critique", ("gen-1", "No.")),
        ("erase_author", ("ann",)),
        ("promote_checkpoint", ("ckpt-1",)),
        ("rollback_checkpoint", ()),
    ],
)
def test_a_retry_of_a_change_counts_once(client, server, method, arguments):
    server.fail(UNAVAILABLE)
    getattr(client, method)(*arguments)
    first, second = (each.request.request_id for each in server.seen)
    assert first == second != ""
    getattr(client, method)(*arguments)
    assert server.last.request.request_id != first


def test_the_client_gives_up_after_five_times(client, server):
    # The server's word (gRFC A6) makes the pauses short.
    quick = Failure(grpc.StatusCode.UNAVAILABLE, "gone", pushback_ms=1)
    server.fail(*[quick] * 9)
    with pytest.raises(Unavailable, match="gone"):
        client.generate("a")
    assert len(server.seen) == 5


def test_the_server_s_word_on_when_to_retry_is_kept(client, server):
    server.fail(Failure(grpc.StatusCode.UNAVAILABLE, pushback_ms=500))
    start = time.monotonic()
    client.generate("a")
    assert time.monotonic() - start > 0.45


def test_a_draining_server_is_told_by_name_at_last(client, server):
    unavailable = grpc.StatusCode.UNAVAILABLE
    server.fail(*[Failure(unavailable, reason="SERVER_DRAINING", pushback_ms=1)] * 5)
    with pytest.raises(ServerDraining):
        client.generate("a")


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, reason="QUEUE_FULL"), QueueFull),
        (Failure(grpc.StatusCode.RESOURCE_EXHAUSTED), ResourceExhausted),
        (Failure(grpc.StatusCode.INTERNAL), Internal),
    ],
)
def test_nothing_else_is_retried(client, server, failure, kind):
    server.fail(failure)
    with pytest.raises(kind):
        client.generate("a")
    assert len(server.seen) == 1


async def test_no_server_at_all():  # the blocking client: see test_cli
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(Unavailable):
            await client.generate("a")


def test_the_address_comes_from_the_environment(connect, server, monkeypatch):
    monkeypatch.setenv("LEARNBACK_ADDRESS", server.address)
    assert connect(None).generate("a").text == TEXT
    assert connect(None).target == f"dns:///{server.address}"
    monkeypatch.delenv("LEARNBACK_ADDRESS")
    assert connect(None).target == "dns:///127.0.0.1:50051"


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("host:1", "dns:///host:1"),
        ("[::1]:1", "dns:///[::1]:1"),
        ("dns:///host:1", "dns:///host:1"),
        ("unix:/run/learnback", "unix:/run/learnback"),
    ],
)
def test_targets(connect, address, target):
    assert connect(address).target == target


def test_the_token_goes_along(connect, server):
    connect(server.address, token="secret").generate("a")
    assert server.last.metadata["authorization"] == "Bearer secret"
    assert server.last.metadata["user-agent"].startswith("learnback-python/")


def test_a_token_may_go_in_plaintext_if_asked(connect):
    connect("example.org:1", token="a", plaintext_token=True)


def test_a_large_answer_arrives(client, server, monkeypatch):
    text = "x" * (5 * 1024 * 1024)
    monkeypatch.setattr("tests.client.double.TEXT", text)
    assert client.generate("a").text == text


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate by openssl")
def test_encryption_with_an_authority_of_one_s_own(connect, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run(
        [*command.split(), *names, "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    pair = [(key.read_bytes(), certificate.read_bytes())]
    server = Double(grpc.ssl_server_credentials(pair))
    try:
        client = connect(server.address, ca_file=certificate, token="secret")
        assert client.generate("a").text == TEXT
        assert server.last.metadata["authorization"] == "Bearer secret"
    finally:
        server.stop()


def test_health(client):
    assert client.health() is Health.SERVING
