"""Settings come from the environment, and a wrong one is named."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from services.console.settings import ConsoleSettings
from services.embedder.settings import EmbedderSettings
from services.ingester.settings import IngesterSettings
from services.query.settings import QuerySettings
from shared.errors import ConfigError
from shared.settings import BUNDLED_MODEL, Settings, WorkerSettings

_ALL = [Settings, WorkerSettings, ConsoleSettings, EmbedderSettings, IngesterSettings, QuerySettings]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without settings, in a folder without `.env`."""
    import os

    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.upper().startswith(("ASKBOX_", "OPENAI_", "TIKTOKEN_"))]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize("settings", _ALL)
def test_every_process_starts_without_any_setting(settings: type[Settings]) -> None:
    read = settings.read()
    assert read.home == Path(".askbox")
    assert read.embedding_model == BUNDLED_MODEL
    assert read.database_url is None


@pytest.mark.parametrize("settings", _ALL)
def test_settings_cannot_be_changed(settings: type[Settings]) -> None:
    with pytest.raises(ValidationError):
        settings.read().log_level = "DEBUG"


def test_environment_is_read_with_its_prefix(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ASKBOX_CHUNK_TOKENS", "64")
    environment.setenv("CHUNK_TOKENS", "32")
    environment.setenv("ASKBOX_INBOX", "/srv/inbox")
    read = IngesterSettings.read()
    assert (read.chunk_tokens, read.inbox) == (64, Path("/srv/inbox"))


def test_empty_variable_is_as_none(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ASKBOX_CHUNK_TOKENS", "")
    environment.setenv("ASKBOX_DATABASE_URL", "")
    read = IngesterSettings.read()
    assert (read.chunk_tokens, read.database_url) == (128, None)


def test_environment_goes_before_the_file(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ASKBOX_LOG_LEVEL=ERROR\nASKBOX_POLL_SECONDS=2\nOTHER=1\n")
    environment.setenv("ASKBOX_LOG_LEVEL", "DEBUG")
    read = WorkerSettings.read()
    assert (read.log_level, read.poll_seconds) == ("DEBUG", 2.0)


def test_every_wrong_variable_is_named(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ASKBOX_CHUNK_TOKENS", "many")
    environment.setenv("ASKBOX_LEASE_SECONDS", "0")
    environment.setenv("ASKBOX_LOG_LEVEL", "LOUD")
    with pytest.raises(ConfigError) as caught:
        IngesterSettings.read()
    for name in ("ASKBOX_CHUNK_TOKENS: ", "ASKBOX_LEASE_SECONDS: ", "ASKBOX_LOG_LEVEL: "):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [
        (WorkerSettings, "ASKBOX_POLL_SECONDS", "0"),
        (WorkerSettings, "ASKBOX_POLL_SECONDS", "nan"),
        (WorkerSettings, "ASKBOX_LEASE_SECONDS", "inf"),
        (EmbedderSettings, "ASKBOX_EMBED_BATCH", "0"),
        (IngesterSettings, "ASKBOX_CHUNK_TOKENS", "15"),
        (IngesterSettings, "ASKBOX_MAX_FILE_BYTES", "-1"),
        (QuerySettings, "ASKBOX_HTTP_PORT", "65536"),
        (ConsoleSettings, "ASKBOX_EMBEDDERS", "0"),
    ],
)
def test_value_out_of_bounds_stops_the_start(
    environment: pytest.MonkeyPatch, settings: type[Settings], name: str, value: str
) -> None:
    environment.setenv(name, value)
    with pytest.raises(ConfigError, match=f"^{name}: "):
        settings.read()


def test_secrets_are_not_shown(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ASKBOX_DATABASE_URL", "postgresql://u:hunter2@h/db")
    environment.setenv("ASKBOX_API_KEY", "hunter2")
    read = ConsoleSettings.read()
    assert "hunter2" not in repr(read)
    assert "hunter2" not in str(read.model_dump())
    assert read.required_database_url() == "postgresql://u:hunter2@h/db"


def test_chunks_are_longer_for_a_servers_model_unless_their_length_is_set(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ASKBOX_EMBEDDING_MODEL", "openai:text-embedding-3-small")
    assert IngesterSettings.read().chunk_tokens == 400
    environment.setenv("ASKBOX_CHUNK_TOKENS", "96")
    assert IngesterSettings.read().chunk_tokens == 96


def test_settings_of_other_programs_are_read_under_their_own_names(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("OPENAI_API_KEY=hunter2\n")
    environment.setenv("OPENAI_BASE_URL", "http://127.0.0.1:11434/v1/")
    read = Settings.read()
    assert read.openai_api_key is not None
    assert read.openai_api_key.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(read)
    assert read.openai_base_url == "http://127.0.0.1:11434/v1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPENAI_BASE_URL", "127.0.0.1:11434"),
        ("OPENAI_BASE_URL", "http://[::1"),
        ("OPENAI_BASE_URL", "http://host:99999/v1"),
        ("ASKBOX_EMBEDDING_BASE_URL", "ftp://127.0.0.1/v1"),
        ("ASKBOX_LLM_BASE_URL", "http://user:hunter2@127.0.0.1/v1"),
        ("ASKBOX_EMBEDDING_MODEL", "openai:"),
        ("ASKBOX_EMBEDDING_DIMENSION", "4001"),
    ],
)
def test_wrong_setting_of_a_models_server_is_named_and_not_shown(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environment.setenv(name, value)
    with pytest.raises(ConfigError, match=f"^{name}: ") as caught:
        Settings.read()
    assert "hunter2" not in str(caught.value)


def test_missing_database_is_named() -> None:
    with pytest.raises(ConfigError, match="ASKBOX_DATABASE_URL is not set"):
        Settings.read().required_database_url()
