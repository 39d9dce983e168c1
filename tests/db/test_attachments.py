"""What is attached to a mail is documents of their own, which live and die with it, whatever is killed or comes in between."""

import asyncio
import contextlib
import tempfile
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import IO

import asyncpg
import pytest

from services.console.check import check
from services.ingester import attachments as attaching
from services.ingester import store as ingester_store
from services.ingester.ingest import IngestHandler
from services.ingester.parsing import parse
from services.ingester.sandbox import AttachmentBegan, AttachmentEnded, Parsed, ParsedHead
from services.query import ingest_store, store
from services.query.collections import delete_collection
from services.query.retry import retry_document
from services.query.store import CollectionRow
from shared import intake, queue
from shared.database import connect
from shared.errors import LeaseLost, PermanentError
from shared.failpoints import Failpoint, FailpointReached, Trap, arm
from shared.intake import Arrival, Intake, RequestedFile, StoredBytes
from shared.publication import PublicationSweep
from shared.queue import Job
from tests.db.test_handlers import Hook, lose_lease, nothing, open_transactions
from tests.db.test_publication import embed_all
from tests.db.test_races import wait_for_lock
from tests.db.test_watch import inbox, until_documents, watching  # noqa: F401 (a fixture)
from tests.factories import HashModel, claim, make_chunks, make_collection, pieces
from tests.waiting import SECONDS_MAX, until

MAIL = "inbox:letters/offer.eml"
PICTURE = b"\x89PNG\r\n\x1a\n" + b"\x00" * 90
Files = Mapping[str, "str | bytes | EmailMessage"]


@pytest.fixture(autouse=True)
def disarmed():
    yield
    arm(())


def mail(files: Files | None = None, *, text: str = "See what is attached.", subject: str = "Offer") -> EmailMessage:
    message = EmailMessage()
    message["From"] = "ada@example.org"
    message["Subject"] = subject
    message["Message-ID"] = "<1@example.org>"
    message["MIME-Version"] = "1.0"
    message.set_content(text)
    for numbered, content in (files or {}).items():
        name = numbered.partition("#")[0]
        if isinstance(content, EmailMessage):
            message.add_attachment(content, filename=name)
        elif isinstance(content, bytes):
            message.add_attachment(content, maintype="application", subtype="octet-stream", filename=name)
        else:
            message.add_attachment(content, filename=name)
    if message.is_multipart():
        message.set_boundary(f"part of {subject}")  # a random one would make other bytes of the same mail
    return message


class MailParsers:
    """Parses in this process what a child would parse, and lets something happen in between."""

    def __init__(self, before: Hook = nothing, between: Hook = nothing, behind: Hook = nothing) -> None:
        self._before, self._between, self._behind = before, between, behind

    async def parse(self, name: str, file: IO[bytes], _bytes: int) -> AsyncGenerator[Parsed, None]:
        await self._before()
        media_type, document = parse(name, file.read())
        yield ParsedHead(media_type, document.title, document.metadata, 0)
        for chunk in make_chunks([line for line in document.text.splitlines() if line]):
            yield chunk
        for attachment in document.attachments:
            yield AttachmentBegan(attachment.name)
            for piece in attachment.pieces():
                yield piece
            yield AttachmentEnded()
            await self._between()
        await self._behind()


def handler_of(pool: asyncpg.Pool, parsers: MailParsers | None = None) -> IngestHandler:
    return IngestHandler(pool, parsers or MailParsers(), Path(tempfile.gettempdir()), PublicationSweep(pool))


async def work(handler: IngestHandler, jobs: list[Job]) -> None:
    """Do jobs as a worker does, who buries what cannot be done."""
    try:
        await handler.process(jobs)
    except PermanentError as error:
        await bury(handler, jobs, error)
    else:
        await handler.after(jobs)


async def bury(handler: IngestHandler, jobs: list[Job], error: PermanentError) -> None:
    async with handler._pool.acquire() as conn:
        await queue.bury_jobs(conn, jobs[0].lease_id, [jobs[0].id], error_code=error.code, error=str(error))
    await handler.buried(jobs)


async def drain(pool: asyncpg.Pool, model: HashModel | None = None) -> HashModel:
    """Parse and embed until nothing is left to do."""
    handler = handler_of(pool)
    while jobs := await claim(pool, "ingest", batch_size=1):
        await work(handler, jobs)
    return await embed_all(pool, model)


