-- Intake: bytes become a blob, a blob becomes a version of a document with a job. The same for the inbox and for uploads.

-- name: ensure_model
-- Find or make the row of model $1.
-- $1 name text · $2 dimension int
-- Rows: 1.
WITH new AS (
  INSERT INTO embedding_model (name, dimension)
  SELECT $1::text, $2::integer
  WHERE NOT EXISTS (SELECT 1 FROM embedding_model WHERE name = $1)
  ON CONFLICT ON CONSTRAINT model_has_one_row DO NOTHING
  RETURNING id, dimension
)
SELECT id, dimension FROM new
UNION ALL
SELECT id, dimension FROM embedding_model WHERE name = $1
LIMIT 1

-- name: correct_dimension
-- Say that vectors of model $1 are $2 long, as long as nothing hangs on what was said before.
-- $1 model_id smallint · $2 dimension int
-- Rows: 0 = a collection uses the model, or it has vectors.
UPDATE embedding_model AS m
SET dimension = $2::integer
WHERE m.id = $1::smallint
  AND NOT EXISTS (SELECT 1 FROM collection AS c WHERE c.embedding_model_id = m.id)
  AND NOT EXISTS (SELECT 1 FROM embedding AS e WHERE e.model_id = m.id)
RETURNING m.id

-- name: model_names_in_use
-- The models that collections were filled with.
-- Rows: 0..n.
SELECT DISTINCT m.name
FROM collection AS c
JOIN embedding_model AS m ON m.id = c.embedding_model_id
ORDER BY m.name

-- name: find_collection
-- The collection named $1.
-- $1 name text
-- Rows: 0..1.
SELECT id
FROM collection
WHERE name = $1::text

-- name: create_collection
-- Make collection $1 for model $2.
-- $1 name text · $2 model_id smallint
-- Rows: 0 = somebody was faster.
INSERT INTO collection (name, embedding_model_id)
VALUES ($1::text, $2::smallint)
ON CONFLICT ON CONSTRAINT collection_name_is_unique DO NOTHING
RETURNING id

-- name: create_blob
-- Begin to store bytes. A blob without a sum is one whose writer is still at it, or dead.
-- Rows: 1.
INSERT INTO blob DEFAULT VALUES
RETURNING id

-- name: add_blob_part
-- Store part $2 of blob $1.
-- $1 blob_id bigint · $2 ordinal int · $3 bytes bytea
-- Rows: none.
INSERT INTO blob_part (blob_id, ordinal, bytes)
VALUES ($1::bigint, $2::integer, $3::bytea)

-- name: delete_blobs
-- Remove blobs $1: their content is stored already, or not wanted.
-- $1 blob_ids bigint[]
-- Rows: none.
DELETE FROM blob
WHERE id = ANY ($1::bigint[])

-- name: sweep_blobs
-- Remove up to $2 blobs older than $1 that no version names, as many as begin within their first $3 parts: each
-- part takes 8 ms and more. A version made meanwhile fails on its foreign key and tries again.
-- $1 age interval · $2 limit int · $3 parts bigint
-- Rows: 0..$2.
WITH nobodys AS MATERIALIZED (
  SELECT b.id, b.created_at
  FROM blob AS b
  WHERE b.created_at < now() - $1::interval
    AND NOT EXISTS (SELECT 1 FROM document_version AS v WHERE v.blob_id = b.id)
  ORDER BY b.created_at
  LIMIT $2::integer
  FOR UPDATE SKIP LOCKED
), counted AS (
  SELECT n.id, sum(parts.count) OVER (ORDER BY n.created_at, n.id) - parts.count AS parts_before
  FROM nobodys AS n
  CROSS JOIN LATERAL (SELECT count(*) AS count FROM blob_part AS p WHERE p.blob_id = n.id) AS parts
)
DELETE FROM blob
WHERE id IN (SELECT c.id FROM counted AS c WHERE c.parts_before < $3::bigint)
RETURNING id

