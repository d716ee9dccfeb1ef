"""What the trainer can fail with.

    TrainerError
    ├── ModelError           the model can't be loaded, or not taught
    ├── CanaryError          the file of canaries can't be read
    ├── LessonError          this exchange can't be put before the model
    ├── TeamError            another process that holds the model has gone, or can't be reached
    └── RoundStoppedError    the trainer was told to stop in the middle of a round
        └── MadeWayError     there is something else to do while everything is learned anew

`config.ConfigError` stands apart: it is raised before any of this is imported. Messages bear no
text of users.
"""

from __future__ import annotations


class TrainerError(Exception):
    """The root of everything below."""


class ModelError(TrainerError):
    """The model can't be loaded, or its live checkpoint is of a kind that can't be taught."""


class CanaryError(TrainerError):
    """The operator's file of canaries can't be read."""


class LessonError(TrainerError):
    """An exchange can't be put before the model; the message says why."""


class TeamError(TrainerError):
    """The processes that hold one model can't go on together; all of them end."""


class RoundStoppedError(TrainerError):
    """The trainer was told to stop; what was not decided yet is given up."""


class MadeWayError(RoundStoppedError):
    """There is feedback, or an erasure, while everything is learned anew, which can wait."""
