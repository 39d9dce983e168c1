-- What is attached to a mail, as documents of their own.

-- name: may_hold
-- Whether the document of version $2 holds something, or an older version that is being parsed may yet say so. One snapshot:
-- what that one has not committed, it shows by its state.
-- $1 collection_id int · $2 version_id bigint
-- Rows: 0 = gone.
SELECT
  EXISTS (
    SELECT 1 FROM document AS held
    WHERE held.collection_id = v.collection_id AND held.parent_id = v.document_id
  ) OR EXISTS (
    SELECT 1 FROM document_version AS older
    WHERE older.collection_id = v.collection_id AND older.document_id = v.document_id AND older.id < v.id
      AND older.state IN ('queued', 'parsing')
  ) AS may_hold
FROM document_version AS v
WHERE v.collection_id = $1::integer AND v.id = $2::bigint

-- name: lock_holder
-- Lock the document of version $2. Before the version: whoever deletes the document holds it and waits for its versions.
-- $1 collection_id int · $2 version_id bigint
-- Rows: 0 = gone.
SELECT d.id AS document_id
FROM document AS d
JOIN document_version AS v ON v.collection_id = d.collection_id AND v.document_id = d.id
WHERE v.collection_id = $1::integer AND v.id = $2::bigint
FOR NO KEY UPDATE OF d

-- name: get_holder
-- What attachments take over from version $2 and its document, which is locked: a statement of its own sees what others did
-- before the lock. A version is overtaken when a newer one has said what the document holds.
-- $1 collection_id int · $2 version_id bigint
-- Rows: 0..1.
SELECT d.id AS document_id, d.source_uri, v.burst_place, clock_timestamp() - v.detected_at AS detected_ago,
  EXISTS (
    SELECT 1 FROM document AS held
    WHERE held.collection_id = d.collection_id AND held.parent_id = d.id
  ) AS has_attachments,
  EXISTS (
    SELECT 1 FROM document_version AS newer
    WHERE newer.collection_id = v.collection_id AND newer.document_id = v.document_id AND newer.id > v.id
      AND newer.state IN ('embedding', 'ready')
  ) AS is_overtaken
FROM document_version AS v
JOIN document AS d ON d.collection_id = v.collection_id AND d.id = v.document_id
WHERE v.collection_id = $1::integer AND v.id = $2::bigint

-- name: delete_other_attachments
-- Remove what document $2 holds no more: all but sources $3.
-- $1 collection_id int · $2 document_id bigint · $3 source_uris text[]
-- Rows: 0..n.
DELETE FROM document
WHERE collection_id = $1::integer AND parent_id = $2::bigint AND NOT source_uri = ANY ($3::text[])
RETURNING id

-- name: lock_attachment
-- Find or make the document of attachment $3 and lock it.
-- $1 collection_id int · $2 parent_id bigint · $3 source_uri text
-- Rows: 1.
INSERT INTO document (collection_id, parent_id, source_uri)
VALUES ($1::integer, $2::bigint, $3::text)
ON CONFLICT ON CONSTRAINT one_document_per_source DO UPDATE SET created_at = document.created_at
RETURNING id

-- name: delete_attachment
-- Remove document $2: these bytes were deleted on purpose, and those before them are not in the mail any more.
-- $1 collection_id int · $2 document_id bigint
-- Rows: 0..1.
DELETE FROM document
WHERE collection_id = $1::integer AND id = $2::bigint
RETURNING id

-- name: count_held
-- How many documents lie in file $2, however deep.
-- $1 collection_id int · $2 source_uri text
-- Rows: 1.
WITH RECURSIVE held AS (
  SELECT id
  FROM document
  WHERE collection_id = $1::integer AND source_uri = $2::text
  UNION ALL
  SELECT d.id
  FROM held
  JOIN document AS d ON d.collection_id = $1::integer AND d.parent_id = held.id
)
SELECT count(*) - 1 AS documents
FROM held

-- name: link_attachments
-- Whoever asked for version $2 asked for versions $4 of documents $3, named $5, too.
-- $1 collection_id int · $2 version_id bigint · $3 document_ids bigint[] · $4 version_ids bigint[] · $5 names text[]
-- Rows: none.
INSERT INTO ingest_request_document (request_id, collection_id, document_id, version_id, file_path)
SELECT l.request_id, l.collection_id, a.document_id, a.version_id, l.file_path || '//' || a.name
FROM ingest_request_document AS l
CROSS JOIN unnest($3::bigint[], $4::bigint[], $5::text[]) AS a (document_id, version_id, name)
WHERE l.collection_id = $1::integer AND l.version_id = $2::bigint
ON CONFLICT (request_id, document_id, version_id) DO NOTHING
