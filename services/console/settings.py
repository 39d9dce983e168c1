"""What the command reads from the environment."""

from pathlib import Path

from pydantic import Field, SecretStr

from shared.settings import Settings


class ConsoleSettings(Settings):
    """Settings of the `askbox` command."""

    inbox: Path = Path("inbox")
    http_host: str = "127.0.0.1"
    http_port: int = Field(default=8000, ge=1, le=65535)
    url: str = "http://127.0.0.1:8000"
    api_key: SecretStr | None = None
    embedders: int = Field(default=1, ge=1, le=64)
