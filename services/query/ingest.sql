-- What the query process asks for and tells of ingest: scans, requests, stories, retries, dead letters, originals.

-- name: create_scan
-- Ask an ingester to take what lies in folder $3 into collection $2, unless $6 scans of the scope wait already.
-- $1 scope int[] · $2 collection_id int · $3 directory text · $4 is_recursive boolean · $5 traceparent text · $6 waiting_max int
-- Rows: 0 = too many wait.
WITH request AS (
  INSERT INTO ingest_request (collection_id, directory, is_recursive)
  SELECT $2::integer, $3::text, $4::boolean
  WHERE $2::integer = ANY ($1::integer[])
    AND (SELECT count(*) FROM job WHERE stage = 'scan' AND collection_id = ANY ($1::integer[])) < $6::integer
  RETURNING id, number, collection_id
), scan AS (
  INSERT INTO job (stage, subject_id, collection_id, traceparent)
  SELECT 'scan', number, collection_id, $5::text FROM request
)
SELECT id FROM request

-- name: get_request
-- Request $2 with what is known of its scan; a scan that is a dead letter has failed, told or not.
-- $1 scope int[] · $2 request_id uuid
-- Rows: 0..1.
SELECT r.id, k.name AS collection, r.directory, coalesce(r.error, d.error) AS error, r.skipped_count, r.created_at,
  r.directory IS NULL OR r.scanned_at IS NOT NULL OR d.id IS NOT NULL AS is_complete
FROM ingest_request AS r
JOIN collection AS k ON k.id = r.collection_id
LEFT JOIN dead_letter AS d ON d.stage = 'scan' AND d.subject_id = r.number AND r.scanned_at IS NULL
  AND NOT EXISTS (SELECT 1 FROM job AS j WHERE j.stage = 'scan' AND j.subject_id = r.number)
WHERE r.collection_id = ANY ($1::integer[]) AND r.id = $2::uuid

-- name: count_requested
-- How many documents of request $2 are in which state.
-- $1 scope int[] · $2 request_id uuid
-- Rows: 0..7.
SELECT state, count(*)::integer AS documents
FROM requested_version
WHERE collection_id = ANY ($1::integer[]) AND request_id = $2::uuid
GROUP BY state

-- name: list_requested
-- Documents of request $2 behind version $3, in the order in which they were taken.
-- $1 scope int[] · $2 request_id uuid · $3 after_version_id bigint · $4 limit int
-- Rows: 0..$4.
SELECT document_id, version_id, counted_version_id, file_path, state, error, chunk_count AS chunks
FROM requested_version
WHERE collection_id = ANY ($1::integer[]) AND request_id = $2::uuid AND version_id > $3::bigint
ORDER BY version_id
LIMIT $4::integer

-- name: list_request_skips
-- Files of request $2 that were not taken, with the reason, by path.
-- $1 scope int[] · $2 request_id uuid · $3 limit int
-- Rows: 0..$3.
SELECT file_path, reason
FROM ingest_request_skipped
WHERE collection_id = ANY ($1::integer[]) AND request_id = $2::uuid
ORDER BY file_path
LIMIT $3::integer

-- name: list_events
-- The story of document $2 behind line $3, oldest first.
-- $1 scope int[] · $2 document_id bigint · $3 after_id bigint · $4 limit int
-- Rows: 0..$4.
SELECT e.id, e.version_id AS version, e.stage, e.outcome, e.attempt, e.worker, e.duration_ms, e.detail, e.at,
  split_part(v.traceparent, '-', 2) AS trace_id
FROM document_event AS e
LEFT JOIN document_version AS v ON v.collection_id = e.collection_id AND v.id = e.version_id
WHERE e.collection_id = ANY ($1::integer[]) AND e.document_id = $2::bigint AND e.id > $3::bigint
ORDER BY e.id
LIMIT $4::integer

-- name: list_failed
-- Documents behind id $2 whose newest version failed.
-- $1 scope int[] · $2 after_id bigint · $3 limit int
-- Rows: 0..$3, by id.
SELECT d.collection_id, d.id AS document_id, d.source_uri
FROM document AS d
CROSS JOIN LATERAL (
  SELECT state FROM document_version
  WHERE collection_id = d.collection_id AND document_id = d.id
  ORDER BY id DESC
  LIMIT 1
) AS v
WHERE d.collection_id = ANY ($1::integer[]) AND d.id > $2::bigint AND v.state = 'failed'
ORDER BY d.id
LIMIT $3::integer

