"""The errors of the world, in one small tree.

WorldError
├── UnknownTaskError    no task of that name
├── UnknownKindError    no kind of critique of that name
└── ImpossibleError     a critique that would change nothing here (Chinese has no capitals)
"""


class WorldError(ValueError):
    """Something was asked of the world that it cannot give."""


class UnknownTaskError(WorldError):
    """No task has that name."""


class UnknownKindError(WorldError):
    """No kind of critique has that name."""


class ImpossibleError(WorldError):
    """The critique would change nothing here, so there is nothing to ask for."""
