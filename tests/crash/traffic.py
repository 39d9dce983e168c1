"""What people do while everything breaks: files that come, change, move and go, files that are sent, documents deleted.

What is true of the inbox at the end is what lies there; of what was sent, what the server has acknowledged.
"""

import asyncio
import contextlib
import hashlib
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import httpx2

from tests.crash.system import Member, System

FOLDERS = ("", "alpha/", "beta/deep/")
SUFFIXES = (".md", ".txt", ".html")
SENT = "sent"
FILES_MIN, FILES_MAX = 60, 160
# Below the guard, which doubts that more than twenty were meant, and half.
REMOVED_MAX = 12
SENT_MAX = 40
LARGE_SHARE, LARGE_PARAGRAPHS = 0.03, 250
REQUEST_SECONDS_MAX = 15
_WORDS = (
    "archive",
    "baker",
    "candle",
    "delta",
    "engine",
    "forest",
    "garden",
    "harbour",
    "island",
    "journal",
    "kettle",
    "lantern",
    "market",
    "needle",
    "orchard",
    "pillar",
    "quarry",
    "river",
    "station",
    "tunnel",
    "umbrella",
    "valley",
    "winter",
    "yellow",
)
_BYTES_LIVE = """
SELECT encode(b.sha256, 'hex') FROM document AS d
JOIN document_version AS w ON w.collection_id = d.collection_id AND w.document_id = d.id
JOIN blob AS b ON b.id = w.blob_id
WHERE d.source_uri = $1 ORDER BY w.id DESC LIMIT 1
"""
# What a server that breaks may answer, or not answer at all; worth the same again.
PASSING = (httpx2.HTTPError, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)


class UnexpectedAnswer(Exception):
    """A server that breaks may say 503 or nothing; it never says that it did not expect this."""