async def arrive(
    pool: asyncpg.Pool,
    message: EmailMessage | bytes,
    source_uri: str = MAIL,
    *,
    collection: str = "default",
    **options: object,
) -> Intake:
    collection_id, _ = await make_collection(pool, collection)
    content = message if isinstance(message, bytes) else message.as_bytes()
    stored = await intake.store_bytes(pool, pieces(content))
    return await intake.add_version(pool, collection_id, source_uri, stored, **options)


async def states(pool: asyncpg.Pool) -> dict[str, str]:
    rows = await pool.fetch(
        "SELECT DISTINCT ON (d.id) d.source_uri, v.state FROM document AS d JOIN document_version AS v ON v.document_id = d.id "
        "ORDER BY d.id, v.id DESC"
    )
    return {row["source_uri"]: row["state"] for row in rows}


async def version_counts(pool: asyncpg.Pool) -> dict[str, int]:
    rows = await pool.fetch(
        "SELECT d.source_uri, count(*) AS versions FROM document AS d JOIN document_version AS v ON v.document_id = d.id "
        "GROUP BY d.id, d.source_uri"
    )
    return {row["source_uri"]: row["versions"] for row in rows}


async def texts_of(pool: asyncpg.Pool, source_uri: str) -> list[str]:
    rows = await pool.fetch(
        "SELECT c.text FROM chunk AS c JOIN document AS d ON d.id = c.document_id WHERE d.source_uri = $1 ORDER BY c.id",
        source_uri,
    )
    return [row["text"] for row in rows]


async def bytes_of_nobody(pool: asyncpg.Pool) -> int:
    return await pool.fetchval(
        "SELECT count(*) FROM blob AS b WHERE NOT EXISTS (SELECT 1 FROM document_version AS v WHERE v.blob_id = b.id)"
    )


async def bury_over_http(pool: asyncpg.Pool, document_id: int) -> None:
    collection_id, _ = await make_collection(pool)
    async with pool.acquire() as conn, conn.transaction():
        await store.set_scope(conn, [collection_id])
        assert await store.bury_document(conn, [collection_id], document_id)


async def id_of(pool: asyncpg.Pool, source_uri: str) -> int:
    return await pool.fetchval("SELECT id FROM document WHERE source_uri = $1", source_uri)


async def test_attachments_become_documents_that_answer(pool, url):
    await arrive(pool, mail({"a.txt": "forty crowns", "b.md": "# Terms\n\nthirty days", "c.bin": PICTURE}))
    await drain(pool)
    assert await states(pool) == {
        MAIL: "ready",
        f"{MAIL}//a.txt": "ready",
        f"{MAIL}//b.md": "ready",
        f"{MAIL}//c.bin": "failed",
    }
    assert await texts_of(pool, f"{MAIL}//a.txt") == ["forty crowns"]
    assert await pool.fetchval("SELECT count(*) FROM document WHERE parent_id IS NOT NULL") == 3
    reason = await pool.fetchval("SELECT error FROM document_version WHERE state = 'failed'")
    assert "image" in reason
    assert await bytes_of_nobody(pool) == 0
    assert await check(url) == []


async def test_names_are_told_apart_and_lead_nowhere(pool, url):
    await arrive(
        pool,
        mail({"a.txt#1": "one", "a.txt#2": "two", "../../etc/a.txt": "three", "C:\\x\\b.txt": "four", " ": "five"}),
    )
    await drain(pool)
    names = {uri.removeprefix(f"{MAIL}//") for uri in await states(pool)} - {MAIL}
    assert names == {"a.txt", "a (2).txt", "a (3).txt", "b.txt", "attachment.txt"}
    assert await check(url) == []


async def test_new_version_of_a_mail_adds_changes_and_removes(pool, url):
    await arrive(pool, mail({"same.txt": "same", "other.txt": "before", "gone.txt": "gone"}))
    await drain(pool)
    await arrive(pool, mail({"new.txt": "new", "same.txt": "same", "other.txt": "after"}))
    model = await drain(pool)
    assert await states(pool) == dict.fromkeys(
        [MAIL, f"{MAIL}//same.txt", f"{MAIL}//other.txt", f"{MAIL}//new.txt"], "ready"
    )
    assert (await version_counts(pool))[f"{MAIL}//same.txt"] == 1
    assert await texts_of(pool, f"{MAIL}//other.txt") == ["after"]
    assert "same" not in model.encoded
    assert {"new", "after"} <= set(model.encoded)
    assert await pool.fetchval("SELECT count(*) FROM chunk WHERE text = 'gone'") == 0
    assert await check(url) == []


