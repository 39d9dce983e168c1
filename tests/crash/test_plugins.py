"""Formats of other distributions: installed into a real environment, loaded by the fork server, parsing in its children."""

import json
import logging
import os
import re
import subprocess
import sysconfig
import textwrap
import tomllib
import venv
from pathlib import Path

import pytest

from services.ingester.__main__ import _tell_plugins
from services.ingester.plugins import Plugin
from services.ingester.sandbox import ParseLimits, ParserPool
from shared.settings import BUNDLED_MODEL
from tests.waiting import SUBPROCESS_SECONDS_MAX

_PAGES = """
    from pathlib import Path
    from services.ingester.parsing import BlockKind, Container, Format, TextWriter
    from shared.errors import NeedsOcr

    def parse_pages(content):
        import json.tool  # what a parser loads late has to be readable still
        writer = TextWriter()
        for number, page in enumerate(content.decode("latin-1").split("\\f"), 1):
            writer.add(BlockKind.PROSE, page, page=number)
        writer.add(BlockKind.PROSE, (Path(__file__).parent / "appendix.txt").read_text())
        return writer.document("Pages", {})

    def look_around(content):
        return (Path(__file__).parent.parent / ".env").read_text()

    def parse_picture(content):
        raise NeedsOcr("nothing is written on it: look at it yourself")

    def fail(content):
        raise KeyError("nothing here")

    def lie(content):
        return "text"

    FORMATS = [
        Format("application/x-pages", (".pages",), parse_pages, lambda sample: sample.head.startswith(b"PAGES")),
        Format("image/png", (".png",), parse_picture, container=Container.BYTES),
        Format("text/markdown", (), parse_pages),
        Format("text/x-failing", (".failing",), fail),
        Format("text/x-lying", (".lying",), lie),
        Format("text/x-curious", (".curious",), look_around),
        Format("text/x-nervous", (), parse_pages, lambda sample: sample.no_such_thing, Container.BYTES),
    ]
    """
_PARSE = """
    import asyncio, dataclasses, json, sys, tempfile
    from services.ingester.sandbox import ParsedHead, ParseLimits, ParserPool
    from shared.errors import PermanentError
    from shared.settings import BUNDLED_MODEL

    async def main():
        pool = ParserPool(BUNDLED_MODEL, ParseLimits(60, 2 * 1024**3, 128))
        results = {}
        await pool.start()
        for name, content in json.load(sys.stdin).items():
            with tempfile.TemporaryFile() as file:
                file.write(content.encode("latin-1"))
                file.seek(0)
                try:
                    head, *chunks = [item async for item in pool.parse(name, file, len(content))]
                    assert isinstance(head, ParsedHead)
                    results[name] = [head.media_type, [[chunk.text, chunk.page] for chunk in chunks]]
                except PermanentError as error:
                    results[name] = [error.code, str(error)]
        print(json.dumps([pool.walls, [dataclasses.asdict(plugin) for plugin in pool.plugins], results]))
        await pool.stop()

    asyncio.run(main())
    """


def _example(language: str) -> str:
    """Return what README shows under "A format of your own"."""
    section = (
        (Path(__file__).resolve().parents[2] / "README.md")
        .read_text(encoding="utf-8")
        .partition("## A format of your own")[2]
    )
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


def _install(site_packages: Path, name: str, modules: dict[str, str], entry: str) -> None:
    """Lay down what an installer lays down: a package and its `.dist-info`."""
    for path, source in modules.items():
        file = site_packages / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(source))
    info = site_packages / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[askbox.parsers]\n{entry}\n")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that borrows everything from this one and has three distributions of its own, one of them broken."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    site_packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    borrowed = sysconfig.get_path("purelib")
    elsewhere = tmp_path_factory.mktemp("checkout")  # as an editable install has it
    (elsewhere / ".env").write_text("a secret")
    (site_packages / "borrowed.pth").write_text(f"import site; site.addsitedir({borrowed!r})\n{elsewhere}\n")
    modules = {"pages_plugin/__init__.py": _PAGES, "pages_plugin/appendix.txt": "An appendix."}
    _install(elsewhere, "pages-plugin", modules, "pages = pages_plugin:FORMATS")
    ((name, place),) = tomllib.loads(_example("toml"))["project"]["entry-points"]["askbox.parsers"].items()
    _install(site_packages, "recipes", {"recipe_parser.py": _example("python")}, f"{name} = {place}")
    _install(site_packages, "broken", {"broken.py": "raise OSError('no licence')"}, "broken = broken:FORMAT")
    _install(site_packages, "quitter", {"quitter.py": "print('bye'); raise SystemExit(3)"}, "quits = quitter:FORMAT")
    _install(site_packages, "wrong", {"wrong.py": "FORMAT = 'text/x-wrong'"}, "wrong = wrong:FORMAT")
    return folder / "bin" / "python"


