"""What an answer tells of itself: its best sentences, why there is none, what it cost; and why a hit stands where it does."""

from unittest.mock import ANY

import pytest

from services.query.answer import Answerer
from services.query.exchange import Answer, Asked
from services.query.ledger import Ledger
from services.query.schema import CLOSEST_MAX
from services.query.store import CollectionRow
from tests.api.asking import asking
from tests.factories import HashModel, make_collection, publish_version
from tests.openai_chat import Chat
from tests.openai_server import serving as serving_openai

QUESTION = "when does the nightly backup run"
TEXTS = [
    "The office opens at nine. The nightly backup runs at two. It was planned long ago.",
    "A nightly walk is healthy. Some run at night.",
    "Bread is baked of flour, water and salt.",
]


async def ask(client, question: str = QUESTION, route: str = "/query", **body):
    response = await client.post(route, json={"question": question, **body})
    assert response.status_code == 200, response.text
    return response.json()


async def test_best_sentence_is_the_first_source_and_the_next_best_stand_behind_it(client, pool):
    await publish_version(pool, TEXTS)
    answer = await ask(client)
    assert [source["index"] for source in answer["sources"]] == [1, 2, 3]
    assert answer["sources"][0]["quote"] == "The nightly backup runs at two."
    assert answer["answer"].count("\n") < 2, "what is much worse is a source, and not said"
    assert "The nightly backup runs at two. [1]" in answer["answer"].split("\n")
    assert answer["meta"]["refusal"] is None
    assert answer["closest"] == []


async def test_sentences_that_were_embedded_for_an_answer_are_booked(reader_pool, pool):
    collection_id, model_id = await make_collection(pool)
    await publish_version(pool, TEXTS)
    model, ledger = HashModel(), Ledger()
    answerer = Answerer(reader_pool, model, refusal_threshold=0.1, ledger=ledger)
    asked = Asked(QUESTION, [CollectionRow(collection_id, "default", model_id)], 5)
    (answer,) = [piece async for piece in answerer.answer(asked) if isinstance(piece, Answer)]
    assert len(model.encoded) > 2
    assert answer.embedding_tokens == model.tokens_used
    assert sum(usage.embedding_tokens for usage in ledger._held) == model.tokens_used


async def test_refusal_tells_why_and_offers_what_comes_closest_apart(client, pool):
    await publish_version(pool, TEXTS)
    await publish_version(pool, ["More of the office."], source_uri="inbox:more.md")
    answer = await ask(client, "zebra quantum backup xylophone")
    assert not answer["answered"]
    assert answer["sources"] == []
    refusal = answer["meta"]["refusal"]
    assert refusal["reason"] == "too_far"
    assert refusal["confidence"] < refusal["threshold"] == 0.3
    assert refusal["confidence"] == answer["meta"]["confidence"]
    assert refusal["confidence"] == pytest.approx(max(0, 0.4 * refusal["cosine"] + 0.6 * refusal["coverage"]), abs=1e-3)
    assert 0 < refusal["coverage"] < 1
    assert set(refusal["missing"]) == {"zebra", "quantum", "xylophon"}
    assert "0.30 is needed" in refusal["words"]
    assert "zebra" in refusal["words"]
    assert len(answer["closest"]) == CLOSEST_MAX
    hits = (await ask(client, "zebra quantum backup xylophone", "/search"))["data"]
    assert [hit["text"] for hit in answer["closest"]] == [hit["text"] for hit in hits[:CLOSEST_MAX]]


async def test_refusal_of_an_empty_collection_says_so(client, pool):
    await make_collection(pool)
    answer = await ask(client)
    assert answer["meta"]["refusal"]["reason"] == "nothing_found"
    assert "no text yet" in answer["meta"]["refusal"]["words"]
    assert answer["closest"] == []
    assert await ask(client, filters={"metadata": {}}) == answer | {"meta": ANY, "tokens": ANY}


