"""The fork server of parser children: `python -I -m services.ingester.parse_server CONTROL_FD MODEL [TESSERACT]`.

It starts with an empty environment, imports what parsers need once, plug-ins included, and forks a child for each file. The child gets the
file and one end of a socket as descriptors, sets its limits, gives up every file but Python's own, parses, chunks and
writes one JSON object a line: `{"pid"}`, `{"page_to_ocr"}` for each page that adds to its time, `{"document"}`, then one
`{"chunk"}` each, then each `{"attachment"}` with its `{"piece"}`s, at last `{"end"}` or `{"error"}`. It
never holds a secret, and no network where the system lets it give that up.
"""

import base64
import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import services
import shared
from services.ingester import landlock
from services.ingester.chunking import Limits, chunk_document
from services.ingester.parsing import Format, PageUnit, ParsedDocument, Registry
from services.ingester.parsing.ocr import PAGE_SECONDS_MAX, Ocr, Tesseract
from services.ingester.parsing.pdf import parse_pdf
from services.ingester.parsing.registry import PDF
from services.ingester.plugins import load_plugins
from shared.errors import PermanentError
from shared.tokens import Tokenizer, open_tokenizer

MESSAGE_BYTES_MAX = 65_536
NO_MEMORY = "the parser needed more memory than ASKBOX_PARSE_MEMORY_BYTES lets it have: split the file, or raise that"
# Of an attachment, in one line.
PIECE_BYTES_MAX = 512 * 1024
# All that is told of them has to fit into one message.
PLUGINS_TOLD_MAX = 20
OPEN_FILES_MAX = 64
# Of the time that a file may take; with the rest what was read is cut into chunks.
OCR_SHARE = 0.8
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38


def main() -> None:
    """Serve until the ingester closes the control socket."""
    control = socket.socket(fileno=int(sys.argv[1]))
    tokenizer = open_tokenizer(sys.argv[2])
    tesseract = Tesseract(**json.loads(sys.argv[3])) if sys.argv[3:] else None
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # sent to the whole process group; when to stop is the ingester's to say
        signal.signal(number, signal.SIG_IGN)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    walls = {"network": _leave_network(), "privileges": _prctl(PR_SET_NO_NEW_PRIVS, 1)}
    plugins = load_plugins()
    ruleset = landlock.open_ruleset(
        [*_own_files(), *plugins.files, *(tesseract.files() if tesseract is not None else ())]
    )
    ocr = None if tesseract is None else Ocr(tesseract, partial(_enclose, ruleset))
    walls["files"] = landlock.enter(ruleset)
    walls["environment"] = not _can_read(f"/proc/{os.getppid()}/environ")
    hello = {"walls": walls, "plugins": [asdict(plugin) for plugin in plugins.found[:PLUGINS_TOLD_MAX]]}
    if ocr is not None:
        status = ocr.start()
        hello["ocr"] = asdict(status)
        ocr = ocr if status.languages else None
    read_pdf = [] if ocr is None else [Format(PDF, (), partial(parse_pdf, ocr=ocr))]
    registry = Registry([*plugins.formats, *read_pdf])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the kernel
    control.send(json.dumps(hello).encode())
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES_MAX, 2)
        if not message:
            return
        gate, key = os.pipe()
        child = os.fork()
        if child == 0:
            control.close()
            os.close(key)
            os.read(gate, 1)  # ends when the server has said which process this is: who could say it could name another
            os.close(gate)
            landlock.enter(ruleset)  # once more: one child cannot look into another either
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # it asks what became of its own
            _run_child(json.loads(message), descriptors[0], descriptors[1], tokenizer, registry, ocr)
        with contextlib.suppress(OSError):  # nobody waits for it any more
            os.write(descriptors[1], f'{{"pid": {child}}}\n'.encode())
        for descriptor in (*descriptors, gate, key):
            os.close(descriptor)


