"""The configuration: where values come from, and what is refused."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest

from learnback_server.config import ConfigError, ServerConfig, read_command_line
from learnback_server.engine.options import EngineOptions


@pytest.fixture
def file(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "learnback.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def read(*argv: str, **environment: str) -> ServerConfig:
    return read_command_line(argv, environment).config


def test_the_defaults_are_valid_and_stand_alone():
    assert read() == ServerConfig()
    assert read().engine_options() == EngineOptions()


def test_a_flag_goes_before_the_environment_before_the_file_before_the_default(file):
    path = file("max_running = 5\nmax_waiting = 5\nmax_tokens = 5\n")
    config = read(
        "--config",
        path,
        "--max-running=7",
        LEARNBACK_MAX_RUNNING="6",
        LEARNBACK_MAX_WAITING="6",
    )
    assert (config.max_running, config.max_waiting, config.max_tokens) == (7, 6, 5)
    assert config.queue_timeout == ServerConfig().queue_timeout


def test_the_file_can_be_named_in_the_environment(file):
    assert read(LEARNBACK_CONFIG=file("max_tokens = 9")).max_tokens == 9


def test_switches_can_be_turned_off_in_all_three_ways(file):
    assert not read("--no-prefix-cache").prefix_cache
    assert not read(LEARNBACK_PREFIX_CACHE="false").prefix_cache
    assert not read("--config", file("prefix_cache = false")).prefix_cache


def test_constructing_one_reads_no_environment(monkeypatch):
    monkeypatch.setenv("LEARNBACK_MAX_TOKENS", "9")
    assert ServerConfig().max_tokens != 9


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("max_runing = 3", "max_runing: no such option; did you mean max_running?"),
        ("colour = 'blue'", "colour: no such option; see --help for all there is"),
        ("[engine]\nmax_running = 3", "engine: no such option"),
        ("max_running = ", "can't be read"),
        ("max_running = 'many'", "max_running: Input should be a valid integer"),
    ],
)
def test_what_is_wrong_with_the_file_is_told(file, text, told):
    with pytest.raises(ConfigError, match=told.replace("?", r"\?")):
        read("--config", file(text))


def test_a_file_that_is_not_there_is_told():
    with pytest.raises(ConfigError, match=r"/nowhere/learnback\.toml can't be read"):
        read("--config", "/nowhere/learnback.toml")


@pytest.mark.parametrize(
    "variable", ["LEARNBACK_MAX_RUNING", "LEARNBACK_LISTN", "LEARNBACK_QUEUE_TIME_OUT"]
)
def test_a_slip_in_a_variable_is_refused_with_a_hint(variable):
    with pytest.raises(ConfigError, match=f"{variable} is unknown; did you mean LEARNBACK_"):
        read(**{variable: "1"})


@pytest.mark.parametrize(
    "variable",
    [
        "LEARNBACK_PORT",  # Kubernetes sets these beside a Service named "learnback"
        "LEARNBACK_SERVICE_HOST",
        "LEARNBACK_PORT_50051_TCP_ADDR",
        "LEARNBACK_ADDRESS",  # of the client
        "LEARNBACK_TIMEOUT",
    ],
)
def test_variables_of_others_are_left_alone(variable):
    assert read(**{variable: "tcp://10.0.0.1:50051"}) == ServerConfig()


@pytest.mark.parametrize("flag", ["--max-runing=3", "--colour", "--max-runn=3", "serve"])
def test_unknown_flags_are_refused(flag, capsys):
    with pytest.raises(SystemExit) as exited:
        read(flag)
    assert exited.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--listen=50051", "listen: must be HOST:PORT"),
        ("--listen=localhost:65536", "listen: must be HOST:PORT"),
        ("--listen=", "listen: must be HOST:PORT"),
        ("--model=", "model: "),
        ("--device=tpu", "device: "),
        ("--dtype=int8", "dtype: "),
        ("--threads=-1", "threads: "),
        ("--max-running=0", "max_running: "),
        ("--max-waiting=0", "max_waiting: "),
        ("--max-running=2000", "step_tokens .1024. must be at least max_running .2000."),
        ("--cache-tokens=1000", "cache_tokens .1000. must be a multiple of 256"),
        ("--queue-timeout=0", "queue_timeout: "),
        ("--queue-timeout=nan", "queue_timeout: "),
        ("--drain-grace=inf", "drain_grace: "),
        ("--max-message-bytes=1", "max_message_bytes: "),
        ("--log-format=xml", "log_format: "),
        ("--max-tokens=1e99", "max_tokens: "),
    ],
)
def test_values_out_of_range_are_refused(flag, told):
    with pytest.raises(ConfigError, match=told):
        read(flag)


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(ConfigError) as raised:
        read("--listen=x", "--device=tpu", "--max-tokens=0")
    assert len(str(raised.value).splitlines()) == 3


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:50051", "localhost:1", "a.b.c:65535"])
def test_addresses(address):
    assert read(f"--listen={address}").listen == address


def test_help_tells_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as exited:
        read("--help")
    assert exited.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    for name, field in ServerConfig.model_fields.items():
        assert f"--{name.replace('_', '-')}" in told
        assert field.description
        assert f"{field.description} (default: {field.default})" in told


def test_what_is_printed_can_be_read_back(file):
    config = read("--model=/models/Größe 'x' \"y\" 🙂", "--max-tokens=7", "--no-prefix-cache")
    printed = config.to_toml()
    assert set(tomllib.loads(printed)) == set(ServerConfig.model_fields)
    assert read("--config", file(printed)) == config


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys\n"
        "from learnback_server.__main__ import main\n"
        "code = main(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(code)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False
    )


def test_printing_and_refusing_need_no_torch():
    printed = run("--print-config", "--max-tokens=7")
    assert (printed.returncode, printed.stderr) == (0, "")
    assert tomllib.loads(printed.stdout)["max_tokens"] == 7
    refused = run("--max-tokens=0")
    assert refused.returncode == 2
    assert refused.stderr.startswith("learnback-server: max_tokens: ")
    assert "Traceback" not in refused.stderr