-- name: sweep_ended_versions
-- Remove up to $2 versions that were superseded, or failed and were followed, longer than $1 ago.
-- $1 age interval · $2 limit int
-- Rows: 0..$2.
DELETE FROM document_version
WHERE (collection_id, id) IN (
  SELECT v.collection_id, v.id
  FROM document_version AS v
  WHERE v.state IN ('superseded', 'failed')
    AND v.ended_at < now() - $1::interval
    AND EXISTS (SELECT 1 FROM document_version AS n
                WHERE n.collection_id = v.collection_id AND n.document_id = v.document_id AND n.id > v.id)
  ORDER BY v.ended_at
  LIMIT $2::integer
)
RETURNING id

-- name: open_collection
-- Open the walls of row-level security for collection $1, until the end of the transaction.
-- $1 collection_id int
-- Rows: 1.
SELECT set_config('askbox.scope', ARRAY[$1::integer]::text, true)

-- name: lock_document
-- Find or make the document of a source and lock it. The lock comes first and orders the versions. Setting a column of no
-- key to itself locks as NO KEY UPDATE does, which foreign keys of versions in work get past.
-- $1 collection_id int · $2 source_uri text
-- Rows: 1.
INSERT INTO document (collection_id, source_uri)
VALUES ($1::integer, $2::text)
ON CONFLICT ON CONSTRAINT one_document_per_source DO UPDATE SET created_at = document.created_at
RETURNING id

-- name: newest_version
-- The newest version of document $2 and the sum of its bytes.
-- $1 collection_id int · $2 document_id bigint
-- Rows: 0..1.
SELECT v.id, v.state, b.sha256
FROM document_version AS v
JOIN blob AS b ON b.id = v.blob_id
WHERE v.collection_id = $1::integer AND v.document_id = $2::bigint
ORDER BY v.id DESC
LIMIT 1

-- name: is_tombstoned
-- Whether these bytes under this name were deleted on purpose.
-- $1 collection_id int · $2 source_uri text · $3 sha256 bytea
-- Rows: 1.
SELECT EXISTS (
  SELECT 1 FROM tombstone
  WHERE collection_id = $1::integer AND source_uri = $2::text AND sha256 = $3::bytea
) AS is_tombstoned

-- name: has_bytes
-- Whether the newest version of source $2 has the bytes $3, or they were deleted on purpose.
-- $1 collection_id int · $2 source_uri text · $3 sha256 bytea · $4 even_failed boolean
-- Rows: 1.
SELECT EXISTS (
  SELECT 1 FROM tombstone
  WHERE collection_id = $1::integer AND source_uri = $2::text AND sha256 = $3::bytea
) OR coalesce((
  SELECT b.sha256 = $3::bytea AND ($4::boolean OR v.state <> 'failed')
  FROM document AS d
  JOIN document_version AS v ON v.collection_id = d.collection_id AND v.document_id = d.id
  JOIN blob AS b ON b.id = v.blob_id
  WHERE d.collection_id = $1::integer AND d.source_uri = $2::text
  ORDER BY v.id DESC
  LIMIT 1
), false) AS is_known

-- name: create_version
-- Make stored bytes $3 the newest version of document $2, with its job. The function runs as the owner: bytes that somebody
-- else has stored before are kept once, and the query process cannot tell.
-- $1 collection_id int · $2 document_id bigint · $3 blob_id bigint · $4 sha256 bytea · $5 file_bytes bigint
-- · $6 burst_place int · $7 detected interval before now · $8 is_retry boolean · $9 traceparent text · $10 job_traceparent text
-- · $11 tracestate text · $12 chunks_per_rank int
-- Rows: 1.
SELECT add_version($1::integer, $2::bigint, $3::bigint, $4::bytea, $5::bigint, $6::integer, $6::integer / $12::integer, $7::interval,
  $8::boolean, $9::text, $10::text, $11::text) AS version_id

-- name: rename_document
-- Give the document of source $2 the name $3, in the same collection.
-- $1 collection_id int · $2 source_uri text · $3 new_source_uri text
-- Rows: 0 = no such document, or the new name is taken.
UPDATE document
SET source_uri = $3::text
WHERE collection_id = $1::integer AND source_uri = $2::text
  AND NOT EXISTS (SELECT 1 FROM document AS taken WHERE taken.collection_id = $1::integer AND taken.source_uri = $3::text)
