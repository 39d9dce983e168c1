-- What the embedder reads and writes.

-- name: texts_to_embed
-- The exact texts behind hashes $2 that are still staged and have no vector.
-- $1 model_id smallint · $2 text_hashes bytea[]
-- Rows: 0..n, one per text. A hash that is missing here has vanished, or has its vector already.
SELECT h.text_hash, s.prefix, s.text, s.token_count
FROM unnest($2::bytea[]) AS h (text_hash)
CROSS JOIN LATERAL (
  SELECT prefix, text, token_count
  FROM staged_chunk
  WHERE staged_chunk.text_hash = h.text_hash
  LIMIT 1
) AS s
WHERE NOT EXISTS (SELECT 1 FROM embedding AS e WHERE e.model_id = $1::smallint AND e.text_hash = h.text_hash)

-- name: traces_of_texts
-- Up to $3 versions that stage any of texts $2, oldest first, with their traces.
-- $1 model_id smallint · $2 text_hashes bytea[] · $3 limit int
-- Rows: 0..$3.
SELECT v.collection_id, v.document_id, v.id AS version_id, v.traceparent, v.tracestate, wanted.text_count
FROM (
  SELECT s.collection_id, s.version_id, count(DISTINCT s.text_hash)::integer AS text_count
  FROM staged_chunk AS s
  JOIN collection AS c ON c.id = s.collection_id AND c.embedding_model_id = $1::smallint
  WHERE s.text_hash = ANY ($2::bytea[])
  GROUP BY s.collection_id, s.version_id
) AS wanted
JOIN document_version AS v ON v.collection_id = wanted.collection_id AND v.id = wanted.version_id
WHERE v.traceparent IS NOT NULL
ORDER BY v.id
LIMIT $3::integer

-- name: insert_embeddings
-- Store vectors; somebody may have stored the same ones.
-- $1 model_id smallint · $2 text_hashes bytea[] · $3 vectors halfvec[]
-- Rows: 0..n.
INSERT INTO embedding (model_id, text_hash, vector)
SELECT $1::smallint, v.text_hash, v.vector
FROM unnest($2::bytea[], $3::halfvec[]) AS v (text_hash, vector)
ORDER BY v.text_hash
ON CONFLICT (model_id, text_hash) DO NOTHING
RETURNING text_hash

-- name: add_embedding_usage
-- Note that model $1 has read so many tokens for collections $2.
-- $1 model text · $2 collection_ids int[] · $3 tokens bigint[]
-- Rows: none.
INSERT INTO token_usage (collection_id, model, embedding_tokens)
SELECT u.collection_id, $1::text, u.tokens
FROM unnest($2::integer[], $3::bigint[]) AS u (collection_id, tokens)

-- name: sum_token_usage
-- Add up to $2 entries older than $1 to the sums of their days. What is summed and what is not stay the same together.
-- $1 age interval · $2 limit int
-- Rows: none. SKIP LOCKED: of two sweeps at once each takes other entries. In the order of the sums: two that raise the same
-- ones in different orders deadlock.
WITH old AS MATERIALIZED (
  SELECT id
  FROM token_usage
  WHERE at < now() - $1::interval
  ORDER BY at
  LIMIT $2::integer
  FOR UPDATE SKIP LOCKED
), summed AS (
  DELETE FROM token_usage AS u
  USING old
  WHERE u.id = old.id
  RETURNING (u.at AT TIME ZONE 'UTC')::date AS day, u.key_id, u.collection_id, u.model, u.prompt_tokens, u.completion_tokens,
    u.embedding_tokens
)
INSERT INTO token_sum AS s (day, key_id, collection_id, model, prompt_tokens, completion_tokens, embedding_tokens)
SELECT day, key_id, collection_id, model, sum(prompt_tokens), sum(completion_tokens), sum(embedding_tokens)
FROM summed
GROUP BY day, key_id, collection_id, model
ORDER BY day, key_id, collection_id, model
ON CONFLICT ON CONSTRAINT one_sum_per_day DO UPDATE
SET prompt_tokens = s.prompt_tokens + excluded.prompt_tokens,
  completion_tokens = s.completion_tokens + excluded.completion_tokens,
  embedding_tokens = s.embedding_tokens + excluded.embedding_tokens

-- name: prune_embeddings
-- Forget up to $2 vectors older than $1 that no staged or published chunk uses.
-- $1 age interval · $2 limit int
-- Rows: none.
DELETE FROM embedding
WHERE (model_id, text_hash) IN (
  SELECT e.model_id, e.text_hash
  FROM embedding AS e
  WHERE e.created_at < now() - $1::interval
    AND NOT EXISTS (SELECT 1 FROM staged_chunk AS s WHERE s.text_hash = e.text_hash)
    AND NOT EXISTS (SELECT 1 FROM chunk AS c WHERE c.text_hash = e.text_hash)
  LIMIT $2::integer
)