@dataclass
class Traffic:
    """Writes into the inbox and to the query process, and remembers what must be there in the end."""

    system: System
    dice: random.Random
    pause_seconds: tuple[float, float] = (0.15, 0.7)
    files_min: int = FILES_MIN
    counts: dict[str, int] = field(default_factory=dict)
    buried: set[str] = field(
        default_factory=set
    )  # paths deleted over HTTP: their files lie there, their documents are gone
    sent: dict[str, str] = field(default_factory=dict)  # name → text, acknowledged
    errors: list[str] = field(default_factory=list)
    _removed: set[str] = field(default_factory=set)
    _number: int = 0
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        self._stopping.set()

    async def write(self) -> None:
        """Keep the inbox busy until stopped."""
        for _ in range(self.files_min):
            self._create()
        while not self._stopping.is_set():
            self._do_something(may_remove=await self._may_remove())
            await asyncio.sleep(self.dice.uniform(*self.pause_seconds))

    async def _may_remove(self) -> bool:
        """Whether so few removed files wait to be noticed that another one is still believed."""
        if len(self._removed) >= REMOVED_MAX:
            with contextlib.suppress(*PASSING):
                connection = await self.system.connect()
                try:
                    uris = [f"inbox:{path}" for path in self._removed]
                    rows = await connection.fetch("SELECT source_uri FROM document WHERE source_uri = ANY ($1)", uris)
                finally:
                    connection.terminate()
                self._removed = {row["source_uri"].removeprefix("inbox:") for row in rows}
        return len(self._removed) < REMOVED_MAX

    async def send(self) -> None:
        """Send, send again with other bytes, and delete, until stopped; whatever was begun is brought to its end."""
        while not self._stopping.is_set():
            act = self.dice.choices([self._send_one, self._unsend_one, self._bury_one], [6, 2, 1])[0]
            await act()
            await asyncio.sleep(self.dice.uniform(0.5, 1.5))

    # -- the inbox --------------------------------------------------------------------------------------------------

    def files(self) -> list[str]:
        inbox = self.system.inbox
        return sorted(
            str(path.relative_to(inbox))
            for path in inbox.rglob("*")
            if path.is_file() and not path.name.startswith(".")
        )

    def _do_something(self, *, may_remove: bool) -> None:
        files = [path for path in self.files() if path not in self.buried]
        kinds = {"create": 5, "change": 5, "rename": 2, "delete": 2}
        if len(files) >= FILES_MAX:
            kinds |= {"create": 0, "delete": 6}
        if len(files) <= self.files_min or not may_remove:
            kinds |= {"rename": 0, "delete": 0}
        kind = self.dice.choices(list(kinds), list(kinds.values()))[0]
        self._count(kind)
        inbox = self.system.inbox
        if kind == "create":
            self._create()
            return
        path = self.dice.choice(files)
        if kind == "change":
            lines = (inbox / path).read_text(encoding="utf-8").split("\n")
            lines[self.dice.randrange(len(lines))] = self._sentence()
            self._put(path, "\n".join(lines))
        elif kind == "rename":
            target = inbox / self._new_name(Path(path).suffix)
            target.parent.mkdir(parents=True, exist_ok=True)
            (inbox / path).rename(target)
            self._removed.add(path)
        else:
            (inbox / path).unlink()
            self._removed.add(path)

    def _create(self) -> None:
        suffix = self.dice.choice(SUFFIXES)
        self._put(self._new_name(suffix), self._text(suffix))

    def _new_name(self, suffix: str) -> str:
        self._number += 1
        return f"{self.dice.choice(FOLDERS)}note-{self._number}{suffix}"

    def _put(self, path: str, text: str) -> None:
        target = self.system.inbox / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.dice.random() < 0.5:
            target.write_text(text, encoding="utf-8")
        else:
            hidden = target.with_name(f".{target.name}.part")
            hidden.write_text(text, encoding="utf-8")
            hidden.rename(target)

    def _sentence(self) -> str:
        self._number += 1
        return f"The {' '.join(self.dice.choices(_WORDS, k=9))} has number {self._number}."

    def _text(self, suffix: str) -> str:
        count = LARGE_PARAGRAPHS if self.dice.random() < LARGE_SHARE else self.dice.randint(1, 6)
        paragraphs = [" ".join(self._sentence() for _ in range(3)) for _ in range(count)]
        if self.dice.random() < 0.4:  # what many files share is embedded once
            shared = random.Random(self.dice.randrange(5))
            paragraphs.insert(0, f"Everybody repeats that the {' '.join(shared.choices(_WORDS, k=30))} stands here.")
        if suffix == ".html":
            return "<html><body>\n" + "\n".join(f"<p>{text}</p>" for text in paragraphs) + "\n</body></html>\n"
        if suffix == ".md":
            paragraphs.insert(0, f"# About {' '.join(self.dice.choices(_WORDS, k=2))}")
        return "\n\n".join(paragraphs) + "\n"

    # -- over HTTP --------------------------------------------------------------------------------------------------

    async def _send_one(self) -> None:
        is_new = not self.sent or (len(self.sent) < SENT_MAX and self.dice.random() < 0.6)
        self._number += is_new
        name = f"sent-{self._number}.md" if is_new else self.dice.choice(sorted(self.sent))
        text = self._text(".md")
        await self._insist(lambda: self.put(self.system, name, text))
        self.sent[name] = text
        self._count("send")

    @staticmethod
    async def put(system: System, name: str, text: str) -> bool:
        """Send one file; whether the server has taken it."""
        files = {"file": (name, text.encode(), "text/markdown")}
        answer = await _request(system, "POST", "/ingest/files", files=files, params={"collection": SENT})
        return answer.status_code in (200, 202)

    async def _unsend_one(self) -> None:
        if self.sent:
            name = self.dice.choice(sorted(self.sent))
            await self._insist(lambda: self._delete(f"upload:{name}"))
            del self.sent[name]
            self._count("delete what was sent")

    async def _bury_one(self) -> None:
        """Delete a document whose file stays; only where the newest version is what lies there, or the file is newer."""
        files = [path for path in self.files() if path not in self.buried]
        if len(files) <= self.files_min:
            return
        path = self.dice.choice(files)
        self.buried.add(path)  # from here on the writer leaves it alone

        async def is_as_it_lies_there() -> bool:
            sha256 = hashlib.sha256((self.system.inbox / path).read_bytes()).hexdigest()
            return await self.system.fetchval(_BYTES_LIVE, f"inbox:{path}") == sha256

        await self._insist(is_as_it_lies_there)
        await self._insist(lambda: self._delete(f"inbox:{path}"))
        self._count("delete over HTTP")

    async def _delete(self, source_uri: str) -> bool:
        document_id = await self.system.fetchval("SELECT id FROM document WHERE source_uri = $1", source_uri)
        if document_id is None:
            return True
        answer = await _request(self.system, "DELETE", f"/documents/{document_id}")
        return answer.status_code in (204, 404)

    async def _insist(self, act: "object") -> None:
        """Do the same again until it is done: what was answered by nothing may or may not have happened."""
        while True:
            try:
                if await act():  # type: ignore[operator]
                    return
            except PASSING:
                pass
            except UnexpectedAnswer as error:
                self.errors.append(str(error))
            await asyncio.sleep(0.3)

    def _count(self, kind: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1


async def _request(system: System, method: str, path: str, **options: object) -> httpx2.Response:
    member: Member = system.members["query"]
    async with httpx2.AsyncClient(trust_env=False, timeout=REQUEST_SECONDS_MAX) as client:
        answer = await client.request(method, f"http://127.0.0.1:{member.port}{path}", **options)
    if answer.status_code >= 500 and answer.status_code != 503:
        raise UnexpectedAnswer(f"{method} {path}: {answer.text}")
    return answer


def copy_tree(traffic: Traffic, target: Path) -> int:
    """Copy what must be there of the inbox, and return how many files that is."""
    files = [path for path in traffic.files() if path not in traffic.buried]
    for path in files:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(traffic.system.inbox / path, target / path)
    return len(files)
