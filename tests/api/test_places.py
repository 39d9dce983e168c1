"""A citation says where its quote stands in the file: lines of a text, pages by name, rows of a sheet."""

import pytest

from services.ingester.parsing.blocks import BlockKind, LineUnit, PageUnit
from services.ingester.parsing.markdown import parse_markdown
from services.ingester.parsing.plain import parse_plain
from services.ingester.parsing.writer import TextWriter
from tests.factories import publish_version

NOTE = """\
---
owner: Ada
---

# Machines

Nobody reads the first paragraph of a note,
which says little.


The nightly backup runs at two in the morning
and is encrypted with age. It is kept for a year.

```sh
restore --from nightly --to /srv
restore --check
```
"""


async def ask(client, question: str) -> dict:
    answer = (await client.post("/query", json={"question": question})).json()
    assert answer["answered"], answer
    return answer["sources"][0]


async def search(client, question: str) -> dict:
    return (await client.post("/search", json={"question": question})).json()["data"][0]


@pytest.mark.parametrize("parse", [parse_markdown, parse_plain])
async def test_quote_of_a_text_names_its_lines_in_the_file(client, pool, parse):
    await publish_version(pool, [NOTE], document=parse(NOTE, 0))
    source = await ask(client, "when does the nightly backup run and how is it encrypted")
    assert source["quote"] == "The nightly backup runs at two in the morning\nand is encrypted with age."
    first, last = source["lines"]
    lines = NOTE.splitlines()[first - 1 : last]
    assert "\n".join(lines).startswith(source["quote"])
    assert len(lines) == 2
    assert source["place"] == f"lines {first}–{last}"
    assert (source["page"], source["context"]) == (None, None)


async def test_hit_names_the_lines_of_its_chunk(client, pool):
    await publish_version(pool, [NOTE], document=parse_markdown(NOTE, 0))
    hit = await search(client, "restore check")
    first, last = hit["lines"]
    named, found = NOTE.splitlines()[first - 1 : last], hit["text"].splitlines()
    assert len(named) == len(found) > 3
    assert named[0].endswith(found[0]), "a sentence may begin in the middle of a line"
    assert named[1:] == found[1:]
    assert hit["place"] == f"lines {first}–{last}"


async def test_quote_names_its_own_page_and_not_that_of_its_chunk(client, pool):
    writer = TextWriter()
    writer.add(BlockKind.PROSE, "The preface thanks many people.", page=4)
    writer.add(BlockKind.PROSE, "The nightly backup runs at two.", page=5)
    document = writer.document(None, {}, page_labels={4: "iv", 5: "v"})
    await publish_version(pool, ["backup"], document=document)
    source = await ask(client, "when does the nightly backup run")
    assert (source["place"], source["page"], source["lines"]) == ("page v", 5, None)
    hit = await search(client, "nightly backup")
    assert (hit["place"], hit["page"], hit["text"]) == ("pages iv–v", 4, document.text)


async def test_quote_of_a_sheet_names_its_row_and_its_columns(client, pool):
    writer = TextWriter()
    places = {"page": 2, "context": "Town | Machine | Time of the backup"}
    rows = ((16, "Bonn | press | noon"), (17, "Berlin | lathe | evening"), (19, "Bremen | mill | two in the morning"))
    for number, cells in rows:
        writer.add(BlockKind.ROW, cells, line=number, is_joined=True, **places)
    document = writer.document("Machines", {}, page_unit=PageUnit.SHEET, line_unit=LineUnit.ROW, page_labels={2: "Q3"})
    await publish_version(pool, ["rows"], document=document)
    source = await ask(client, "the mill in Bremen at two in the morning")
    assert source["quote"] == "Bremen | mill | two in the morning"
    assert (source["place"], source["page"], source["lines"]) == ("sheet Q3, row 19", 2, [19, 19])
    assert source["context"] == "Town | Machine | Time of the backup"


async def test_last_row_of_many_is_found(client, pool):
    rows = [f"Machine {number} | idle" for number in range(200)] + ["Bremen | mill"]
    await publish_version(pool, ["\n".join(rows)])
    assert (await ask(client, "mill Bremen"))["quote"] == "Bremen | mill"


async def test_change_that_moves_a_chunk_moves_its_place(client, pool):
    await publish_version(pool, [NOTE], document=parse_markdown(NOTE, 0))
    before = await search(client, "restore check")
    moved = NOTE.replace("# Machines\n", "# Machines\n\n\n\n")
    await publish_version(pool, [moved], document=parse_markdown(moved, 0))
    after = await search(client, "restore check")
    assert after["text"] == before["text"]
    assert after["lines"] == [line + 3 for line in before["lines"]]
