"""`learnback-server`: configure, load, prove, serve, drain.

SIGTERM or SIGINT begins the drain; a second one ends it at once. Before the model has loaded there
is nothing to drain: they end the process. Exit codes: 0 after either, 1 if the server could not
start or its engine died, 2 if the configuration was refused.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence

import uvloop

from learnback_server.config import ConfigError, ServerConfig, read_command_line
from learnback_telemetry.logs import set_up_logging
from learnback_telemetry.tracing import open_tracer

# Longest that the engine's thread or the loop's waits for Python's lock while the other has it. A
# step takes a few milliseconds, so that Python's own 5 ms would be a step lost. In interleaved
# rounds with nano on two cores: 1.07 to 1.1 times the tokens a second at 16 streams, 1.08 at 1 and
# 4, 1.0 to 1.07 at 64 (docs/log.md).
SWITCH_SECONDS = 2e-5

# Not __name__, which is "__main__" when run by python -m.
_log = logging.getLogger("learnback_server")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the server until it is told to stop; returns the exit code."""
    try:
        command = read_command_line(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        sys.stderr.write(f"learnback-server: {error}\n")
        return 2
    if command.print_config:
        sys.stdout.write(command.config.to_toml())
        return 0
    config = command.config
    set_up_logging("learnback_server", config.log_level, config.log_format)
    sys.setswitchinterval(SWITCH_SECONDS)
    _stop_at_once()
    return uvloop.run(_serve(config))


async def _serve(config: ServerConfig) -> int:
    # Not before the configuration is known to be good: torch takes seconds to import.
    from learnback_server import app
    from learnback_server.metrics import ServerMetrics

    try:
        metrics = ServerMetrics(config.model)
        tracer = open_tracer("learnback-server", config.otlp_endpoint)
        server, port = app.new_server(config, metrics, tracer)
        # Blocks the loop, which has nothing else to do yet.
        serving = app.build(config, server, app.load(config), metrics, tracer)
        stop, hurry = _signals()
        await serving.start()
    except app.StartError as error:
        _log.error("%s", error)
        return 1
    _log.info("serving %s on port %d", config.model, port)
    await app.first_of(stop.wait(), serving.lost.wait())
    await serving.drain(hurry)
    return 1 if serving.lost.is_set() else 0


def _stop_at_once() -> None:
    """Lets a signal end the process, until something better is done about it.

    By a handler, because process 1, as which containers run us, gets no signal without one.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))


def _signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Returns what is set by the first signal to stop, and what is set by the second."""
    stop, hurry = asyncio.Event(), asyncio.Event()

    def note() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, note)
    return stop, hurry


if __name__ == "__main__":
    sys.exit(main())
