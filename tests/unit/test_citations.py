"""Quotes are verbatim and bound to their place."""

import itertools
import re
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.query.citations import (
    SENTENCE_CHARACTERS_MAX,
    SENTENCE_WIDE_MIN,
    SENTENCE_WORDS_MIN,
    Citation,
    Hit,
    Sentence,
    cite,
    in_reading_order,
    render,
    sentences_of,
)

_PARTS = st.sampled_from(
    [
        "The lease fences writers out. ",
        "Nothing is lost when a worker dies! ",
        "Dr. Müller saw e.g. nothing. ",
        "Is it really so? ",
        "Short. ",
        "\n\n",
        "\n- an item of a list",
        "\n| a row | of a table |",
        "\nBonn | No. 7. Another | 12\n",
        "\n```\ncode of some kind\n```\n",
        "\n> a quote of others",
        "  ",
        "これは文です。とても短い文。",
        "no mark at the end ",
    ]
)
_TEXT = st.lists(_PARTS, max_size=10).map("".join) | st.text(max_size=80)


def _hit(chunk_id: int, document_id: int, char_start: int, text: str) -> Hit:
    return Hit(
        chunk_id=chunk_id,
        document_id=document_id,
        collection="default",
        source_uri=f"inbox:{document_id}.md",
        title=None,
        heading="",
        page=None,
        page_label=None,
        page_turns=(),
        page_unit="page",
        lines=(),
        line_unit="line",
        ordinal=chunk_id,
        char_start=char_start,
        char_end=char_start + len(text),
        text=text,
        prefix="",
        language="english",
        token_count=10,
        lexemes=frozenset(),
        cosine=0.5,
        bm25=1.0,
        score=0.5,
    )


@st.composite
def _hits(draw: st.DrawFn) -> list[Hit]:
    """Draw chunks of up to three documents, none overlapping another, in any order."""
    ends = {1: 0, 2: 0, 3: 0}
    hits = []
    for chunk_id, text in enumerate(draw(st.lists(_TEXT, min_size=1, max_size=6))):
        document_id = draw(st.integers(1, 3))
        start = ends[document_id] + draw(st.integers(0, 5))
        ends[document_id] = start + len(text)
        hits.append(_hit(chunk_id, document_id, start, text))
    return draw(st.permutations(hits))


@st.composite
def _chosen(draw: st.DrawFn) -> tuple[list[Hit], list[Sentence]]:
    hits = draw(_hits())
    sentences = sentences_of(hits)
    chosen = draw(st.lists(st.sampled_from(sentences), max_size=8)) if sentences else []
    return hits, chosen


@settings(max_examples=100)
@given(_hits())
def test_sentences_are_verbatim_ordered_and_do_not_overlap(hits: list[Hit]) -> None:
    sentences = sentences_of(hits)
    for sentence in sentences:
        assert sentence.text == hits[sentence.hit_index].text[sentence.start : sentence.end]
        assert sentence.text == sentence.text.strip()
    for one, next_one in itertools.pairwise(sentences):
        assert (one.hit_index, one.end) <= (next_one.hit_index, next_one.start) or one.hit_index < next_one.hit_index


