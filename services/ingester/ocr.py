"""Say whether pages without text are read here, in which languages, or why not: `python -m services.ingester.ocr [--json]`."""

import asyncio
import json
import os
import sys
from dataclasses import asdict

from services.ingester.parsing.ocr import OFF, OcrStatus, Tesseract
from services.ingester.sandbox import ParseLimits, ParserPool
from services.ingester.settings import IngesterSettings
from shared.settings import BUNDLED_MODEL


async def ask(settings: IngesterSettings) -> OcrStatus:
    """Start a parse server, which asks tesseract from behind its walls.

    Raises: RetryableError when it does not start.
    """
    limits = ParseLimits(settings.parse_seconds, settings.parse_memory_bytes, settings.chunk_tokens)
    parsers = ParserPool(BUNDLED_MODEL, limits, settings.ocr_languages)
    await parsers.start()
    await parsers.stop()
    return parsers.ocr


def main() -> int:
    """Print what was found."""
    settings = IngesterSettings.read()
    status = asyncio.run(ask(settings))
    if "--json" in sys.argv[1:]:
        is_found = Tesseract.find(settings.ocr_languages, os.environ) is not None
        is_wanted = is_found or settings.ocr_languages not in (None, OFF)
        print(json.dumps(asdict(status) | {"is_wanted": is_wanted}))
    else:
        print(f"reads pages without text in {', '.join(status.languages)}" if status.languages else status.problem)
    return 0


if __name__ == "__main__":
    sys.exit(main())
