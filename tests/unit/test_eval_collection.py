"""Collections on disk: what is read, and what is said where it cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.console.evaluation.collection import NoCollection, Question, choose, read_collection
from services.console.evaluation.corpus import LineCorpus, Span, file_name, index_of
from services.console.evaluation.lines import BadCollection

DOCUMENTS = [
    {"_id": "a/b#1", "title": "Two\n words", "text": "First\r\nline.\rThird\x00"},
    {"_id": 2, "text": "No title"},
    {"_id": "c", "title": "Two\n words", "text": ""},
]
QUERIES = [
    {"_id": "q1", "text": "Where?", "answers": ["here"]},
    {"_id": "q2", "text": "When?", "is_impossible": True},
    {"_id": "q3", "text": "Who?"},
]
QRELS = "query-id\tcorpus-id\tscore\nq1\ta/b#1\t2\nq1\t2\t0\nq1\tc\t1\nq1\tgone\t1\nq9\tc\t1\n"


def write(folder: Path, name: str, rows: list[Any]) -> None:
    (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "corpus.jsonl", DOCUMENTS)
    write(tmp_path, "queries.jsonl", QUERIES)
    (tmp_path / "qrels.tsv").write_text(QRELS, encoding="utf-8")
    return tmp_path


def test_collection_is_read(folder: Path) -> None:
    collection = read_collection(folder)
    assert collection.corpus.indices == {"a/b#1": 0, "2": 1, "c": 2}
    assert collection.questions == [
        Question("q1", "Where?", {0: 2, 2: 1}, ("here",)),
        Question("q2", "When?", {}, (), is_impossible=True),
    ]
    assert collection.has_answers
    assert [note.split()[0] for note in collection.notes] == ["1", "qrels.tsv", "1"]


def test_document_becomes_a_file_whose_characters_are_those_of_citations(folder: Path) -> None:
    corpus = read_collection(folder).corpus
    assert corpus.text(0) == "# Two words\n\nFirst\nline.\nThird\ufffd\n"
    assert corpus.text(1) == "No title\n"
    assert corpus.article(0) == corpus.article(2) != corpus.article(1)
    assert corpus.article_count == 2


def test_changed_corpus_has_another_fingerprint_and_is_not_mixed_with_the_old_one(folder: Path) -> None:
    corpus = LineCorpus(folder / "corpus.jsonl")
    write(folder, "corpus.jsonl", [{"_id": "new", "text": "x" * 40}, *DOCUMENTS])
    assert LineCorpus(folder / "corpus.jsonl").fingerprint != corpus.fingerprint
    with pytest.raises(BadCollection):
        corpus.text(1)
    write(folder, "corpus.jsonl", [DOCUMENTS[0] | {"_id": "a/b#2"}, *DOCUMENTS[1:]])
    with pytest.raises(BadCollection, match="changed while it was read"):
        corpus.text(0)


def test_names_of_files_tell_their_document() -> None:
    assert index_of(file_name(0)) == 0
    assert index_of(file_name(12_345_678)) == 12_345_678
    assert [index_of(name) for name in ("notes.md", "d1.md", "d٠٠٠٠٠٠١.md", "d0000001.txt")] == [None] * 4


def test_train_split_has_files_of_its_own(folder: Path) -> None:
    with pytest.raises(NoCollection, match=r"queries_train\.jsonl is missing"):
        read_collection(folder, "train")
    write(folder, "queries_train.jsonl", [{"_id": "t", "text": "Why?"}])
    (folder / "qrels_train.tsv").write_text("t\tc\t1", encoding="utf-8")
    assert [question.name for question in read_collection(folder, "train").questions] == ["t"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("corpus.jsonl", '{"_id": "a", "text": "x"}\n\n{"_id": "b"', "corpus.jsonl, line 3: this is no JSON"),
        ("corpus.jsonl", "[1]", "corpus.jsonl, line 1: an object is wanted"),
        ("corpus.jsonl", '{"_id": "a", "text": 5}', "corpus.jsonl, line 1: `text` has to be a text, and is 5"),
        ("corpus.jsonl", '{"text": "x"}', "corpus.jsonl, line 1: `_id` has to be a text, and is missing"),
        (
            "corpus.jsonl",
            '{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}',
            "line 2: there was a document 'a' before",
        ),
        ("corpus.jsonl", "[" * 100_000, "corpus.jsonl, line 1: this is no JSON"),
        ("corpus.jsonl", "", "holds no document"),
        ("queries.jsonl", '{"_id": "q1", "text": " "}', "queries.jsonl, line 1: `text`"),
        ("queries.jsonl", '{"_id": "q1", "text": "a", "answers": "b"}', "line 1: `answers` has to be a list of texts"),
        ("queries.jsonl", '{"_id": "q1", "text": "a"}\n{"_id": "q1", "text": "b"}', "line 2: there was a question"),
        ("queries.jsonl", json.dumps({"_id": "q1", "text": "a" * 8001}), "line 1: a question of 8001 characters"),
        ("qrels.tsv", "q1\tc\t1\nq1 c 1\n", "qrels.tsv, line 2: a question, a document and a grade"),
        ("qrels.tsv", "query-id\tcorpus-id\tscore\nq1\tc\tmuch\n", "qrels.tsv, line 2: a question"),
        ("qrels.tsv", b"q1\tc\t1\nq1\t\xff\t1\n", "qrels.tsv, line 2: a question"),
        ("qrels.tsv", "q1\tc\t0\n", "no question has a relevant document"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(folder: Path, name: str, content: str | bytes, said: str) -> None:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadCollection) as raised:
        read_collection(folder)
    assert said in str(raised.value)


def test_folder_without_a_collection_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoCollection, match="holds neither"):
        read_collection(tmp_path)


@pytest.fixture
def chunking(tmp_path: Path) -> Path:
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "tale.md").write_text("Once. Upon a time.", encoding="utf-8")
    return tmp_path


def references(*spans: tuple[int, int, str]) -> dict[str, Any]:
    listed = [{"start_index": start, "end_index": end, "content": content} for start, end, content in spans]
    return {"_id": "q", "text": "When?", "corpus_id": "tale", "references": listed}


def test_questions_may_name_characters_of_a_file(chunking: Path) -> None:
    write(chunking, "questions.jsonl", [references((0, 5, "Once."), (6, 10, "Upon"))])
    (question,) = read_collection(chunking).questions
    assert question.spans == (Span(0, 0, 5), Span(0, 6, 10))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (references((0, 4, "Once.")), "characters 0 to 4 of the document are not what `content` says"),
        (references((0, 99, "Once.")), "no characters of the document: 0 to 99"),
        (references() | {"references": [7]}, "no characters of the document: None to None"),
        (references(), "`references` has to be a list"),
        (references((0, 5, "Once.")) | {"corpus_id": "x"}, "there is no corpora/x.md"),
    ],
)
def test_characters_that_are_none_are_refused(chunking: Path, row: dict[str, Any], said: str) -> None:
    write(chunking, "questions.jsonl", [row])
    with pytest.raises(BadCollection) as raised:
        read_collection(chunking)
    assert f"questions.jsonl, line 1: {said}" in str(raised.value)


def test_choice_depends_on_the_seed_and_a_greater_limit_holds_the_smaller() -> None:
    questions = [Question(str(number), "?") for number in range(100)]
    ten, twenty = choose(questions, 10, 1), choose(questions, 20, 1)
    assert twenty[:10] == ten == choose(reversed(questions), 10, 1)
    assert ten != choose(questions, 10, 2)
    assert {question.name for question in choose(questions, None, 1)} == {question.name for question in questions}