@settings(max_examples=100)
@given(_hits())
def test_what_can_be_quoted_has_words_and_an_end(hits: list[Hit]) -> None:
    for sentence in sentences_of(hits):
        words = len(re.findall(r"\w{2,}", sentence.text))
        letters_without_spaces = len(re.findall(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]", sentence.text))
        assert words >= SENTENCE_WORDS_MIN or letters_without_spaces >= SENTENCE_WIDE_MIN
        assert len(sentence.text) <= SENTENCE_CHARACTERS_MAX


@settings(max_examples=150)
@given(_chosen())
def test_quotes_are_verbatim_spans_of_their_documents(drawn: tuple[list[Hit], list[Sentence]]) -> None:
    for citation in cite(*drawn):
        start, end = (place - citation.hit.char_start for place in (citation.char_start, citation.char_end))
        assert citation.quote == citation.hit.text[start:end]
        assert citation.char_end - citation.char_start == len(citation.quote)
        assert citation.hit.char_start <= citation.char_start < citation.char_end <= citation.hit.char_end


@settings(max_examples=100)
@given(_chosen())
def test_every_chosen_sentence_is_cited_once(drawn: tuple[list[Hit], list[Sentence]]) -> None:
    hits, chosen = drawn
    citations = cite(hits, chosen)
    assert [citation.index for citation in citations] == list(range(1, len(citations) + 1))
    places = [(c.hit.document_id, c.char_start, c.char_end) for c in citations]
    assert len(set(places)) == len(places)
    assert set(places) == {
        (hits[s.hit_index].document_id, hits[s.hit_index].char_start + s.start, hits[s.hit_index].char_start + s.end)
        for s in chosen
    }


@settings(max_examples=100)
@given(_chosen())
def test_documents_stand_as_their_best_sentence_and_sentences_as_in_the_document(
    drawn: tuple[list[Hit], list[Sentence]],
) -> None:
    hits, chosen = drawn
    documents = list(dict.fromkeys(hits[s.hit_index].document_id for s in chosen))
    order = [(documents.index(c.hit.document_id), c.char_start) for c in in_reading_order(cite(hits, chosen))]
    assert order == sorted(order)


@settings(max_examples=100)
@given(_chosen())
def test_citations_are_numbered_as_they_were_chosen(drawn: tuple[list[Hit], list[Sentence]]) -> None:
    hits, chosen = drawn
    places = [(hits[s.hit_index].document_id, hits[s.hit_index].char_start + s.start) for s in chosen]
    citations = cite(hits, chosen)
    assert [(c.hit.document_id, c.char_start) for c in citations] == list(dict.fromkeys(places))
    for count in range(len(chosen)):
        fewer = cite(hits, chosen[:count])
        assert fewer == citations[: len(fewer)], "what an answer says of its sources bears their numbers"


@pytest.mark.parametrize(
    ("prefix", "text", "quoted"),
    [
        ("Staff\nName | Room | Phone", "Name | Room | Phone\nAda | 12 | 4711", ["Ada | 12 | 4711"]),
        ("Staff\nname | room | phone", "NAME |  Room | Phone\nAda | 12 | 4711", ["Ada | 12 | 4711"]),
        ("Staff", "| Name | Room |\n| --- | :-: |\n| Ada L | 12 |", ["| Ada L | 12 |"]),
        ("Staff", "| Name | Room |\n|---|---|", []),
        ("Staff\nName | Room | Phone", "Name | Room | 4711", ["Name | Room | 4711"]),
        ("Staff", "| Name | Room |\n| Ada L | 12 |", ["| Name | Room |", "| Ada L | 12 |"]),
    ],
)
def test_names_of_columns_are_no_answer(prefix: str, text: str, quoted: list[str]) -> None:
    hit = replace(_hit(1, 1, 0, text), title="Staff", prefix=prefix)
    assert [sentence.text for sentence in sentences_of([hit])] == quoted


@settings(max_examples=100)
@given(_chosen())
def test_markers_are_the_indices_of_the_citations(drawn: tuple[list[Hit], list[Sentence]]) -> None:
    citations = cite(*drawn)
    at = 0
    answer = render(citations)
    for citation in citations:
        line = f"{citation.quote} [{citation.index}]"
        assert answer[at : at + len(line)] == line
        at += len(line) + 1
    assert at == len(answer) + (1 if citations else 0)


def test_markers_in_an_answer_all_refer_to_a_citation() -> None:
    hits = [
        _hit(1, 1, 0, "Leases fence writers out. Workers poll for jobs."),
        _hit(2, 2, 7, "Chunks carry their text."),
    ]
    citations = cite(hits, sentences_of(hits))
    markers = [int(number) for number in re.findall(r"\[(\d+)\]", render(citations))]
    assert markers == [c.index for c in citations] == [1, 2, 3]


def test_nothing_chosen_is_an_empty_answer() -> None:
    assert cite([], []) == []
    assert render([]) == ""


def test_one_sentence_in_two_hits_is_cited_once() -> None:
    hits = [_hit(1, 1, 100, "Leases fence writers out."), _hit(2, 1, 100, "Leases fence writers out.")]
    citations = cite(hits, sentences_of(hits))
    assert citations == [Citation(1, hits[0], 100, 125, "Leases fence writers out.")]


def test_items_rows_and_quotes_are_sentences_of_their_own() -> None:
    text = "These are the parts:\n- the first item here\n- the second item here\n1. one numbered item\n| a row | of words |"
    assert [s.text for s in sentences_of([_hit(1, 1, 0, text)])] == [
        "These are the parts:",
        "- the first item here",
        "- the second item here",
        "1. one numbered item",
        "| a row | of words |",
    ]


def test_rows_are_quoted_whole_and_one_by_one() -> None:
    text = (
        "Bonn | Dr. Who. He left | 12\nUlm | 7\n | | \nWhat stands below the table.\n\n  A | b  \nand what follows it."
    )
    assert [s.text for s in sentences_of([_hit(1, 1, 0, text)])] == [
        "Bonn | Dr. Who. He left | 12",
        "Ulm | 7",
        "What stands below the table.",
        "A | b",
        "and what follows it.",
    ]


@pytest.mark.parametrize(
    "records",
    [
        [
            "2026-11-20 02:15:00 backup began",
            "2026-11-20T02:16:00Z backup failed: disk full",
            "[2026-11-20 03:00] all is well",
        ],
        ["Nov 20 02:15:00 host backup: began", "Nov  2 02:16:00 host backup: failed"],
        ['{"event": "backup began", "at": 1}', '{"event": "backup failed", "at": 2}'],
    ],
)
def test_records_of_a_log_are_quoted_one_by_one(records: list[str]) -> None:
    assert [s.text for s in sentences_of([_hit(1, 1, 0, "\n".join(records))])] == records


def test_lines_without_a_sentence_are_quoted_one_by_one_where_they_are_too_long_together() -> None:
    lines = [f"value_{n} = compute(value_{n - 1}, {n})" for n in range(40)]
    assert [s.text for s in sentences_of([_hit(1, 1, 0, "\n".join(lines[:9]))])] == ["\n".join(lines[:9])]
    assert [s.text for s in sentences_of([_hit(1, 1, 0, "\n".join(lines))])] == lines


def test_row_too_long_to_be_quoted_is_quoted_in_parts() -> None:
    text = "Bonn | " + "Many words are here. " * 40 + "| 7"
    assert {s.text for s in sentences_of([_hit(1, 1, 0, text)])} > {"Many words are here."}


def test_fences_are_not_quoted() -> None:
    text = "Run this command now.\n```\nmake up all of it\n```"
    assert [s.text for s in sentences_of([_hit(1, 1, 0, text)])] == ["Run this command now."]


def test_endless_sentences_are_not_quoted() -> None:
    assert sentences_of([_hit(1, 1, 0, "many words " * 60)]) == []


def test_sentences_of_hostile_chunks_are_found_in_linear_time() -> None:
    started = time.process_time()
    for unit in (" | ", "a | b", "a | b\n", "\n", "\n\t", "\n- ", "\n1. ", ".", "\n#", "\n<", "a. "):
        sentences_of([_hit(1, 1, 0, unit * (200_000 // len(unit)))])
    assert time.process_time() - started < 10