async def test_file_that_is_no_mail_any_more_holds_nothing(pool, url):
    await arrive(pool, mail({"a.txt": "a"}))
    await drain(pool)
    await arrive(pool, b"just words")
    await drain(pool)
    assert await states(pool) == {MAIL: "ready"}
    assert await check(url) == []


async def test_mail_that_cannot_be_read_any_more_keeps_what_it_held(pool, url):
    await arrive(pool, mail({"a.txt": "a"}))
    await drain(pool)
    part = b"--b\nContent-Disposition: attachment; filename=x\n\nx\n"
    await arrive(pool, b"From: x\nContent-Type: multipart/mixed; boundary=b\n\n" + part * 201)
    await drain(pool)
    assert await states(pool) == {MAIL: "failed", f"{MAIL}//a.txt": "ready"}
    assert await check(url) == []


async def test_attachment_that_failed_is_read_again_with_its_mail_and_by_itself(pool, reader_pool, url):
    await arrive(pool, mail({"c.bin": PICTURE}))
    await drain(pool)
    await arrive(pool, mail({"c.bin": PICTURE}, text="once more"))
    await drain(pool)
    child = f"{MAIL}//c.bin"
    assert (await version_counts(pool))[child] == 2
    collection_id, _ = await make_collection(pool)
    assert await retry_document(reader_pool, collection_id, await id_of(pool, child), child) is not None
    await drain(pool)
    assert (await version_counts(pool))[child] == 3
    assert await states(pool) == {MAIL: "ready", child: "failed"}
    assert await check(url) == []


# -- life and death -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["inbox", "http", "collection"])
async def test_attachments_go_with_their_mail(pool, url, how):
    await arrive(pool, mail({"a.txt": "a", "inner.eml": mail({"b.txt": "b"}, subject="inner")}))
    await drain(pool)
    assert f"{MAIL}//inner.eml//b.txt" in await states(pool)
    collection_id, model_id = await make_collection(pool)
    if how == "inbox":
        await intake.delete_documents(pool, collection_id, [MAIL])
    elif how == "http":
        await bury_over_http(pool, await id_of(pool, MAIL))
    else:
        await pool.execute("UPDATE document SET source_uri = 'upload:' || split_part(source_uri, ':', 2)")
        await delete_collection(pool, CollectionRow(collection_id, "default", model_id), [collection_id])
    assert await states(pool) == {}
    assert await pool.fetchval("SELECT count(*) FROM chunk_vector") == 0
    assert await check(url) == []


async def test_attachments_are_no_files_of_the_inbox(pool):
    await arrive(pool, mail({f"{number}.txt": f"{number}" for number in range(30)}))
    await drain(pool)
    assert await ingester_store.list_inbox_documents(pool) == {("default", MAIL)}


async def test_watcher_keeps_moves_and_deletes_a_mail_with_what_it_holds(pool, owner, url, inbox):  # noqa: F811
    async with watching(pool, inbox) as watcher:
        (inbox / "offer.eml").write_bytes(mail({"a.txt": "forty crowns"}).as_bytes())
        await until_documents(owner, {"offer.eml"})
        await drain(pool)
        held = {"offer.eml", "offer.eml//a.txt"}
        await until_documents(owner, held)
        before = watcher._scanned_at
        await until(lambda: asyncio.sleep(0, watcher._scanned_at > before))
        assert not watcher.note
        await until_documents(owner, held)
        (inbox / "offer.eml").rename(inbox / "old.eml")
        await until_documents(owner, {"old.eml", "old.eml//a.txt"})
        model = await drain(pool)
        assert model.encoded == []
        assert set((await states(pool)).values()) == {"ready"}
        (inbox / "old.eml").unlink()
        await until_documents(owner, set())
    assert await check(url) == []


