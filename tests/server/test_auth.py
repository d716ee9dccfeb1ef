"""Tokens, quotas and certificates, on a real server over real connections."""

from __future__ import annotations

import hashlib
import logging

import grpc
import pytest
import trustme
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typer.testing import CliRunner

from learnback.v1 import inference_pb2 as pb
from learnback.v1.inference_pb2_grpc import InferenceServiceStub
from learnback_client import (
    Client,
    InvalidRequest,
    PermissionDenied,
    QuotaExceeded,
    Unauthenticated,
    Unavailable,
)
from learnback_client.cli.app import app as command
from learnback_server import app
from learnback_server.auth import AuthFileError, TokenFile
from learnback_server.config import ConfigError, ServerConfig, read_command_line
from learnback_server.metrics import ServerMetrics
from learnback_server.tls import Certificates, TlsError, TlsFiles
from learnback_telemetry.tracing import Tracer
from tests.server.running import RunningServer, caught, details_of, endless, greedy, info_of

ASKER, TEACHER, LATER = "asker-0123456789", "teacher-0123456789", "later-0123456789"
ENTRIES = f"""
[[token]]
name = "asker"
token = "{ASKER}"
scopes = ["inference"]
max_generations = 1

[[token]]
name = "teacher"
sha256 = "{hashlib.sha256(TEACHER.encode()).hexdigest()}"
scopes = ["feedback", "checkpoints"]
"""


def replace(path, text):
    """As a mounted secret changes: another file in its place."""
    aside = path.with_suffix(".new")
    aside.write_text(text)
    aside.replace(path)


def bearer(token):
    return (("authorization", f"Bearer {token}"),)


class Issued:
    """The files of a server whose certificate an authority of the test has issued."""

    def __init__(self, folder):
        self.authority = trustme.CA()
        self.ca, self.cert, self.key = (folder / f"{name}.pem" for name in ("ca", "cert", "key"))
        self.authority.cert_pem.write_to_path(str(self.ca))
        self.issue()

    def issue(self):
        own = self.authority.issue_cert("127.0.0.1")
        replace(self.key, own.private_key_pem.bytes().decode())
        replace(self.cert, own.cert_chain_pems[0].bytes().decode())

    def channel(self, port, **client):
        credentials = grpc.ssl_channel_credentials(self.ca.read_bytes(), **client)
        # A pool of its own, so that each channel shakes hands anew.
        return grpc.secure_channel(
            f"127.0.0.1:{port}", credentials, [("grpc.use_local_subchannel_pool", 1)]
        )


@pytest.fixture(scope="module")
def issued(tmp_path_factory):
    return Issued(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    path = tmp_path_factory.mktemp("auth") / "tokens.toml"
    path.write_text(ENTRIES)
    return path


@pytest.fixture(scope="module")
def guarded(long_folder, issued, tokens, redis_server):
    """A server with tokens and TLS, that takes feedback."""
    running = RunningServer(
        ServerConfig(
            listen="127.0.0.1:0",
            model=str(long_folder),
            device="cpu",
            threads=1,
            redis_url=redis_server.url,
            redis_namespace="guarded",
            auth_file=str(tokens),
            tls_cert=str(issued.cert),
            tls_key=str(issued.key),
        )
    )
    running.channel.close()
    running.channel = issued.channel(running.port)
    running.stub = InferenceServiceStub(running.channel)
    yield running
    running.close()


def test_the_client_asks_with_token_and_certificate(guarded, issued):
    with Client(f"127.0.0.1:{guarded.port}", token=ASKER, ca_file=issued.ca) as client:
        assert client.generate("a", max_tokens=2).text is not None
        with pytest.raises(PermissionDenied, match="feedback"):
            client.critique("gen-0", "No.")
    with (
        Client(f"127.0.0.1:{guarded.port}", token=TEACHER, ca_file=issued.ca) as client,
        pytest.raises(PermissionDenied, match="inference"),
    ):
        client.generate("a")
    with (
        Client(f"127.0.0.1:{guarded.port}", ca_file=issued.ca) as client,
        pytest.raises(Unauthenticated),
    ):
        client.generate("a")


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        bearer("nobody-0123456789"),
        bearer(""),
        (("authorization", ASKER),),
        (("authorization", f"Basic {ASKER}"),),
        bearer(ASKER) * 2,
        bearer(ASKER[:-1]),
    ],
)
def test_without_a_good_token_nobody_asks_and_nothing_is_computed(guarded, metadata):
    before = guarded.engine.stats()
    for call in (guarded.generate, guarded.stream):
        error = caught(call, greedy("a", 2), metadata=metadata)
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED
        assert info_of(error).reason == "UNAUTHENTICATED"
        assert ASKER[:-1] not in str(error)
    assert guarded.engine.stats() == before


