"""What goes in and out under `/v1`: OpenAI's chat completions, where a collection is a model.

**Invariants:** what would change the meaning of an answer and is not done here is refused, naming the parameter; what only
tunes how a model writes is accepted and leaves the operator's settings as they are.
"""

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.query.exchange import QUESTION_CHARACTERS_MAX, Answer, Asked
from services.query.markers import Mark
from services.query.openai_errors import RefusedParameter
from services.query.openai_models import EVERY_COLLECTION, Model
from services.query.prompt import Turn
from services.query.question_schema import TOP_K_MAX, TURNS_MAX, FiltersIn, filters_of
from services.query.schema import AnswerOut, MetaOut, SourceOut
from services.query.store import CollectionRow
from services.query.wait import Awaited
from shared.text import storable

# Clients send the whole conversation each time; the latest TURNS_MAX turns of it are read.
MESSAGES_MAX = 2000
PARTS_MAX = 100
TOKENS_MAX = 2**31 - 1
FinishReason = Literal["stop", "length"]
UrlOf = Callable[[int], str]

# What an answer cannot do, each with the values that ask for nothing of it.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "stop": ([], ""),
    "web_search_options": (),
}


class MessageIn(BaseModel):
    """One message: its content is a text, or parts that are texts."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Any = Field(
        default=None, json_schema_extra={"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}
    )
    tool_calls: Any = None
    function_call: Any = None

    def text(self, place: str) -> str:
        """Return what is said.

        Raises: RefusedParameter naming what is no text.
        """
        if self.role in {"tool", "function"}:
            raise RefusedParameter(f"{place}.role", f"{place}.role is {self.role}: no tools are called here")
        for name in ("tool_calls", "function_call"):
            if getattr(self, name):
                raise RefusedParameter(f"{place}.{name}", f"{place}.{name}: no tools are called here")
        content = [] if self.content is None and self.role == "assistant" else self.content
        if isinstance(content, str):
            return storable(content)[0]
        if not isinstance(content, list) or len(content) > PARTS_MAX:
            raise RefusedParameter(
                f"{place}.content", f"{place}.content has to be a text, or at most {PARTS_MAX} parts that are texts"
            )
        return "\n".join(_text_of(part, f"{place}.content[{number}]") for number, part in enumerate(content))


class StreamOptionsIn(BaseModel):
    """What a stream tells besides the answer."""

    include_usage: bool | None = None


class ChatIn(BaseModel):
    """A conversation, whose last message is the question. `filters`, `top_k` and `wait_for` are as those of `/query`."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {"model": EVERY_COLLECTION, "messages": [{"role": "user", "content": "How are backups encrypted?"}]}
            ]
        },
    )

    model: str = Field(min_length=1, max_length=200, description="A collection, or `default` for all of them.")
    messages: list[MessageIn] = Field(min_length=1, max_length=MESSAGES_MAX)
    stream: bool | None = None
    stream_options: StreamOptionsIn | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=TOKENS_MAX)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=TOKENS_MAX)
    filters: FiltersIn | None = None
    top_k: int = Field(default=8, ge=1, le=TOP_K_MAX)
    wait_for: uuid.UUID | None = None

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with what was used."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def asked(self, collections: list[CollectionRow], key_id: int | None) -> Asked:
        """Say who asks what, where.

        Raises: RefusedParameter naming what is not done here.
        """
        self._refuse()
        said = [
            (number, Turn("user" if message.role == "user" else "assistant", message.text(f"messages[{number}]")))
            for number, message in enumerate(self.messages)
            # A system prompt is for a model that answers from what it knows; here the documents say what is so.
            if message.role not in {"system", "developer"}
        ]
        if not said or said[-1][1].role != "user":
            raise RefusedParameter("messages", "the last of the messages has to be the user's: it is the question")
        number, question = said[-1]
        if not question.content.strip():
            raise RefusedParameter(f"messages[{number}].content", "the question is empty: ask something")
        return Asked(
            question.content,
            collections,
            self.top_k,
            # As long as a question may be: it is read for what this one means.
            [replace(turn, content=turn.content[:QUESTION_CHARACTERS_MAX]) for _, turn in said[-1 - TURNS_MAX : -1]],
            key_id,
            filters_of(self.filters),
            self.max_completion_tokens or self.max_tokens,
        )

    def awaited(self, scope: list[int]) -> Awaited | None:
        """Return what is waited for, among the collections that the caller may read."""
        return Awaited(self.wait_for, scope) if self.wait_for is not None else None

    def _refuse(self) -> None:
        given = self.model_extra or {}
        for name, harmless in _REFUSED.items():
            value = given.get(name)
            # By type as well: 1 is not True.
            if value is not None and not any(type(value) is type(none) and value == none for none in harmless):
                raise RefusedParameter(name, f"{name} cannot be had here: leave it out")
        if self.stream_options is not None and not self.stream:
            raise RefusedParameter("stream_options", "stream_options are for a stream: leave them out, or set stream")