async def test_renamed_mail_takes_all_it_holds_along_and_embeds_nothing(pool, url):
    message = mail({"a.txt": "a", "inner.eml": mail({"b.txt": "b"}, subject="inner")})
    await arrive(pool, message)
    await drain(pool)
    ids = {await id_of(pool, uri) for uri in await states(pool)}
    await arrive(pool, message, "inbox:letters/old.eml", moved_from=MAIL)
    new = "inbox:letters/old.eml"
    moved = {new, f"{new}//a.txt", f"{new}//inner.eml", f"{new}//inner.eml//b.txt"}
    assert set(await states(pool)) == moved  # at once: another mail may have the old name by now
    assert await check(url) == []
    await arrive(pool, mail({"a.txt": "another"}))
    model = await drain(pool)
    assert set(await states(pool)) == moved | {MAIL, f"{MAIL}//a.txt"}
    assert set((await states(pool)).values()) == {"ready"}
    assert {await id_of(pool, uri) for uri in moved} == ids
    assert "b" not in model.encoded
    assert "a" not in model.encoded
    paths = "SELECT count(*) FROM chunk AS c JOIN document AS d ON d.id = c.document_id WHERE d.source_uri = $1 AND c.tsv @@ 'old'"
    assert await pool.fetchval(paths, f"{new}//inner.eml//b.txt") == 1, "the words of the new path are not indexed"
    assert await check(url) == []


async def test_attachment_that_was_deleted_on_purpose_stays_away(pool, url):
    child = f"{MAIL}//a.txt"
    await arrive(pool, mail({"a.txt": "a", "b.txt": "b"}))
    await drain(pool)
    await bury_over_http(pool, await id_of(pool, child))
    await arrive(pool, mail({"a.txt": "a", "b.txt": "b"}, text="once more"))
    await drain(pool)
    assert await states(pool) == {MAIL: "ready", f"{MAIL}//b.txt": "ready"}
    moved = mail({"a.txt": "a", "b.txt": "b"}, text="moved")
    await arrive(pool, moved, "inbox:letters/old.eml", moved_from=MAIL)
    await drain(pool)
    assert await states(pool) == {"inbox:letters/old.eml": "ready", "inbox:letters/old.eml//b.txt": "ready"}
    await arrive(pool, mail({"a.txt": "other bytes"}), "inbox:letters/old.eml")
    await drain(pool)
    assert "inbox:letters/old.eml//a.txt" in await states(pool)
    await arrive(pool, moved, "inbox:letters/old.eml")
    await drain(pool)
    assert "inbox:letters/old.eml//a.txt" not in await states(pool)
    assert await check(url) == []
    collection_id, _ = await make_collection(pool)
    await intake.delete_documents(pool, collection_id, ["inbox:letters/old.eml"])
    await arrive(pool, moved, "inbox:letters/old.eml")
    await drain(pool)
    assert "inbox:letters/old.eml//a.txt" in await states(pool), "the file went, and came back on purpose"
    assert await check(url) == []


async def test_whoever_asked_for_a_mail_asked_for_what_it_holds(pool, reader_pool, url):
    request_id = uuid.uuid4()
    for text in ("first", "second"):
        await arrive(
            pool,
            mail({"a.txt": "a", "c.bin": PICTURE}, text=text),
            "upload:offer.eml",
            requested=RequestedFile(request_id, "offer.eml"),
        )
        await drain(pool)
    collection_id, _ = await make_collection(pool)
    async with reader_pool.acquire() as conn, conn.transaction():
        await store.set_scope(conn, [collection_id])
        listed = await ingest_store.list_requested(conn, [collection_id], request_id, after_version_id=0, limit=99)
    assert {(row.file_path, row.state) for row in listed} == {
        ("offer.eml", "ready"),
        ("offer.eml//a.txt", "ready"),
        ("offer.eml//c.bin", "failed"),
    }
    assert await check(url) == []


async def test_uploads_and_folders_hold_attachments_too(pool, url):
    message = mail({"a.txt": "a"})
    for uri in ("upload:offer.eml", "folder:docs/offer.eml"):
        await arrive(pool, message, uri)
    await drain(pool)
    again = await arrive(pool, message, "upload:offer.eml")
    assert again.arrival is Arrival.UNCHANGED
    assert set(await states(pool)) == {
        "upload:offer.eml", "upload:offer.eml//a.txt", "folder:docs/offer.eml", "folder:docs/offer.eml//a.txt",
    }  # fmt: skip
    assert await check(url) == []