def test_health_is_open(guarded):
    stub = health_pb2_grpc.HealthStub(guarded.channel)
    reply = stub.Check(health_pb2.HealthCheckRequest())
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_a_quota_holds_for_its_tenant_and_is_given_back(guarded, issued):
    stream = guarded.stream(endless(), metadata=bearer(ASKER))
    next(stream)
    error = caught(guarded.generate, greedy("a", 1), metadata=bearer(ASKER))
    assert info_of(error).reason == "QUOTA_EXCEEDED"
    (failure,) = details_of(error, error_details_pb2.QuotaFailure)
    assert failure.violations[0].subject == "token:asker"
    with (
        Client(f"127.0.0.1:{guarded.port}", token=ASKER, ca_file=issued.ca) as client,
        pytest.raises(QuotaExceeded),
    ):
        client.generate("a")
    stream.cancel()
    guarded.wait_until_idle()
    for _ in range(3):
        assert guarded.generate(greedy("a", 1), metadata=bearer(ASKER)).candidates


def test_tokens_are_added_and_withdrawn_and_a_broken_file_changes_nothing(guarded, tokens, caplog):
    def reason(token):
        try:
            guarded.generate(greedy("a", 1), metadata=bearer(token))
        except grpc.RpcError as error:
            return info_of(error).reason
        return ""

    with caplog.at_level(logging.DEBUG):
        replace(tokens, ENTRIES.replace(ASKER, LATER))
        assert (reason(LATER), reason(ASKER)) == ("", "UNAUTHENTICATED")
        replace(tokens, f"token = {LATER}")
        assert reason(LATER) == ""
        tokens.unlink()
        assert reason(LATER) == ""
        replace(tokens, ENTRIES)
        assert (reason(LATER), reason(ASKER)) == ("UNAUTHENTICATED", "")
    assert "stay as they were" in caplog.text
    assert not any(token in caplog.text for token in (ASKER, TEACHER, LATER))


def test_a_renewed_certificate_is_used_and_a_broken_one_is_not(guarded, issued, caplog):
    def asks():
        with issued.channel(guarded.port) as channel:
            request = pb.GenerateRequest(spec=greedy("a", 1))
            return InferenceServiceStub(channel).Generate(
                request, metadata=bearer(ASKER), timeout=30
            )

    assert asks().candidates
    issued.authority = trustme.CA()
    issued.authority.cert_pem.write_to_path(str(issued.ca))
    issued.issue()
    assert asks().candidates  # trusts the new authority alone
    replace(issued.cert, "no certificate")
    assert asks().candidates
    assert "the certificate stays as it was" in caplog.text


def test_mutual_tls_takes_only_clients_with_a_certificate(long_folder, tmp_path):
    issued = Issued(tmp_path)
    running = RunningServer(
        ServerConfig(
            listen="127.0.0.1:0",
            model=str(long_folder),
            device="cpu",
            threads=1,
            tls_cert=str(issued.cert),
            tls_key=str(issued.key),
            tls_client_ca=str(issued.ca),
        )
    )
    request = pb.GenerateRequest(spec=greedy("a", 1))
    own = issued.authority.issue_cert("client@example.org")
    strange = trustme.CA().issue_cert("client@example.org")
    try:
        with issued.channel(running.port) as channel:
            error = caught(InferenceServiceStub(channel).Generate, request)
            assert error.code() == grpc.StatusCode.UNAVAILABLE
        for pair, welcome in ((own, True), (strange, False)):
            with issued.channel(
                running.port,
                private_key=pair.private_key_pem.bytes(),
                certificate_chain=pair.cert_chain_pems[0].bytes(),
            ) as channel:
                stub = InferenceServiceStub(channel)
                if welcome:
                    assert stub.Generate(request).candidates
                else:
                    assert caught(stub.Generate, request).code() == grpc.StatusCode.UNAVAILABLE
    finally:
        running.close()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "token = 3",
        ENTRIES.replace(ASKER, "short"),
        ENTRIES.replace('"inference"', '"everything"'),
        ENTRIES.replace('["inference"]', "[]"),
        ENTRIES.replace('name = "teacher"', 'name = "asker"'),
        ENTRIES.replace("max_generations = 1", "max_generations = 0"),
        ENTRIES.replace("max_generations", "quota"),
        ENTRIES.replace("[[token]]", "[[tokens]]"),
        ENTRIES.replace("sha256", f'token = "{TEACHER}"\nsha256'),
        ENTRIES.replace(ASKER, TEACHER),
    ],
)
def test_a_file_that_is_wrong_is_refused_at_the_start_without_a_token_in_the_message(
    tmp_path, text
):
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    with pytest.raises(AuthFileError) as raised:
        TokenFile(path)
    assert not any(token in str(raised.value) for token in (ASKER, TEACHER))


