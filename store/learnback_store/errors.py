"""What the store can fail with.

    StoreError
    ├── StoreUnavailableError        Redis, or the object store, can't be used now; try again later
    ├── RecordUnreadableError        stored text is not a record that this version knows
    ├── RequestIdReusedError         this request id was used with other content
    ├── PageTokenError               not a token of this list with these filters
    ├── GenerationNotFoundError      no such generation, or its record has expired
    ├── FeedbackNotFoundError        no such feedback
    ├── CheckpointError
    │   ├── CheckpointNotFoundError  no checkpoint goes by this name or alias
    │   ├── CheckpointExistsError    the name is taken
    │   ├── CheckpointCorruptError   files or manifest are not what was published
    │   ├── CheckpointForeignError   made for another base model
    │   ├── CheckpointUnusableError  rejected or retired, or there is none to go back to
    │   ├── AliasMovedError          the alias no longer points where the caller believed
    │   └── CheckpointHomeError      the folder or object store can't be used as it is set up
    ├── ArchiveError
    │   ├── ArchiveLockedError       another trainer has it open
    │   ├── ArchiveBusyError         it is being read, so its file can't be written anew
    │   ├── ArchiveForeignError      written by another version, or no archive at all
    │   └── RoundStateError          this step does not fit the state of the round
    └── EmbeddedRedisError
        ├── RedisServerNotFoundError no server binary on this machine
        ├── StateFolderLockedError   another process runs a server on this folder
        └── RedisStartError          the server did not start

Messages say what is wrong and what to do about it, and bear no text of users.
"""

from __future__ import annotations


class StoreError(Exception):
    """The root of everything below."""


class StoreUnavailableError(StoreError):
    """Redis, or the object store of checkpoints, can't be reached or can't do its work now.

    A write that raised this wrote nothing, or (when the connection broke after it was sent) wrote
    all of it: repeat it under the same id, and it is done once.
    """


class RecordUnreadableError(StoreError):
    """Stored text is not a record of a schema that this version knows."""


class RequestIdReusedError(StoreError):
    """This request id was used before, with other content."""


class PageTokenError(StoreError):
    """The page token does not belong to this list with these filters."""


class GenerationNotFoundError(StoreError):
    """No generation goes by this id, or its record has expired."""


class FeedbackNotFoundError(StoreError):
    """No feedback goes by this id."""


class CheckpointError(StoreError):
    """Something is wrong with a checkpoint or an alias."""


class CheckpointNotFoundError(CheckpointError):
    """No checkpoint goes by this name or alias."""


class CheckpointExistsError(CheckpointError):
    """A checkpoint of this name exists, and checkpoints never change."""


class CheckpointCorruptError(CheckpointError):
    """The files or the manifest are not what was published."""


class CheckpointForeignError(CheckpointError):
    """The checkpoint was made for another base model."""


class CheckpointUnusableError(CheckpointError):
    """The checkpoint was rejected or retired, or there is none to go back to."""


class AliasMovedError(CheckpointError):
    """The alias points elsewhere than the caller believed; nothing was moved."""


class CheckpointHomeError(CheckpointError):
    """The folder or object store of checkpoints can't be used as it is set up."""


class ArchiveError(StoreError):
    """Something is wrong with the archive."""


class ArchiveLockedError(ArchiveError):
    """Another process has the archive open for writing."""


class ArchiveBusyError(ArchiveError):
    """Somebody reads the archive, so that its file can't be written anew now; try again later."""


class ArchiveForeignError(ArchiveError):
    """The file is no archive, or one of a version that is not known here."""


class RoundStateError(ArchiveError):
    """This step does not fit the state that the round is in."""


class EmbeddedRedisError(StoreError):
    """The embedded Redis can't do what was asked."""


class RedisServerNotFoundError(EmbeddedRedisError):
    """No Redis server of at least the version needed is on this machine."""


class StateFolderLockedError(EmbeddedRedisError):
    """Another process runs a Redis on this folder."""


class RedisStartError(EmbeddedRedisError):
    """The Redis server did not start, or stopped at once."""
