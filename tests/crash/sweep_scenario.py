"""What happens in a round of T01: files come, change, move and go, callers send, delete and ask, and none of them gives up."""

import asyncio
import shutil
from collections.abc import Callable, Coroutine
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.crash.sweep import Sweep

POISON = "venomous"
SEEN_SECONDS_MAX = 60.0
_NEWEST = """
SELECT w.state = $2 FROM document AS d JOIN document_version AS w ON w.document_id = d.id AND w.collection_id = d.collection_id
WHERE d.source_uri = $1 ORDER BY w.id DESC LIMIT 1
"""


_VERSIONS_HELD = """
SELECT array_agg(held.name || ' ' || held.versions ORDER BY held.name)
FROM (
  SELECT split_part(d.source_uri, '//', 2) AS name, count(*) AS versions
  FROM document AS d JOIN document_version AS w ON w.document_id = d.id AND w.collection_id = d.collection_id
  WHERE split_part(d.source_uri, '//', 1) = $1 AND d.parent_id IS NOT NULL
  GROUP BY d.source_uri
) AS held
"""


def _letter(files: dict[str, str]) -> bytes:
    message = EmailMessage()
    message["From"], message["Subject"] = "ada@example.org", "Trees"
    message.set_content("See what is attached.")
    for name, text in files.items():
        message.add_attachment(text, filename=name)
    return message.as_bytes()


