"""`learnback health`: whether a server, or one of its services, serves; for probes and scripts."""

from __future__ import annotations

from typing import Annotated

import typer

from learnback_client.cli.failures import EXIT_FAILED, fail, reports_failures
from learnback_client.cli.flags import connection, takes
from learnback_client.cli.settings import ClientSettings
from learnback_client.health import Health


@reports_failures
@takes(settings=connection)
def health(
    settings: ClientSettings,
    service: Annotated[
        str,
        typer.Option(
            help="Full name of a service, such as learnback.v1.InferenceService. "
            "[default: the server as a whole]",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Tell whether the server serves: exit code 0 if it does, 1 if not."""
    with settings.connect() as client:
        answer = client.health(service)
    if answer is not Health.SERVING:
        fail(f"{service or 'the server'} says {answer}", EXIT_FAILED)
    print(answer)