# -- bounds -------------------------------------------------------------------------------------------------------------


async def test_mails_within_mails_are_read_to_a_depth(pool, url):
    message = mail({"deepest.txt": "deepest"}, subject="deepest")
    for level in range(6, 0, -1):
        message = mail({f"{level}.eml": message, f"{level}.txt": f"level {level}"}, subject=str(level))
    await arrive(pool, message)
    await drain(pool)
    found = await states(pool)
    assert set(found.values()) == {"ready"}
    assert max(uri.count("//") for uri in found) == 5
    assert sum(uri.endswith(".txt") for uri in found) == 5
    assert await bytes_of_nobody(pool) == 0
    assert await check(url) == []
    (innermost,) = (uri for uri in found if uri.count("//") == 5 and uri.endswith(".eml"))
    told = await pool.fetchval(
        "SELECT metadata ->> 'attachments_not_read' FROM document WHERE source_uri = $1", innermost
    )
    assert told == "they lie in more than 5 mails, one within the other; save them, and drop them: 6.eml, 6.txt"
    stories = await pool.fetch(
        "SELECT d.source_uri, e.detail ->> 'attachments_not_read' AS told FROM document_event AS e "
        "JOIN document AS d ON d.id = e.document_id WHERE e.stage = 'ingest' AND e.detail ? 'attachments_not_read'"
    )
    assert [tuple(row) for row in stories] == [(innermost, told)]


async def test_mails_of_mails_of_mails_have_an_end(pool, url, monkeypatch):
    monkeypatch.setattr(attaching, "HELD_MAX", 6)
    inner = mail({f"{number}.txt": f"{number}" for number in range(3)}, subject="inner")
    await arrive(pool, mail({"one.eml": inner, "two.eml": inner}))
    await drain(pool)
    found = await states(pool)
    assert sorted(found.values()) == ["failed", *["ready"] * 5]
    assert "6 files" in await pool.fetchval("SELECT error FROM document_version WHERE state = 'failed'")
    assert await bytes_of_nobody(pool) == 0
    assert await check(url) == []


@pytest.mark.parametrize("lie", ["bytes", "number", "end", "order"])
async def test_parser_that_lies_fails_its_file_alone(pool, url, lie):
    class Liar(MailParsers):
        async def parse(self, name: str, file: IO[bytes], size: int) -> AsyncGenerator[Parsed, None]:
            yield ParsedHead("message/rfc822", None, {}, 0)
            yield AttachmentBegan("first")
            if lie == "bytes":
                for _ in range(5):
                    yield b"x" * size
            yield AttachmentEnded()
            for number in range(300 if lie == "number" else 0):
                yield AttachmentBegan(f"{number}")
                yield AttachmentEnded()
            if lie == "order":
                yield b"bytes of nothing"
            yield AttachmentBegan("last")
            if lie != "end":
                yield AttachmentEnded()

    await arrive(pool, mail())
    handler = handler_of(pool, Liar())
    await work(handler, await claim(pool, "ingest", batch_size=1))
    assert await states(pool) == {MAIL: "failed"}
    assert await bytes_of_nobody(pool) == 0
    assert await check(url) == []


async def attached(text: str) -> AsyncGenerator[Parsed, None]:
    yield text.encode()
    yield AttachmentEnded()


