"""A sample of `hostile`, and what the parsers do without any wall around them."""

import asyncio
from itertools import groupby

import pytest

from services.ingester.parsing import parse
from shared.errors import PermanentError
from tests.crash import hostile
from tests.crash.__main__ import Options
from tests.crash.cluster import running_cluster
from tests.crash.hostile import CANARY, listening
from tests.crash.report import Report
from tests.crash.system import running_system
from tests.formats.hostile import Recipe, corpus
from tests.openai_server import serving

# Of each kind some that are written and read within a moment.
SAMPLE = (
    "zip/overlapping", "zip/parents", "zip/small", "docx/bomb", "docx/laughs", "docx/xxe-file", "pptx/deep", "pptx/xxe-http",
    "xlsx/quadratic", "xlsx/corner", "xlsx/shared-numbers", "epub/lie", "epub/xxe-file", "odt/xxe-parameter", "odt/spaces", "ods/repeated.",
    "ole/loop", "csv/separator0", "csv/formulas", "json/deep0", "json/surrogates", "ipynb/odd", "html/deep-b.", "html/lures", "xml/xxe-http",
    "xml/xxe-file", "xml/laughs", "xml/defaults", "markdown/front-aliases", "markdown/front-python", "markdown/unit03", "rtf/deep",
    "text/lures", "eml/tree", "eml/names", "eml/deep", "pdf/tree-self", "pdf/labels-loop", "pdf/does-launch", "pdf/locked6",
    "pdf/cut50", "bytes/none", "bytes/bom_utf16_le", "bytes/nul", "both/pdf-zip",
)  # fmt: skip
SCALE = 0.01
PARSE_SECONDS = 20
# Whether a good file waits is seen at any pace; how busy the machine is decides how long it takes.
GOOD_SECONDS_MAX = 60.0


@pytest.mark.timeout(400)
async def test_hostile_files_end_alone_and_with_a_reason(tmp_path):
    report, options = Report("hostile", 1), Options(SCALE, tmp_path, 1)
    async with running_cluster() as cluster:
        with serving() as provider:
            async with running_system(tmp_path, cluster, provider, **hostile.SETTINGS) as system:
                await hostile.feed(
                    report,
                    options,
                    system,
                    parse_seconds=PARSE_SECONDS,
                    names=SAMPLE,
                    good_seconds_max=GOOD_SECONDS_MAX,
                    wall_seconds_more=GOOD_SECONDS_MAX,
                )
    assert report.failures == []
    assert int(report.figures["files"]) >= 40
    assert int(report.figures["ready"]) >= 10
    assert int(report.figures["failed with a reason"]) >= 10


def test_corpus_has_files_of_every_kind_under_names_of_their_own(tmp_path):
    names = [file.name for file in corpus(Recipe(tmp_path, "http://127.0.0.1:9/", SCALE))]
    assert len(names) == len(set(names)) >= 150
    kinds = {kind for kind, _ in groupby(sorted(names), lambda name: name.partition("/")[0])}
    assert len(kinds) >= 20


def _what_is_told_of(name: str, content: bytes) -> str:
    try:
        _, document = parse(name, content)
    except PermanentError as error:
        return str(error)
    return f"{document.text} {document.title} {document.metadata}"


@pytest.mark.timeout(120)
async def test_parsers_follow_nothing_though_no_wall_stands_around_them(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text(CANARY)
    lured = 0
    async with listening() as listener:
        recipe = Recipe(secret, f"http://127.0.0.1:{listener.port}/", SCALE)
        for file in corpus(recipe):
            if any(
                word in file.name for word in ("xxe", "lures", "elsewhere", "include", "stylesheet", "does-", "fields")
            ):
                lured += 1
                content = await asyncio.to_thread(file.write)
                told = await asyncio.to_thread(_what_is_told_of, file.name, content)
                assert CANARY not in told, file.name
        assert listener.count == 0
    assert lured >= 40
