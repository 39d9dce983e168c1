"""The oracle: what the database holds of an inbox, comparable between a run with faults and one without."""

from dataclasses import dataclass, field

import asyncpg

# A document as a question can meet it: every chunk in its place, with the text, the hash and the vector.
_DOCUMENTS = """
SELECT k.name AS collection, d.source_uri, encode(b.sha256, 'hex') AS sha256,
  jsonb_agg(jsonb_build_array(p.ordinal, c.prefix, c.text, encode(c.text_hash, 'hex'), p.char_start, p.char_end, p.page,
                                     p.page_label, p.page_turns, p.lines, v.vector::text)
            ORDER BY p.ordinal) FILTER (WHERE p.chunk_id IS NOT NULL) AS chunks
FROM document AS d
JOIN collection AS k ON k.id = d.collection_id
JOIN document_version AS w ON w.collection_id = d.collection_id AND w.id = d.live_version_id
JOIN blob AS b ON b.id = w.blob_id
LEFT JOIN chunk_position AS p ON p.collection_id = d.collection_id AND p.version_id = w.id
LEFT JOIN chunk AS c ON c.collection_id = d.collection_id AND c.id = p.chunk_id
LEFT JOIN chunk_vector AS v ON v.collection_id = d.collection_id AND v.chunk_id = c.id
GROUP BY k.name, d.id, d.source_uri, b.sha256
"""
# What is left of work: nothing of it may be there when all is quiet.
_REMAINS = """
SELECT 'job ' || stage AS kind, count(*) FROM job WHERE stage <> 'index' GROUP BY 1
UNION ALL SELECT 'lease', count(*) FROM lease AS l WHERE NOT EXISTS (SELECT 1 FROM job AS j WHERE j.lease_id = l.id AND j.stage = 'index')
  HAVING count(*) > 0
UNION ALL SELECT 'staged chunk', count(*) FROM staged_chunk HAVING count(*) > 0
UNION ALL SELECT 'dead letter ' || stage, count(*) FROM dead_letter GROUP BY 1
UNION ALL SELECT 'version ' || state, count(*) FROM document_version WHERE state NOT IN ('ready', 'superseded') GROUP BY 1
UNION ALL SELECT 'document without a live version', count(*) FROM document WHERE live_version_id IS NULL HAVING count(*) > 0
UNION ALL SELECT 'chunk in no position', count(*) FROM chunk AS c
  WHERE NOT EXISTS (SELECT 1 FROM chunk_position AS p WHERE p.collection_id = c.collection_id AND p.chunk_id = c.id)
  HAVING count(*) > 0
"""


@dataclass(frozen=True)
class Picture:
    """Documents by (collection, source), and what is left of unfinished work by kind."""

    documents: dict[tuple[str, str], tuple[str, str | None]] = field(default_factory=dict)
    remains: dict[str, int] = field(default_factory=dict)


async def take_picture(connection: asyncpg.Connection) -> Picture:
    """Look at everything in one snapshot."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        rows = await connection.fetch(_DOCUMENTS)
        remains = {row["kind"]: row["count"] for row in await connection.fetch(_REMAINS)}
    documents = {(row["collection"], row["source_uri"]): (row["sha256"], row["chunks"]) for row in rows}
    return Picture(documents, remains)


def differences(seen: Picture, expected: Picture) -> list[str]:
    """Say what is lost, what is too much, what differs."""
    found = [f"left over: {count} × {kind}" for kind, count in seen.remains.items()]
    found += [f"lost: {name}" for name in expected.documents.keys() - seen.documents.keys()]
    found += [f"too much: {name}" for name in seen.documents.keys() - expected.documents.keys()]
    for name in seen.documents.keys() & expected.documents.keys():
        (sha256, chunks), (expected_sha256, expected_chunks) = seen.documents[name], expected.documents[name]
        if sha256 != expected_sha256:
            found.append(f"other bytes: {name}")
        elif chunks != expected_chunks:
            found.append(f"other chunks, places or vectors: {name}")
    return sorted(found)
