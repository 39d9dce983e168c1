"""T28: everything that may arrive twice does. There is one document, one version, and one call for each text."""

import asyncio
import contextlib
from collections import Counter

import httpx2

from tests.crash.__main__ import Options
from tests.crash.cluster import running_cluster
from tests.crash.notes import note, texts_sent, wrong_vectors
from tests.crash.report import Report
from tests.crash.system import Member, System, running_system
from tests.openai_server import serving

NOTIFICATIONS = 1000
FILES = 300
PARALLEL_UPLOADS = 50
LOST_ANSWERS = 20
SHARED_SECTIONS = 10
DOCUMENTS_ALIKE = 40
CHANNELS = ("ingest", "scan", "embed", "index")
DRAIN_SECONDS_MAX = 300.0
_TWICE = """
SELECT collection_id, source_uri FROM document GROUP BY 1, 2 HAVING count(*) > 1
"""
_VERSIONS = """
SELECT d.source_uri, count(*) AS versions
FROM document_version AS v
JOIN document AS d ON d.id = v.document_id
GROUP BY 1
HAVING count(*) > 1
"""
_SAME_BYTES = "SELECT count(*) - count(DISTINCT sha256) FROM blob WHERE sha256 IS NOT NULL"


async def run(report: Report, options: Options) -> None:
    """Say everything twice, or a thousand times."""
    async with running_cluster() as cluster:
        with serving() as provider:
            async with running_system(options.folder, cluster, provider) as system:
                for kind in ("embedder", "ingester"):
                    for number in range(2):
                        await system.add(kind, f"{kind}{number}")
                await system.add("query")
                await system.wait_ready()
                await files_and_notifications(report, options, system)
                await same_upload_at_once(report, options, system)
                await uploads_again(report, options, system)
                await same_texts(report, options, system)
                await judge(report, system)


async def files_and_notifications(report: Report, options: Options, system: System) -> None:
    """Two ingesters watch the folder into which many files fall at once, while every wake is replayed."""
    count = options.sized(FILES, least=10)
    replaying = asyncio.create_task(replay(system, options.sized(NOTIFICATIONS, least=100)))
    for number in range(count):
        (system.inbox / f"{number:03}.md").write_text(note(options.dice(f"file {number}"), f"f{number:03}", 3))
    await wait_ready(system, count)
    report.figures["notifications replayed"] = await replaying
    report.figures["files seen by two ingesters"] = count
    report.say(f"{count} files are ready")


async def replay(system: System, count: int) -> int:
    """Wake everybody again and again."""
    connection = await system.connect()
    try:
        for number in range(count):
            await connection.execute("SELECT pg_notify($1, '')", f"askbox_{CHANNELS[number % len(CHANNELS)]}")
            await asyncio.sleep(0.005)
    finally:
        await connection.close()
    return count


async def same_upload_at_once(report: Report, options: Options, system: System) -> None:
    """One file is uploaded by everybody at the same moment."""
    text = note(options.dice("upload"), "upload", 3)
    count = options.sized(PARALLEL_UPLOADS, least=20)
    async with client_of(system) as client:
        answers = await asyncio.gather(*(upload(client, "same.md", text) for _ in range(count)))
    codes = Counter(answer.status_code for answer in answers)
    documents = {
        document["document_id"] for answer in answers if answer.is_success for document in answer.json()["documents"]
    }
    report.figures |= {
        "same upload at once": count,
        "their answers": str(dict(codes)),
        "their documents": len(documents),
    }
    # Who is too busy says so, and the next attempt finds the document.
    report.expect(set(codes) <= {200, 202, 429, 503}, f"parallel uploads were answered {dict(codes)}")
    report.expect(codes[202] == 1, f"{codes[202]} uploads of the same bytes were taken as new")
    report.expect(len(documents) == 1, f"{len(documents)} documents of one upload")


async def uploads_again(report: Report, options: Options, system: System) -> None:
    """The answer to an upload is lost, and the client sends it again."""
    count = options.sized(LOST_ANSWERS, least=3)
    same = 0
    for number in range(count):
        name, text = f"lost{number}.md", note(options.dice(f"lost {number}"), f"lost{number}", 2)
        await upload_and_leave(system, name, text)
        async with client_of(system) as client:
            answer = await upload(client, name, text)
        report.expect(answer.status_code == 200, f"the second time was answered {answer.status_code}")
        stored = await system.fetchval("SELECT id FROM document WHERE source_uri = $1", f"upload:{name}")
        same += answer.json()["documents"][0]["document_id"] == stored
    report.figures |= {"uploads again after a lost answer": count, "answered with the same document": same}
    report.expect(same == count, f"{same} of {count} repeated uploads were answered with their document")


