-- Making, listing and revoking API keys. Runs as the owner: no process that answers requests may write these tables.

-- name: missing_collections
-- Which of the names $1 no collection has.
-- $1 names text[]
-- Rows: 0..n.
SELECT n.name
FROM unnest($1::text[]) AS n (name)
WHERE NOT EXISTS (SELECT 1 FROM collection AS c WHERE c.name = n.name)

-- name: create_key
-- Store the hash of a new key and what it may do; no collections means every collection, those to come included.
-- $1 name text · $2 sha256 bytea · $3 role text · $4 collections text[]
-- Rows: 0 = the name is taken.
WITH created AS (
  INSERT INTO api_key (name, sha256)
  VALUES ($1::text, $2::bytea)
  ON CONFLICT (name) DO NOTHING
  RETURNING id
), granted AS (
  INSERT INTO key_grant (key_id, collection_id, role)
  SELECT created.id, c.id, $3::text
  FROM created
  JOIN collection AS c ON c.name = ANY ($4::text[])
  UNION ALL
  SELECT created.id, NULL, $3::text
  FROM created
  WHERE cardinality($4::text[]) = 0
)
SELECT id FROM created

-- name: create_first_key
-- Store the hash of an administrator's key, unless there was ever a key.
-- $1 name text · $2 sha256 bytea
-- Rows: 0 = there was one.
WITH created AS (
  INSERT INTO api_key (name, sha256)
  SELECT $1::text, $2::bytea
  WHERE NOT EXISTS (SELECT 1 FROM api_key)
  ON CONFLICT (name) DO NOTHING
  RETURNING id
), granted AS (
  INSERT INTO key_grant (key_id, collection_id, role)
  SELECT id, NULL, 'admin'
  FROM created
)
SELECT id FROM created

-- name: list_keys
-- Every key with its grants, side by side; a NULL collection stands for all.
-- Rows: 0..n, by name.
SELECT k.name, k.created_at, k.revoked_at,
  coalesce(array_agg(c.name ORDER BY c.name NULLS FIRST) FILTER (WHERE g.key_id IS NOT NULL), '{}') AS collections,
  coalesce(array_agg(g.role ORDER BY c.name NULLS FIRST) FILTER (WHERE g.key_id IS NOT NULL), '{}') AS roles
FROM api_key AS k
LEFT JOIN key_grant AS g ON g.key_id = k.id
LEFT JOIN collection AS c ON c.id = g.collection_id
GROUP BY k.id
ORDER BY k.name

-- name: revoke_key
-- Key $1 opens nothing any more.
-- $1 name text
-- Rows: 0 = there is no valid key of this name.
UPDATE api_key
SET revoked_at = now()
WHERE name = $1::text AND revoked_at IS NULL
RETURNING id

-- name: rotate_key
-- Key $1 gets another secret and is valid again; the old secret opens nothing from now on.
-- $1 name text · $2 sha256 bytea
-- Rows: 0 = there is no key of this name.
UPDATE api_key
SET sha256 = $2::bytea, revoked_at = NULL
WHERE name = $1::text
RETURNING id
