-- Publication: `ask(v)`, in READ COMMITTED and in separate statements, since one statement's snapshot predates its lock wait.

-- name: lock_document_of_version
-- Lock the document of version $2. The document comes first in every transaction, so that deletes do not deadlock.
-- $1 collection_id int · $2 version_id bigint
-- Rows: 0 = gone.
SELECT id
FROM document
WHERE collection_id = $1::integer
  AND id = (SELECT document_id FROM document_version WHERE collection_id = $1::integer AND id = $2::bigint)
FOR NO KEY UPDATE

-- name: try_lock_document_of_version
-- As `lock_document_of_version`, but leave a document that somebody holds to them.
-- $1 collection_id int · $2 version_id bigint
-- Rows: 0 = gone or held.
SELECT id
FROM document
WHERE collection_id = $1::integer
  AND id = (SELECT document_id FROM document_version WHERE collection_id = $1::integer AND id = $2::bigint)
FOR NO KEY UPDATE SKIP LOCKED

-- name: get_staged_version
-- What `ask` has to know of version $2.
-- $1 collection_id int · $2 version_id bigint
-- Rows: 0..1.
SELECT v.document_id, v.state, d.live_version_id, c.embedding_model_id AS model_id, v.traceparent, v.tracestate
FROM document_version AS v
JOIN document AS d ON d.collection_id = v.collection_id AND d.id = v.document_id
JOIN collection AS c ON c.id = v.collection_id
WHERE v.collection_id = $1::integer AND v.id = $2::bigint

-- name: supersede_version
-- End version $2, which a newer one has overtaken.
-- $1 collection_id int · $2 version_id bigint
-- Rows: 0..1.
UPDATE document_version
SET state = 'superseded', ended_at = now()
WHERE collection_id = $1::integer AND id = $2::bigint
RETURNING id

-- name: delete_staged_chunks
-- Remove the staged chunks of version $2.
-- $1 collection_id int · $2 version_id bigint
-- Rows: none.
DELETE FROM staged_chunk
WHERE collection_id = $1::integer AND version_id = $2::bigint

-- name: find_dead_text
-- A text of version $2 that will never get a vector, and why.
-- $1 collection_id int · $2 version_id bigint · $3 model_id smallint
-- Rows: 0..1.
SELECT s.ordinal, d.error_code, d.error
FROM dead_letter AS d
JOIN staged_chunk AS s ON s.text_hash = d.text_hash AND s.collection_id = $1::integer AND s.version_id = $2::bigint
WHERE d.stage = 'embed' AND d.subject_id = $3::smallint
LIMIT 1

-- name: fail_version
-- End version $2 with a reason.
-- $1 collection_id int · $2 version_id bigint · $3 error_code text · $4 error text
-- Rows: 0..1.
UPDATE document_version
SET state = 'failed', error_code = $3::text, error = $4::text, ended_at = now()
WHERE collection_id = $1::integer AND id = $2::bigint AND state IN ('queued', 'parsing', 'embedding')
RETURNING document_id

-- name: has_waiting_text
-- Whether a job stands for a text of version $2. From the last ordinal, whose job is the last to go.
-- $1 collection_id int · $2 version_id bigint · $3 model_id smallint
-- Rows: 1.
SELECT EXISTS (
  SELECT 1
  FROM (
    SELECT text_hash FROM staged_chunk
    WHERE collection_id = $1::integer AND version_id = $2::bigint
    ORDER BY ordinal DESC
  ) AS s
  JOIN job AS j ON j.stage = 'embed' AND j.subject_id = $3::smallint AND j.text_hash = s.text_hash
) AS is_waiting

-- name: forget_dead_texts
-- A person asked for version $2 again: texts of it that died before then get another chance.
-- $1 collection_id int · $2 version_id bigint · $3 model_id smallint
-- Rows: none.
DELETE FROM dead_letter AS d
USING document_version AS v
WHERE v.collection_id = $1::integer AND v.id = $2::bigint AND v.is_retry
  AND d.stage = 'embed' AND d.subject_id = $3::smallint AND d.died_at < v.queued_at
  AND EXISTS (SELECT 1 FROM staged_chunk AS s WHERE s.collection_id = v.collection_id AND s.version_id = v.id AND s.text_hash = d.text_hash)