async def upload_and_leave(system: System, name: str, text: str) -> None:
    """Send a whole upload and close, when it has been taken, without reading the answer."""
    body = (
        f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n{text}\r\n--x--\r\n'
    ).encode()
    head = (
        f"POST /ingest/files HTTP/1.1\r\nHost: 127.0.0.1:{query_of(system).port}\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    ).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", query_of(system).port)
    writer.write(head + body)
    await writer.drain()
    await system.wait(
        lambda: system.fetchval("SELECT count(*) = 1 FROM document WHERE source_uri = $1", f"upload:{name}"),
        DRAIN_SECONDS_MAX,
        "the upload is not taken",
    )
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def same_texts(report: Report, options: Options, system: System) -> None:
    """Many documents hold the same sections, in files and in uploads, and arrive together."""
    sections = note(options.dice("alike"), "alike", SHARED_SECTIONS)
    count = options.sized(DOCUMENTS_ALIKE, least=6)
    before = int(await _number(system, "SELECT count(*) FROM document"))
    (system.inbox / "alike").mkdir()
    async with client_of(system) as client:
        sending = [
            asyncio.create_task(
                upload(client, f"alike{number}.md", f"{sections}\n## Own {number}\n\nSerial {number}.\n")
            )
            for number in range(count // 2)
        ]
        for number in range(count // 2, count):
            (system.inbox / "alike" / f"{number}.md").write_text(f"{sections}\n## Own {number}\n\nSerial {number}.\n")
        answers = await asyncio.gather(*sending)
    report.expect(all(answer.is_success for answer in answers), "an upload was refused")
    await wait_ready(system, before + count)
    report.figures |= {"documents with the same sections": count, "their sections": SHARED_SECTIONS + 2}


async def wait_ready(system: System, documents: int) -> None:
    """Wait until so many documents are answerable and nothing is in work."""
    await system.wait_quiet(lambda seen: len(seen.documents) == documents, DRAIN_SECONDS_MAX)


async def judge(report: Report, system: System) -> None:
    connection = await system.connect()
    try:
        documents = await connection.fetch(_TWICE)
        versions = await connection.fetch(_VERSIONS)
        blobs = int(await connection.fetchval(_SAME_BYTES))
        chunks, wrong = await wrong_vectors(connection)
        distinct = int(await connection.fetchval("SELECT count(DISTINCT text_hash) FROM chunk"))
        vectors = int(await connection.fetchval("SELECT count(*) FROM embedding"))
    finally:
        await connection.close()
    picture = await system.picture()
    sent = texts_sent(system.provider)
    again = [text for text, count in sent.items() if count > 1]
    report.figures |= {
        "documents": len(picture.documents),
        "documents twice": len(documents),
        "versions twice": len(versions),
        "chunks": chunks,
        "distinct texts": distinct,
        "texts sent to the provider": sum(sent.values()),
        "texts sent more than once": len(again),
    }
    report.expect(not picture.remains, f"left over: {picture.remains}")
    report.expect(not documents, f"documents stored twice: {documents}")
    report.expect(not versions, f"versions of the same bytes: {versions}")
    report.expect(blobs == 0, f"{blobs} originals are stored twice")
    report.expect(vectors == distinct == len(sent), f"{distinct} texts, {vectors} vectors, {len(sent)} sent")
    report.expect(not again, f"{len(again)} texts were sent more than once: {again[:2]}")
    report.expect(not wrong, f"{len(wrong)} vectors are wrong: {wrong[:3]}")
    findings = await system.check()
    report.expect(not findings, f"invariants: {findings}")


# -- small things -------------------------------------------------------------------------------------------------------


def query_of(system: System) -> Member:
    return next(member for member in system.members.values() if member.kind == "query")


def client_of(system: System) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{query_of(system).port}", trust_env=False, timeout=60)


async def upload(client: httpx2.AsyncClient, name: str, text: str) -> httpx2.Response:
    return await client.post("/ingest/files", files={"file": (name, text.encode(), "text/markdown")})


async def _number(system: System, statement: str) -> int:
    value = await system.fetchval(statement)
    assert isinstance(value, int)
    return value
