"""Tokens are counted as the model reads them."""

import json
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import tokens
from shared.errors import ConfigError
from shared.settings import BUNDLED_MODEL, Settings
from shared.tokens import (
    EncodingTokenizer,
    EstimatingTokenizer,
    ModelTokenizer,
    Tokenizer,
    model_folder,
    open_chat_tokenizer,
    open_tokenizer,
    prepare_tokenizer,
    vector_dimension,
)
from tests.conftest import SHARED

ENCODINGS = SHARED / "tiktoken_cache"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return open_tokenizer(BUNDLED_MODEL)


@pytest.fixture
def copied_folder(tmp_path: Path) -> Path:
    """A model folder with a tokenizer and nothing else."""
    bundled = model_folder(BUNDLED_MODEL)
    assert bundled is not None
    (tmp_path / "tokenizer.json").write_bytes((bundled / "tokenizer.json").read_bytes())
    return tmp_path


def test_bundled_model_reads_256_tokens_of_which_2_are_its_own(tokenizer: Tokenizer) -> None:
    assert tokenizer.tokens_max == 256
    assert tokenizer.special_count == 2
    assert tokenizer.count(["", "hello", "hello world"]) == [2, 3, 4]


def test_counts_are_neither_truncated_nor_padded(tokenizer: Tokenizer) -> None:
    assert tokenizer.count(["hello " * 5000, "hello"]) == [5002, 3]


def test_no_texts_have_no_counts(tokenizer: Tokenizer) -> None:
    assert tokenizer.count([]) == []


@settings(max_examples=50)
@given(texts=st.lists(st.text(max_size=60), max_size=5))
def test_count_does_not_depend_on_the_batch(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert tokenizer.count(texts) == [tokenizer.count([text])[0] for text in texts]


@settings(max_examples=50)
@given(one=st.text(max_size=60), other=st.text(max_size=60))
def test_texts_on_lines_of_their_own_count_what_they_count_alone(tokenizer: Tokenizer, one: str, other: str) -> None:
    alone = sum(tokenizer.count([one, other])) - tokenizer.special_count
    assert tokenizer.count([f"{one}\n{other}"]) == [alone]


def test_vectors_of_the_bundled_model_have_384_numbers() -> None:
    assert vector_dimension(BUNDLED_MODEL) == 384


def test_bundled_model_lies_on_this_machine_and_an_unknown_one_does_not(tmp_path: Path) -> None:
    folder = model_folder(BUNDLED_MODEL)
    assert folder is not None
    assert (folder / "tokenizer.json").is_file()
    assert model_folder(str(tmp_path)) == tmp_path
    assert model_folder("nobody/no-such-model") is None


def test_folder_without_a_tokenizer_is_refused_by_the_name_of_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ASKBOX_EMBEDDING_MODEL: .*tokenizer\.json cannot be read"):
        ModelTokenizer(tmp_path)


def test_folder_that_does_not_say_how_much_is_read_is_refused(copied_folder: Path) -> None:
    with pytest.raises(ConfigError, match="how many tokens"):
        ModelTokenizer(copied_folder)


@pytest.mark.parametrize(
    ("sentence_limit", "positions", "tokens_max"), [(128, 512, 128), (512, 128, 128), (None, 77, 77)]
)
def test_least_limit_of_a_model_counts(
    copied_folder: Path, sentence_limit: int | None, positions: int, tokens_max: int
) -> None:
    (copied_folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": sentence_limit}))
    (copied_folder / "config.json").write_text(json.dumps({"max_position_embeddings": positions}))
    assert open_tokenizer(str(copied_folder)).tokens_max == tokens_max


def test_folder_that_does_not_say_how_long_its_vectors_are_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="how long its vectors"):
        vector_dimension(str(tmp_path))
    with pytest.raises(ConfigError, match="not on this machine"):
        vector_dimension("nobody/no-such-model")
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 768}))
    assert vector_dimension(str(tmp_path)) == 768


def remote_settings(tmp_path: Path, model: str = "openai:text-embedding-3-small", **values: object) -> Settings:
    return Settings(_env_file=None, home=tmp_path, embedding_model=model, **values)