class Round:
    """One scenario: what is done, and what must be there at its end."""

    def __init__(self, sweep: "Sweep", number: int, needs: set[str]) -> None:
        self._sweep = sweep
        self._system = sweep.system
        self._number = number
        self._needs = needs

    def text(self, what: str) -> str:
        """A small document whose every text is new."""
        n = self._number
        return f"# {what} {n}\n\nStone {what}{n} lies beside the river of turn {n}.\n\n## Second {n}\n\nBirch {what}{n} grows.\n"

    async def play(self) -> None:
        """Do everything; returns when every caller was answered."""
        n, sweep = self._number, self._sweep
        if self._needs & {"slow", "busy"}:
            await self._system.wait_ready()  # an embedder that starts asks the provider too
        if "slow" in self._needs:
            sweep.provider.faults.append({"kind": "slow", "seconds": 1.6})
        if "busy" in self._needs:
            sweep.provider.faults.append({"kind": "status", "status": 429, "headers": {"retry-after-ms": "300"}})
        sweep.write(f"a{n}.md", self.text("Ash"))
        sweep.write(f"t{n}.md", self.text("Tin"))
        if n >= 1:
            sweep.write(f"a{n - 1}.md", self.text("Oak"))
        if n >= 3:
            sweep.unlink(f"b{n - 3}.md")
        if n >= 2:
            sweep.unlink(f"t{n - 2}.md", is_document=False)
        extras: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "bad": self._bad, "poison": self._poison, "folder": self._folder, "collection": self._collection, "large": self._large,
            "mail": self._mail,
        }  # fmt: skip
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send())
            tasks.create_task(self._move())
            tasks.create_task(self._ask())
            for name in sorted(self._needs & extras.keys()):
                tasks.create_task(extras[name]())

    async def _ask(self) -> None:
        async def is_used_up() -> bool:
            return not self._sweep.provider.faults

        # A question would use up what is meant for the embedder.
        await self._system.wait(is_used_up, SEEN_SECONDS_MAX, "the provider was not asked")
        await self._sweep.ask()

    async def _send(self) -> None:
        n, sweep = self._number, self._sweep
        await sweep.upload(f"u{n}.md", self.text("Elm"))
        if n >= 1:
            await sweep.delete(f"upload:u{n - 1}.md")
            await sweep.delete(f"inbox:t{n - 1}.md")

    async def _move(self) -> None:
        """Move a file once the watcher is seen to be at work."""
        n, sweep = self._number, self._sweep
        if n < 2:
            return
        await self._system.wait(
            lambda: self._sweep.fetchval("SELECT count(*) FROM document WHERE source_uri = $1", f"inbox:a{n}.md"),
            SEEN_SECONDS_MAX,
            "the new file was not taken",
        )
        sweep.move(f"a{n - 2}.md", f"b{n - 2}.md")

    async def _bad(self) -> None:
        """Files of more than one part that nobody can read: they fail with their reason, alone."""
        n, sweep = self._number, self._sweep
        content = f"\0\1{n}".encode() * 400_000
        (sweep.system.inbox / f"bad{n}.bin").write_bytes(content)
        await sweep.insist("POST", "/ingest/files", files={"file": (f"bad{n}.bin", content)})
        for uri in (f"inbox:bad{n}.bin", f"upload:bad{n}.bin"):
            await self._wait_state(uri, "failed")
        (sweep.system.inbox / f"bad{n}.bin").unlink()
        await sweep.delete(f"upload:bad{n}.bin")
        await sweep.insist("DELETE", "/dead-letters")

    async def _poison(self) -> None:
        """A text that the model refuses fails its document; once the model takes it, another try succeeds."""
        n, sweep = self._number, self._sweep
        sweep.provider.poison = {POISON: 400}
        name = f"p{n}.md"
        content = f"# Toad {n}\n\nThe toad of turn {n} is {POISON}.\n"
        answer = await sweep.insist("POST", "/ingest/files", files={"file": (name, content.encode())})
        await self._wait_state(f"upload:{name}", "failed")
        sweep.provider.poison = {}
        document = answer["documents"][0]["document_id"]
        await sweep.insist("POST", f"/documents/{document}/retry", is_fine=(409,))
        await self._wait_state(f"upload:{name}", "ready")
        await sweep.delete(f"upload:{name}")

    async def _folder(self) -> None:
        """A folder is asked for twice: the second time all of it is known."""
        n, sweep = self._number, self._sweep
        folder = sweep.root / f"f{n}"
        folder.mkdir()
        names = [f"x{n}.md", f"y{n}.md"]
        for name in names:
            (folder / name).write_text(self.text(f"Fir{name[0]}"))
        for _ in range(2):
            await sweep.insist("POST", "/ingest/directory", json={"path": str(folder), "collection": "default"})
            await self._system.wait(
                lambda: self._sweep.fetchval("SELECT count(*) = 0 FROM job WHERE stage = 'scan'"),
                SEEN_SECONDS_MAX,
                "the scan does not end",
            )
        for name in names:
            await sweep.delete(f"folder:{sweep.root.name}/f{n}/{name}")
        shutil.rmtree(folder)

    async def _collection(self) -> None:
        n, sweep = self._number, self._sweep
        await sweep.insist(
            "POST", f"/ingest/files?collection=side{n}", files={"file": (f"c{n}.md", self.text("Yew").encode())}
        )
        await sweep.insist("DELETE", f"/collections/side{n}", is_fine=(404,))

    async def _large(self) -> None:
        """More chunks than one transaction stages, of few texts."""
        n, sweep = self._number, self._sweep
        lines = "".join(f"## Part\n\nHeron {place % 3} of turn {n}.\n\n" for place in range(700))
        sweep.write(f"large{n}.md", f"# Heron {n}\n\n{lines}")
        await self._wait_state(f"inbox:large{n}.md", "ready")
        sweep.unlink(f"large{n}.md")

    async def _mail(self) -> None:
        """Mails with attachments, in the inbox and sent; another version holds others. They go with their mail."""
        n, sweep = self._number, self._sweep
        path = sweep.system.inbox / f"m{n}.eml"
        path.write_bytes(_letter({"x.md": self.text("Lime"), "y.md": self.text("Plum")}))
        await self._wait_state(f"inbox:m{n}.eml//x.md", "ready")
        await self._wait_state(f"inbox:m{n}.eml//y.md", "ready")
        path.write_bytes(_letter({"y.md": self.text("Plum"), "z.md": self.text("Pear")}))
        await self._wait_state(f"inbox:m{n}.eml//z.md", "ready")
        seen = await sweep.fetchval(_VERSIONS_HELD, f"inbox:m{n}.eml")
        sweep.report.expect(seen == ["y.md 1", "z.md 1"], f"versions of attachments: {seen}")
        content = _letter({"x.md": self.text("Lime"), "w.md": self.text("Reed")})
        await sweep.insist("POST", "/ingest/files", files={"file": (f"sent{n}.eml", content)})
        await self._wait_state(f"upload:sent{n}.eml//w.md", "ready")
        await sweep.delete(f"upload:sent{n}.eml")
        path.unlink()

    async def _wait_state(self, source_uri: str, state: str) -> None:
        await self._system.wait(
            lambda: self._sweep.fetchval(_NEWEST, source_uri, state), SEEN_SECONDS_MAX, f"{source_uri} is not {state}"
        )
