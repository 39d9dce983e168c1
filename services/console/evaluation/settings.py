"""What an evaluation reads from the environment."""

from typing import Any

from pydantic import Field, model_validator

from services.console.settings import ConsoleSettings
from shared.settings import OPENAI_PREFIX

OPENAI_CHUNK_TOKENS = 400


class EvaluationSettings(ConsoleSettings):
    """Settings of `askbox eval`; the defaults are those of the processes that the settings belong to."""

    chunk_tokens: int = Field(default=128, ge=16, le=2000)
    llm_model: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _chunk_for_the_model(cls, values: Any) -> Any:
        if str(values.get("embedding_model", "")).startswith(OPENAI_PREFIX):
            values.setdefault("chunk_tokens", OPENAI_CHUNK_TOKENS)
        return values