@pytest.fixture
def encoding_path(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Put tiktoken's variable and its memory back as they were."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    monkeypatch.setattr(tokens.tiktoken.registry, "ENCODINGS", {})
    return monkeypatch


@pytest.mark.skipif(not ENCODINGS.is_dir(), reason="needs OpenAI's token tables")
@pytest.mark.usefixtures("encoding_path")
def test_openais_models_are_counted_with_their_own_encoding(tmp_path: Path) -> None:
    name = prepare_tokenizer(remote_settings(tmp_path, tiktoken_cache_dir=ENCODINGS))
    opened = open_tokenizer(name)
    assert isinstance(opened, EncodingTokenizer)
    assert opened.tokens_max == 8191
    assert opened.count(["", "hello world", "<|endoftext|>"]) == [0, 2, 7]


@pytest.mark.usefixtures("encoding_path")
def test_encoding_that_never_arrives_is_not_waited_for_and_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked, released, ended = threading.Event(), threading.Event(), threading.Event()

    def hang(_: str) -> bytes:
        asked.set()
        released.wait(30)
        ended.set()
        raise OSError

    monkeypatch.setattr("tiktoken.load.read_file", hang)
    monkeypatch.setattr(tokens, "FETCH_SECONDS_MAX", 0.5)
    name = prepare_tokenizer(remote_settings(tmp_path))
    assert asked.wait(30)
    assert not ended.is_set()
    opened = open_tokenizer(name)
    assert isinstance(opened, EstimatingTokenizer)
    assert opened.tokens_max == 8191
    assert [record.getMessage() for record in caplog.records] == ["tokens_estimated"]
    released.set()


@pytest.mark.usefixtures("encoding_path")
def test_opening_never_fetches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiktoken.load.read_file", lambda _: pytest.fail("fetched"))
    assert isinstance(
        open_tokenizer(f"openai:m?tokens_max=99&encoding=cl100k_base&folder={tmp_path}"), EstimatingTokenizer
    )


def test_unknown_model_of_a_server_is_estimated_without_asking_anybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "fetch_encoding", lambda *_: pytest.fail("fetched"))
    assert open_tokenizer(prepare_tokenizer(remote_settings(tmp_path, "openai:nomic-embed-text"))).tokens_max == 512
    set_by_hand = remote_settings(tmp_path, "openai:all-minilm", embedding_tokens_max=256)
    assert open_tokenizer(prepare_tokenizer(set_by_hand)).tokens_max == 256


def test_other_models_keep_their_name() -> None:
    assert prepare_tokenizer(Settings(_env_file=None)) == BUNDLED_MODEL


@pytest.mark.parametrize(
    "text",
    [
        "When does the nightly backup run? It runs at 02:15 and is encrypted with age.",
        "Die Wärmepumpe läuft über Nacht für den Großhandel.",
        "Привет, как дела? Сегодня хорошая погода.",
        "今日は天気がいいですね。",
        "def total(rows: list[int]) -> int:\n    return sum(rows)\n",
        "| name | count |\n|---|---|\n| a | 1,234,567 |",
        "https://example.org/a/b?c=d&e=f",
    ],
)
def test_estimate_is_rather_too_high(tokenizer: Tokenizer, text: str) -> None:
    (estimated,), (exact,) = EstimatingTokenizer(512).count([text]), tokenizer.count([text])
    assert exact <= estimated <= 3 * exact


@given(text=st.text(max_size=300))
def test_estimate_never_exceeds_the_bytes(text: str) -> None:
    (estimated,) = EstimatingTokenizer(512).count([text])
    assert 2 <= estimated <= 2 + len(text.encode("utf-8", "replace"))


@pytest.mark.skipif(not ENCODINGS.is_dir(), reason="needs OpenAI's token tables")
@pytest.mark.usefixtures("encoding_path")
def test_chat_model_is_counted_with_its_own_encoding(tmp_path: Path) -> None:
    opened = open_chat_tokenizer(remote_settings(tmp_path, tiktoken_cache_dir=ENCODINGS), "gpt-4-turbo")
    assert opened is not None
    assert opened.count(["hello world"]) == [2]


@pytest.mark.usefixtures("encoding_path")
def test_chat_model_whose_encoding_never_arrives_or_is_not_known_is_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    released = threading.Event()
    asked: list[str] = []

    def hang(source: str) -> bytes:
        asked.append(source)
        released.wait(30)
        raise OSError

    monkeypatch.setattr("tiktoken.load.read_file", hang)
    monkeypatch.setattr(tokens, "FETCH_SECONDS_MAX", 0.2)
    assert open_chat_tokenizer(remote_settings(tmp_path), "qwen3:4b") is None
    assert asked == []
    assert open_chat_tokenizer(remote_settings(tmp_path), "gpt-4-turbo") is None
    assert [record.getMessage() for record in caplog.records] == ["tokens_estimated"]
    released.set()
