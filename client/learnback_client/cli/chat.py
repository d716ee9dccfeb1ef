"""`learnback chat`: a conversation in the terminal.

Ctrl-C stops an answer and keeps what has been said of it, so that the model remembers what the
reader saw. Lines may also come from a pipe; then the first error ends the conversation.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from learnback_client.cli.failures import describe, reports_failures
from learnback_client.cli.flags import connection, sampling, takes
from learnback_client.cli.settings import ClientSettings
from learnback_client.cli.terminal import note, printable, summary
from learnback_client.client import Client
from learnback_client.errors import LearnbackError
from learnback_client.generation import ChatMessage, Role
from learnback_client.options import GenerationOptions

_PROMPT = "> "
_HELP = """\
/reset          forget the conversation
/system TEXT    forget it, and begin a new one under this instruction; without TEXT: under none
/help           this list
/quit           leave (as Ctrl-D)
//...           say something that begins with a slash
Ctrl-C          stop the answer"""


@reports_failures
@takes(settings=connection, sampled=sampling)
def chat(
    settings: ClientSettings,
    sampled: GenerationOptions,
    system: Annotated[
        str | None, typer.Option(help="Instruction that stands before the conversation.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Name or alias of the checkpoint that answers.")
    ] = None,
    author: Annotated[
        str | None, typer.Option(help="The end user on whose behalf calls are made.")
    ] = None,
) -> None:
    """Talk with the model; /help lists what can be said besides."""
    options: GenerationOptions = {
        **sampled,
        "checkpoint": checkpoint,
        "author": author or settings.author,
    }
    with settings.connect() as client:
        conversation = Conversation(client, options, system)
        for line in _read_lines():
            if not _obey(conversation, line):
                break


class Conversation:
    """What has been said so far, and the way to say more."""

    def __init__(self, client: Client, options: GenerationOptions, system: str | None) -> None:
        self._client = client
        self._options = options
        self.begin(system)

    def begin(self, system: str | None) -> None:
        """Forgets all, and starts anew under this instruction."""
        self.system = system
        self.messages = [ChatMessage(Role.SYSTEM, system)] if system else []

    def say(self, text: str) -> None:
        """Says something and writes the answer to stdout as it comes.

        Raises:
            LearnbackError: There is no answer; what was said is forgotten.
        """
        question = ChatMessage(Role.USER, text)
        answer = self._write_answer([*self.messages, question])
        if answer:
            self.messages += [question, ChatMessage(Role.ASSISTANT, answer)]

    def _write_answer(self, messages: list[ChatMessage]) -> str:
        """Returns what was answered until the end, or until Ctrl-C."""
        answer: list[str] = []
        options = self._options.copy()
        options["messages"] = messages
        with self._client.stream(**options) as stream:
            try:
                for piece in stream.text:
                    answer.append(piece)
                    print(printable(piece), end="", flush=True)
                print()
                note(summary(stream.result()))
            except KeyboardInterrupt:
                print(" [stopped]")
        return "".join(answer)


def _obey(conversation: Conversation, line: str) -> bool:
    """Does what a line says; returns whether the conversation goes on."""
    command, _, rest = line.partition(" ")
    match command:
        case "":
            pass
        case "/quit" | "/exit":
            return False
        case "/help":
            print(_HELP)
        case "/reset":
            conversation.begin(conversation.system)
            note("forgotten")
        case "/system":
            conversation.begin(rest.strip() or None)
            note("a new conversation")
        case _ if line.startswith("/") and not line.startswith("//"):
            _complain(f"there is no {command}; /help lists what there is")
        case _:
            _say(conversation, line.removeprefix("/") if line.startswith("//") else line)
    return True


def _say(conversation: Conversation, text: str) -> None:
    try:
        conversation.say(text)
    except LearnbackError as error:
        if not sys.stdin.isatty():
            raise
        _complain(describe(error))


def _complain(message: str) -> None:
    print(f"learnback: {message}", file=sys.stderr)


def _read_lines() -> Iterator[str]:
    """Yields what is typed, or piped, until its end; Ctrl-C at the prompt drops the line."""
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401 - gives input() line editing, where there is one

        note("/help lists what can be said; Ctrl-D leaves")
    while True:
        try:
            yield input(_PROMPT if interactive else "").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            print()
        except UnicodeDecodeError:
            _complain("that was not UTF-8")