async def test_table_that_only_names_its_columns_is_not_quoted(client, pool):
    await publish_version(pool, ["| nightly backup | run |\n| --- | --- |"])
    answer = await ask(client)
    assert not answer["answered"]
    assert answer["meta"]["refusal"]["reason"] == "nothing_to_quote"


async def test_search_explains_each_score(client, pool):
    await publish_version(pool, TEXTS)
    found = await ask(client, route="/search")
    weight = found["dense_weight"]
    assert found["as_of"]
    assert sorted(hit["dense"]["place"] for hit in found["data"]) == [1, 2, 3]
    for hit in found["data"]:
        share = weight * hit["dense"]["share"] + (1 - weight) * hit["lexical"]["share"]
        assert hit["score"] == pytest.approx(share, abs=1e-4)
        assert (hit["lexical"]["place"] is None) == (hit["bm25"] == 0) == (not hit["terms"])
        weights = [term["idf"] for term in hit["terms"]]
        assert weights == sorted(weights, reverse=True)
    words = {hit["text"]: {term["term"] for term in hit["terms"]} for hit in found["data"]}
    assert words[TEXTS[0]] == {"night", "backup", "run"}
    assert words[TEXTS[2]] == set()


async def test_words_beside_a_chunk_tell_what_it_is_about(client, pool):
    same = "It takes an hour."
    await publish_version(pool, ["The zebra eats grass.", same, "It is striped."], source_uri="inbox:a.md")
    await publish_version(pool, ["The weekly backup runs.", same, "It is slow."], source_uri="inbox:b.md")
    for asked, expected in (("zebra hour", "a.md"), ("backup hour", "b.md")):
        found = await ask(client, asked, route="/search")
        first = next(hit for hit in found["data"] if hit["text"] == same)
        assert first["file_path"] == expected


async def test_question_of_which_no_word_is_found_is_told_as_ranked_by_meaning_alone(client, pool):
    await publish_version(pool, TEXTS)
    assert (await ask(client))["meta"]["retrieval_strategy"].startswith("hybrid")
    assert (await ask(client, "zebra"))["meta"]["retrieval_strategy"].startswith("dense")


async def test_model_reads_what_stands_beside_a_hit_and_cites_it_exactly(reader_pool, pool):
    texts = ["It begins here.", "The nightly backup runs.", "It takes an hour every time.", "Far off is this one."]
    await publish_version(pool, texts)
    with serving_openai() as server:
        async with asking(reader_pool, server) as app:
            app.chats.play(Chat(["It takes an hour every time [1]."]))
            answer = await app.answer(top_k=1, question=texts[1])
            sent = app.chats.calls[-1].body["messages"][-1]["content"]
    assert [text in sent for text in texts] == [True, True, True, False]
    assert sent.count("BEGIN SOURCE") == 1
    (source,) = answer["sources"]
    assert source["quote"] == texts[2]
    assert source["char_start"] == sum(len(text) + 1 for text in texts[:2])
    assert answer["meta"]["chunks_used"] == 3


async def test_model_reads_nothing_beside_a_hit_that_the_question_excludes(reader_pool, pool):
    await publish_version(pool, ["It begins here.", "The nightly backup runs.", "It takes an hour every time."])
    with serving_openai() as server:
        async with asking(reader_pool, server) as app:
            app.chats.play(Chat(["It runs [1]."]))
            await app.answer(top_k=1, question="The nightly backup runs. -hour")
            sent = app.chats.calls[-1].body["messages"][-1]["content"]
    assert "The nightly backup runs." in sent
    assert "takes an hour" not in sent


async def test_same_text_in_several_documents_is_sent_once(reader_pool, pool):
    for name in ("a", "b", "c"):
        await publish_version(pool, ["The nightly backup runs at two."], source_uri=f"inbox:{name}.md")
    with serving_openai() as server:
        async with asking(reader_pool, server) as app:
            app.chats.play(Chat(["At two [1]."]))
            await app.answer()
            sent = app.chats.calls[-1].body["messages"][-1]["content"]
    assert sent.count("runs at two") == 1
    assert all(f"{name}.md" in sent for name in ("a", "b", "c"))
