"""How `up` speaks: to people, each line with who says it in front; to programs, one JSON object a line."""

import json
import sys
from typing import Any, Protocol

from honcho.printer import Message, Printer


class Speech(Protocol):
    """Tells of the processes and of what is done with them."""

    def pass_on(self, message: Message) -> None:
        """Print what a process said."""

    def say(self, sentence: str, **facts: Any) -> None:
        """Print what `up` itself has to say; `facts` are for programs."""


class PlainSpeech:
    """Speaks to people."""

    def __init__(self, names_width: int) -> None:
        self._printer = Printer(sys.stdout, width=names_width, prefix=True, colour=sys.stdout.isatty())

    def pass_on(self, message: Message) -> None:
        """Print what a process said."""
        self._printer.write(message)

    def say(self, sentence: str, **_facts: Any) -> None:
        """Print a sentence."""
        print(sentence, flush=True)


class JsonSpeech:
    """Speaks to programs. Log records go through as they are, any other line becomes an object."""

    def pass_on(self, message: Message) -> None:
        """Print what a process said."""
        for line in message.data.decode("utf-8", "replace").splitlines():
            if _is_object(line):
                print(line, flush=True)
            else:
                _print({"service": message.name, "message": line})

    def say(self, sentence: str, **facts: Any) -> None:
        """Print the first line of what people read, with its facts."""
        _print({"service": "askbox", "message": sentence.partition("\n")[0], **facts})


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _print(value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False), flush=True)
