"""What the query process reads from the environment."""

from typing import Literal

from pydantic import Field

from shared.settings import IntakeSettings


class QuerySettings(IntakeSettings):
    """Settings of the query process."""

    http_host: str = "127.0.0.1"
    http_port: int = Field(default=8000, ge=1, le=65535)
    max_upload_bytes: int = Field(default=1024**3, ge=1, le=64 * 1024**3)
    query_connections: int = Field(default=8, ge=1, le=200)
    query_concurrency: int = Field(default=16, ge=1, le=1000)
    query_waiting: int = Field(default=64, ge=0, le=10_000)
    # Unset is what fits the embedding model.
    refusal_threshold: float | None = Field(default=None, ge=0, le=1)
    llm_model: str | None = None
    # The prompt and its answer fit together into 4,096 tokens, all that the smallest local servers read by default.
    llm_context_tokens: int = Field(default=3000, ge=1000, le=1_000_000)
    llm_answer_tokens: int = Field(default=1024, ge=16, le=100_000)
    llm_tokens_parameter: Literal["max_tokens", "max_completion_tokens"] | None = None
    # Unset is what every model takes: some that reason refuse any value but their own.
    llm_temperature: float | None = Field(default=None, ge=0, le=2)
    llm_fallback: Literal["error", "extractive"] | None = None
