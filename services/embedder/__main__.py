"""Wire the embedder and run it: `python -m services.embedder`."""

import asyncio
import contextlib
import sys

from services.embedder.embed import EmbedHandler
from services.embedder.housekeeping import Housekeeping
from services.embedder.index import IndexHandler
from services.embedder.index_build import IndexBuilder
from services.embedder.register import register_model
from services.embedder.settings import EmbedderSettings
from services.embedder.store import IndexRule
from shared.database import open_pool
from shared.embedding import open_model
from shared.export import start_telemetry
from shared.failpoints import arm
from shared.listener import Listener
from shared.models import ModelPause, VisibleWait
from shared.process import on_stop_signals, run_process
from shared.publication import PublicationSweep
from shared.telemetry import Event, log, start_logging
from shared.totals import keep_totals
from shared.worker import Slot, Worker

CONNECTIONS_MAX = 8
# An index that takes longer fails by itself, before the deadline takes its lease.
BUILD_SHARE = 0.9
# For the last publication.
FINISH_SECONDS_MAX = 1.0


async def main() -> None:
    """Embed and publish until told to stop."""
    settings = EmbedderSettings.read()
    start_logging("embedder", settings.log_level)
    arm(settings.failpoints or ())
    start_telemetry("embedder")
    url = settings.required_database_url()
    listener = Listener(url, "askbox_worker", "askbox embedder listener", ["embed", "index"])
    async with (
        open_pool(url, "askbox_worker", "askbox embedder", connections_max=CONNECTIONS_MAX) as pool,
        keep_totals(pool) as totals,
    ):
        pause = ModelPause(pool, settings.embedding_model)
        model = await asyncio.to_thread(open_model, settings, threads=settings.embed_threads, pause=pause)
        registering = VisibleWait(pool, "embedder", lambda: register_model(pool, model), f"asking {model.name}")
        with on_stop_signals(registering.stop):
            model_id = await registering.run()
        if model_id is None:
            return
        embed = EmbedHandler(pool, model, model_id)
        index = IndexHandler(
            pool,
            IndexBuilder(url, memory_bytes=settings.index_memory_bytes),
            IndexRule(settings.exact_chunks_max),
            seconds_max=BUILD_SHARE * settings.lease_deadline_seconds,
        )
        worker = Worker(
            kind="embedder",
            pool=pool,
            listener=listener,
            settings=settings,
            sweepers=[PublicationSweep(pool), index.request_outdated, Housekeeping(pool), totals],
            slots=[
                Slot(
                    "embed",
                    "embed",
                    embed,
                    batch_size=settings.embed_batch,
                    subject_id=model_id,
                    isolates_suspects=True,
                ),
                Slot("index", "index", index),
            ],
            note=index.note,
            hindrance=lambda: model.note,
        )
        log(Event.PROCESS_STARTED, model=model.name, dimension=model.dimension)
        with on_stop_signals(worker.stop, work_seconds=settings.stop_seconds):
            await worker.run()
        with contextlib.suppress(TimeoutError):  # the sweep of another process does it
            async with asyncio.timeout(FINISH_SECONDS_MAX):
                await embed.finish()
        await model.close()
    log(Event.PROCESS_STOPPED)


if __name__ == "__main__":
    sys.exit(run_process(main()))
