"""What the store fails with, as what a caller is told.

The store's messages are made for callers, but for one: why Redis, or an object store, is away
(addresses, ports) is for the log. What is a fault of ours (`RecordUnreadableError`, a full disk)
goes on to the guard, which makes it INTERNAL.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from learnback_server import errors as told
from learnback_store import errors as store

_log = logging.getLogger(__name__)

_LOST_GENERATION = (
    "no generation goes by this id, or its record has expired, or Redis was away when it was "
    "answered; send the exchange along instead"
)


@contextmanager
def store_errors_told() -> Iterator[None]:
    """Makes errors of the store errors of the call.

    Raises:
        CallError: The store failed.
    """
    try:
        yield
    except store.StoreUnavailableError as error:
        _log.warning("a call was refused: %s", error)
        raise told.StoreUnavailableError from error
    except store.RequestIdReusedError as error:
        raise told.RequestIdReusedError(str(error)) from error
    except store.PageTokenError as error:
        raise told.InvalidFieldError([told.Violation("page_token", str(error))]) from error
    except store.GenerationNotFoundError as error:
        raise told.GenerationNotFoundError(_LOST_GENERATION) from error
    except store.FeedbackNotFoundError as error:
        raise told.FeedbackNotFoundError(str(error)) from error
    except store.CheckpointNotFoundError as error:
        raise told.CheckpointNotFoundError(str(error)) from error
    except (
        store.CheckpointUnusableError,
        store.CheckpointCorruptError,
        store.CheckpointForeignError,
    ) as error:
        raise told.CheckpointUnusableError(str(error)) from error
