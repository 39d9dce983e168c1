"""T13: callers who leave in the middle of an answer, at every point of it. Their model is told within a second.

Each asks over a bare socket, as an event stream, as one answer, or in OpenAI's form, and is gone at a point that the dice
decide: before the model's first byte, before its first word, between two words, or while it writes on and on. Half of them
close, half reset. Counted are calls that stay open at the provider, and what somebody finds who asks afterwards.
"""

import asyncio
import contextlib
import json
import random
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass

import psutil

from tests.crash.__main__ import Options
from tests.crash.cluster import running_cluster
from tests.crash.rawhttp import head_of, opened
from tests.crash.report import Report, percentile
from tests.crash.system import Member, System, running_system
from tests.openai_chat import Chat, ChatCall, Chats, chats_of
from tests.openai_server import serving
from tests.waiting import until

LEAVERS = 1000
AT_ONCE = 16
LEAVING_SECONDS_MAX = 1.0
# Until a leak is called one: a busy machine is none.
PATIENCE_SECONDS = 30.0
RECEIVE_BYTES = 65_536
# What nobody waits for any more may not end by itself either, so the model falls silent or writes on.
SCRIPTS = {
    "before its first byte": Chat(silent_headers=True),
    "before its first word": Chat(stall_at=0),
    "between two words": Chat(["It runs ", "at two."], stall_at=1),
    "while it writes": Chat(["It runs on and on. "] * 100_000),
}
NOTE = "The nightly backup runs at two in the morning. It is encrypted with age."
QUESTION = "when does the nightly backup run"
FORMS: dict[str, tuple[str, dict[str, object]]] = {
    "events": ("/query/stream", {"question": QUESTION}),
    "whole": ("/query", {"question": QUESTION}),
    "chunks": (
        "/v1/chat/completions",
        {"model": "default", "messages": [{"role": "user", "content": QUESTION}], "stream": True},
    ),
}


@dataclass(frozen=True)
class Leaver:
    """One caller: how it asks, where its model is when it leaves, and whether it resets its connection."""

    form: str
    point: str
    resets: bool
    more_words: int

    @classmethod
    def thrown(cls, dice: random.Random) -> "Leaver":
        return cls(dice.choice([*FORMS]), dice.choice([*SCRIPTS]), dice.random() < 0.5, dice.randrange(200))

    def has_come_so_far(self, call: ChatCall) -> bool:
        """Whether the model has written as much as this caller waits for."""
        waited_for = {"between two words": 1, "while it writes": 1 + self.more_words}
        return call.sent >= waited_for.get(self.point, 0)


async def run(report: Report, options: Options) -> None:
    """Let a thousand leave."""
    async with running_cluster() as cluster:
        with serving() as provider:
            chats = chats_of(provider)
            async with running_system(options.folder, cluster, provider) as system:
                for kind in ("embedder", "ingester"):
                    await system.add(kind)
                member = await system.add(
                    "query",
                    ASKBOX_LLM_MODEL="test-chat",
                    ASKBOX_LLM_BASE_URL=provider.url,
                    ASKBOX_PROVIDER_SECONDS="600",
                    ASKBOX_QUERY_CONCURRENCY=str(AT_ONCE),
                    ASKBOX_REFUSAL_THRESHOLD="0",
                )
                await system.wait_ready()
                (system.inbox / "backup.md").write_text(NOTE)
                await system.wait(lambda: _is_answered(system, member), 60, "the note is not answered")
                await leave(report, chats, member, _thrown(options))
                await judge(report, chats, system, member)


def _thrown(options: Options) -> list[Leaver]:
    dice = options.dice()
    return [Leaver.thrown(dice) for _ in range(options.sized(LEAVERS, AT_ONCE))]


