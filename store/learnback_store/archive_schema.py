"""The tables of the archive (SQLite), and opening the file.

    feedback      one row for each piece of feedback that was taken: record and account as JSON, and
                  beside them the columns that are searched
    labels        its labels
    rounds        one row for each round of training: open -> decided -> finished, or abandoned
    round_items   which feedback a round is about, and its outcome once decided
    erasures      one row for each author that is to be erased: how far it has come; the name only
                  until it is done
    facts         single values: the version of this schema, the epoch

One writer holds the file (by a lock that ends with its process); any number of processes of the
same machine may read it meanwhile (write-ahead log). SQLite's write-ahead log does not work over
network file systems: the archive belongs on a disk of the trainer's machine.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from learnback_store.errors import ArchiveForeignError, ArchiveLockedError

SCHEMA_VERSION = "2"
"""2 added the erasures, and `replaces` to the rounds."""
_BEFORE = "1"

# How long a reader waits for the writer's checkpoint of its log.
_BUSY_SECONDS = 10.0

_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS feedback (
  feedback_id TEXT PRIMARY KEY,
  record TEXT NOT NULL,
  account TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  state TEXT NOT NULL,
  checkpoint TEXT NOT NULL,
  author TEXT NOT NULL,
  generation_id TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS feedback_by_state ON feedback (state, feedback_id);
CREATE INDEX IF NOT EXISTS feedback_by_author ON feedback (author, feedback_id);
CREATE INDEX IF NOT EXISTS feedback_by_checkpoint ON feedback (checkpoint, feedback_id);
CREATE INDEX IF NOT EXISTS feedback_by_generation ON feedback (generation_id, feedback_id);
CREATE TABLE IF NOT EXISTS labels (
  feedback_id TEXT NOT NULL REFERENCES feedback ON DELETE CASCADE,
  name TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (name, value, feedback_id)
) STRICT;
CREATE INDEX IF NOT EXISTS labels_by_feedback ON labels (feedback_id);
CREATE TABLE IF NOT EXISTS rounds (
  round_id TEXT PRIMARY KEY,
  state TEXT NOT NULL,
  parent TEXT NOT NULL,
  checkpoint TEXT NOT NULL,
  reason TEXT NOT NULL,
  begin_ms INTEGER NOT NULL,
  end_ms INTEGER,
  replaces TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS one_round_at_a_time
  ON rounds (1) WHERE state IN ('open', 'decided');
CREATE TABLE IF NOT EXISTS round_items (
  round_id TEXT NOT NULL REFERENCES rounds,
  feedback_id TEXT NOT NULL REFERENCES feedback ON DELETE CASCADE,
  outcome TEXT,
  PRIMARY KEY (round_id, feedback_id)
) STRICT;
CREATE INDEX IF NOT EXISTS round_items_by_feedback ON round_items (feedback_id);
CREATE TABLE IF NOT EXISTS erasures (
  erasure_id TEXT PRIMARY KEY,
  request TEXT NOT NULL UNIQUE,
  author TEXT NOT NULL,
  receipt TEXT NOT NULL,
  feedback_ids TEXT NOT NULL,
  since TEXT NOT NULL,
  tip TEXT NOT NULL,
  done INTEGER NOT NULL
) STRICT;
"""


def open_writer(path: Path) -> tuple[sqlite3.Connection, IO[bytes]]:
    """Opens the archive for writing, made if missing, with the lock that must stay open beside it.

    Raises:
        ArchiveLockedError: Another process writes it.
        ArchiveForeignError: The file is no archive of this version.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(path.name + ".lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise ArchiveLockedError("another trainer works on this archive; stop it first") from error
    try:
        return _opened(path, writer=True), lock
    except BaseException:
        lock.close()
        raise


def open_reader(path: Path) -> sqlite3.Connection:
    """Opens the archive for reading, beside its writer.

    Raises:
        ArchiveForeignError: There is none, or not of this version.
    """
    if not path.is_file():
        raise ArchiveForeignError("there is no archive in this place")
    return _opened(path, writer=False)


def _opened(path: Path, *, writer: bool) -> sqlite3.Connection:
    # Transactions are begun by `transaction` alone.
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        if writer:
            connection.execute("PRAGMA journal_mode = WAL")
            # A commit returns when it is on the disk.
            connection.execute("PRAGMA synchronous = FULL")
            # What is deleted is overwritten: an erased author must not be found in free pages.
            connection.execute("PRAGMA secure_delete = ON")
        else:
            connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA foreign_keys = ON")
        _check_version(connection, writer=writer)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise ArchiveForeignError(f"the file is no archive: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _check_version(connection: sqlite3.Connection, *, writer: bool) -> None:
    if writer and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        with transaction(connection):
            _make_tables(connection)
            connection.execute("INSERT INTO facts VALUES ('version', ?)", [SCHEMA_VERSION])
    found = connection.execute("SELECT value FROM facts WHERE name = 'version'").fetchone()
    if writer and found == (_BEFORE,):
        with transaction(connection):
            _make_tables(connection)
            connection.execute("ALTER TABLE rounds ADD COLUMN replaces TEXT NOT NULL DEFAULT ''")
            connection.execute(
                "UPDATE facts SET value = ? WHERE name = 'version'", [SCHEMA_VERSION]
            )
        found = (SCHEMA_VERSION,)
    if found != (SCHEMA_VERSION,):
        raise ArchiveForeignError(f"the archive is of version {found}, not {SCHEMA_VERSION}")


def _make_tables(connection: sqlite3.Connection) -> None:
    for statement in filter(str.strip, _TABLES.split(";")):
        connection.execute(statement)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; on the disk when it ends."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