class UrlCitationOut(BaseModel):
    """Where the text names a source: characters `start_index` to `end_index` of it are the marker."""

    start_index: int
    end_index: int
    url: str
    title: str


class AnnotationOut(BaseModel):
    """A marker of the text with its source."""

    type: Literal["url_citation"] = "url_citation"
    url_citation: UrlCitationOut


class ChatMessageOut(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    annotations: list[AnnotationOut]


class ChoiceOut(BaseModel):
    """The one answer that there is."""

    index: Literal[0] = 0
    message: ChatMessageOut
    logprobs: None = None
    finish_reason: FinishReason


class UsageOut(BaseModel):
    """Tokens that a chat model read and wrote, none where there is none; `embedding_tokens` are not among the total."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    embedding_tokens: int


class ChatOut(BaseModel):
    """An answer as a chat completion. `citations`, `answered` and `meta` are as `/query` shows them."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChoiceOut]
    usage: UsageOut
    citations: list[SourceOut]
    answered: bool
    meta: MetaOut


class ModelOut(BaseModel):
    """A collection as a model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["askbox"] = "askbox"

    @classmethod
    def of(cls, model: Model) -> "ModelOut":
        """Show a model."""
        return cls(id=model.name, created=model.created)


class ModelsOut(BaseModel):
    """What can be asked."""

    object: Literal["list"] = "list"
    data: list[ModelOut]


class ErrorOut(BaseModel):
    """What went wrong, and with which parameter."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorsOut(BaseModel):
    """An error in OpenAI's form."""

    error: ErrorOut


class Chunks:
    """Writes the chunks of one streamed answer, each as JSON."""

    def __init__(self, model: str, created: int, *, includes_usage: bool) -> None:
        self._head = {"id": completion_id(), "object": "chat.completion.chunk", "created": created, "model": model}
        self._tail: dict[str, Any] = {"usage": None} if includes_usage else {}

    def delta(self, finish: FinishReason | None = None, **delta: Any) -> str:
        """Write what is new of the answer."""
        return self._write([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}], self._tail)

    def finish(self, answer: Answer, out: AnswerOut) -> str:
        """Write how it ended, with its sources."""
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish_reason(answer)}
        told = out.model_dump(mode="json", include={"answered", "meta"})
        return self._write([choice], self._tail | {"citations": [s.model_dump() for s in out.sources]} | told)

    def usage(self, out: AnswerOut) -> str:
        """Write what was used, and nothing else."""
        return self._write([], {"usage": usage_of(out).model_dump()})

    def _write(self, choices: list[dict[str, Any]], more: dict[str, Any]) -> str:
        return json.dumps(self._head | {"choices": choices} | more, ensure_ascii=False)


def chat_of(model: str, created: int, answer: Answer, out: AnswerOut, url_of: UrlOf) -> ChatOut:
    """Show an answer as a chat completion."""
    message = ChatMessageOut(content=out.answer, annotations=annotations_of(answer.marks, out.sources, url_of))
    return ChatOut(
        id=completion_id(),
        created=created,
        model=model,
        choices=[ChoiceOut(message=message, finish_reason=finish_reason(answer))],
        usage=usage_of(out),
        citations=out.sources,
        answered=out.answered,
        meta=out.meta,
    )


def annotations_of(marks: Sequence[Mark], sources: Sequence[SourceOut], url_of: UrlOf) -> list[AnnotationOut]:
    """Bind each marker of a text to its document."""
    by_index = {source.index: source for source in sources}
    return [
        AnnotationOut(
            url_citation=UrlCitationOut(
                start_index=mark.start,
                end_index=mark.end,
                url=url_of(by_index[mark.index].document_id),
                title=by_index[mark.index].title or by_index[mark.index].file_path,
            )
        )
        for mark in marks
    ]


def usage_of(out: AnswerOut) -> UsageOut:
    """Show what was used."""
    tokens = out.tokens
    return UsageOut(
        prompt_tokens=tokens.prompt,
        completion_tokens=tokens.completion,
        total_tokens=tokens.prompt + tokens.completion,
        embedding_tokens=tokens.embedding,
    )


def finish_reason(answer: Answer) -> FinishReason:
    """Say how an answer ended."""
    return "length" if answer.is_cut else "stop"


def completion_id() -> str:
    """Make up a name for one answer."""
    return f"chatcmpl-{uuid.uuid4().hex}"


def _text_of(part: Any, place: str) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise RefusedParameter(place, f"{place} is no text: pictures, sounds and files are not read from a question")
    return storable(text)[0]
