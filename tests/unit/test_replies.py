"""What is made of the lines of a parser child that its file has taken over."""

import asyncio
import json
from dataclasses import asdict
from typing import Any

import pytest

from services.ingester.chunking import Chunk
from services.ingester.replies import CHUNK, HEAD
from services.ingester.sandbox import LINE_BYTES_MAX, Parsed, ParsedHead, _Child, _read
from shared.errors import ParserLimit

HEAD_TOLD = asdict(ParsedHead("application/pdf", "Berths", {"author": "Ada"}, 1, "page", "line", 3, 900))
CHUNK_TOLD = asdict(Chunk(0, "Berths of a harbour", "Berths", "", 1, 0, 19, 4, "i", [(7, 2, None)], [1, 2]))
NUMBERS = ["1", 1.5, True, -1, 2**31, [], None]
TEXTS = [1, ["a"], {"a": "b"}, "a\x00b", "\ud800"]


async def read(*messages: object) -> list[Parsed]:
    reader = asyncio.StreamReader(LINE_BYTES_MAX)
    for message in ({"pid": 4000001}, *messages):
        reader.feed_data(message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n")
    reader.feed_eof()
    return [item async for item in _read(reader, _Child(), 1_000_000, 50)]


async def test_what_parsers_write_is_read():
    head, chunk, began, piece, _ = await read(
        {"document": HEAD_TOLD},
        {"chunk": CHUNK_TOLD},
        {"attachment": "a.txt"},
        {"piece": "Zm9ydHk="},
        {"attachment": None},
        {"end": True},
    )
    assert (asdict(head), asdict(chunk)) == (HEAD_TOLD, json.loads(json.dumps(CHUNK_TOLD)))
    assert (began.name, piece) == ("a.txt", b"forty")


async def test_as_much_as_parsers_may_write_is_read():
    metadata = {f"{number:100}": "a" * 1000 for number in range(100)}
    head = HEAD_TOLD | {"media_type": "a" * 200, "title": "a" * 300, "metadata": metadata}
    prefix, heading = "a" * 801, " > ".join(["a" * 300] * 7)
    chunk = CHUNK_TOLD | {"prefix": prefix, "heading": heading, "page_label": "a" * 300, "lines": [1] * 65_536}
    assert len(await read({"document": head}, {"chunk": chunk}, {"end": True})) == 2


def test_every_field_is_looked_at():
    assert HEAD.keys() == HEAD_TOLD.keys()
    assert CHUNK.keys() == CHUNK_TOLD.keys()


def wrong_fields() -> list[tuple[str, dict[str, Any]]]:
    """Return heads and chunks of which one field is what no parser writes."""
    heads: dict[str, list[object]] = {
        "media_type": [*TEXTS, None, "a" * 201],
        "title": [*TEXTS, "a" * 301],
        "metadata": [
            *(None, [], "a", {"a": 1}, {"a": ["b"]}, {"a\x00": "b"}),
            *({"a": "b" * 1001}, {"a" * 101: "b"}, {str(number): "b" for number in range(101)}),
        ],
        "replaced_character_count": NUMBERS,
        "page_unit": [None, 1, "pages", ["page"]],
        "line_unit": [None, {}, "lines"],
        "page_count": [0, *NUMBERS[:-1]],
        "character_count": [0, *NUMBERS[:-1]],
        "another": ["field"],
    }
    chunks: dict[str, list[object]] = {
        "ordinal": NUMBERS,
        "text": [*TEXTS, None],
        "prefix": [*TEXTS, None, "a" * 802],
        "heading": [*TEXTS, None, "a" * 2122],
        "page": [0, *NUMBERS[:-1]],
        "char_start": NUMBERS,
        "char_end": NUMBERS,
        "token_count": [0, *NUMBERS],
        "page_label": [*TEXTS, "a" * 301],
        "page_turns": [
            *(None, 1, "a", [1], [[1, 2]], [[1, 0, "a"]], [[1, 2, 3]], [["1", 2, None]], {"1": 2}),
            *([[1, 2, "a" * 301]], [[1, 2, None]] * 65_537),
        ],
        "lines": [None, 1, [0], ["1"], [[1]], [None], [2**40], {"1": 1}, [1] * 65_537],
    }
    wrong = [("document", HEAD_TOLD | {name: value}) for name, values in heads.items() for value in values]
    return wrong + [("chunk", CHUNK_TOLD | {name: value}) for name, values in chunks.items() for value in values]


async def test_field_of_another_kind_is_refused_for_good():
    for kind, told in wrong_fields():
        with pytest.raises(ParserLimit, match="should not"):
            pytest.fail(f"{kind} {str(told)[:1000]} was taken: {str(await read({kind: told}))[:100]}")


@pytest.mark.parametrize(
    "line",
    [
        {"document": None},
        {"document": []},
        {"document": {}},
        {"chunk": "text"},
        {"chunk": {name: value for name, value in CHUNK_TOLD.items() if name != "lines"}},
        {"piece": "no base64!"},
        {"piece": 1},
        {"attachment": 1},
        {"attachment": "a" * 1001},
        {"error": 1, "code": "parser_limit"},
        {"error": "a reason", "code": []},
        {"end": False},
        [],
        1,
        b"no JSON\n",
        b'"\xff"\n',
        b"[" * 100_000 + b"\n",
        b'{"chunk": ' + b"9" * 5000 + b"}\n",
    ],
    ids=lambda line: str(line)[:40],
)
async def test_line_of_another_kind_is_refused_for_good(line):
    with pytest.raises(ParserLimit, match="should not"):
        await read(line)
