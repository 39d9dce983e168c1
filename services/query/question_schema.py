"""What a question looks like over HTTP: where to look, which documents, and what was said before."""

import uuid
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from services.query.exchange import QUESTION_CHARACTERS_MAX, Asked
from services.query.filters import Filters
from services.query.prompt import Turn
from services.query.store import CollectionRow
from services.query.wait import WAIT_SECONDS_MAX, Awaited
from shared.errors import RequestError
from shared.text import storable

TOP_K_MAX = 50
TURNS_MAX = 50
FILTERED_DOCUMENTS_MAX = 1000
PATH_PREFIX_CHARACTERS_MAX = 4096
METADATA_KEYS_MAX = 20
METADATA_VALUES_MAX = 100
METADATA_CHARACTERS_MAX = 1000
ID_MAX = 2**63 - 1
_Text = Annotated[str, Field(max_length=METADATA_CHARACTERS_MAX), AfterValidator(lambda text: storable(text)[0])]
_Value = _Text | bool | Annotated[int, Field(ge=-ID_MAX, le=ID_MAX)] | float


class FiltersIn(BaseModel):
    """Which documents are asked. One has to fit everything that is given, and all keys of `metadata`."""

    model_config = ConfigDict(extra="forbid")

    document_ids: list[Annotated[int, Field(ge=1, le=ID_MAX)]] | None = Field(
        default=None, max_length=FILTERED_DOCUMENTS_MAX
    )
    path_prefix: Annotated[str, AfterValidator(lambda prefix: storable(prefix)[0])] | None = Field(
        default=None,
        min_length=1,
        max_length=PATH_PREFIX_CHARACTERS_MAX,
        description="How `file_path` has to begin, letter by letter: `handbook/` is a folder of the inbox.",
    )
    metadata: (
        dict[_Text, _Value | Annotated[list[_Value], Field(min_length=1, max_length=METADATA_VALUES_MAX)]] | None
    ) = Field(
        default=None,
        max_length=METADATA_KEYS_MAX,
        description="What a document's `metadata` has to say, letter by letter: for each key this value, or one of these. A value "
        "that lists several, as `tags: [a, b]` in front matter does, has each of them.",
        examples=[{"author": "Jane Doe", "tags": ["backup", "restore"]}],
    )

    def metadata_values(self) -> dict[str, list[str]]:
        """Return the values of each key as the documents' metadata hold them, which is as text."""
        return {
            key: [_as_text(value) for value in (values if isinstance(values, list) else [values])]
            for key, values in (self.metadata or {}).items()
        }


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def filters_of(filters: FiltersIn | None) -> Filters | None:
    """Return the filters, or None when they leave every document."""
    if filters is None or (filters.document_ids is None and filters.path_prefix is None and not filters.metadata):
        return None
    return Filters(filters.document_ids, filters.path_prefix, filters.metadata_values())


class _PlaceIn(BaseModel):
    """A question, and where to look. No collection means every collection that the caller may read."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"question": "How are the nightly backups encrypted?"}]}
    )

    question: str = Field(min_length=1, max_length=QUESTION_CHARACTERS_MAX)
    collection: str | None = Field(default=None, max_length=200)
    collections: list[str] | None = Field(default=None, max_length=100)
    filters: FiltersIn | None = None
    wait_for: uuid.UUID | None = Field(
        default=None,
        description=f"A `job_id` of `/ingest`: first wait, at most {WAIT_SECONDS_MAX:.0f} s, until each of its documents "
        "is ready or failed. `pending` tells what was still in work then.",
    )

    def names(self) -> list[str] | None:
        """Return the collections that are named, or None for all.

        Raises: RequestError when both fields are given.
        """
        if self.collection is not None and self.collections is not None:
            raise RequestError("give `collection` or `collections`, not both")
        return [self.collection] if self.collection is not None else self.collections

    def awaited(self, scope: list[int]) -> Awaited | None:
        """Return what is waited for, among the collections that the caller may read."""
        return Awaited(self.wait_for, scope) if self.wait_for is not None else None


class TurnIn(BaseModel):
    """An earlier message of a conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant"]
    content: str = Field(max_length=QUESTION_CHARACTERS_MAX)


class QuestionIn(_PlaceIn):
    """A question to answer."""

    top_k: int = Field(default=8, ge=1, le=TOP_K_MAX)
    stream: bool = Field(default=False, description="Answer as server-sent events, as `POST /query/stream` does.")
    messages: list[TurnIn] = Field(
        default=[],
        max_length=TURNS_MAX,
        description="What was said before, oldest first. It tells what `question` means where that leans on it (`meta.question` "
        "is what was looked for), and a chat model reads the latest that fit.",
    )

    def asked(self, collections: list[CollectionRow], key_id: int | None) -> Asked:
        """Say who asks what, where."""
        history = [Turn(turn.role, turn.content) for turn in self.messages]
        return Asked(self.question, collections, self.top_k, history, key_id, filters_of(self.filters))


class SearchIn(_PlaceIn):
    """Words to look for."""

    top_k: int = Field(default=10, ge=1, le=200)

    def asked(self, collections: list[CollectionRow], key_id: int | None) -> Asked:
        """Say who looks for what, where."""
        return Asked(self.question, collections, self.top_k, key_id=key_id, filters=filters_of(self.filters))