class Counted:
    """Counts what a pool is asked to do."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool, self.statements = pool, 0

    async def execute(self, *arguments: object, timeout: float) -> str:
        """Do it."""
        self.statements += 1
        return await self._pool.execute(*arguments, timeout=timeout)


async def test_no_transaction_is_open_while_attachments_come(pool, owner):
    await arrive(pool, mail({"a.txt": "a", "b.txt": "b"}))
    seen = []

    async def look() -> None:
        seen.append(await open_transactions(owner))

    handler = handler_of(pool, MailParsers(look, look, look))
    await work(handler, await claim(pool, "ingest", batch_size=1))
    assert seen == [0, 0, 0, 0]


# -- faults -------------------------------------------------------------------------------------------------------------

STEPS = [Failpoint.PART_STORED, Failpoint.BLOB_STORED, Failpoint.ATTACHMENT_STORED, Failpoint.ATTACHMENTS_WRITTEN]


@pytest.mark.parametrize("step", [*STEPS, Failpoint.STAGING_WRITTEN, Failpoint.STAGING_COMMITTED])
@pytest.mark.parametrize("nth", [1, 2])
async def test_attempt_that_fails_at_any_step_is_made_up_for(pool, owner, url, step, nth):
    message = mail({"a.bin": b"a" * 3_000_000, "b.txt": "b"})
    await arrive(pool, message)
    arm([Trap(step, nth, "raise")])
    handler = handler_of(pool)
    while jobs := await claim(pool, "ingest", batch_size=1):
        with contextlib.suppress(FailpointReached):
            await work(handler, jobs)
        await lose_lease(owner, pool)
        await owner.execute("UPDATE job SET run_at = now()")
        assert await check(url) == []
    arm(())
    await PublicationSweep(pool)()  # who died after its commit has not asked
    await drain(pool)
    await PublicationSweep(pool)()
    assert set(await states(pool)) == {MAIL, f"{MAIL}//a.bin", f"{MAIL}//b.txt"}
    assert set((await version_counts(pool)).values()) == {1}
    assert await bytes_of_nobody(pool) == 0
    assert await check(url) == []


async def test_zombie_ingester_makes_no_documents(pool, owner, url):
    await arrive(pool, mail({"a.txt": "a", "b.txt": "b"}))
    zombie = handler_of(pool, MailParsers(between=lambda: lose_lease(owner, pool)))
    with pytest.raises(LeaseLost):
        await zombie.process(await claim(pool, "ingest", batch_size=1))
    assert await states(pool) == {MAIL: "parsing"}
    assert await bytes_of_nobody(pool) == 0
    await drain(pool)
    assert set((await version_counts(pool)).values()) == {1}
    assert len(await states(pool)) == 3
    assert await check(url) == []


async def test_two_ingesters_of_one_mail_make_each_attachment_once(pool, owner, url):
    """The lease of the first is swept while it parses; the second begins and ends within the first."""
    await arrive(pool, mail({"a.txt": "a", "b.txt": "b"}))

    async def second() -> None:
        await lose_lease(owner, pool)
        handler = handler_of(pool)
        await work(handler, [job for job in await claim(pool, "ingest") if job.attempt == 2])

    first = handler_of(pool, MailParsers(behind=second))
    with pytest.raises(LeaseLost):
        await first.process(await claim(pool, "ingest", batch_size=1))
    await drain(pool)
    assert set((await version_counts(pool)).values()) == {1}
    assert set((await states(pool)).values()) == {"ready"}
    assert await bytes_of_nobody(pool) == 0
    assert await check(url) == []


async def test_older_version_of_a_mail_says_nothing_once_a_newer_one_has_spoken(pool, url):
    await arrive(pool, mail({"old.txt": "old", "same.txt": "before"}))

    async def overtake() -> None:
        await arrive(pool, mail({"same.txt": "after"}))
        handler = handler_of(pool)
        await work(handler, await claim(pool, "ingest", batch_size=1))

    slow = handler_of(pool, MailParsers(before=overtake))
    await work(slow, await claim(pool, "ingest", batch_size=1))
    await drain(pool)
    assert set(await states(pool)) == {MAIL, f"{MAIL}//same.txt"}
    assert await texts_of(pool, f"{MAIL}//same.txt") == ["after"]
    assert await bytes_of_nobody(pool) == 0
    assert await check(url) == []


async def test_attachment_that_is_gone_while_it_is_parsed_stays_gone(pool, url):
    await arrive(pool, mail({"a.txt": "a", "b.txt": "b"}))
    handler = handler_of(pool)
    await work(handler, await claim(pool, "ingest", batch_size=1))

    async def replace_mail() -> None:
        await arrive(pool, mail({"b.txt": "b"}))
        # That of the mail, which stands behind those of its attachments.
        (job,) = [job for job in await claim(pool, "ingest") if job.subject_id > first.subject_id + 1]
        await work(handler_of(pool), [job])

    (first,) = await claim(pool, "ingest", batch_size=1)
    with contextlib.suppress(asyncpg.ForeignKeyViolationError):  # a conflict, after which its job finds nothing to do
        await work(handler_of(pool, MailParsers(before=replace_mail)), [first])
    await pool.execute("UPDATE lease SET expires_at = now() - interval '1 second'")
    await queue.sweep_leases(pool)
    await drain(pool)
    assert len(await states(pool)) == 2
    assert set((await states(pool)).values()) == {"ready"}
    assert await pool.fetchval("SELECT count(*) FROM job WHERE stage = 'ingest'") == 0
    assert await check(url) == []


async def test_bytes_of_many_attachments_are_forgotten_in_one_round_trip(pool, url):
    """A copy of the mail brings all of them again, and one that lost its lease forgets all."""
    files = {f"{number}.txt": f"file {number}" for number in range(40)}
    found = attaching.AttachmentStore(pool, MAIL, 1_000)
    for name, text in files.items():
        await found.store(name, attached(text))
    assert await bytes_of_nobody(pool) == 40
    counted = Counted(pool)
    await found.discard(counted)
    assert (counted.statements, await bytes_of_nobody(pool)) == (1, 0)
    await attaching.AttachmentStore(pool, MAIL, 1_000).discard(counted)
    assert counted.statements == 1
    assert await check(url) == []


# -- races --------------------------------------------------------------------------------------------------------------


class Gate:
    """Holds whoever comes to a step of `attachments` until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        original: Callable[..., Awaitable[object]] = getattr(attaching, name)

        async def held(*arguments: object) -> object:
            result = await original(*arguments)
            if not self.reached.is_set():
                self.reached.set()
                await self.opened.wait()
            return result

        monkeypatch.setattr(attaching, name, held)

    async def wait(self) -> None:
        """Wait until somebody stands there."""
        async with asyncio.timeout(SECONDS_MAX):
            await self.reached.wait()