def test_certificates_that_do_not_fit_together_are_refused_at_the_start(tmp_path):
    issued = Issued(tmp_path)
    with pytest.raises(TlsError, match=r"cert\.pem"):
        Certificates(TlsFiles(issued.cert, issued.ca, None))
    config = ServerConfig(
        listen="127.0.0.1:0", tls_cert=str(issued.cert), tls_key=str(tmp_path / "nowhere")
    )
    with pytest.raises(app.StartError, match="nowhere"):
        app.new_server(config, ServerMetrics(config.model), Tracer())


@pytest.mark.parametrize(
    "flags", [["--tls-cert=a"], ["--tls-key=a"], ["--tls-client-ca=a"]], ids=str
)
def test_half_a_certificate_is_refused(flags):
    with pytest.raises(ConfigError, match="tls_cert and tls_key"):
        read_command_line(flags, {})


@pytest.mark.parametrize(
    ("listen", "warned"),
    [("127.0.0.1:0", False), ("localhost:0", False), ("[::1]:0", False), ("0.0.0.0:0", True)],
)
async def test_an_open_address_is_warned_of(listen, warned, caplog):
    assert ServerConfig(listen=listen).is_local is not warned
    if listen == "[::1]:0":
        return  # not every machine has IPv6
    server, _ = app.new_server(ServerConfig(listen=listen), ServerMetrics("nano"), Tracer())
    assert ("--auth-file" in caplog.text) is warned
    assert ("--tls-cert" in caplog.text) is warned
    await server.stop(None)


def test_the_shipped_client_shows_its_certificate(long_folder, tmp_path):
    issued = Issued(tmp_path)
    own = issued.authority.issue_cert("client@example.org")
    cert, key = tmp_path / "client.pem", tmp_path / "client-key.pem"
    own.cert_chain_pems[0].write_to_path(str(cert))
    own.private_key_pem.write_to_path(str(key))
    config = ServerConfig(
        listen="127.0.0.1:0",
        model=str(long_folder),
        device="cpu",
        threads=1,
        tls_cert=str(issued.cert),
        tls_key=str(issued.key),
        tls_client_ca=str(issued.ca),
    )
    running = RunningServer(config)
    address = f"127.0.0.1:{running.port}"
    flags = ["health", "--address", address, "--ca-file", str(issued.ca), "--timeout", "60"]
    try:
        with Client(address, ca_file=issued.ca, tls_cert=cert, tls_key=key) as client:
            assert client.generate("a", max_tokens=1).checkpoint
        shown = CliRunner().invoke(
            command, [*flags, "--tls-cert", str(cert), "--tls-key", str(key)]
        )
        assert (shown.exit_code, shown.output) == (0, "serving\n")
        with Client(address, ca_file=issued.ca) as stranger, pytest.raises(Unavailable):
            stranger.generate("a", max_tokens=1, timeout=60)
    finally:
        running.close()


def test_a_certificate_needs_its_key(issued):
    with pytest.raises(InvalidRequest, match="tls_key"):
        Client("127.0.0.1:1", tls_cert=issued.cert)
    with pytest.raises(InvalidRequest, match="can't be read"):
        Client("127.0.0.1:1", tls_cert=issued.cert, tls_key="/nowhere.pem")