-- name: retry_document
-- Read the original of document $2 again, when its newest version failed.
-- $1 collection_id int · $2 document_id bigint · $3 traceparent text · $4 job_traceparent text · $5 tracestate text
-- Rows: 1, NULL when it has not failed.
SELECT retry_document($1::integer, $2::bigint, $3::text, $4::text, $5::text) AS version_id

-- name: list_dead_letters
-- Jobs behind id $2 that will not be tried again.
-- $1 scope int[] · $2 after_id bigint · $3 limit int
-- Rows: 0..$3, by id.
SELECT l.id, l.stage, k.name AS collection, v.document_id, d.source_uri, l.attempt, l.error_code, l.error, l.created_at, l.died_at
FROM dead_letter AS l
JOIN collection AS k ON k.id = l.collection_id
LEFT JOIN document_version AS v ON l.stage = 'ingest' AND v.collection_id = l.collection_id AND v.id = l.subject_id
LEFT JOIN document AS d ON d.collection_id = v.collection_id AND d.id = v.document_id
WHERE l.collection_id = ANY ($1::integer[]) AND l.id > $2::bigint
ORDER BY l.id
LIMIT $3::integer

-- name: drop_dead_letters
-- Forget up to $2 dead letters. One whose version or request does not tell of it yet stays: nothing else would end them.
-- $1 scope int[] · $2 limit int
-- Rows: 0..$2.
DELETE FROM dead_letter
WHERE id IN (
  SELECT l.id
  FROM dead_letter AS l
  WHERE l.collection_id = ANY ($1::integer[])
    AND NOT (l.stage = 'ingest' AND EXISTS (
      SELECT 1 FROM document_version AS v WHERE v.id = l.subject_id AND v.state IN ('queued', 'parsing')))
    AND NOT (l.stage = 'scan' AND EXISTS (
      SELECT 1 FROM ingest_request AS r WHERE r.number = l.subject_id AND r.scanned_at IS NULL))
  ORDER BY l.id
  LIMIT $2::integer
)
RETURNING id

-- name: get_original
-- The bytes that document $2 was made of: those of the version that answers, else of the newest.
-- $1 scope int[] · $2 document_id bigint
-- Rows: 0..1.
SELECT b.id AS blob_id, b.file_bytes, b.sha256, v.media_type, d.source_uri
FROM document AS d
CROSS JOIN LATERAL (
  SELECT blob_id, media_type FROM document_version
  WHERE collection_id = d.collection_id AND document_id = d.id AND (d.live_version_id IS NULL OR id = d.live_version_id)
  ORDER BY id DESC
  LIMIT 1
) AS v
JOIN blob AS b ON b.id = v.blob_id
WHERE d.collection_id = ANY ($1::integer[]) AND d.id = $2::bigint

-- name: read_part
-- Part $3 of blob $2, if a document of the scope is made of it.
-- $1 scope int[] · $2 blob_id bigint · $3 ordinal int
-- Rows: 0..1.
SELECT p.bytes
FROM blob_part AS p
WHERE p.blob_id = $2::bigint AND p.ordinal = $3::integer
  AND EXISTS (SELECT 1 FROM document_version AS v WHERE v.blob_id = p.blob_id AND v.collection_id = ANY ($1::integer[]))

-- name: sum_tokens
-- Tokens used in the scope and by key $2, or by everybody.
-- $1 scope int[] · $2 key_id int, NULL = no key · $3 is_everybody boolean
-- Rows: 1.
SELECT coalesce(sum(u.prompt_tokens), 0)::bigint AS prompt, coalesce(sum(u.completion_tokens), 0)::bigint AS completion,
  coalesce(sum(u.embedding_tokens), 0)::bigint AS embedding
FROM (
  SELECT key_id, collection_id, prompt_tokens, completion_tokens, embedding_tokens FROM token_usage
  UNION ALL
  SELECT key_id, collection_id, prompt_tokens, completion_tokens, embedding_tokens FROM token_sum
) AS u
WHERE $3::boolean OR u.collection_id = ANY ($1::integer[]) OR (u.collection_id IS NULL AND u.key_id = $2::integer)
