"""The `learnback` command, as a process where signals and pipes matter, else in this one."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from typer.testing import CliRunner

from learnback_client.cli.app import app
from learnback_client.cli.settings import SettingsError, load_settings
from learnback_client.cli.terminal import printable
from tests.client.double import PIECES, TEXT, Failure, wait_until

COMMAND = (sys.executable, "-c", "from learnback_client.cli import main; main()")
WAIT_S = 20


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path, server):
    """No configuration of whoever runs the tests; the server is the double."""
    for name in list(os.environ):
        if name.startswith("LEARNBACK_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("LEARNBACK_ADDRESS", server.address)


def invoke(*arguments, stdin=None):
    return CliRunner().invoke(app, list(arguments), input=stdin)


def start(*arguments):
    return subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def one_line(result, code):
    """The line on stderr of a command that failed as it should: one, and no traceback."""
    assert result.exit_code == code
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("learnback: ")
    return result.stderr


# generate


def test_generate_prints_the_answer_to_the_prompt(server):
    result = invoke("generate", "Hello", "--system", "Be brief.")
    assert (result.exit_code, result.stdout, result.stderr) == (0, TEXT + "\n", "")
    sent = server.last.request.spec.chat.messages
    assert [(each.role, each.content) for each in sent] == [(1, "Be brief."), (2, "Hello")]
    assert not server.last.request.spec.HasField("sampling")


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_generate_reads_the_prompt_from_stdin(server, arguments):
    invoke("generate", "--raw", *arguments, stdin="你好\n\nHi\n")
    assert server.last.request.spec.prompt == "你好\n\nHi"


def test_generate_passes_every_flag(server):
    flags = {
        "temperature": 0.0, "top_p": 0.5, "top_k": 0, "min_p": 0.25, "repetition_penalty": 1.5,
        "presence_penalty": -1.0, "frequency_penalty": 0.0, "seed": 0, "max_tokens": 9, "n": 2,
        "logprobs": 1,
    }  # fmt: skip
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    result = invoke(
        "generate", "a", *arguments, "--stop=x", "--stop=y", "--checkpoint=canary", "--author=ann"
    )
    assert result.exit_code == 0
    spec = server.last.request.spec
    assert {name: getattr(spec.sampling, name) for name in flags} == flags
    assert all(spec.sampling.HasField(name) for name in flags)
    assert list(spec.sampling.stop) == ["x", "y"]
    assert (spec.checkpoint, spec.author) == ("canary", "ann")


def test_generate_prints_json():
    result = invoke("generate", "a", "--json")
    reply = json.loads(result.stdout)
    assert reply["candidates"][0]["text"] == TEXT
    assert reply["candidates"][0]["finish_reason"] == "FINISH_REASON_STOP"
    assert reply["checkpoint"] == "ckpt-2"
    assert "你好" in result.stdout


def test_generate_prints_several_answers():
    result = invoke("generate", "a", "-n", "2")
    assert result.stdout == f"--- 0\n{TEXT}\n--- 1\n{TEXT}\n"


def test_generate_tells_how_likely_answers_are_accepted():
    result = invoke("generate", "a", "--acceptance")
    assert result.stdout == f"{TEXT}\n--- acceptance 0.12\n"
    result = invoke("generate", "a", "-n", "2", "--acceptance")
    assert result.stdout == f"--- 0, acceptance 0.12\n{TEXT}\n--- 1, acceptance 0.25\n{TEXT}\n"
    result = invoke("generate", "a", "-n", "2", "--rerank")
    assert result.stdout == f"--- 1, acceptance 0.25\n{TEXT}\n--- 0, acceptance 0.12\n{TEXT}\n"


def test_generate_shows_probabilities():
    lines = invoke("generate", "a", "--logprobs", "1").stdout.splitlines()
    assert lines[0] == TEXT
    assert lines[2].split("  ")[0] == repr(PIECES[0])
    assert "77.9%" in lines[2]


FAILURES = {
    "server without a reason": (Failure(grpc.StatusCode.NOT_FOUND, "no such\nthing"), "no such th"),
    "no token": (Failure(grpc.StatusCode.UNAUTHENTICATED, "who?"), "--token-file"),
    "queue full": (
        Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", reason="QUEUE_FULL", retry_seconds=1.5),
        "try again in 1.5 s",
    ),
    "too long": (
        Failure(grpc.StatusCode.INVALID_ARGUMENT, "long", reason="CONTEXT_LENGTH_EXCEEDED"),
        "--max-tokens",
    ),
    "fields": (
        Failure(
            grpc.StatusCode.INVALID_ARGUMENT, "bad", "INVALID_FIELD", violations=(("f", "wide"),)
        ),
        "bad; f: wide",
    ),
    "fault": (Failure(grpc.StatusCode.INTERNAL, "boom", "INTERNAL"), "request id"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_errors_are_one_line_that_says_what_to_do(server, case):
    failure, expected = FAILURES[case]
    server.fail(failure)
    result = invoke("generate", "a")
    assert expected in one_line(result, 1)
    assert result.stdout == ""


def test_no_server_is_said_so():
    result = invoke("generate", "a", "--address", "127.0.0.1:1")
    assert "learnback up" in one_line(result, 1)


USAGE = {
    "seed that is too large": (("generate", "a", "--seed", str(2**53)), 1, "seed"),
    "address of the web": (("generate", "a", "--address", "http://x"), 1, "address"),
    "system without template": (("generate", "a", "--raw", "--system", "b"), 2, "--raw"),
    "rerank of one answer": (("generate", "a", "--rerank"), 2, "-n"),
    "timeout of zero": (("generate", "a", "--timeout", "0"), 2, "timeout"),
    "configuration that is not there": (("generate", "a", "--config", "/none"), 2, "/none"),
    "token that is not there": (("generate", "a", "--token-file", "/none"), 2, "/none"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_is_one_line(case):
    arguments, code, expected = USAGE[case]
    assert expected in one_line(invoke(*arguments), code)


@pytest.mark.parametrize("arguments", [("generate", "a", "--bogus"), ("bogus",)])
def test_unknown_flags_and_commands(arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "bogus" in result.stderr


def test_stdin_that_is_no_text():
    result = invoke("generate", stdin=b"ab\xff")
    assert "stdin is not UTF-8 at byte 2" in one_line(result, 2)


def test_version():
    process = start("--version")
    assert process.communicate(timeout=WAIT_S)[0].startswith(b"learnback 0.")


def test_ctrl_c_ends_generate(server):
    server.hang_after = 1
    process = start("generate", "a")
    assert process.stdout.read(len(PIECES[0])) == PIECES[0].encode()
    process.send_signal(signal.SIGINT)
    assert process.wait(WAIT_S) == 130
    assert process.stderr.read() == b""
    assert wait_until(server.cancelled.is_set)


def test_a_reader_that_goes_away_ends_generate(server):
    server.hang_after = 1
    process = start("generate", "a")
    process.stdout.read(1)
    process.stdout.close()
    server.resume.set()
    assert process.wait(WAIT_S) == 141
    assert process.stderr.read() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_said_so():
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = subprocess.run([*COMMAND, "generate", "a"], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == b"learnback: can't write the answer: No space left on device\n"


def test_an_answer_does_not_steer_the_terminal(monkeypatch):
    steering = "a\x1b]0;title\x07\tb\n\x9bc"
    assert printable(steering) == steering
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert printable(steering) == "a\ufffd]0;title\ufffd\tb\n\ufffdc"


# chat


def test_chat_remembers_what_was_said(server):
    result = invoke("chat", "--system", "Be brief.", stdin="Hello\n\n//slash\n")
    assert (result.exit_code, result.stdout) == (0, f"{TEXT}\n{TEXT}\n")
    said = [(each.role, each.content) for each in server.last.request.spec.chat.messages]
    assert said == [(1, "Be brief."), (2, "Hello"), (3, TEXT), (2, "/slash")]


def said(call):
    return [each.content for each in call.request.spec.chat.messages]


def test_chat_forgets_on_demand(server):
    invoke("chat", "--system", "S", stdin="a\n/reset\nb\n/system T\nc\n/system\nd\n/quit\ne\n")
    assert [said(call) for call in server.seen] == [["S", "a"], ["S", "b"], ["T", "c"], ["d"]]


def test_chat_explains_itself():
    result = invoke("chat", stdin="/help\n/bogus\n")
    assert "/reset" in result.stdout
    assert "there is no /bogus" in one_line(result, 0)


def test_a_piped_chat_ends_at_the_first_error(server):
    server.fail(Failure(grpc.StatusCode.INTERNAL, "boom"))
    result = invoke("chat", stdin="a\nb\n")
    assert "boom" in one_line(result, 1)
    assert len(server.seen) == 1


def test_ctrl_c_stops_the_answer_and_not_the_chat(server):
    server.hang_after = 2
    process = start("chat")
    process.stdin.write(b"a\n")
    process.stdin.flush()
    shown = PIECES[0] + PIECES[1]
    assert process.stdout.read(len(shown)) == shown.encode()
    process.send_signal(signal.SIGINT)
    assert wait_until(server.cancelled.is_set)
    server.hang_after = None
    out, err = process.communicate(b"b\n", timeout=WAIT_S)
    assert out.decode() == f" [stopped]\n{TEXT}\n"
    assert (err, process.returncode) == (b"", 0)
    assert said(server.last) == ["a", shown, "b"]


def test_chat_at_a_terminal():
    master, slave = pty.openpty()
    process = subprocess.Popen([*COMMAND, "chat"], stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    read_until(master, "> ")
    # At the prompt it drops the line. Readline misses one that comes while it still sets up.
    process.send_signal(signal.SIGINT)
    while not select.select([master], [], [], 1)[0]:
        process.send_signal(signal.SIGINT)
    read_until(master, "> ")
    os.write(master, b"Hello\n")
    shown = read_until(master, "> ")
    assert TEXT in shown
    assert "gen-1 · ckpt-2 · 4 tokens · 1.50 s" in shown
    os.write(master, b"\x04")
    assert process.wait(WAIT_S) == 0
    os.close(master)


def read_until(terminal, mark):
    """What a terminal shows until it ends in `mark`."""
    shown = b""
    while not shown.endswith(mark.encode()):
        assert select.select([terminal], [], [], WAIT_S)[0], shown
        shown += os.read(terminal, 4096)
    return shown.decode()


# configuration


def test_flags_come_before_environment_before_file(monkeypatch, tmp_path):
    file = tmp_path / "learnback" / "client.toml"
    file.parent.mkdir()
    file.write_text('address = "file:1"\ntimeout = 3\nauthor = "file"\ntls = true\n')
    monkeypatch.setenv("LEARNBACK_ADDRESS", "environment:1")
    monkeypatch.setenv("LEARNBACK_TIMEOUT", "2")
    settings = load_settings({"address": "flag:1", "timeout": None}, None)
    assert settings.address == "flag:1"
    assert settings.timeout == 2
    assert settings.author == "file"
    assert settings.tls


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("adress = 'x:1'", "adress"),
        ("timeout = 'soon'", "timeout"),
        ("timeout = -1", "timeout"),
        ("timeout = ", "can't be read"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(tmp_path, text, expected):
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=expected) as caught:
        load_settings({}, file)
    assert str(file) in str(caught.value)


def test_the_file_may_be_named_in_the_environment(monkeypatch, tmp_path, server):
    file = tmp_path / "c.toml"
    file.write_text('author = "ann"')
    monkeypatch.setenv("LEARNBACK_CLIENT_CONFIG", str(file))
    invoke("generate", "a")
    assert server.last.request.spec.author == "ann"


def test_the_token_comes_from_a_file(tmp_path, server):
    file = tmp_path / "token"
    file.write_text("secret\n")
    invoke("generate", "a", "--token-file", str(file))
    assert server.last.metadata["authorization"] == "Bearer secret"


def test_a_secret_is_not_told_in_errors(monkeypatch):
    monkeypatch.setenv("LEARNBACK_TOKEN", "sec ret")
    assert "sec ret" not in one_line(invoke("generate", "a"), 1)
    assert "sec ret" not in repr(load_settings({}, None))


# health


def test_health_of_what_serves():
    result = invoke("health")
    assert (result.exit_code, result.stdout) == (0, "serving\n")


def test_health_of_a_service_that_drains(server):
    server.health.set("draining", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert "draining says not_serving" in one_line(invoke("health", "--service", "draining"), 1)


def test_health_of_a_service_that_is_unknown():
    one_line(invoke("health", "--service", "no.such.Service"), 1)


def test_health_without_a_server():
    one_line(invoke("health", "--address", "127.0.0.1:1", "--timeout", "2"), 1)


# erase


def test_erase_prints_the_receipt(server):
    result = invoke("erase", "ann", "--yes")
    assert result.exit_code == 0, result.stderr
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["author"].startswith("sha256:")
    assert lines["state"] == "purging"


def test_erase_asks_nobody_where_nobody_is(server):
    assert "--yes" in one_line(invoke("erase", "ann"), 2)


# feedback and lineage


def test_each_change_of_feedback_is_told():
    invoke("feedback", "critique", "gen-1", "Too long.")
    result = invoke("feedback", "show", "fb-0", "--watch")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[:3] == ["queued", "learning", "learned"]


@pytest.mark.parametrize(("ending", "begin"), [(".svg", "<svg "), (".mmd", "flowchart LR")])
def test_the_lineage_is_written_to_a_file(tmp_path, ending, begin):
    file = tmp_path / f"lineage{ending}"
    assert invoke("lineage", "--output", str(file)).exit_code == 0
    text = file.read_text()
    assert text.startswith(begin)
    assert "ckpt-2" in text


def test_a_picture_of_another_kind_is_refused(tmp_path):
    result = invoke("lineage", "--output", str(tmp_path / "a.png"))
    assert result.exit_code == 2
    assert "must end with .svg or .mmd" in result.stderr