-- name: lex_anew
-- Lex $2 more chunks of collection $1 as the newest migration says, those published last first.
-- $1 collection_id int · $2 limit int
-- Rows: 0..1: the id below which chunks are left, NULL = none was.
WITH batch AS MATERIALIZED (
  SELECT c.id
  FROM collection_stat AS s
  JOIN chunk AS c ON c.collection_id = s.collection_id AND c.id < s.unlexed_below
  WHERE s.collection_id = $1::integer
  ORDER BY c.id DESC
  LIMIT $2::integer
), lexed AS (
  UPDATE chunk AS c
  SET tsv = t.tsv, lexeme_count = tsv_length(t.tsv)
  FROM batch AS b
  JOIN chunk AS old ON old.collection_id = $1::integer AND old.id = b.id
  JOIN document AS d ON d.collection_id = old.collection_id AND d.id = old.document_id
  CROSS JOIN LATERAL (
    SELECT chunk_tsv(old.language, old.prefix, old.text, substr(d.source_uri, strpos(d.source_uri, ':') + 1)) AS tsv OFFSET 0
  ) AS t
  WHERE c.collection_id = $1::integer AND c.id = b.id AND (c.tsv <> t.tsv OR c.lexeme_count <> tsv_length(t.tsv))
)
UPDATE collection_stat
SET unlexed_below = (SELECT min(id) FROM batch)
WHERE collection_id = $1::integer AND unlexed_below IS NOT NULL
RETURNING unlexed_below

-- name: replace_term_stats
-- Count anew in how many chunks of collection $1 each lexeme stands.
-- $1 collection_id int
-- Rows: none.
WITH fresh AS MATERIALIZED (
  SELECT word.lexeme, count(*)::integer AS chunk_count
  FROM chunk AS c
  CROSS JOIN LATERAL unnest(c.tsv) AS word
  WHERE c.collection_id = $1::integer
  GROUP BY word.lexeme
), gone AS (
  DELETE FROM term_stat AS t
  WHERE t.collection_id = $1::integer AND NOT EXISTS (SELECT 1 FROM fresh WHERE fresh.lexeme = t.lexeme)
)
INSERT INTO term_stat AS t (collection_id, lexeme, chunk_count)
SELECT $1::integer, lexeme, chunk_count
FROM fresh
ORDER BY lexeme
ON CONFLICT (collection_id, lexeme) DO UPDATE SET chunk_count = excluded.chunk_count
WHERE t.chunk_count <> excluded.chunk_count

-- name: replace_collection_stat
-- Count the chunks of collection $1 and their lengths; the counts are as old as the transaction.
-- $1 collection_id int · $2 duration_ms double precision · $3 exact_chunks_max int
-- Rows: 0 = the collection is gone.
INSERT INTO collection_stat AS s (collection_id, chunk_count, lexeme_count, refreshed_at, duration_ms, outgrown_at)
SELECT $1::integer, count(*), coalesce(sum(lexeme_count), 0), now(), $2::double precision,
  CASE WHEN count(*) > $3::integer THEN now() END
FROM chunk
WHERE collection_id = $1::integer
HAVING EXISTS (SELECT 1 FROM collection WHERE id = $1::integer)
ON CONFLICT (collection_id) DO UPDATE
SET chunk_count = excluded.chunk_count, lexeme_count = excluded.lexeme_count, refreshed_at = excluded.refreshed_at,
  duration_ms = excluded.duration_ms,
  outgrown_at = CASE WHEN excluded.outgrown_at IS NOT NULL THEN coalesce(s.outgrown_at, excluded.outgrown_at) END
RETURNING chunk_count

-- name: request_outdated_statistics
-- Make a job for each collection that was published to after its statistics were taken, or whose text is still to be lexed anew.
-- $1 retry_after interval
-- Rows: 0..n. Waits at least 20 times as long as the last refresh took, and $1 after a job that was buried.
INSERT INTO job (stage, subject_id, collection_id, run_at)
SELECT 'index', c.id, c.id, now() + coalesce(20 * s.duration_ms, 0) * interval '1 millisecond'
FROM collection AS c
LEFT JOIN collection_stat AS s ON s.collection_id = c.id
WHERE EXISTS (
  SELECT 1 FROM document_version AS v
  WHERE v.collection_id = c.id AND v.ready_at IS NOT NULL AND (s.refreshed_at IS NULL OR v.ready_at > s.refreshed_at)
) OR (
  -- An embedder of before, which knows nothing of it, may have done the job that the migration made.
  s.unlexed_below IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM dead_letter AS d
    WHERE d.stage = 'index' AND d.subject_id = c.id AND d.died_at > now() - $1::interval
  )
)
ORDER BY c.id
ON CONFLICT ON CONSTRAINT one_job_per_subject DO NOTHING
RETURNING id

