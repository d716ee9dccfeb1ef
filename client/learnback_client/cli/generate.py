"""`learnback generate`: one answer, streamed to the terminal."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToJson

from learnback_client.cli.failures import EXIT_USAGE, fail, reports_failures
from learnback_client.cli.flags import connection, sampling, takes
from learnback_client.cli.settings import ClientSettings
from learnback_client.cli.terminal import (
    note,
    printable,
    summary,
    write_answer,
    write_logprobs,
)
from learnback_client.client import Client
from learnback_client.generation import Candidate, Reply
from learnback_client.options import GenerationOptions


@reports_failures
@takes(settings=connection, sampled=sampling)
def generate(
    settings: ClientSettings,
    sampled: GenerationOptions,
    prompt: Annotated[
        str | None, typer.Argument(help="What to ask. Left out, or -: read from stdin.")
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="Instruction that stands before the question.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it stands: no chat template.")
    ] = False,
    checkpoint: Annotated[
        str | None, typer.Option(help="Name or alias of the checkpoint that answers.")
    ] = None,
    author: Annotated[
        str | None, typer.Option(help="The end user on whose behalf the call is made.")
    ] = None,
    n: Annotated[int | None, typer.Option("-n", "--n", help="Number of answers, 1 to 8.")] = None,
    logprobs: Annotated[
        int | None,
        typer.Option(help="Show each token's probability, with this many alternatives; 0 to 20."),
    ] = None,
    acceptance: Annotated[
        bool, typer.Option("--acceptance", help="Tell how likely a user is to accept each answer.")
    ] = False,
    rerank: Annotated[
        bool,
        typer.Option("--rerank", help="Print the answers the best first; needs -n of 2 or more."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole reply as JSON, once it is complete.")
    ] = False,
) -> None:
    """Ask once, and print the answer."""
    if raw and system is not None:
        fail("--system needs the chat template; it can't go with --raw", EXIT_USAGE)
    if rerank and (n or 1) < 2:
        fail("--rerank puts several answers in order; give -n of 2 or more", EXIT_USAGE)
    options: GenerationOptions = {
        **sampled,
        "n": n,
        "logprobs": logprobs,
        "acceptance": acceptance or None,
        "rerank": rerank or None,
        "checkpoint": checkpoint,
        "author": author or settings.author,
    }
    text = _read_prompt(prompt)
    if not raw:
        options["messages"] = [*([("system", system)] if system else []), ("user", text)]
    with settings.connect() as client:
        _answer(client, text if raw else None, options, as_json)


def _answer(client: Client, prompt: str | None, options: GenerationOptions, as_json: bool) -> None:
    if as_json:
        print(_to_json(client.generate(prompt, **options)))
        return
    if (options.get("n") or 1) > 1:
        reply = client.generate(prompt, **options)
        _write_candidates(reply, scored=bool(options.get("acceptance") or options.get("rerank")))
    else:
        with client.stream(prompt, **options) as stream:
            write_answer(stream.text)
            reply = stream.result()
    if options.get("logprobs") is not None:
        for candidate in reply.candidates:
            write_logprobs(candidate)
    if options.get("acceptance") and len(reply.candidates) == 1:
        print(f"--- {_told(reply.candidates[0])}")
    note(summary(reply))


def _write_candidates(reply: Reply, *, scored: bool) -> None:
    for candidate in reply.candidates:
        print(f"--- {candidate.index}" + (f", {_told(candidate)}" if scored else ""))
        print(printable(candidate.text))


def _told(candidate: Candidate) -> str:
    if candidate.acceptance is None:
        return "acceptance unknown"
    return f"acceptance {candidate.acceptance:.2f}"


def _to_json(reply: Reply) -> str:
    return MessageToJson(
        reply.raw,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        ensure_ascii=False,
    )


def _read_prompt(argument: str | None) -> str:
    if argument is not None and argument != "-":
        return argument
    if argument is None and sys.stdin.isatty():
        fail('nothing to ask: give a prompt, as in `learnback generate "Hello"`', EXIT_USAGE)
    try:
        text = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        fail(f"stdin is not UTF-8 at byte {error.start}", EXIT_USAGE)
    # The newline that ends the last line of a file is no part of what is asked.
    return text.removesuffix("\n")
