"""What askbox talks to or starts: the models, their providers, the collector of traces, the parsers' walls."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import tiktoken
from dotenv import dotenv_values
from huggingface_hub import try_to_load_from_cache

from services.console.doctor.findings import Finding, Level, fail, ok, warn
from services.console.doctor.settings import DoctorSettings
from shared.errors import ConfigError
from shared.settings import OPENAI_BASE_URL, OPENAI_PREFIX
from shared.tokens import model_folder, open_tokenizer

ANSWER_SECONDS = 5.0
VOCABULARY_SECONDS = 20.0
WALLS_SECONDS = 60.0
PLUGINS_SECONDS = 30.0
OCR_SECONDS = 60.0
# Each wall, and what stands open without it.
_OPEN = {
    "network": "a hostile file that takes over its parser could reach the network",
    "environment": "it could read this process's settings, its database password included",
    "memory": "one file could use up the machine's memory",
    "processor": "one file could keep the processor busy",
    "time": "one file could keep a parser busy for ever",
    "files": "it could write files",
    "privileges": "it could start programs that run as another user",
}
_REMEDY = "run the ingester in a container without a way out, as compose.yaml does"


@dataclass(frozen=True, slots=True)
class Served:
    """A model that is asked over HTTP, and the variables that say so."""

    check: str
    model: str
    base_url: str
    model_variable: str
    base_url_variable: str


def look_at_model(settings: DoctorSettings) -> list[Finding]:
    """Is the embedding model on this machine?"""
    name = settings.embedding_model
    if name.startswith(OPENAI_PREFIX):
        return []
    if model_folder(name) is None:
        if isinstance(try_to_load_from_cache(name, "tokenizer.json"), str):
            return [ok("embedding model", f"{name}, fetched before")]
        advice = "the first start fetches it, which needs the internet; or name a folder that holds it"
        return [warn("embedding model", f"{name} is not on this machine", advice)]
    try:
        tokenizer = open_tokenizer(name)
    except (ConfigError, OSError, ValueError) as error:
        return [fail("embedding model", str(error), "name a folder that holds a sentence-transformers model")]
    return [ok("embedding model", f"{name}, reads {tokenizer.tokens_max} tokens")]


def look_at_providers(settings: DoctorSettings) -> list[Finding]:
    """Do the servers answer whose models are configured?"""
    return [_ask_provider(served, settings) for served in served_models(settings)]


def served_models(settings: DoctorSettings) -> list[Served]:
    """Return the models that are asked over HTTP."""
    common = settings.openai_base_url or OPENAI_BASE_URL
    common_variable = "OPENAI_BASE_URL"
    served = []
    if settings.embedding_model.startswith(OPENAI_PREFIX):
        name = settings.embedding_model.removeprefix(OPENAI_PREFIX)
        address = settings.embedding_base_url or common
        variable = "ASKBOX_EMBEDDING_BASE_URL" if settings.embedding_base_url else common_variable
        served.append(Served("embedding provider", name, address, "ASKBOX_EMBEDDING_MODEL", variable))
    if settings.llm_model:
        name = settings.llm_model.removeprefix(OPENAI_PREFIX)
        variable = "ASKBOX_LLM_BASE_URL" if settings.llm_base_url else common_variable
        served.append(Served("LLM provider", name, settings.llm_base_url or common, "ASKBOX_LLM_MODEL", variable))
    return served


def _ask_provider(served: Served, settings: DoctorSettings) -> Finding:
    """Ask for the list of models: it costs nothing and shows whether the address and the key are right."""
    key = settings.openai_api_key
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    host = urlsplit(served.base_url).netloc
    try:
        response = httpx2.get(f"{served.base_url}/models", headers=headers, timeout=ANSWER_SECONDS)
    except httpx2.HTTPError as error:
        found = f"{host} does not answer ({type(error).__name__})"
        return fail(served.check, found, f"start it, or correct {served.base_url_variable}")
    if response.status_code in {401, 403}:
        found = f"{host} refuses the key ({response.status_code})" if key else f"{host} wants a key"
        return fail(served.check, found, "set OPENAI_API_KEY to a valid key")
    if response.status_code >= 500 or response.status_code == 429:
        found = f"{host} answered {response.status_code}"
        return warn(served.check, found, "askbox tries again until it can; look at the provider's status page")
    if response.status_code != 200:
        found = f"{host} answered {response.status_code} to GET {urlsplit(served.base_url).path}/models"
        return warn(served.check, found, f"some servers have no such list; else correct {served.base_url_variable}")
    return _judge_listing(served, host, response)


def _judge_listing(served: Served, host: str, response: httpx2.Response) -> Finding:
    try:
        names = {str(model["id"]) for model in response.json()["data"]}
    except (ValueError, KeyError, TypeError):
        advice = f"{served.base_url_variable} has to end where the API begins, usually in /v1"
        return warn(served.check, f"{host} answered no list of models", advice)
    if names and served.model not in names:
        return warn(
            served.check, f"{host} does not list {served.model}", f"correct {served.model_variable} if it is misspelt"
        )
    return ok(served.check, f"{host} answers, and serves {served.model}")


def look_at_vocabulary(settings: DoctorSettings) -> list[Finding]:
    """Can tokens of an OpenAI embedding model be counted without the internet?"""
    if not settings.embedding_model.startswith(OPENAI_PREFIX):
        return []
    try:
        encoding = tiktoken.encoding_name_for_model(settings.embedding_model.removeprefix(OPENAI_PREFIX))
    except KeyError:
        return [ok("vocabulary", "this model's is not known: its tokens are estimated, with room to spare")]
    folder = (settings.tiktoken_cache_dir or settings.home / "tiktoken").absolute()
    if _is_cached(encoding, folder):
        return [ok("vocabulary", f"{encoding} lies in {folder}")]
    advice = "the first start fetches it; without the internet tokens are estimated (TIKTOKEN_CACHE_DIR names another folder)"
    return [warn("vocabulary", f"{encoding} does not lie in {folder}", advice)]


def _is_cached(encoding: str, folder: Path) -> bool:
    """Try to load a vocabulary with the network taken away, in a process of its own."""
    code = (
        "import sys, tiktoken, tiktoken.load\n"
        "def refuse(path): raise OSError(path)\n"
        "tiktoken.load.read_file = refuse\n"
        "tiktoken.get_encoding(sys.argv[1])\n"
    )
    command = [sys.executable, "-c", code, encoding]
    environment = os.environ | {"TIKTOKEN_CACHE_DIR": str(folder)}
    run = subprocess.run(command, env=environment, capture_output=True, timeout=VOCABULARY_SECONDS, check=False)  # noqa: S603
    return run.returncode == 0


def look_at_traces(_settings: DoctorSettings) -> list[Finding]:
    """Does the collector answer, where one is named?"""
    settings = {name: value for name, value in dotenv_values(".env").items() if value} | dict(os.environ)
    base, own = settings.get("OTEL_EXPORTER_OTLP_ENDPOINT"), settings.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    address = own or (f"{base.rstrip('/')}/v1/traces" if base else None)
    if address is None:
        return []
    advice = "start the collector, or correct OTEL_EXPORTER_OTLP_ENDPOINT; askbox works without, its traces are lost"
    try:
        # An empty message is a valid export of nothing.
        headers = {"Content-Type": "application/x-protobuf"}
        response = httpx2.post(address, content=b"", headers=headers, timeout=ANSWER_SECONDS)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        return [
            warn("traces", f"{urlsplit(address).netloc or address} does not answer ({type(error).__name__})", advice)
        ]
    if response.status_code >= 300:
        return [warn("traces", f"{urlsplit(address).netloc} answered {response.status_code} to an export", advice)]
    return [ok("traces", f"{urlsplit(address).netloc} takes them")]


def look_at_walls(_settings: DoctorSettings) -> list[Finding]:
    """Which walls stand around the process that opens unknown files? They are tried by the ingester's own code."""
    command = [sys.executable, "-m", "services.ingester.walls", "--json"]
    try:
        tried = subprocess.run(command, capture_output=True, timeout=WALLS_SECONDS, check=False)  # noqa: S603
        walls: list[dict[str, Any]] = json.loads(tried.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return [fail("parser walls", "no parser process came up", "run `python -m services.ingester.walls` to see why")]
    return judge_walls(walls)


def judge_walls(walls: list[dict[str, Any]]) -> list[Finding]:
    """Judge what the trial of the walls told."""
    held = ", ".join(wall["name"] for wall in walls if wall["holds"])
    findings = [ok("parser walls", f"these hold: {held}")] if held else []
    for wall in walls:
        if not wall["holds"]:
            advice = (
                f"{_OPEN.get(wall['name'], 'one protection less')}: take only files from people you trust, or {_REMEDY}"
            )
            findings.append(Finding(f"parser wall: {wall['name']}", Level.WARN, wall["found"], advice))
    return findings


def look_at_ocr(_settings: DoctorSettings) -> list[Finding]:
    """Are pages that are pictures read? The ingester's own code asks tesseract behind the walls of a parser."""
    command = [sys.executable, "-m", "services.ingester.ocr", "--json"]
    try:
        asked = subprocess.run(command, capture_output=True, timeout=OCR_SECONDS, check=False)  # noqa: S603
        return [judge_ocr(json.loads(asked.stdout))]
    except (subprocess.TimeoutExpired, ValueError):
        return [fail("OCR", "no parser process came up", "run `python -m services.ingester.ocr` to see why")]


def judge_ocr(status: dict[str, Any]) -> Finding:
    """Judge what was told; to have no tesseract is a choice."""
    if status["languages"]:
        return ok("OCR", f"pages without text are read by tesseract ({', '.join(status['languages'])})")
    if status["is_wanted"]:
        return warn("OCR", status["problem"], "until then scans fail with `needs_ocr`")
    return ok("OCR", f"{status['problem']}: scans fail with `needs_ocr`, with tesseract they are read")


def look_at_plugins(_settings: DoctorSettings) -> list[Finding]:
    """Which formats do other distributions add? The ingester's own code loads them, in a process of its own."""
    command = [sys.executable, "-I", "-m", "services.ingester.plugins", "--json"]
    try:
        loaded = subprocess.run(command, capture_output=True, timeout=PLUGINS_SECONDS, check=False, env={})  # noqa: S603
        plugins: list[dict[str, Any]] = json.loads(b"".join(loaded.stdout.splitlines()[-1:]))  # they may print
    except (subprocess.TimeoutExpired, ValueError):
        advice = "run `python -m services.ingester.plugins` to see why; the ingester loads them as well"
        return [fail("parser plug-ins", "they cannot be loaded", advice)]
    return [_judge_plugin(plugin) for plugin in plugins]


def _judge_plugin(plugin: dict[str, Any]) -> Finding:
    check = f"parser plug-in: {plugin['name']}"
    if plugin["problem"] is not None:
        advice = f"its formats are read without it, or not at all: mend or remove {plugin['distribution']}"
        return warn(check, plugin["problem"], advice)
    return ok(check, f"{plugin['distribution']} reads {', '.join(plugin['media_types'])}")
