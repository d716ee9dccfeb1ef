"""Log lines: for people, or one JSON object a line for collectors. They go to standard error.

A line of JSON bears the ids of the work in hand (`context.py`). Neither bears text of users, unless
the server is told to log it.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys

from learnback_telemetry.context import ids_in_hand


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON.

    Time (UTC), level, logger, message, the ids of the work in hand, and the exception if there is
    one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        time = dt.datetime.fromtimestamp(record.created, dt.UTC)
        entry = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **ids_in_hand(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def set_up_logging(program: str, level: str, line_format: str) -> None:
    """Sends our messages, and the warnings of others, to standard error.

    Args:
        program: Its package, such as "learnback_server".
        level: Least severe level of ours: debug, info, warning or error.
        line_format: text or json.
    """
    handler = logging.StreamHandler(sys.stderr)
    if line_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for package in (program, "learnback_store", "learnback_telemetry"):
        logging.getLogger(package).setLevel(level.upper())
