"""What the processes of a team do that do not lead: as they are told, until they are let go."""

from __future__ import annotations

import signal

from learnback_trainer.errors import TeamError
from learnback_trainer.pupil import Base
from learnback_trainer.team import Close, Crew, End, Open, Work
from learnback_trainer.team_pupil import TeamPupil


def follow(base: Base) -> None:
    """Carries out orders.

    Signals are for the leader, who ends the round and then lets the others go.

    Args:
        base: The base model, held by a team.

    Raises:
        TeamError: Another process has gone, or this one can't do what is asked.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    team, pupil = base.team, None
    if not isinstance(team, Crew):
        raise TypeError("nobody leads")
    while not isinstance(order := team.next_order(), End):
        match order:
            case Open():
                pupil = TeamPupil(base, order.parent, order.shape, order.seed)
            case Work() if pupil is not None:
                pupil.carry_out(order)
            case Close() if pupil is not None:
                pupil.close()
                pupil = None
            case _:
                raise TeamError(f"{type(order).__name__} was ordered, and no model is open")