async def test_mail_without_attachments_waits_for_an_older_version_with_some(pool, owner, url, monkeypatch):
    """Each looks before the other has committed: without the lock what the older one makes would stay."""
    await arrive(pool, mail({"a.txt": "a"}))
    gate = Gate(monkeypatch, "_refuse_endless")

    async def arrive_again() -> None:
        await arrive(pool, b"no mail any more")

    older = handler_of(pool, MailParsers(before=arrive_again))
    first = asyncio.create_task(work(older, await claim(pool, "ingest", batch_size=1)))
    await gate.wait()
    second = asyncio.create_task(work(handler_of(pool), await claim(pool, "ingest", batch_size=1)))
    await wait_for_lock(owner)
    gate.opened.set()
    await asyncio.gather(first, second)
    await drain(pool)
    assert await states(pool) == {MAIL: "ready"}
    assert await check(url) == []


@contextlib.asynccontextmanager
async def held_document(url: str) -> AsyncIterator[None]:
    """Hold the only document as `ask` holds it while it publishes, for minutes if it is large."""
    other = await connect(url, "askbox_worker", "test holder")
    try:
        async with other.transaction():
            assert await other.fetchval("SELECT id FROM document FOR NO KEY UPDATE") is not None
            yield
    finally:
        await other.close()


async def test_lease_of_a_mail_that_waits_for_its_document_is_extended(pool, owner, url):
    await arrive(pool, mail({"a.txt": "a"}))
    (job,) = await claim(pool, "ingest", batch_size=1)
    async with held_document(url):
        staging = asyncio.create_task(work(handler_of(pool), [job]))
        await wait_for_lock(owner)
        async with owner.transaction():
            await owner.execute("SET LOCAL lock_timeout = '1s'")  # nothing is to be waited for, on a busy machine too
            await queue.extend_lease(owner, job.lease_id, timedelta(seconds=300))
    await staging
    await drain(pool)
    assert set((await states(pool)).values()) == {"ready"}
    assert await check(url) == []


async def test_mail_that_lost_its_lease_while_it_waited_for_its_document_writes_nothing(pool, owner, url):
    await arrive(pool, mail({"a.txt": "a"}))
    jobs = await claim(pool, "ingest", batch_size=1)
    async with held_document(url):
        staging = asyncio.create_task(work(handler_of(pool), jobs))
        await wait_for_lock(owner)
        await lose_lease(owner, pool)
    with pytest.raises(LeaseLost):
        await staging
    assert await states(pool) == {MAIL: "parsing"}
    assert await bytes_of_nobody(pool) == 0
    await drain(pool)
    assert await states(pool) == {MAIL: "ready", f"{MAIL}//a.txt": "ready"}
    assert set((await version_counts(pool)).values()) == {1}
    assert await check(url) == []


