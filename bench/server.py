"""A server of ours in a process of its own, as measurements talk to it."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from pathlib import Path

START_SECONDS = 300.0
"""Longest that a server may take to load a model, or to stop, in seconds."""


class Server:
    """A server on loopback, and what it logs."""

    def __init__(self, model: str, threads: int, *flags: str) -> None:
        """Starts it and waits until it serves."""
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "learnback_server", "--model", model),
                *("--listen", "127.0.0.1:0", "--threads", str(threads), *flags),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: list[tuple[float, str]] = []
        self._logged = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            _, found = self.wait_for(r"serving .* on port (\d+)")
        except RuntimeError:
            self.close()
            raise
        self.address = f"127.0.0.1:{found[1]}"

    def wait_for(self, pattern: str) -> tuple[float, re.Match[str]]:
        """Waits for a line of the log; returns when it came, by `perf_counter`, and the match."""
        read = 0
        give_up = time.perf_counter() + START_SECONDS
        with self._logged:
            while time.perf_counter() < give_up:
                for came, line in self._lines[read:]:
                    found = re.search(pattern, line)
                    if found:
                        return came, found
                read = len(self._lines)
                if not self._reader.is_alive():
                    break
                self._logged.wait(1.0)
        text = "".join(line for _, line in self._lines)
        raise RuntimeError(f"the server never said {pattern!r}:\n{text}")

    @property
    def memory(self) -> int:
        """Bytes of memory that are its own, and not backed by a file."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
        if found is None:
            raise RuntimeError("this system does not tell how much memory a process has")
        return int(found[1]) * 1024

    def close(self) -> None:
        """Stops it, and waits for its end."""
        self._process.terminate()
        self._process.wait(START_SECONDS)
        self._reader.join()

    def _read(self) -> None:
        for line in self._process.stderr or ():
            with self._logged:
                self._lines.append((time.perf_counter(), line))
                self._logged.notify_all()
