"""Notes whose chunks are known beforehand, and whether what is stored of them is right."""

import random
from collections import Counter
from pathlib import Path

import asyncpg
import numpy as np

from shared.text import embedded_text
from tests.openai_server import OpenAIServer, vector_of

# So many make a chunk of its own of a section under the harness's ASKBOX_CHUNK_TOKENS, and no two.
SECTION_WORDS = 20
# halfvec keeps 11 bits of each number.
TOLERANCE = 2e-3
CONTROL_TEXT = "askbox"
_WORDS = (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8").lower().split()
WORDS = sorted({word for word in _WORDS if word.isalpha() and len(word) > 3})
_VECTORS = """
SELECT c.prefix, c.text, e.vector::text AS stored, v.vector::text AS published
FROM chunk AS c
LEFT JOIN embedding AS e ON e.text_hash = c.text_hash
LEFT JOIN chunk_vector AS v ON v.collection_id = c.collection_id AND v.chunk_id = c.id
"""


def section(dice: random.Random, name: str, *extra: str) -> str:
    """A heading and a paragraph that nothing else holds: one chunk."""
    words = [*dice.choices(WORDS, k=SECTION_WORDS), *extra]
    return f"## Part {name}\n\n{' '.join(words).capitalize()}.\n"


def note(dice: random.Random, name: str, sections: int) -> str:
    """A document of so many chunks, and one of its title."""
    parts = [section(dice, f"{name} {place}", f"{name}x{place}") for place in range(sections)]
    return f"# Note {name}\n\n" + "\n".join(parts)


async def wrong_vectors(connection: asyncpg.Connection) -> tuple[int, list[str]]:
    """Recompute the vector of every published chunk; return how many there are, and the texts whose vectors differ."""
    rows = await connection.fetch(_VECTORS)
    texts = [(embedded_text(row["prefix"], row["text"]), row) for row in rows]
    wrong = [
        text for text, row in texts if not all(is_right(text, vector) for vector in (row["stored"], row["published"]))
    ]
    return len(rows), wrong


def is_right(text: str, vector: str | None) -> bool:
    """Whether a stored vector is the one that the provider gives for just this text."""
    if vector is None:
        return False
    return np.allclose(np.fromstring(vector.strip("[]"), sep=","), vector_of(text), atol=TOLERANCE)


def texts_sent(provider: OpenAIServer) -> Counter[str]:
    """How often each text was sent to be embedded; the text that probes the server is left out."""
    sent: Counter[str] = Counter()
    for call in list(provider.called()):
        texts = call.body["input"]
        sent.update([texts] if isinstance(texts, str) else texts)
    del sent[CONTROL_TEXT]
    return sent
