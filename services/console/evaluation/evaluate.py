"""One evaluation, from the folder to the figures."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from services.console.evaluation.answering import Answered, Asked, ask
from services.console.evaluation.collection import Collection, Question, Split, choose, read_collection
from services.console.evaluation.corpus import Corpus
from services.console.evaluation.ending import in_order
from services.console.evaluation.http import request
from services.console.evaluation.loading import Loaded, fingerprint, load
from services.console.evaluation.progress import Progress
from services.console.evaluation.ranking import Arm, Ranked, rank
from services.console.evaluation.report import Absences, Outcome
from services.console.evaluation.scratch import Scratch, scratch
from services.console.evaluation.settings import EvaluationSettings
from shared.tokens import open_tokenizer, prepare_tokenizer

# Below this many articles, half of them is too few to ask about.
ARTICLES_MIN = 4
# Texts of documents that are kept to be compared with hits: all of a small collection, none of a large one.
TEXTS_KEPT_CHARACTERS_MAX = 50_000_000
NAME_CHARACTERS_MAX = 100
FINGERPRINT_CHARACTERS = 12


@dataclass(frozen=True, slots=True)
class Options:
    """What is evaluated and how. `limit` is a number of questions of each kind."""

    split: Split = "test"
    limit: int | None = None
    seed: int = 1
    arm: Arm = "hybrid"
    has_answers: bool = True
    home: Path | None = None
    embedders: int = 1


def evaluate(settings: EvaluationSettings, folder: Path, options: Options, progress: Progress) -> Outcome:
    """Ingest the collection of a folder, ask its questions, and return what came of it.

    Raises: BadCollection; NoHome; ConfigError; EvaluationFailed.
    """
    collection = read_collection(folder, options.split)
    for note in collection.notes:
        progress.say(note)
    with in_order() as ending, scratch(options.home, ending, embedders=options.embedders) as running:
        return _Evaluation(settings, collection, options, running, progress).run()


class _Evaluation:
    """An evaluation over a running askbox."""

    def __init__(
        self,
        settings: EvaluationSettings,
        collection: Collection,
        options: Options,
        running: Scratch,
        progress: Progress,
    ) -> None:
        self._settings = settings
        self._collection = collection
        self._corpus = collection.corpus
        self._options = options
        self._running = running
        self._progress = progress
        mark = fingerprint(collection.corpus, settings)[:FINGERPRINT_CHARACTERS]
        self._name = f"{collection.name[:NAME_CHARACTERS_MAX]}-{mark}"

    def run(self) -> Outcome:
        everything = list(self._corpus.indices.values())
        loaded = self._load(self._name, everything)
        possible = self._choose(question for question in self._collection.questions if not question.is_impossible)
        ranked = self._rank(loaded, possible)
        described = self._describe(loaded, possible[0])
        return Outcome(
            collection=self._collection.name,
            split=self._options.split,
            arm=self._options.arm,
            documents=len(self._corpus.indices),
            chunks=loaded.chunks,
            failures=loaded.failures,
            is_reused=loaded.is_reused,
            settings={
                "askbox": version("askbox"),
                "embedding_model": self._settings.embedding_model,
                "llm_model": self._settings.llm_model,
                "chunk_tokens": self._settings.chunk_tokens,
                **described,
                "seed": self._options.seed,
                "limit": self._options.limit,
            },
            ranked=ranked,
            answerable=self._ask(loaded, possible, "answerable"),
            impossible=self._ask(loaded, self._impossible(), "impossible"),
            absences=self._leave_out(everything),
        )

    def _load(self, name: str, indices: Sequence[int]) -> Loaded:
        return load(self._running, name, self._corpus, indices, self._progress)

    def _choose(self, questions: Iterable[Question]) -> list[Question]:
        return choose(questions, self._options.limit, self._options.seed)

    def _impossible(self) -> list[Question]:
        return self._choose(question for question in self._collection.questions if question.is_impossible)

    def _rank(self, loaded: Loaded, questions: Sequence[Question]) -> list[Ranked]:
        tokenizer = open_tokenizer(prepare_tokenizer(self._settings))
        texts = _texts(self._corpus)
        return list(rank(self._running.client, loaded.name, questions, texts, tokenizer, self._progress))

    def _ask(self, loaded: Loaded, questions: Sequence[Question], what: str) -> list[Answered]:
        if not self._options.has_answers:
            return []
        asked = Asked(loaded.name, self._corpus, loaded.documents)
        return list(ask(self._running.client, asked, questions, what, self._progress))

    def _leave_out(self, everything: Sequence[int]) -> Absences | None:
        """Ask about articles that are not there: of half of the articles a collection of its own is made."""
        is_wanted = self._options.has_answers and self._collection.has_answers
        if not is_wanted or self._corpus.article_count < ARTICLES_MIN:
            return None
        kept = _half(self._corpus, self._options.seed)
        indices = [index for index in everything if self._corpus.article(index) in kept]
        loaded = self._load(f"{self._name}-half-{self._options.seed}", indices)
        present: list[Question] = []
        absent: list[Question] = []
        for question in self._collection.questions:
            if question.is_impossible or not question.relevant:
                continue
            articles = {self._corpus.article(index) for index in question.relevant}
            if articles <= kept:
                present.append(question)
            elif articles.isdisjoint(kept):
                absent.append(question)
        return Absences(
            present=self._ask(loaded, self._choose(present), "of articles that are there"),
            absent=self._ask(loaded, self._choose(absent), "of articles that are not there"),
        )

    def _describe(self, loaded: Loaded, question: Question) -> dict[str, Any]:
        """Ask once how retrieval works, and for the mean length of the chunks where no other collection is counted with them."""
        client = self._running.client
        body = {"question": question.text, "collection": loaded.name, "top_k": 1}
        searched, _ = request(client, "POST", "/search", json=body)
        stats, _ = request(client, "GET", "/ingest/stats")
        is_alone = stats["chunks"] == loaded.chunks and loaded.chunks > 0
        return {
            "dense_weight": searched["dense_weight"],
            "mean_chunk_tokens": round(stats["tokens"]["chunks"] / loaded.chunks, 1) if is_alone else None,
        }


def _half(corpus: Corpus, seed: int) -> set[int]:
    """Choose half of the articles, by chance."""
    articles = range(corpus.article_count)
    names = [Question(str(article), "") for article in articles]
    return {int(chosen.name) for chosen in choose(names, corpus.article_count // 2, seed)}


def _texts(corpus: Corpus) -> dict[int, str] | None:
    texts: dict[int, str] = {}
    characters = 0
    for index in corpus.indices.values():
        texts[index] = corpus.text(index)
        characters += len(texts[index])
        if characters > TEXTS_KEPT_CHARACTERS_MAX:
            return None
    return texts