-- name: insert_embed_jobs
-- Make a job for each text of chunks $5 to $6 of version $2 that has neither vector nor job.
-- $1 collection_id int · $2 version_id bigint · $3 model_id smallint · $4 chunks_per_rank int · $5 first_ordinal int · $6 last_ordinal int
-- Rows: 0..n. In the order of the hashes: two stagings that insert the same texts in different orders deadlock.
INSERT INTO job (stage, subject_id, text_hash, collection_id, rank, traceparent, tracestate)
SELECT 'embed', $3::smallint, missing.text_hash, $1::integer, missing.rank, missing.traceparent, missing.tracestate
FROM (
  SELECT s.text_hash, v.traceparent, v.tracestate, (min(s.ordinal) + v.burst_place) / $4::integer AS rank
  FROM staged_chunk AS s
  JOIN document_version AS v ON v.collection_id = s.collection_id AND v.id = s.version_id
  WHERE s.collection_id = $1::integer
    AND s.version_id = $2::bigint
    AND s.ordinal BETWEEN $5::integer AND $6::integer
    AND NOT EXISTS (SELECT 1 FROM embedding AS e WHERE e.model_id = $3::smallint AND e.text_hash = s.text_hash)
  GROUP BY s.text_hash, v.traceparent, v.tracestate, v.burst_place
) AS missing
ORDER BY missing.text_hash
ON CONFLICT ON CONSTRAINT one_job_per_subject DO NOTHING
RETURNING id

-- name: advance_embed_jobs
-- Lower the rank of waiting jobs whose texts version $2 wants, in chunks $5 to $6, sooner than whoever made them.
-- $1 collection_id int · $2 version_id bigint · $3 model_id smallint · $4 chunks_per_rank int · $5 first_ordinal int · $6 last_ordinal int
-- Rows: 0..n. SKIP LOCKED: a job that is being claimed needs no better rank. Jobs are looked up one by one: while statistics know
-- of no `embed` job, a join read all of them for each text, and 5,000 texts beside a backlog of 60,000 took longer than 25 s.
WITH wanted AS MATERIALIZED (
  SELECT w.rank, (SELECT k.id FROM job AS k WHERE k.stage = 'embed' AND k.subject_id = $3::smallint AND k.text_hash = w.text_hash) AS job_id
  FROM (
    SELECT s.text_hash, (min(s.ordinal) + v.burst_place) / $4::integer AS rank
    FROM staged_chunk AS s
    JOIN document_version AS v ON v.collection_id = s.collection_id AND v.id = s.version_id
    WHERE s.collection_id = $1::integer AND s.version_id = $2::bigint AND s.ordinal BETWEEN $5::integer AND $6::integer
    GROUP BY s.text_hash, v.burst_place
  ) AS w
), sooner AS MATERIALIZED (
  SELECT j.id, w.rank
  FROM wanted AS w
  JOIN job AS j ON j.id = w.job_id
  WHERE j.rank > w.rank AND j.lease_id IS NULL
  ORDER BY j.text_hash
  FOR UPDATE OF j SKIP LOCKED
)
UPDATE job
SET rank = sooner.rank
FROM sooner
WHERE job.id = sooner.id
RETURNING job.id

-- name: count_missing_texts
-- How many texts of version $2 have no vector.
-- $1 collection_id int · $2 version_id bigint · $3 model_id smallint
-- Rows: 1.
SELECT count(*) AS missing
FROM staged_chunk AS s
WHERE s.collection_id = $1::integer
  AND s.version_id = $2::bigint
  AND NOT EXISTS (SELECT 1 FROM embedding AS e WHERE e.model_id = $3::smallint AND e.text_hash = s.text_hash)

