-- What the ingester reads and writes.

-- name: get_version
-- What parsing needs of version $1.
-- $1 version_id bigint
-- Rows: 0 = gone.
SELECT v.collection_id, v.id AS version_id, v.document_id, v.state, v.blob_id, d.source_uri, b.file_bytes, c.embedding_model_id AS model_id
FROM document_version AS v
JOIN document AS d ON d.collection_id = v.collection_id AND d.id = v.document_id
JOIN collection AS c ON c.id = v.collection_id
JOIN blob AS b ON b.id = v.blob_id
WHERE v.id = $1::bigint

-- name: begin_parsing
-- Version $2 is being parsed; an earlier attempt may have begun.
-- $1 collection_id int · $2 version_id bigint
-- Rows: 0 = it has ended.
UPDATE document_version
SET state = 'parsing', parsing_at = now()
WHERE collection_id = $1::integer AND id = $2::bigint AND state IN ('queued', 'parsing')
RETURNING id

-- name: note_size
-- How much there is to stage of version $2, for those who watch.
-- $1 collection_id int · $2 version_id bigint · $3 page_count int, NULL = no pages · $4 character_count int
-- Rows: 0 = it has ended.
UPDATE document_version
SET page_count = $3::integer, character_count = $4::integer
WHERE collection_id = $1::integer AND id = $2::bigint AND state = 'parsing'
RETURNING id

-- name: read_blob_part
-- Part $2 of blob $1.
-- $1 blob_id bigint · $2 ordinal int
-- Rows: 0..1.
SELECT bytes
FROM blob_part
WHERE blob_id = $1::bigint AND ordinal = $2::integer

-- name: stage_chunks
-- Stage chunks of version $2.
-- $1 collection_id int · $2 version_id bigint · $3 languages text[] · $4 path_words text · $5 ordinals int[] · $6 texts text[]
-- · $7 prefixes text[] · $8 headings text[] · $9 text_hashes bytea[] · $10 chunk_hashes bytea[] · $11 token_counts int[]
-- · $12 pages int[] · $13 char_starts int[] · $14 char_ends int[] · $15 page_labels text[] · $16 page_turns jsonb[]
-- · $17 lines text[], each an array as JSON: an array of arrays would have to be a rectangle
-- Rows: none.
INSERT INTO staged_chunk (collection_id, version_id, ordinal, text, prefix, heading, path_words, language, text_hash, chunk_hash,
  token_count, page, char_start, char_end, page_label, page_turns, lines)
SELECT $1::integer, $2::bigint, s.ordinal, s.text, s.prefix, s.heading, $4::text, s.language::regconfig, s.text_hash, s.chunk_hash,
  s.token_count, s.page, s.char_start, s.char_end, s.page_label, s.page_turns, translate(s.lines, '[]', '{}')::integer[]
FROM unnest($5::integer[], $6::text[], $7::text[], $8::text[], $9::bytea[], $10::bytea[], $11::integer[], $12::integer[], $13::integer[], $14::integer[],
    $15::text[], $16::jsonb[], $17::text[], $3::text[])
  AS s (ordinal, text, prefix, heading, text_hash, chunk_hash, token_count, page, char_start, char_end, page_label, page_turns, lines, language)

-- name: finish_staging
-- All chunks of version $2 are staged.
-- $1 collection_id int · $2 version_id bigint · $3 media_type text · $4 title text · $5 metadata jsonb
-- · $6 replaced_character_count int · $7 page_unit text · $8 line_unit text
-- Rows: 0 = it has ended.
UPDATE document_version AS v
SET state = 'embedding', embedding_at = now(), media_type = $3::text, title = $4::text, metadata = $5::jsonb,
  replaced_character_count = $6::integer, page_unit = $7::text, line_unit = $8::text, chunk_count = s.chunk_count, token_count = s.token_count
FROM (
  SELECT count(*) AS chunk_count, coalesce(sum(token_count), 0) AS token_count
  FROM staged_chunk
  WHERE collection_id = $1::integer AND version_id = $2::bigint
) AS s
WHERE v.collection_id = $1::integer AND v.id = $2::bigint AND v.state = 'parsing'
RETURNING v.chunk_count

-- name: list_inbox_documents
-- What the database knows of the files of the inbox; what lies within them is no file.
-- Rows: 0..n.
SELECT c.name AS collection, d.source_uri
FROM document AS d
JOIN collection AS c ON c.id = d.collection_id
WHERE d.source_uri LIKE 'inbox:%' AND d.parent_id IS NULL

-- name: replace_skipped_files
-- Make $1, $2, $3 the list of files that are not taken.
-- $1 source_uris text[] · $2 collection_names text[] · $3 reasons text[]
-- Rows: none.
WITH gone AS (
  DELETE FROM skipped_file
  WHERE NOT source_uri = ANY ($1::text[])
)
INSERT INTO skipped_file (source_uri, collection_name, reason)
SELECT source_uri, collection_name, reason
FROM unnest($1::text[], $2::text[], $3::text[]) AS s (source_uri, collection_name, reason)
ORDER BY source_uri
ON CONFLICT (source_uri) DO UPDATE SET reason = excluded.reason, seen_at = now()

