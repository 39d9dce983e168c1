-- What the query process reads and writes. Every statement that reads documents takes the scope as its first parameter.

-- name: set_scope
-- Open the walls of row-level security for collections $1, until the end of the transaction.
-- $1 scope int[]
-- Rows: 1.
SELECT set_config('askbox.scope', $1::integer[]::text, true)

-- name: list_collections
-- Every collection with its model.
-- Rows: 0..n.
SELECT c.id, c.name, c.embedding_model_id AS model_id
FROM collection AS c
ORDER BY c.name

-- name: find_key
-- Whether there was ever a key, which one has the hash $1, and its role in every collection. A revoked key counts as one:
-- who revokes the last one wants nobody in, not everybody.
-- $1 sha256 bytea
-- Rows: 1.
SELECT
  EXISTS (SELECT 1 FROM api_key) AS has_keys,
  k.id AS key_id,
  g.role AS everywhere
FROM (SELECT 1) AS always
LEFT JOIN api_key AS k ON k.sha256 = $1::bytea AND k.revoked_at IS NULL
LEFT JOIN key_grant AS g ON g.key_id = k.id AND g.collection_id IS NULL

-- name: list_granted
-- The collections that key $1 may use; of a grant on one and a grant on every collection the higher role counts.
-- $1 key_id int
-- Rows: 0..n, by name.
SELECT c.id, c.name, c.embedding_model_id AS model_id, r.role
FROM collection AS c
CROSS JOIN LATERAL (
  SELECT g.role
  FROM key_grant AS g
  WHERE g.key_id = $1::integer AND (g.collection_id = c.id OR g.collection_id IS NULL)
  ORDER BY array_position(ARRAY['admin', 'write', 'read'], g.role)
  LIMIT 1
) AS r
ORDER BY c.name

