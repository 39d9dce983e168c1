import json
from datetime import datetime

import pytest
from honcho.printer import Message

from services.console.speech import JsonSpeech, PlainSpeech


def line(text: str) -> Message:
    return Message("line", text.encode(), datetime(2030, 1, 1), "query", None)


def test_programs_read_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    speech = JsonSpeech()
    record = '{"event": "process_started"}\n'
    speech.say("askbox 1\n  inbox  here", inbox="/here")
    for text in (record, "askbox: a sentence\n", "[1]\n", "[" * 100_000 + "\n", "\xff\u2028two\n"):
        speech.pass_on(line(text))
    said = [json.loads(said) for said in capsys.readouterr().out.splitlines()]
    assert said[0] == {"service": "askbox", "message": "askbox 1", "inbox": "/here"}
    assert said[1] == json.loads(record)
    assert said[2] == {"service": "query", "message": "askbox: a sentence"}
    assert said[3] == {"service": "query", "message": "[1]"}
    assert all(set(one) == {"service", "message"} for one in said[2:])


def test_people_read_who_says_what(capsys: pytest.CaptureFixture[str]) -> None:
    speech = PlainSpeech(names_width=8)
    speech.say("askbox 1\n  inbox  here", inbox="/there")
    speech.pass_on(line("a sentence\n"))
    assert capsys.readouterr().out == "askbox 1\n  inbox  here\n00:00:00 query    | a sentence\n"