-- name: pause_deletion
-- Deleting from the inbox waits for a person. A confirmation holds for as many files as it was given for.
-- $1 kind text · $2 reason text · $3 missing_count int
-- Rows: 1.
INSERT INTO inbox_pause AS p (kind, reason, missing_count)
VALUES ($1::text, $2::text, $3::integer)
ON CONFLICT (kind) DO UPDATE SET reason = excluded.reason, missing_count = excluded.missing_count,
  confirmed_at = CASE WHEN excluded.missing_count <= p.missing_count THEN p.confirmed_at END
RETURNING confirmed_at IS NOT NULL AS is_confirmed

-- name: is_paused
-- Whether deletion waits for a person.
-- $1 kind text
-- Rows: 1.
SELECT EXISTS (SELECT 1 FROM inbox_pause WHERE kind = $1::text) AS is_paused

-- name: is_confirmed
-- Whether a person has said that the deletion which waits is meant, of at least $2 documents.
-- $1 kind text · $2 missing_count int
-- Rows: 1.
SELECT EXISTS (
  SELECT 1 FROM inbox_pause
  WHERE kind = $1::text AND confirmed_at IS NOT NULL AND missing_count >= $2::integer
) AS is_confirmed

-- name: end_pause
-- Deletion goes on as usual.
-- $1 kind text
-- Rows: 0..1.
DELETE FROM inbox_pause
WHERE kind = $1::text
RETURNING kind

-- name: get_mark
-- The mark of the folder that this database was filled from.
-- Rows: 0..1.
SELECT mark
FROM inbox_mark

-- name: set_mark
-- This database is filled from the folder with mark $1.
-- $1 mark uuid
-- Rows: 1.
INSERT INTO inbox_mark (mark)
VALUES ($1::uuid)
ON CONFLICT (is_the_one) DO UPDATE SET mark = excluded.mark
RETURNING mark

-- name: get_scan
-- The request that a `scan` job of collection $2 is for.
-- $1 number bigint · $2 collection_id int
-- Rows: 0 = gone.
SELECT id, number, collection_id, directory, is_recursive
FROM ingest_request
WHERE number = $1::bigint AND collection_id = $2::integer AND directory IS NOT NULL

-- name: list_requested_paths
-- The files of request $1 that have their versions.
-- $1 request_id uuid
-- Rows: 0..n.
SELECT file_path
FROM ingest_request_document
WHERE request_id = $1::uuid

-- name: link_unchanged
-- Link the newest version of source $3 to request $1, unless it has other bytes than $4 or failed.
-- $1 request_id uuid · $2 collection_id int · $3 source_uri text · $4 sha256 bytea · $5 file_path text
-- Rows: 0 = it is to be taken.
INSERT INTO ingest_request_document (request_id, collection_id, document_id, version_id, file_path)
SELECT $1::uuid, $2::integer, d.id, v.id, $5::text
FROM document AS d
CROSS JOIN LATERAL (
  SELECT id, state, blob_id FROM document_version
  WHERE collection_id = d.collection_id AND document_id = d.id
  ORDER BY id DESC
  LIMIT 1
) AS v
JOIN blob AS b ON b.id = v.blob_id
WHERE d.collection_id = $2::integer AND d.source_uri = $3::text AND b.sha256 = $4::bytea AND v.state <> 'failed'
ON CONFLICT (request_id, document_id, version_id) DO UPDATE SET file_path = excluded.file_path
RETURNING version_id

-- name: continue_scan
-- Go on with the scan of request $1 behind the others that wait.
-- $1 number bigint · $2 traceparent text
-- Rows: 0 = the request is gone.
INSERT INTO job (stage, subject_id, collection_id, traceparent)
SELECT 'scan', number, collection_id, $2::text
FROM ingest_request
WHERE number = $1::bigint
RETURNING id

-- name: finish_scan
-- The scan of request $1 has ended, with reason $2 if it failed; $3 files were not taken.
-- $1 request_id uuid · $2 error text · $3 skipped_count int
-- Rows: 0 = the request is gone.
UPDATE ingest_request
SET scanned_at = now(), error = $2::text, skipped_count = $3::integer
WHERE id = $1::uuid
RETURNING id

-- name: fail_dead_scans
-- Write the reasons of up to $1 dead scans into their requests.
-- $1 limit int
-- Rows: 0..$1.
UPDATE ingest_request AS r
SET scanned_at = now(), error = dead.error
FROM (
  SELECT d.subject_id, d.error
  FROM dead_letter AS d
  JOIN ingest_request AS q ON q.number = d.subject_id AND q.scanned_at IS NULL
  WHERE d.stage = 'scan' AND NOT EXISTS (SELECT 1 FROM job AS j WHERE j.stage = 'scan' AND j.subject_id = d.subject_id)
  LIMIT $1::integer
) AS dead
WHERE r.number = dead.subject_id AND r.scanned_at IS NULL
RETURNING r.id
