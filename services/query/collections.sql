-- Making, renaming and deleting collections for callers of the HTTP interface.

-- name: find_model
-- The model named $1.
-- $1 name text
-- Rows: 0 = no worker has registered it yet.
SELECT id FROM embedding_model WHERE name = $1::text

-- name: create_collection
-- Make collection $1 for model $2.
-- $1 name text · $2 model_id smallint
-- Rows: 0 = the name is taken.
INSERT INTO collection (name, embedding_model_id)
VALUES ($1::text, $2::smallint)
ON CONFLICT ON CONSTRAINT collection_name_is_unique DO NOTHING
RETURNING id

-- name: has_inbox_documents
-- Whether collection $2 is filled from the inbox, where its folder decides on its name and its end.
-- $1 scope int[] · $2 collection_id int
-- Rows: 1.
SELECT EXISTS (
  SELECT 1 FROM document
  WHERE collection_id = ANY ($1::integer[]) AND collection_id = $2::integer AND source_uri LIKE 'inbox:%'
) AS is_from_inbox

-- name: rename_collection
-- Give collection $2 the name $3.
-- $1 scope int[] · $2 collection_id int · $3 name text
-- Rows: 0 = it is gone.
UPDATE collection
SET name = $3::text
WHERE id = ANY ($1::integer[]) AND id = $2::integer
RETURNING id

-- name: delete_collection
-- Delete collection $2 with everything in it; jobs that are left find nothing to do.
-- $1 scope int[] · $2 collection_id int
-- Rows: 0 = it is gone.
WITH dead AS (
  DELETE FROM dead_letter
  WHERE collection_id = ANY ($1::integer[]) AND collection_id = $2::integer
)
DELETE FROM collection
WHERE id = ANY ($1::integer[]) AND id = $2::integer
RETURNING id
