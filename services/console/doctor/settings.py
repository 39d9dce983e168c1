"""What the doctor reads from the environment: besides the command's settings, what it has to know of the other processes."""

from pydantic import Field

from services.console.settings import ConsoleSettings


class DoctorSettings(ConsoleSettings):
    """Settings of `askbox doctor`; the defaults are those of the processes that the settings belong to."""

    llm_model: str | None = None
    query_connections: int = Field(default=8, ge=1, le=200)
    rescan_seconds: float = 30.0
