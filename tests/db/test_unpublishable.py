"""Versions whose content the database refuses end with that reason, and stand in nobody's way."""

import pytest

from shared.publication import PublicationSweep, ask_all
from tests.factories import publish_version, stage_version


@pytest.mark.parametrize(
    "text", ["", " ".join(f"word{n:06d}" for n in range(80_000))], ids=["a range of nothing", "too many words"]
)
async def test_content_that_the_database_refuses_ends_its_version(pool, owner, text):
    live = await publish_version(pool, ["it was good before"], source_uri="inbox:note.md")
    await publish_version(pool, [text, "beside it"], source_uri="inbox:note.md")
    row = await owner.fetchrow("SELECT state, error_code, error FROM document_version ORDER BY id DESC LIMIT 1")
    assert (row["state"], row["error_code"]) == ("failed", "unpublishable")
    assert "the database refuses its content" in row["error"]
    assert await owner.fetchval("SELECT live_version_id FROM document") == live.version_id
    assert await owner.fetchval("SELECT count(*) FROM staged_chunk") == 0


async def test_one_that_cannot_be_published_stops_no_other(pool, owner):
    await publish_version(pool, ["known"], source_uri="inbox:first.md")
    await publish_version(pool, [""], source_uri="inbox:empty.md")
    keys = [
        await stage_version(pool, texts, source_uri=f"inbox:{name}.md", is_asked=False)
        for name, texts in [("a", [""]), ("b", ["known"]), ("c", [""]), ("d", ["known"])]
    ]
    await ask_all(pool, keys)
    states = await owner.fetch("SELECT state FROM document_version ORDER BY id DESC LIMIT 4")
    assert [row["state"] for row in states] == ["ready", "failed", "ready", "failed"]
    await PublicationSweep(pool)()