def _prctl(option: int, value: int) -> bool:
    try:
        return bool(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False  # not Linux


def _leave_network() -> bool:
    """Move to a network namespace without any interface; as an ordinary user through a user namespace."""
    try:
        unshare = ctypes.CDLL(None, use_errno=True).unshare
    except (OSError, AttributeError):
        return False
    return bool(unshare(CLONE_NEWNET) == 0 or unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0)


def _own_files() -> Iterator[Path]:
    """Name what Python may have to load still: itself, its packages, libraries, and the fonts that a PDF lacks."""
    for module in (services, shared):
        yield from map(Path, module.__path__)
    yield from map(Path, (sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64"))
    # An environment may borrow the packages of another; of other folders on the path nobody knows what lies in them.
    yield from (folder for folder in map(Path, sys.path) if folder.name in ("site-packages", "dist-packages"))


def _can_read(path: str) -> bool:
    try:
        return bool(Path(path).read_bytes())
    except OSError:
        return False


def _limit(request: dict[str, Any]) -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    seconds = int(request["cpu_seconds"])
    for kind, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, int(request["memory_bytes"])),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES_MAX),
        (resource.RLIMIT_CORE, 0),
    ):
        _lower(kind, value)


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (limit, limit))


def _enclose(ruleset: int | None) -> None:
    """Shut in a process that a child starts: it dies with the child, whose other limits it has, and cannot look into it."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _lower(resource.RLIMIT_CPU, int(PAGE_SECONDS_MAX))
    landlock.enter(ruleset)


def _run_child(
    request: dict[str, Any],
    file_descriptor: int,
    reply_descriptor: int,
    tokenizer: Tokenizer,
    registry: Registry,
    ocr: Ocr | None,
) -> None:
    """Parse one file and leave the process, whatever happens."""
    code = 1
    try:
        _limit(request)
        with (
            open(reply_descriptor, "w", encoding="utf-8", buffering=65_536) as reply,
            open(file_descriptor, "rb") as file,
        ):
            if ocr is not None:
                seconds, addable_seconds = float(request["cpu_seconds"]), float(request["ocr_seconds_added_max"])
                ocr.begin(OCR_SHARE * seconds, addable_seconds, partial(_tell_page, reply))
            try:
                _parse(request, file.read(), tokenizer, registry, reply)
            except PermanentError as error:
                _write(reply, {"error": str(error), "code": error.code})
            except MemoryError:
                _write(reply, {"error": NO_MEMORY, "code": "parser_limit"})
            except RecursionError:
                _write(reply, {"error": "the file is nested too deeply", "code": "corrupt_file"})
            except Exception as error:
                _write(
                    reply,
                    {"error": f"the parser failed: {type(error).__name__}: {error}"[:500], "code": "corrupt_file"},
                )
        code = 0
    finally:
        os._exit(code)


def _parse(request: dict[str, Any], content: bytes, tokenizer: Tokenizer, registry: Registry, reply: Any) -> None:
    media_type, document = registry.parse(request["name"], content)
    del content
    _write(
        reply,
        {
            "document": {
                "media_type": media_type,
                "title": document.title,
                "metadata": document.metadata,
                "replaced_character_count": document.replaced_character_count,
                "page_unit": document.page_unit,
                "line_unit": document.line_unit,
                "page_count": _page_count(document),
                "character_count": len(document.text) or None,
            }
        },
    )
    limits = Limits(request["tokens_target"], tokenizer.tokens_max, tokenizer.special_count)
    for chunk in chunk_document(document, tokenizer.count, limits):
        _write(reply, {"chunk": asdict(chunk)})
    for attachment in document.attachments:
        _write(reply, {"attachment": attachment.name})
        for piece in attachment.pieces():
            for at in range(0, len(piece), PIECE_BYTES_MAX):
                _write(reply, {"piece": base64.b64encode(piece[at : at + PIECE_BYTES_MAX]).decode("ascii")})
        _write(reply, {"attachment": None})
    _write(reply, {"end": True})


def _page_count(document: ParsedDocument) -> int | None:
    """Count the pages up to the last one with text; of sheets one may hold as much as a hundred others."""
    if document.page_unit != PageUnit.PAGE:
        return None
    return max((block.page or 0 for block in document.blocks), default=0) or None


def _tell_page(reply: Any) -> None:
    _write(reply, {"page_to_ocr": True})
    reply.flush()


def _write(reply: Any, line: dict[str, Any]) -> None:
    reply.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