-- name: may_index
-- Whether this login may take the role that owns the tables.
-- Rows: 1.
SELECT pg_has_role(session_user, 'askbox_owner', 'SET')

-- name: list_due_indexes
-- Which indexes of collection $1, or of all, are to be dropped and which are to be built; a NULL model means the text.
-- $1 collection_id int, NULL = every · $2 exact_chunks_max int · $3 wait interval · $4 retry_after interval · $5 limit int
-- Rows: 0..$5, those to be dropped first. What a broken build left behind is dropped and wanted. A collection that never
-- comes to rest is waited for no longer than $3. Below a quarter of $2 chunks, so that it does not build and drop by turns, or
-- when it is gone, its indexes go; rows are counted up to there and no further, for statistics do not notice deletions.
WITH outgrown AS (
  SELECT k.id::bigint AS collection_id, k.embedding_model_id::bigint AS model_id, m.dimension
  FROM collection AS k
  JOIN embedding_model AS m ON m.id = k.embedding_model_id
  JOIN collection_stat AS s ON s.collection_id = k.id
  WHERE ($1::integer IS NULL OR k.id = $1)
    AND s.chunk_count > $2::integer
    AND (
      s.outgrown_at < now() - $3::interval
      OR NOT EXISTS (
        SELECT 1 FROM document_version AS v
        WHERE v.collection_id = k.id AND v.state IN ('queued', 'parsing', 'embedding')
      )
    )
    AND NOT EXISTS (
      SELECT 1 FROM dead_letter AS d
      WHERE d.stage = 'index' AND d.subject_id = k.id AND d.died_at > now() - $4::interval
    )
), due AS (
  SELECT i.collection_id, i.model_id, NULL::integer AS dimension, false AS is_wanted
  FROM search_index AS i
  LEFT JOIN collection AS k ON k.id = i.collection_id
  WHERE ($1::integer IS NULL OR i.collection_id = $1)
    AND (
      NOT i.is_valid
      OR i.model_id <> k.embedding_model_id
      OR (
        SELECT count(*)
        FROM (SELECT 1 FROM chunk_vector AS v WHERE v.collection_id = i.collection_id LIMIT $2::integer / 4) AS few
      ) < $2::integer / 4
    )
  UNION ALL
  SELECT o.collection_id, w.model_id, o.dimension, true
  FROM outgrown AS o
  CROSS JOIN LATERAL (VALUES (NULL::bigint), (o.model_id)) AS w (model_id)
  WHERE NOT EXISTS (
    SELECT 1 FROM search_index AS i
    WHERE i.collection_id = o.collection_id AND i.model_id IS NOT DISTINCT FROM w.model_id AND i.is_valid
  )
)
SELECT collection_id, model_id, dimension, is_wanted
FROM due
ORDER BY is_wanted, collection_id, model_id NULLS FIRST
LIMIT $5::integer

-- name: request_index_jobs
-- Make a job for each of collections $1.
-- $1 collection_ids int[]
-- Rows: 0..n.
INSERT INTO job (stage, subject_id, collection_id)
SELECT 'index', c.id, c.id
FROM unnest($1::integer[]) AS c (id)
ORDER BY c.id
ON CONFLICT ON CONSTRAINT one_job_per_subject DO NOTHING
RETURNING id

-- name: request_index_removal
-- Make a job for collection $1 when it is gone and its indexes are not.
-- $1 collection_id int
-- Rows: 0..1.
INSERT INTO job (stage, subject_id, collection_id)
SELECT 'index', $1::integer, $1::integer
WHERE NOT EXISTS (SELECT 1 FROM collection WHERE id = $1::integer)
  AND EXISTS (SELECT 1 FROM search_index WHERE collection_id = $1::integer)
ON CONFLICT ON CONSTRAINT one_job_per_subject DO NOTHING
RETURNING id

-- name: forget_index_letter
-- Forget that an earlier job of collection $1 was buried.
-- $1 collection_id int
-- Rows: 0..1.
DELETE FROM dead_letter
WHERE stage = 'index' AND subject_id = $1::integer
RETURNING id

-- name: begin_building
-- Become the session that builds indexes in this database; never wait, for a waiting session is a snapshot that builds wait for.
-- Rows: 1.
SELECT pg_try_advisory_lock(0x61736B696478) AS is_alone

-- name: bound_build
-- Bound the DDL that follows: to $1, to $2 of waiting for others, to memory $3.
-- $1 statement_timeout text · $2 lock_timeout text · $3 memory text
-- Rows: 1. A parallel build takes its whole memory as a shared segment, of which a container often has 64 MB, and the cores
-- that questions need.
SELECT set_config('statement_timeout', $1::text, false), set_config('lock_timeout', $2::text, false),
  set_config('maintenance_work_mem', $3::text, false), set_config('max_parallel_maintenance_workers', '0', false)