-- name: publish_chunks
-- Replace the published chunks of document $3 by the staged ones of version $2: kept, inserted, deleted, positioned, at once.
-- $1 collection_id int · $2 version_id bigint · $3 document_id bigint · $4 live_version_id bigint, NULL = none · $5 model_id smallint
-- Rows: 1. Chunks are the same by hash and occurrence number, so equal paragraphs stay apart. When `inserted` differs
-- from `inserted_vectors`, the cache was pruned in between: roll back and ask again.
-- `staged` carries its rows and new ids are drawn before the insert, so that nothing is joined back by ordinal: without
-- statistics such joins were nested loops, and a first publication of 750 chunks took 100 s instead of less than one.
WITH staged AS MATERIALIZED (
  SELECT ordinal, text, prefix, heading, path_words, language, text_hash, chunk_hash, token_count, page, char_start, char_end,
    page_label, page_turns, lines, row_number() OVER (PARTITION BY chunk_hash ORDER BY ordinal) AS occurrence
  FROM staged_chunk
  WHERE collection_id = $1::integer AND version_id = $2::bigint
), live AS MATERIALIZED (
  SELECT c.id, c.chunk_hash, row_number() OVER (PARTITION BY c.chunk_hash ORDER BY p.ordinal) AS occurrence
  FROM chunk_position AS p
  JOIN chunk AS c ON c.collection_id = p.collection_id AND c.id = p.chunk_id
  WHERE p.collection_id = $1::integer AND p.version_id = $4::bigint
), matched AS MATERIALIZED (
  SELECT live.id AS live_id, coalesce(live.id, nextval('chunk_id_seq')) AS id, s.ordinal, s.text, s.prefix, s.heading, s.path_words,
    s.language, s.text_hash, s.chunk_hash, s.token_count, s.page, s.char_start, s.char_end, s.page_label, s.page_turns, s.lines
  FROM staged AS s
  FULL JOIN live ON live.chunk_hash = s.chunk_hash AND live.occurrence = s.occurrence
), inserted AS (
  INSERT INTO chunk (collection_id, id, document_id, chunk_hash, text_hash, text, prefix, heading, language, token_count, tsv, lexeme_count)
  OVERRIDING SYSTEM VALUE
  SELECT $1::integer, m.id, $3::bigint, m.chunk_hash, m.text_hash, m.text, m.prefix, m.heading, m.language, m.token_count, t.tsv,
    tsv_length(t.tsv)
  FROM matched AS m
  CROSS JOIN LATERAL (SELECT chunk_tsv(m.language, m.prefix, m.text, m.path_words) AS tsv OFFSET 0) AS t
  WHERE m.live_id IS NULL
  RETURNING id, text_hash
), positioned AS (
  INSERT INTO chunk_position (collection_id, version_id, ordinal, chunk_id, page, char_start, char_end, page_label, page_turns, lines)
  SELECT $1::integer, $2::bigint, m.ordinal, m.id, m.page, m.char_start, m.char_end, m.page_label, m.page_turns, m.lines
  FROM matched AS m
  WHERE m.ordinal IS NOT NULL
  RETURNING ordinal
), inserted_vector AS (
  INSERT INTO chunk_vector (collection_id, model_id, chunk_id, document_id, vector)
  SELECT $1::integer, $5::smallint, i.id, $3::bigint, e.vector
  FROM inserted AS i
  JOIN embedding AS e ON e.model_id = $5::smallint AND e.text_hash = i.text_hash
  RETURNING chunk_id
), spoken AS (
  INSERT INTO collection_language (collection_id, language)
  SELECT DISTINCT $1::integer, s.language
  FROM staged AS s
  WHERE NOT EXISTS (SELECT 1 FROM collection_language AS l WHERE l.collection_id = $1::integer AND l.language = s.language)
  ON CONFLICT DO NOTHING
)
SELECT (SELECT count(*) FROM staged) AS staged,
       (SELECT count(*) FROM inserted) AS inserted,
       (SELECT count(*) FROM inserted_vector) AS inserted_vectors,
       (SELECT count(*) FROM positioned) AS positioned,
       (SELECT array_agg(live_id) FROM matched WHERE ordinal IS NULL) AS vanished_ids

-- name: delete_positions
-- Remove the positions of version $2, which is live no more.
-- $1 collection_id int · $2 version_id bigint
-- Rows: none.
DELETE FROM chunk_position
WHERE collection_id = $1::integer AND version_id = $2::bigint

-- name: delete_chunks
-- Remove chunks $2 with their vectors.
-- $1 collection_id int · $2 chunk_ids bigint[]
-- Rows: none.
DELETE FROM chunk
WHERE collection_id = $1::integer AND id = ANY ($2::bigint[])

