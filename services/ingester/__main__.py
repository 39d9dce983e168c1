"""Wire the ingester and run it: `python -m services.ingester`."""

import asyncio
import logging
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from services.ingester.ingest import IngestHandler
from services.ingester.sandbox import ParseLimits, ParserPool
from services.ingester.scan import ScanHandler
from services.ingester.settings import IngesterSettings
from services.ingester.watch import InboxWatcher
from shared.database import Pool, open_pool
from shared.errors import ConfigError
from shared.export import start_telemetry
from shared.failpoints import arm
from shared.intake import ensure_model
from shared.listener import Listener
from shared.models import VisibleWait, find_model
from shared.process import on_stop_signals, run_process
from shared.publication import PublicationSweep
from shared.settings import OPENAI_PREFIX
from shared.telemetry import Event, log, start_logging
from shared.tokens import prepare_tokenizer, vector_dimension
from shared.totals import keep_totals
from shared.worker import Slot, Worker

CONNECTIONS_MAX = 6
SMALL_FILE_BYTES = 1_048_576
# Of the deadline of its lease, what a file may take with OCR: the rest is for what comes before and after.
OCR_LEASE_SHARE = 0.75
# What it does is done again at the next start.
WATCH_END_SECONDS_MAX = 1.0


async def main() -> None:
    """Watch the inbox and parse until told to stop."""
    settings = IngesterSettings.read()
    start_logging("ingester", settings.log_level)
    arm(settings.failpoints or ())
    start_telemetry("ingester")
    url = settings.required_database_url()
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        settings.inbox.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"ASKBOX_INBOX, ASKBOX_HOME: {error.filename} cannot be made: {error.strerror}") from None
    tokenizer = await asyncio.to_thread(prepare_tokenizer, settings)
    parsers = ParserPool(tokenizer, parse_limits(settings), settings.ocr_languages)
    listener = Listener(url, "askbox_worker", "askbox ingester listener", ["ingest", "scan"])
    async with (
        open_pool(url, "askbox_worker", "askbox ingester", connections_max=CONNECTIONS_MAX) as pool,
        keep_totals(pool) as totals,
    ):
        model_id = await _find_model(pool, settings.embedding_model)
        if model_id is None:
            return
        publication = PublicationSweep(pool)
        handler = IngestHandler(pool, parsers, Path(tempfile.gettempdir()), publication)
        scans = ScanHandler(pool, settings)
        watcher = InboxWatcher(pool, settings, model_id)
        worker = Worker(
            kind="ingester",
            pool=pool,
            listener=listener,
            settings=settings,
            sweepers=[publication, totals, scans.fail_dead_scans],
            note=lambda: watcher.note,
            waiting_file_count=lambda: watcher.waiting_count,
            slots=[
                Slot("parse", "ingest", handler),
                Slot("parse small", "ingest", handler, cost_max=SMALL_FILE_BYTES),
                Slot("scan", "scan", scans),
            ],
        )
        await parsers.start()
        log(Event.PROCESS_STARTED, inbox=str(settings.inbox), walls=parsers.walls, ocr=asdict(parsers.ocr))
        _tell_plugins(parsers)
        watching = asyncio.create_task(watcher.run())
        watching.add_done_callback(lambda _: worker.stop())
        try:
            with on_stop_signals(worker.stop, work_seconds=settings.stop_seconds):
                await worker.run()
            if watching.done():
                watching.result()
        finally:
            watching.cancel()
            await asyncio.wait({watching}, timeout=WATCH_END_SECONDS_MAX)
            await parsers.stop()
    log(Event.PROCESS_STOPPED)


def parse_limits(settings: IngesterSettings) -> ParseLimits:
    """Return what one parser child may use."""
    return ParseLimits(
        settings.parse_seconds,
        settings.parse_memory_bytes,
        settings.chunk_tokens,
        ocr_seconds_max=OCR_LEASE_SHARE * settings.lease_deadline_seconds,
    )


def _tell_plugins(parsers: ParserPool) -> None:
    for plugin in parsers.plugins:
        name, distribution = plugin.name, plugin.distribution
        if plugin.problem is None:
            log(Event.PLUGIN_LOADED, plugin=name, distribution=distribution, reads=plugin.media_types)
        else:
            log(Event.PLUGIN_REFUSED, logging.ERROR, plugin=name, distribution=distribution, reason=plugin.problem)


async def _find_model(pool: Pool, name: str) -> int | None:
    """Return the id of the model, or None when told to stop; how long a server's vectors are an embedder finds out."""
    if not name.startswith(OPENAI_PREFIX):
        return await ensure_model(pool, name, vector_dimension(name))
    waiting = VisibleWait(
        pool, "ingester", lambda: find_model(pool, name), f"waiting until an embedder has had an answer from {name}"
    )
    with on_stop_signals(waiting.stop):
        model = await waiting.run()
    return None if model is None else model.id


if __name__ == "__main__":
    sys.exit(run_process(main()))
