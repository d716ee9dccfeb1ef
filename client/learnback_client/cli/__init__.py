"""The `learnback` command. Each file here is one command, or something that commands share.

A new command is a file with a function under `@commands.command()`, and its name in the imports
of `app`.
"""

from __future__ import annotations

from learnback_client.cli.app import main

__all__ = ["main"]
