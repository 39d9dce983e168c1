"""Settings from the environment or `.env`: frozen values, or a `ConfigError` that names the variable."""

import os
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.errors import ConfigError
from shared.failpoints import Trap, parse_trap

PREFIX = "ASKBOX_"
BUNDLED_MODEL = "all-MiniLM-L6-v2"
# A model's name that begins so is asked of an OpenAI-compatible server.
OPENAI_PREFIX = "openai:"
OPENAI_BASE_URL = "https://api.openai.com/v1"


class Settings(BaseSettings):
    """What every process reads."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", env_ignore_empty=True, frozen=True, extra="ignore", populate_by_name=True
    )

    home: Path = Path(".askbox")
    database_url: SecretStr | None = None
    embedding_model: str = BUNDLED_MODEL
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    openai_api_key: SecretStr | None = Field(default=None, validation_alias="OPENAI_API_KEY")
    openai_base_url: str | None = Field(default=None, validation_alias="OPENAI_BASE_URL")
    embedding_base_url: str | None = None
    embedding_dimension: int | None = Field(default=None, ge=1, le=4000)
    embedding_tokens_max: int | None = Field(default=None, ge=32, le=1_000_000)
    llm_base_url: str | None = None
    provider_seconds: float = Field(default=60.0, ge=0.1, le=900)
    tiktoken_cache_dir: Path | None = Field(default=None, validation_alias="TIKTOKEN_CACHE_DIR")
    # NoDecode: a comma-separated list, not JSON.
    failpoints: Annotated[tuple[Trap, ...] | None, NoDecode] = None

    @field_validator("failpoints", mode="before")
    @classmethod
    def _are_failpoints(cls, value: object) -> object:
        return tuple(map(parse_trap, value.split(","))) if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _is_connection_string(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("a connection string such as postgresql://user:password@host:5432/name is wanted")
        return value

    @field_validator("embedding_model")
    @classmethod
    def _names_a_model(cls, value: str) -> str:
        if not value.removeprefix(OPENAI_PREFIX).strip():
            raise ValueError("the name of a model is wanted, such as openai:text-embedding-3-small")
        return value

    @field_validator("openai_base_url", "embedding_base_url", "llm_base_url")
    @classmethod
    def _is_http_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("an address such as http://127.0.0.1:11434/v1 is wanted")
        if parts.username or parts.password or parts.query or parts.port == 0:
            raise ValueError(
                "an address without a name, a password or a query is wanted; the key belongs in OPENAI_API_KEY"
            )
        return value.rstrip("/")

    @classmethod
    def read(cls) -> Self:
        """Read the environment.

        Raises: ConfigError naming every variable that is wrong.
        """
        try:
            return cls()
        except ValidationError as error:
            problems = "; ".join(f"{_variable(problem['loc'])}: {problem['msg']}" for problem in error.errors())
            raise ConfigError(f"{problems}. Correct it in the environment or in .env.") from None

    def required_database_url(self) -> str:
        """Return the connection string.

        Raises: ConfigError when none is set.
        """
        if self.database_url is None:
            raise ConfigError(
                "ASKBOX_DATABASE_URL is not set: `askbox up` sets it for the processes it starts; set it to start one alone"
            )
        return self.database_url.get_secret_value()


def _variable(loc: tuple[int | str, ...]) -> str:
    """Name the variable of a field; those that other programs read too have no prefix."""
    name = "_".join(str(part) for part in loc).upper()
    return name if name.startswith(("OPENAI_", "TIKTOKEN_")) else PREFIX + name


class IntakeSettings(Settings):
    """What the processes that take files read besides."""

    max_file_bytes: int = Field(default=256 * 1024 * 1024, ge=1, le=4 * 1024**3)
    # NoDecode: as PATH is written, not as JSON.
    ingest_roots: Annotated[tuple[Path, ...] | None, NoDecode] = None

    @field_validator("ingest_roots", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part for part in value.split(os.pathsep) if part) if isinstance(value, str) else value

    @field_validator("ingest_roots")
    @classmethod
    def _are_told_apart(cls, roots: tuple[Path, ...] | None) -> tuple[Path, ...] | None:
        if roots is None:
            return None
        if not all(root.is_absolute() and ".." not in root.parts and root.name for root in roots):
            raise ValueError(f"absolute paths of folders are wanted, separated by {os.pathsep!r}")
        if len({root.name for root in roots}) < len(roots):
            raise ValueError("documents are named after the last part of a folder: no two folders may share it")
        return roots


class WorkerSettings(Settings):
    """What the processes that claim jobs read besides. The defaults are those of the design; tests shorten them."""

    poll_seconds: float = Field(default=5.0, gt=0, le=60)
    lease_seconds: float = Field(default=30.0, ge=0.5, le=600)
    lease_deadline_seconds: float = Field(default=1800.0, ge=1, le=86_400)
    stop_seconds: float = Field(default=4.0, ge=0, le=120)