async def leave(report: Report, chats: Chats, member: Member, leavers: list[Leaver]) -> None:
    """Ask and leave, one wave after another; the next comes when nothing of the last is open."""
    seconds: list[float] = []
    leaked = 0
    for first in range(0, len(leavers), AT_ONCE):
        wave = leavers[first : first + AT_ONCE]
        chats.calls.clear()
        chats.scripts.clear()
        left = await asyncio.gather(*(_leave(chats, member, leaver) for leaver in wave))
        for left_at, call in left:
            with contextlib.suppress(TimeoutError):
                await until(lambda call=call: asyncio.sleep(0, call.left_at), PATIENCE_SECONDS)
            if call.left_at is None:
                leaked += 1
            else:
                seconds.append(max(0.0, call.left_at - left_at))
        report.say(f"{first + len(wave)} have left, {leaked} calls stay open")
    points = Counter(leaver.point for leaver in leavers)
    report.figures |= {f"left {point}": count for point, count in sorted(points.items())}
    report.figures |= {
        "leavers": len(leavers),
        "calls left open": leaked,
        "told after (p50, ms)": round(1000 * percentile(seconds, 0.5), 1),
        "told after (most, ms)": round(1000 * max(seconds, default=0), 1),
        "told later than a second": sum(one > LEAVING_SECONDS_MAX for one in seconds),
    }
    report.expect(leaked == 0, f"{leaked} of {len(leavers)} calls stayed open")


async def _leave(chats: Chats, member: Member, leaver: Leaver) -> tuple[float, ChatCall]:
    """Ask, and be gone; return when, and the call that was made for it."""
    target, body = FORMS[leaver.form]
    # A name of its own, by which its call is known among those at the same time.
    name = f"{id(leaver):x}"
    content = json.dumps(body).replace(QUESTION, f"{QUESTION} {name}").encode()
    chats.by_question[name] = SCRIPTS[leaver.point]
    peer = await opened(member.port)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(peer, head_of(target, "Content-Type: application/json", f"Content-Length: {len(content)}"))
    await loop.sock_sendall(peer, content)
    reading = asyncio.create_task(_read(peer))  # or what is written on and on would wait for the caller

    async def find() -> ChatCall | None:
        return next(
            (call for call in chats.calls if name in json.dumps(call.body) and leaver.has_come_so_far(call)), None
        )

    try:
        call = await until(find, PATIENCE_SECONDS)
        assert isinstance(call, ChatCall)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        if leaver.resets:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        left_at = time.monotonic()
        peer.close()
        chats.by_question.pop(name)
    return left_at, call


async def _read(peer: socket.socket) -> None:
    while await asyncio.get_running_loop().sock_recv(peer, RECEIVE_BYTES):
        pass


async def judge(report: Report, chats: Chats, system: System, member: Member) -> None:
    """Ask as somebody who comes afterwards, and look at what the process still holds."""
    chats.calls.clear()
    answers = await asyncio.gather(*(_ask(system, member) for _ in range(AT_ONCE)))
    report.expect(set(answers) == {200}, f"those who asked afterwards were answered {Counter(answers)}")
    report.expect(len(chats.calls) == AT_ONCE, f"{len(chats.calls)} calls were made for {AT_ONCE} questions")
    report.expect(not member.exits, "the query process ended")
    with contextlib.suppress(TimeoutError):
        await until(lambda: asyncio.sleep(0, not _callers(member)), PATIENCE_SECONDS)
    report.figures["connections of callers at the end"] = callers = _callers(member)
    report.expect(not callers, f"{callers} connections of callers are open")


def _callers(member: Member) -> int:
    """How many connections the query process holds of those who ask."""
    assert member.pid is not None
    return sum(
        connection.laddr.port == member.port and connection.status not in {psutil.CONN_LISTEN, psutil.CONN_TIME_WAIT}
        for connection in psutil.Process(member.pid).net_connections("tcp")
    )


async def _ask(system: System, member: Member) -> int:
    return (await system.request(member, "POST", "/query", json={"question": QUESTION})).status_code


async def _is_answered(system: System, member: Member) -> bool:
    response = await system.request(member, "POST", "/query", json={"question": QUESTION})
    return bool(response.status_code == 200 and response.json()["answered"])