RETURNING id

-- name: move_attachments
-- Name what document $2 holds after it, however deep, and let each be read once more under its new name.
-- $1 collection_id int · $2 document_id bigint · $3 traceparent text · $4 job_traceparent text · $5 tracestate text
-- Rows: 0..n.
SELECT document_id, version_id
FROM move_attachments($1::integer, $2::bigint, $3::text, $4::text, $5::text)

-- name: move_tombstones
-- What was deleted on purpose of the file that was $2 stays deleted now that it is $3.
-- $1 collection_id int · $2 source_uri text · $3 new_source_uri text
-- Rows: none.
WITH moved AS (
  DELETE FROM tombstone
  WHERE collection_id = $1::integer AND strpos(source_uri, '//') > 0 AND split_part(source_uri, '//', 1) = $2::text
  RETURNING source_uri, sha256, created_at
)
INSERT INTO tombstone (collection_id, source_uri, sha256, created_at)
SELECT $1::integer, $3::text || substr(source_uri, length($2::text) + 1), sha256, created_at
FROM moved
ON CONFLICT DO NOTHING

-- name: delete_documents
-- Remove the documents of sources $2 with everything that hangs on them.
-- $1 collection_id int · $2 source_uris text[]
-- Rows: 0..n. Locked in the order of their ids: two that delete the same ones in different orders deadlock.
WITH doomed AS MATERIALIZED (
  SELECT id
  FROM document
  WHERE collection_id = $1::integer AND source_uri = ANY ($2::text[])
  ORDER BY id
  FOR UPDATE
)
DELETE FROM document AS d
USING doomed
WHERE d.collection_id = $1::integer AND d.id = doomed.id
RETURNING d.id, d.source_uri

-- name: clear_tombstones
-- The files are gone: if they come back, that is on purpose too, with all that is attached to them.
-- $1 collection_id int · $2 source_uris text[]
-- Rows: none.
DELETE FROM tombstone
WHERE collection_id = $1::integer
  AND (source_uri = ANY ($2::text[]) OR (strpos(source_uri, '//') > 0 AND split_part(source_uri, '//', 1) = ANY ($2::text[])))

-- name: link_requested_document
-- Say that version $4 is what became of file $5 of request $1, and make the request when this is its first file.
-- $1 request_id uuid · $2 collection_id int · $3 document_id bigint · $4 version_id bigint · $5 file_path text
-- Rows: none.
WITH request AS (
  INSERT INTO ingest_request (id, collection_id)
  VALUES ($1::uuid, $2::integer)
  ON CONFLICT (id) DO NOTHING
)
INSERT INTO ingest_request_document (request_id, collection_id, document_id, version_id, file_path)
VALUES ($1::uuid, $2::integer, $3::bigint, $4::bigint, $5::text)
ON CONFLICT (request_id, document_id, version_id) DO NOTHING

-- name: list_requested_skips
-- Say why files $3 of request $1 are not taken, and make the request when they are its first.
-- $1 request_id uuid · $2 collection_id int · $3 file_paths text[] · $4 reasons text[]
-- Rows: none.
WITH request AS (
  INSERT INTO ingest_request (id, collection_id)
  VALUES ($1::uuid, $2::integer)
  ON CONFLICT (id) DO NOTHING
)
INSERT INTO ingest_request_skipped (request_id, collection_id, file_path, reason)
SELECT $1::uuid, $2::integer, s.file_path, s.reason
FROM unnest($3::text[], $4::text[]) AS s (file_path, reason)
ON CONFLICT (request_id, file_path) DO NOTHING

-- name: prune_requests
-- Forget up to $2 requests older than $1; those whose scan still waits stay.
-- $1 age interval · $2 limit int
-- Rows: none.
DELETE FROM ingest_request
WHERE id IN (
  SELECT r.id
  FROM ingest_request AS r
  WHERE r.created_at < now() - $1::interval
    AND NOT EXISTS (SELECT 1 FROM job AS j WHERE j.stage = 'scan' AND j.subject_id = r.number)
  ORDER BY r.created_at
  LIMIT $2::integer
)