-- name: retrieve
-- The candidates of both arms in collection $2, each with both scores.
-- $1 scope int[] · $2 collection_id int · $3 model_id smallint · $4 terms jsonb, as question_terms gives them · $5 question_vector halfvec
-- · $6 arm_limit int
-- Rows: up to 2 × $6. Vectors have length 1, so the negative inner product orders as cosine does.
-- 384 stands for the dimension of the model: an index over vectors is one over vectors of some length, a type's length
-- cannot be a parameter, and the planner takes the index only for the same expression. Whether $2 lies in $1 is asked apart
-- from the rows: as one more condition on them it made the planner expect a fraction of them and scan the whole collection.
WITH dense AS MATERIALIZED (
  SELECT chunk_id
  FROM chunk_vector
  WHERE $2::integer = ANY ($1::integer[]) AND collection_id = $2::integer AND model_id = $3::smallint
  ORDER BY vector::halfvec(384) <#> $5::halfvec
  LIMIT $6::integer
), lexical AS MATERIALIZED (
  SELECT chunk_id, bm25, is_hit
  FROM term_hits($2::integer, $4::jsonb, ARRAY(SELECT chunk_id FROM dense), $6::integer)
)
SELECT l.chunk_id, v.document_id, (-(v.vector <#> $5::halfvec))::double precision AS cosine, l.bm25, l.is_hit AS is_lexical_hit
FROM lexical AS l
JOIN chunk_vector AS v ON v.collection_id = $2::integer AND v.model_id = $3::smallint AND v.chunk_id = l.chunk_id
WHERE v.collection_id = ANY ($1::integer[])

-- name: retrieve_nearest
-- The candidates of a question that has no words for the lexical arm: those of the dense arm in collection $2.
-- $1 scope int[] · $2 collection_id int · $3 model_id smallint · $4 question_vector halfvec · $5 arm_limit int
-- Rows: up to $5. About 384 and $1 see above.
SELECT chunk_id, document_id, (-(vector <#> $4::halfvec))::double precision AS cosine, 0::double precision AS bm25,
  false AS is_lexical_hit
FROM chunk_vector
WHERE $2::integer = ANY ($1::integer[]) AND collection_id = $2::integer AND model_id = $3::smallint
ORDER BY vector::halfvec(384) <#> $4::halfvec
LIMIT $5::integer

-- name: question_terms
-- The question's lexemes in each language of the collections, with the inverse document frequencies of their words.
-- $1 scope int[] · $2 question text
-- Rows: 0..n.
SELECT t.lexeme, t.languages::text[] AS languages, t.word, t.idf, t.is_identifier
FROM question_terms($1::integer[], $2::text) AS t
ORDER BY t.word, t.lexeme

-- name: count_words
-- How often words $4 stand in chunks $3 of collection $2, and in the chunks before and after each in its document.
-- $1 scope int[] · $2 collection_id int · $3 chunk_ids bigint[] · $4 lexemes text[]
-- Rows: up to three per chunk, each chunk once. `times` is in the order of $4.
WITH asked AS MATERIALIZED (
  SELECT array_agg(('''' || replace(replace(l.lexeme, '\', '\\'), '''', '''''') || '''')::tsquery ORDER BY l.place) AS words
  FROM unnest($4::text[]) WITH ORDINALITY AS l (lexeme, place)
), near AS MATERIALIZED (
  SELECT DISTINCT p.version_id, p.ordinal + shift AS ordinal
  FROM chunk_position AS p
  JOIN document AS d ON d.collection_id = p.collection_id AND d.live_version_id = p.version_id
  CROSS JOIN generate_series(-1, 1) AS shift
  WHERE p.collection_id = ANY ($1::integer[]) AND p.collection_id = $2::integer AND p.chunk_id = ANY ($3::bigint[])
)
SELECT c.collection_id, c.document_id, c.id AS chunk_id, p.ordinal, c.language::text AS language, c.lexeme_count,
  ARRAY(SELECT occurrences(c.tsv, w.word) FROM unnest(a.words) WITH ORDINALITY AS w (word, place) ORDER BY w.place) AS times
FROM near AS n
CROSS JOIN asked AS a
JOIN chunk_position AS p ON p.collection_id = $2::integer AND p.version_id = n.version_id AND p.ordinal = n.ordinal
JOIN chunk AS c ON c.collection_id = p.collection_id AND c.id = p.chunk_id

-- name: get_hits
-- Published chunks $3 of collection $2 with their place in the live version, and which of lexemes $4 they hold.
-- $1 scope int[] · $2 collection_id int · $3 chunk_ids bigint[] · $4 lexemes text[]
-- Rows: one per chunk.
SELECT c.id AS chunk_id, c.document_id, c.text, c.prefix, c.heading, c.language::text AS language, c.token_count,
  p.ordinal, p.page, p.page_label, coalesce(p.page_turns, '[]') AS page_turns, v.page_unit, p.lines, v.line_unit,
  p.char_start, p.char_end, d.source_uri, d.title, k.name AS collection,
  ARRAY(SELECT word.lexeme FROM unnest(c.tsv) AS word WHERE word.lexeme = ANY ($4::text[])) AS lexemes
FROM chunk AS c
JOIN document AS d ON d.collection_id = c.collection_id AND d.id = c.document_id
JOIN chunk_position AS p ON p.collection_id = c.collection_id AND p.chunk_id = c.id AND p.version_id = d.live_version_id
JOIN document_version AS v ON v.collection_id = p.collection_id AND v.id = p.version_id
JOIN collection AS k ON k.id = c.collection_id
WHERE c.collection_id = ANY ($1::integer[]) AND c.collection_id = $2::integer AND c.id = ANY ($3::bigint[])

-- name: list_beside
-- What stands next to chunks $3 of collection $2 in the live versions of their documents, and how near it comes to a question.
-- $1 scope int[] · $2 collection_id int · $3 chunk_ids bigint[] · $4 model_id smallint · $5 question_vector halfvec
-- Rows: up to two per chunk.
SELECT DISTINCT beside.chunk_id, d.id AS document_id, (-(v.vector <#> $5::halfvec))::double precision AS cosine
FROM chunk_position AS own
JOIN document AS d ON d.collection_id = own.collection_id AND d.live_version_id = own.version_id
JOIN chunk_position AS beside ON beside.collection_id = own.collection_id AND beside.version_id = own.version_id
  AND beside.ordinal IN (own.ordinal - 1, own.ordinal + 1)
JOIN chunk_vector AS v ON v.collection_id = own.collection_id AND v.model_id = $4::smallint AND v.chunk_id = beside.chunk_id
WHERE own.collection_id = ANY ($1::integer[]) AND own.collection_id = $2::integer AND own.chunk_id = ANY ($3::bigint[])
  AND beside.chunk_id <> ALL ($3::bigint[])

-- name: match_lexemes
-- Which of lexemes $3 each of texts $1 holds, read in its language.
-- $1 texts text[] · $2 languages text[] · $3 lexemes text[]
-- Rows: one per text, in order.
SELECT ARRAY(
  SELECT word.lexeme FROM unnest(text_lexemes(t.language::regconfig, t.content)) AS word WHERE word.lexeme = ANY ($3::text[])
) AS lexemes
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS t (content, language, place)
ORDER BY t.place

-- name: freshness
-- The time of this snapshot, how many versions of the scope are still in work, and how many chunks it had when last counted.
-- $1 scope int[]
-- Rows: 1.
SELECT now() AS as_of, count(*)::integer AS pending,
  (SELECT coalesce(sum(s.chunk_count), 0)::bigint FROM collection_stat AS s WHERE s.collection_id = ANY ($1::integer[])) AS chunk_count
FROM document_version
WHERE collection_id = ANY ($1::integer[]) AND state IN ('queued', 'parsing', 'embedding')

-- name: list_documents
-- Documents behind id $4 and up to id $5, by id, with the state of their newest version.
-- $1 scope int[] · $2 collection text, NULL = all · $3 state text, NULL = any · $4 after_id bigint · $5 last_id bigint · $6 limit int
-- Rows: 0..$6.
SELECT d.id, d.collection_id, k.name AS collection, d.source_uri, coalesce(v.title, d.title) AS title, v.state, v.error_code, v.error, v.id AS version,
  d.live_version_id IS NOT NULL AS is_searchable, live.chunk_count AS chunks, b.file_bytes, v.media_type,
  v.detected_at, v.ready_at, d.metadata
FROM document AS d
JOIN collection AS k ON k.id = d.collection_id
CROSS JOIN LATERAL (
  SELECT id, title, state, error_code, error, blob_id, media_type, detected_at, ready_at
  FROM document_version
  WHERE collection_id = d.collection_id AND document_id = d.id
  ORDER BY id DESC
  LIMIT 1
) AS v
JOIN blob AS b ON b.id = v.blob_id
LEFT JOIN document_version AS live ON live.collection_id = d.collection_id AND live.id = d.live_version_id
WHERE d.collection_id = ANY ($1::integer[])
  AND ($2::text IS NULL OR k.name = $2)
  AND ($3::text IS NULL OR v.state = $3)
  AND d.id > $4::bigint
  AND d.id <= $5::bigint
ORDER BY d.id
LIMIT $6::integer

-- name: bury_document
-- Delete document $2 and remember its bytes, so that a scan does not bring it back.
-- $1 scope int[] · $2 document_id bigint
-- Rows: 0..1.
WITH doomed AS (
  SELECT d.collection_id, d.id, d.source_uri, b.sha256
  FROM document AS d
  CROSS JOIN LATERAL (
    SELECT blob_id FROM document_version
    WHERE collection_id = d.collection_id AND document_id = d.id
    ORDER BY id DESC
    LIMIT 1
  ) AS v
  JOIN blob AS b ON b.id = v.blob_id
  WHERE d.collection_id = ANY ($1::integer[]) AND d.id = $2::bigint
), remembered AS (
  INSERT INTO tombstone (collection_id, source_uri, sha256)
  SELECT collection_id, source_uri, sha256 FROM doomed
  WHERE source_uri ~ '^(inbox|folder):' AND sha256 IS NOT NULL
  ON CONFLICT DO NOTHING
)
DELETE FROM document AS d
USING doomed
WHERE d.collection_id = doomed.collection_id AND d.id = doomed.id
RETURNING d.id

-- name: count_states
-- How many documents of the scope are in which state, by their newest version.
-- $1 scope int[]
-- Rows: 0..6.
SELECT newest.state, count(*)::integer AS documents
FROM (
  SELECT DISTINCT ON (collection_id, document_id) state
  FROM document_version
  WHERE collection_id = ANY ($1::integer[])
  ORDER BY collection_id, document_id, id DESC
) AS newest
GROUP BY newest.state

-- name: count_work
-- What waits in the scope: jobs by stage, dead letters, the age of the oldest version in work, chunks and tokens.
-- $1 scope int[]
-- Rows: 1.
SELECT
  (SELECT coalesce(jsonb_object_agg(s.stage, jsonb_build_object('ready', s.ready, 'leased', s.leased, 'delayed', s.delayed)), '{}')
   FROM (
     SELECT stage, count(*) FILTER (WHERE lease_id IS NULL AND run_at <= now()) AS ready,
       count(*) FILTER (WHERE lease_id IS NOT NULL) AS leased, count(*) FILTER (WHERE lease_id IS NULL AND run_at > now()) AS delayed
     FROM job WHERE collection_id = ANY ($1::integer[]) GROUP BY stage
   ) AS s) AS stages,
  (SELECT count(*)::integer FROM dead_letter WHERE collection_id = ANY ($1::integer[])) AS dead_letters,
  (SELECT extract(epoch FROM now() - min(detected_at))::double precision FROM document_version
   WHERE collection_id = ANY ($1::integer[]) AND state IN ('queued', 'parsing', 'embedding')) AS oldest_pending_seconds,
  (SELECT coalesce(sum(v.chunk_count), 0)::bigint FROM document AS d
   JOIN document_version AS v ON v.collection_id = d.collection_id AND v.id = d.live_version_id
   WHERE d.collection_id = ANY ($1::integer[])) AS chunks,
  (SELECT coalesce(sum(v.token_count), 0)::bigint FROM document AS d
   JOIN document_version AS v ON v.collection_id = d.collection_id AND v.id = d.live_version_id
   WHERE d.collection_id = ANY ($1::integer[])) AS chunk_tokens,
  (SELECT coalesce(sum(v.truncated_count), 0)::bigint FROM document_version AS v
   WHERE v.collection_id = ANY ($1::integer[])) AS truncated_inputs

-- name: list_workers
-- Processes that were seen within $1.
-- $1 silence interval
-- Rows: 0..n.
SELECT id, kind, host, pid, is_listening, note, is_hindered, waiting_file_count,
  extract(epoch FROM now() - last_seen_at)::double precision AS silent_seconds
FROM worker
WHERE last_seen_at > now() - $1::interval
ORDER BY kind, id

-- name: list_skipped
-- Up to $2 files of the inbox that are not taken, of collections $1.
-- $1 names text[], NULL = all · $2 limit int
-- Rows: 0..$2.
SELECT source_uri, collection_name, reason, seen_at
FROM skipped_file
WHERE $1::text[] IS NULL OR collection_name = ANY ($1::text[])
ORDER BY source_uri
LIMIT $2::integer

-- name: get_pauses
-- The deletions that wait for a person.
-- Rows: 0..2.
SELECT kind, reason, missing_count, paused_at, confirmed_at
FROM inbox_pause
ORDER BY kind

-- name: confirm_pause
-- A person says that the deletion is meant.
-- Rows: 0..2.
UPDATE inbox_pause
SET confirmed_at = now()
WHERE confirmed_at IS NULL
RETURNING missing_count
