"""What the embedder reads from the environment."""

from pydantic import Field

from shared.settings import WorkerSettings


class EmbedderSettings(WorkerSettings):
    """Settings of the embedder."""

    embed_batch: int = Field(default=64, ge=1, le=2048)
    embed_threads: int | None = Field(default=None, ge=1, le=256)
    exact_chunks_max: int = Field(default=20_000, ge=4, le=10_000_000)
    index_memory_bytes: int = Field(default=1_073_741_824, ge=67_108_864, le=1_099_511_627_776)