def _run(python: Path, *arguments: str, given: str = "") -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    run = subprocess.run(
        [str(python), *arguments], input=given, capture_output=True, text=True, env=environment,
        timeout=SUBPROCESS_SECONDS_MAX, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_installed_distribution_adds_formats_and_a_broken_one_stops_nobody(python: Path) -> None:
    files = {
        "a.bin": "PAGES one\fpage two",
        "b.png": "\x89PNG\r\n\x1a\n\x00",
        "c.md": "# A heading\n\nText.",
        "d.failing": "text",
        "e.lying": "text",
        "f.txt": "plain text",
        "f.curious": "text",
        "f.recipe": "Soup\nBoil water.",
        "g.txt": "Recipe: bread\nKnead.",
        "g.html": "<!doctype html><p>A page.",
    }
    walls, plugins, results = json.loads(_run(python, "-c", textwrap.dedent(_PARSE), given=json.dumps(files)))
    assert {plugin["name"]: plugin["problem"] for plugin in plugins} == {
        "pages": None,
        "recipes": None,
        "broken": "OSError: no licence",
        "quits": "SystemExit: 3",
        "wrong": "TypeError: it names a str, not a Format or a list of them",
    }
    curious = results.pop("f.curious")
    if walls["files"]:
        assert "PermissionError" in curious[1]
    assert results == {
        "a.bin": ["application/x-pages", [["PAGES one\n\npage two\n\nAn appendix.", 1]]],
        "b.png": ["needs_ocr", "nothing is written on it: look at it yourself"],
        "c.md": ["text/markdown", [["# A heading\n\nText.\n\nAn appendix.", 1]]],
        "d.failing": [
            "corrupt_file",
            "the plug-in pages could not read the file (KeyError: 'nothing here'): ask who made it",
        ],
        "e.lying": [
            "corrupt_file",
            "the plug-in pages could not read the file (TypeError: it returned a str): ask who made it",
        ],
        "f.txt": ["text/plain", [["plain text", None]]],
        "f.recipe": ["text/x-recipe", [["Boil water.", None]]],
        "g.txt": ["text/x-recipe", [["Knead.", None]]],
        "g.html": ["text/html", [["A page.", None]]],
    }


def test_doctor_tells_which_plug_ins_work(python: Path) -> None:
    look = (
        "import json\n"
        "from services.console.doctor.peers import look_at_plugins\n"
        "from services.console.doctor.settings import DoctorSettings\n"
        "print(json.dumps([[f.check, f.level, f.found] for f in look_at_plugins(DoctorSettings())]))\n"
    )
    findings = {check: (level, found) for check, level, found in json.loads(_run(python, "-c", look))}
    assert findings["parser plug-in: pages"][0] == "ok"
    assert "application/x-pages" in findings["parser plug-in: pages"][1]
    assert {findings[f"parser plug-in: {name}"][0] for name in ("broken", "quits", "wrong")} == {"warn"}


def test_log_names_each_plug_in_and_what_is_wrong_with_it(caplog: pytest.LogCaptureFixture) -> None:
    parsers = ParserPool(BUNDLED_MODEL, ParseLimits(60, 2 * 1024**3, 128))
    parsers.plugins = [
        Plugin("pages", "pages-plugin 1.0", ("application/x-pages",)),
        Plugin("broken", "broken 1.0", problem="OSError: no licence"),
    ]
    with caplog.at_level(logging.INFO, "askbox"):
        _tell_plugins(parsers)
    assert [(record.levelno, record.getMessage(), record.facts) for record in caplog.records] == [
        (
            logging.INFO,
            "plugin_loaded",
            {"plugin": "pages", "distribution": "pages-plugin 1.0", "reads": ("application/x-pages",)},
        ),
        (
            logging.ERROR,
            "plugin_refused",
            {"plugin": "broken", "distribution": "broken 1.0", "reason": "OSError: no licence"},
        ),
    ]
