"""`python -m learnback_store FOLDER`: the embedded Redis as a program, until SIGTERM or SIGINT.

It prints its URL as one line on stdout once it answers. Exit codes: 0 after a stop, 1 if it could
not start or ended by itself.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from learnback_store.embedded import EmbeddedRedis
from learnback_store.errors import EmbeddedRedisError

# Between two looks whether the server is still there.
_LOOK_SECONDS = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a Redis on a folder; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m learnback_store FOLDER\n")
        return 2
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        with EmbeddedRedis(Path(arguments[0])) as redis:
            sys.stdout.write(f"{redis.url}\n")
            sys.stdout.flush()
            while not stop.wait(_LOOK_SECONDS):
                if redis.pid is None:
                    sys.stderr.write("the Redis server has ended by itself\n")
                    return 1
    except EmbeddedRedisError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
