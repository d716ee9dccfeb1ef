"""Flags that several commands share, each group written once.

A group is a function whose parameters are flags and whose result is what the command gets:

    @takes(settings=connection)
    def status(settings: ClientSettings) -> None: ...

has all flags of `connection`, and is called with the settings made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from learnback_client.cli.settings import CONFIG_VARIABLE, ClientSettings, load_settings
from learnback_client.options import GenerationOptions


def takes(**groups: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the flags of some groups.

    Args:
        **groups: By the parameter of the command that gets the group's result.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        flags = {name: _parameters(group) for name, group in groups.items()}
        own = [each for each in _parameters(command) if each.name not in groups]

        @wraps(command)
        def run(**given: Any) -> None:
            for name, group in groups.items():
                given[name] = group(**{each.name: given.pop(each.name) for each in flags[name]})
            command(**given)

        _declare(run, [*own, *(each for group in flags.values() for each in group)])
        return run

    return decorate


def _parameters(function: Callable[..., Any]) -> list[Parameter]:
    hints = get_type_hints(function, include_extras=True)
    return [
        each.replace(annotation=hints[each.name], kind=Parameter.KEYWORD_ONLY)
        for each in signature(function).parameters.values()
    ]


def _declare(function: Any, parameters: Iterable[Parameter]) -> None:
    """Makes `function` look as if it had been written with these parameters."""
    function.__signature__ = Signature(list(parameters))
    function.__annotations__ = {each.name: each.annotation for each in parameters}
    del function.__wrapped__


def connection(
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="The server. [default: 127.0.0.1:50051]"),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File that holds the bearer token.", metavar="FILE")
    ] = None,
    tls: Annotated[
        bool | None, typer.Option("--tls/--no-tls", help="Encrypt the connection.")
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(help="Encrypt, trusting the authorities in this PEM file.", metavar="FILE"),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(help="Encrypt, and show this certificate (PEM).", metavar="FILE"),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="Key of the certificate (PEM).", metavar="FILE")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds that a call may take. [default: 120]")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help=f"TOML file. [default: {CONFIG_VARIABLE}, or ~/.config/learnback/client.toml]",
            metavar="FILE",
        ),
    ] = None,
) -> ClientSettings:
    """How to reach the server; what is left out comes from environment and file."""
    flags = {
        "address": address,
        "token_file": token_file,
        "tls": tls,
        "ca_file": ca_file,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "timeout": timeout,
    }
    return load_settings(flags, config)


def sampling(
    temperature: Annotated[
        float | None, typer.Option(help="0 (greedy) to 2: how adventurous.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Over 0, up to 1: share of probability to choose from.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Number of likeliest tokens to choose from; 0 is off.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(help="0 to 1: drop tokens below this share of the likeliest.")
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Over 0, up to 10; 1 is off.")
    ] = None,
    presence_penalty: Annotated[float | None, typer.Option(help="-2 to 2; 0 is off.")] = None,
    frequency_penalty: Annotated[float | None, typer.Option(help="-2 to 2; 0 is off.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text; may be given several times.")
    ] = None,
) -> GenerationOptions:
    """How to choose tokens; what is left out is the model's default."""
    return {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "seed": seed,
        "max_tokens": max_tokens,
        "stop": stop or None,
    }
