"""Measure ranking through the real pipeline: files in the inbox, questions over HTTP."""

import json
import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.harness import Askbox

HITS_READ = 100


@dataclass(frozen=True, slots=True)
class Collection:
    """A retrieval collection: documents, questions, and which documents are relevant to which question."""

    name: str
    documents: dict[str, tuple[str, str]]
    questions: dict[str, str]
    relevant: dict[str, dict[str, int]]


def load_collection(folder: Path, *, split: str = "") -> Collection:
    """Read `corpus.jsonl`, `queries.jsonl` and `qrels.tsv`; `split` is a suffix such as `_train`."""
    documents = {}
    for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        documents[row["_id"]] = (row.get("title") or "", row["text"])
    questions = {
        row["_id"]: row["text"]
        for row in map(json.loads, (folder / f"queries{split}.jsonl").read_text(encoding="utf-8").splitlines())
    }
    relevant: dict[str, dict[str, int]] = {}
    for line in (folder / f"qrels{split}.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        question, document, grade = line.split("\t")
        if int(grade) > 0:
            relevant.setdefault(question, {})[document] = int(grade)
    return Collection(folder.name, documents, {q: questions[q] for q in relevant if q in questions}, relevant)


def drop(box: Askbox, collection: Collection) -> None:
    """Write every document as a Markdown file into a folder of the inbox."""
    folder = box.inbox / collection.name
    staged = box.folder / f"{collection.name}.incoming"
    staged.mkdir()
    for number, (title, text) in collection.documents.items():
        heading = f"# {' '.join(title.split())}\n\n" if title else ""
        (staged / f"{number}.md").write_text(f"{heading}{text}\n", encoding="utf-8")
    staged.rename(folder)


def rank(box: Askbox, collection: Collection, question: str) -> list[str]:
    """Return document ids by their best chunk."""
    body = {"question": question, "collection": collection.name, "top_k": HITS_READ}
    response = box.post("/search", body)
    assert response.status_code == 200, response.text
    return list(dict.fromkeys(Path(hit["file_path"]).stem for hit in response.json()["data"]))


def ndcg(ranked: Iterable[str], relevant: Mapping[str, int], depth: int = 10) -> float:
    """Score one ranking. Source: Järvelin and Kekäläinen 2002, gains as BEIR takes them."""
    gain = sum(relevant.get(document, 0) / math.log2(place + 2) for place, document in enumerate(list(ranked)[:depth]))
    best = sum(
        grade / math.log2(place + 2) for place, grade in enumerate(sorted(relevant.values(), reverse=True)[:depth])
    )
    return gain / best if best else 0.0


def evaluate(box: Askbox, collection: Collection) -> float:
    """Return the mean nDCG@10 over all questions."""
    with ThreadPoolExecutor(2) as threads:
        rankings = threads.map(lambda item: (item[0], rank(box, collection, item[1])), collection.questions.items())
        scores = [ndcg(ranked, collection.relevant[question]) for question, ranked in rankings]
    return sum(scores) / len(scores)