-- name: make_live
-- Make version $2 the one that answers, and end the one before.
-- $1 collection_id int · $2 version_id bigint · $3 document_id bigint · $4 live_version_id bigint, NULL = none
-- Rows: 1.
WITH ready AS (
  UPDATE document_version
  SET state = 'ready', ready_at = now(), ended_at = now()
  WHERE collection_id = $1::integer AND id = $2::bigint
  RETURNING title, metadata, detected_at
), ended AS (
  UPDATE document_version
  SET state = 'superseded', ended_at = now()
  WHERE collection_id = $1::integer AND id = $4::bigint
), live AS (
  UPDATE document
  SET live_version_id = $2::bigint, title = ready.title, metadata = ready.metadata
  FROM ready
  WHERE collection_id = $1::integer AND id = $3::bigint
)
SELECT extract(epoch FROM clock_timestamp() - detected_at)::double precision * 1000 AS age_ms
FROM ready

-- name: request_statistics
-- Ask for fresh term statistics of collection $1 soon. Outside the publishing transaction: a unique key makes its users wait.
-- $1 collection_id int
-- Rows: 0..1. Waits at least 20 times as long as the last refresh took.
INSERT INTO job (stage, subject_id, collection_id, run_at)
SELECT 'index', $1::integer, $1::integer, now() + greatest(1000, 20 * coalesce(max(s.duration_ms), 0)) * interval '1 millisecond'
FROM collection_stat AS s
WHERE s.collection_id = $1::integer
ON CONFLICT ON CONSTRAINT one_job_per_subject DO NOTHING
RETURNING id

-- name: versions_waiting_for_texts
-- The versions that stage any of texts $2.
-- $1 model_id smallint · $2 text_hashes bytea[]
-- Rows: 0..n.
SELECT DISTINCT s.collection_id, s.version_id
FROM staged_chunk AS s
JOIN collection AS c ON c.id = s.collection_id AND c.embedding_model_id = $1::smallint
WHERE s.text_hash = ANY ($2::bytea[])

-- name: versions_in_embedding
-- Versions that wait for their publication, the next $2 after $1.
-- $1 after_version_id bigint · $2 limit int
-- Rows: 0..$2.
SELECT collection_id, id AS version_id
FROM document_version
WHERE state = 'embedding' AND id > $1::bigint
ORDER BY id
LIMIT $2::integer

-- name: fail_versions_with_dead_ingest
-- End versions whose ingest job is a dead letter; up to $1.
-- $1 limit int
-- Rows: 0..$1.
WITH lost AS MATERIALIZED (
  SELECT v.collection_id, v.id, d.error_code, d.error, d.attempt
  FROM dead_letter AS d
  JOIN document_version AS v ON v.id = d.subject_id AND v.state IN ('queued', 'parsing')
  WHERE d.stage = 'ingest' AND NOT EXISTS (SELECT 1 FROM job AS j WHERE j.stage = 'ingest' AND j.subject_id = d.subject_id)
  ORDER BY v.id
  LIMIT $1::integer
  FOR UPDATE OF v SKIP LOCKED
), gone AS (
  DELETE FROM staged_chunk AS s USING lost WHERE s.collection_id = lost.collection_id AND s.version_id = lost.id
)
UPDATE document_version AS v
SET state = 'failed', error_code = lost.error_code, error = lost.error, ended_at = now()
FROM lost
WHERE v.collection_id = lost.collection_id AND v.id = lost.id
RETURNING v.collection_id, v.document_id, v.id AS version_id, v.error_code, v.error, lost.attempt

-- name: add_event
-- Add one line to the story of a document.
-- $1 collection_id int · $2 document_id bigint · $3 version_id bigint · $4 stage text · $5 outcome text · $6 attempt smallint
-- · $7 duration_ms double precision · $8 detail jsonb · $9 host text · $10 pid int
-- Rows: none. The process writes its name, not the id of its row, which goes when it ends.
INSERT INTO document_event (collection_id, document_id, version_id, stage, outcome, attempt, duration_ms, detail, worker)
SELECT $1::integer, $2::bigint, $3::bigint, $4::text, $5::text, $6::smallint, $7::double precision, $8::jsonb,
  concat_ws(' ', (SELECT kind FROM worker WHERE host = $9::text AND pid = $10::integer ORDER BY id DESC LIMIT 1), $10 || '@' || $9)

-- name: prune_events
-- Forget up to $2 lines older than $1.
-- $1 age interval · $2 limit int
-- Rows: none.
DELETE FROM document_event
WHERE id IN (SELECT id FROM document_event WHERE at < now() - $1::interval ORDER BY at LIMIT $2::integer)
