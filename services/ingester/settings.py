"""What the ingester reads from the environment."""

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from shared.settings import OPENAI_PREFIX, IntakeSettings, WorkerSettings

OPENAI_CHUNK_TOKENS = 400


class IngesterSettings(WorkerSettings, IntakeSettings):
    """Settings of the ingester."""

    inbox: Path = Path("inbox")
    rescan_seconds: float = Field(default=30.0, ge=0.2, le=3600)
    settle_seconds: float = Field(default=1.0, ge=0.1, le=60)
    chunk_tokens: int = Field(default=128, ge=16, le=2000)
    parse_seconds: float = Field(default=120.0, ge=1, le=3600)
    ocr_languages: str | None = None
    parse_memory_bytes: int = Field(default=1024**3, ge=256 * 1024**2)

    @model_validator(mode="before")
    @classmethod
    def _chunk_for_the_model(cls, values: Any) -> Any:
        """Larger models read longer chunks well; what is set goes before."""
        if str(values.get("embedding_model", "")).startswith(OPENAI_PREFIX):
            values.setdefault("chunk_tokens", OPENAI_CHUNK_TOKENS)
        return values