async def test_file_that_holds_nothing_waits_for_no_publication_of_the_version_before(pool, owner, url):
    await arrive(pool, b"first")
    await work(handler_of(pool), await claim(pool, "ingest", batch_size=1))
    await arrive(pool, b"second")
    async with owner.transaction():
        await owner.fetchval(
            "SELECT id FROM document FOR NO KEY UPDATE"
        )  # as `ask` holds it, for minutes if it is large
        async with asyncio.timeout(SECONDS_MAX):
            await handler_of(pool).process(await claim(pool, "ingest", batch_size=1))
    assert await pool.fetchval("SELECT count(*) FROM document_version WHERE state = 'embedding'") == 2
    assert await check(url) == []


async def test_rename_waits_for_a_mail_within_the_mail_that_is_being_staged(pool, owner, url, monkeypatch):
    """What the inner mail adds under the old name, before the rename is committed, follows too."""
    message = mail({"inner.eml": mail({"b.txt": "b"}, subject="inner")})
    await arrive(pool, message)
    handler = handler_of(pool)
    await work(handler, await claim(pool, "ingest", batch_size=1))
    gate = Gate(monkeypatch, "_refuse_endless")
    inner = asyncio.create_task(work(handler, await claim(pool, "ingest", batch_size=1)))
    await gate.wait()
    renaming = asyncio.create_task(arrive(pool, message, "inbox:letters/old.eml", moved_from=MAIL))
    await wait_for_lock(owner)
    gate.opened.set()
    await asyncio.gather(inner, renaming)
    assert set(await states(pool)) == {
        "inbox:letters/old.eml", "inbox:letters/old.eml//inner.eml", "inbox:letters/old.eml//inner.eml//b.txt",
    }  # fmt: skip
    assert await check(url) == []
    await drain(pool)
    assert set((await states(pool)).values()) == {"ready"}
    assert await check(url) == []


async def test_deletion_waits_for_a_mail_that_is_being_staged_and_takes_all_of_it(pool, owner, url, monkeypatch):
    await arrive(pool, mail({"a.txt": "a", "b.txt": "b"}))
    gate = Gate(monkeypatch, "_refuse_endless")
    staging = asyncio.create_task(work(handler_of(pool), await claim(pool, "ingest", batch_size=1)))
    await gate.wait()
    collection_id, _ = await make_collection(pool)
    deleting = asyncio.create_task(intake.delete_documents(pool, collection_id, [MAIL]))
    await wait_for_lock(owner)
    gate.opened.set()
    await asyncio.gather(staging, deleting)
    assert await states(pool) == {}
    await drain(pool)
    assert await check(url) == []


async def test_files_of_a_mail_are_taken_in_the_order_of_their_bytes(pool, monkeypatch):
    """Two mails that take the same ones in different orders deadlock, now and then."""
    taken: list[bytes] = []
    settle = intake.settle_bytes

    async def noted(conn: object, collection_id: int, document_id: int, stored: StoredBytes, **more: object) -> object:
        taken.append(stored.sha256)
        return await settle(conn, collection_id, document_id, stored, **more)

    await arrive(pool, mail({f"{number}.txt": f"file {number}" for number in range(12)}))
    monkeypatch.setattr(intake, "settle_bytes", noted)
    await work(handler_of(pool), await claim(pool, "ingest", batch_size=1))
    assert len(taken) == 12
    assert taken == sorted(taken)


async def test_mails_that_hold_the_same_files_in_other_orders_are_staged_together(pool, url):
    """Each waits for the bytes that the other stores: nobody deadlocks, and each file is stored once."""
    files = {f"{number}.txt": f"shared {number}" for number in range(12)}
    uris = [f"inbox:{number}.eml" for number in range(6)]
    for number, uri in enumerate(uris):
        names = list(files) if number % 2 else list(reversed(files))
        await arrive(pool, mail({name: files[name] for name in names}, text=uri), uri)
    handler = handler_of(pool)
    claimed = [await claim(pool, "ingest", batch_size=1) for _ in uris]
    await asyncio.gather(*(work(handler, batch) for batch in claimed))
    await drain(pool)
    assert len(await states(pool)) == 6 * 13
    assert set((await states(pool)).values()) == {"ready"}
    assert await pool.fetchval("SELECT count(*) FROM blob") == 6 + 12
    assert await check(url) == []
